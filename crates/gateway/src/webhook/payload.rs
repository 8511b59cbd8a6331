//! Bodies of messages within the JSON of a request, and what a backend makes of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanlight_engine::publication::ContentType;
use fanlight_proto::native::is_json;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::WebhookError;

/// A body as a request tells it, by the fields `content_type`, `encoding` and `data`.
#[derive(Debug, Serialize)]
pub struct Payload<'p> {
    content_type: Option<&'p str>,
    encoding: Encoding,
    data: Data<'p>,
}

/// How a body stands in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it is: it is JSON itself.
    Json,
    /// As a text: it is UTF-8, and its type says nothing else.
    Text,
    /// As a text of base64.
    Base64,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data<'p> {
    Json(&'p RawValue),
    Text(&'p str),
    Base64(String),
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Its bytes.
    pub body: Bytes,
    /// Its type.
    pub content_type: ContentType,
    /// Whether it is known to be JSON.
    pub is_json: bool,
}

/// Reads a field of an answer that need not be there, and by many serialisers is null then.
pub fn null_is_absent<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl<'p> Payload<'p> {
    /// Of a body of this type.
    pub fn of(body: &'p [u8], content_type: &'p ContentType) -> Self {
        let name = content_type.as_str();
        let is_text = name.is_none_or(|name| name.starts_with("text/"));
        let json = is_json(name).then(|| serde_json::from_slice::<&RawValue>(body).ok()).flatten();
        let text = is_text.then(|| std::str::from_utf8(body).ok()).flatten();
        let (encoding, data) = match (json, text) {
            (Some(json), _) if name.is_some() => (Encoding::Json, Data::Json(json)),
            (_, Some(text)) => (Encoding::Text, Data::Text(text)),
            _ => (Encoding::Base64, Data::Base64(STANDARD.encode(body))),
        };
        Self { content_type: name, encoding, data }
    }

    /// How it stands there.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }
}

impl Body {
    /// What a backend gives in place of a body of this type: a text in the same encoding, or else
    /// JSON.
    pub fn read(
        data: &RawValue,
        encoding: Encoding,
        content_type: &ContentType,
    ) -> Result<Self, WebhookError> {
        let text = || serde_json::from_str::<String>(data.get()).ok();
        let body: Option<Bytes> = match encoding {
            Encoding::Json => None,
            Encoding::Text => text().map(Into::into),
            Encoding::Base64 => match text() {
                None => None,
                Some(text) => Some(STANDARD.decode(text).map(Into::into).map_err(|error| {
                    WebhookError::Malformed(format!("its data is not base64: {error}"))
                })?),
            },
        };
        let keeps_type = body.is_some() || encoding == Encoding::Json;
        Ok(Self {
            is_json: body.is_none(),
            body: body.unwrap_or_else(|| data.get().to_owned().into()),
            content_type: if keeps_type { content_type.clone() } else { ContentType::Json },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_text_or_base64_and_comes_back_as_it_went() {
        for (body, content_type, told) in [
            (&b"{\"a\": 1}"[..], "application/json", r#""encoding":"json","data":{"a": 1}"#),
            (b"[1]", "application/vnd.a+json", r#""encoding":"json","data":[1]"#),
            (b"{", "application/json", r#""encoding":"base64","data":"ew==""#),
            (b"{}", "text/plain", r#""encoding":"text","data":"{}""#),
            (b"\"hi\"", "", r#""encoding":"text","data":"\"hi\"""#),
            (b"\xff", "text/plain", r#""encoding":"base64","data":"/w==""#),
            (b"hi", "image/png", r#""encoding":"base64","data":"aGk=""#),
        ] {
            let content_type = ContentType::from(content_type);
            let payload = Payload::of(body, &content_type);
            let written = serde_json::to_string(&payload).unwrap();
            assert!(written.ends_with(&format!("{told}}}")), "{written}");
            let (_, data) = written.split_once("\"data\":").unwrap();
            let data: Box<RawValue> =
                serde_json::from_str(data.strip_suffix('}').unwrap()).unwrap();
            let read = Body::read(&data, payload.encoding(), &content_type).unwrap();
            assert_eq!((&*read.body, read.content_type), (body, content_type), "{written}");
        }
    }

    #[test]
    fn what_is_no_text_is_json_whatever_the_body_was() {
        let png = ContentType::from("image/png");
        let object: &RawValue = serde_json::from_str(r#"{"a":1}"#).unwrap();
        let read = Body::read(object, Encoding::Base64, &png).unwrap();
        let expected =
            Body { body: r#"{"a":1}"#.into(), content_type: ContentType::Json, is_json: true };
        assert_eq!(read, expected);
        let text: &RawValue = serde_json::from_str("\"not base64!\"").unwrap();
        assert!(Body::read(text, Encoding::Base64, &png).is_err());
    }
}
