//! A body as a JSON value and back: JSON as it is, anything else as base64.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Problem;
use super::client::Text;
use super::write::MessageFields;

/// Whether a body of this content type travels as JSON: when the type is absent,
/// `application/json`, or ends in `+json`.
pub fn is_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return true;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let (_, suffix) = essence.as_bytes().split_at(essence.len().saturating_sub("+json".len()));
    essence.is_empty()
        || essence.eq_ignore_ascii_case("application/json")
        || suffix.eq_ignore_ascii_case(b"+json")
}

/// The bytes that `data` stands for by its encoding, or else by its content type; and what it is.
pub(super) fn decode<'t>(
    data: &RawValue,
    content_type: Option<Cow<'t, str>>,
    encoding: Option<&str>,
) -> Result<(Bytes, Option<Cow<'t, str>>), Problem> {
    let claims_json = is_json(content_type.as_deref());
    if claims_json && content_type.is_some() && matches!(encoding, Some(TEXT | BASE64)) {
        // Nothing would have looked whether it is JSON.
        return Err(Problem::JsonInOtherEncoding);
    }
    match encoding.unwrap_or(if claims_json { JSON } else { BASE64 }) {
        JSON => Ok((Bytes::copy_from_slice(data.get().as_bytes()), content_type)),
        TEXT => {
            let Text(text) = serde_json::from_str(data.get()).map_err(|_| Problem::NotText)?;
            Ok((text.into_owned().into(), content_type.or(Some("text/plain".into()))))
        }
        BASE64 => {
            let content_type = content_type.or(Some("application/octet-stream".into()));
            Ok((from_base64(data)?, content_type))
        }
        _ => {
            let expected = "json, text or base64";
            Err(Problem::WrongType { field: "encoding", expected })
        }
    }
}

/// The bytes that `data` stands for by its content type alone.
pub(super) fn decode_by_type(
    data: &RawValue,
    content_type: Option<&str>,
) -> Result<Bytes, Problem> {
    decode(data, content_type.map(Cow::Borrowed), None).map(|(bytes, _)| bytes)
}

fn from_base64(data: &RawValue) -> Result<Bytes, Problem> {
    // Parsed as a string, because some writers escape base64's `/`.
    let Text(text) = serde_json::from_str(data.get()).map_err(|_| Problem::NotBase64)?;
    STANDARD.decode(&*text).map(Bytes::from).map_err(|_| Problem::NotBase64)
}

/// Appends `body` as a JSON value and tells the content type that a reader needs beside it.
///
/// Publishers of other protocols may call JSON what is not, so the body is checked unless it was
/// already; one that is not JSON travels as base64, as `application/octet-stream` if it claimed or
/// could be taken for JSON.
pub(super) fn encode<'t>(out: &mut Vec<u8>, fields: &MessageFields<'t>) -> Option<&'t str> {
    let MessageFields { body, content_type, .. } = *fields;
    let claims_json = is_json(content_type);
    if claims_json && (fields.is_json || is_valid_json(body)) {
        out.extend_from_slice(body);
        return content_type.filter(|text| !text.is_empty() && *text != "application/json");
    }
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(body.len(), true).expect("bodies are below usize::MAX / 2");
    out.resize(start + length, 0);
    STANDARD.encode_slice(body, &mut out[start..]).expect("the slice has the encoded length");
    out.push(b'"');
    if claims_json { Some("application/octet-stream") } else { content_type }
}

fn is_valid_json(body: &[u8]) -> bool {
    simdutf8::basic::from_utf8(body)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

const JSON: &str = "json";
const TEXT: &str = "text";
const BASE64: &str = "base64";
