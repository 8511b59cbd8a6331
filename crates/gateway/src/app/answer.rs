//! What a webhook answers to a message or a request.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanlight_engine::app::{AppBody, AppError, AppFailure, AppReply, AppSend};
use fanlight_engine::publication::ContentType;
use fanlight_proto::native::is_json;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::webhook::payload::null_is_absent;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer<'a> {
    #[serde(borrow, default, deserialize_with = "null_is_absent")]
    send: Vec<Send<'a>>,
    #[serde(borrow)]
    reply: Option<Reply<'a>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send<'a> {
    to: Box<str>,
    only: Option<Only>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    content_type: Option<String>,
    encoding: Option<Encoding>,
    #[serde(default, deserialize_with = "null_is_absent")]
    headers: Headers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    content_type: Option<String>,
    encoding: Option<Encoding>,
    #[serde(default, deserialize_with = "null_is_absent")]
    headers: Headers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    code: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    message: String,
}

/// One that is null is not there.
type Headers = BTreeMap<Box<str>, Option<Box<str>>>;

/// Whom else than all of the sender's sessions.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Only {
    Session,
}

/// How a body stands in JSON.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Json,
    Text,
    Base64,
}

/// Reads an answer; an empty one, or null, says that nothing is to be sent.
pub(super) fn read(body: &[u8]) -> Result<AppReply, AppFailure> {
    if matches!(body.trim_ascii(), b"" | b"null") {
        return Ok(AppReply::nothing());
    }
    let answer: Answer<'_> = serde_json::from_slice(body)
        .map_err(|error| AppFailure::BadAnswer(format!("it can't be read: {error}")))?;
    let Answer { send, reply, error } = answer;
    if let Some(Refusal { code, message }) = error {
        if !send.is_empty() || reply.is_some() {
            let fault = "it holds an error, and also what is to be sent";
            return Err(AppFailure::BadAnswer(fault.to_owned()));
        }
        return Err(AppError::new(&code, &message).into());
    }
    let sends = send.into_iter().enumerate().map(|(at, send)| -> Result<AppSend, AppFailure> {
        let Send { to, only, data, content_type, encoding, headers } = send;
        let body =
            decoded(&format!("send[{at}]"), data, content_type.as_deref(), encoding, headers)?;
        Ok(AppSend { to, only_session: matches!(only, Some(Only::Session)), body })
    });
    let reply = reply.map(|Reply { data, content_type, encoding, headers }| {
        decoded("reply", data, content_type.as_deref(), encoding, headers)
    });
    Ok(AppReply { sends: sends.collect::<Result<_, _>>()?, reply: reply.transpose()? })
}

/// What a status that refuses says in its body, if that is told in the manner of any other answer.
pub(super) fn refusal(body: &[u8]) -> AppFailure {
    #[derive(Deserialize)]
    struct Told {
        error: ToldError,
    }
    #[derive(Deserialize)]
    struct ToldError {
        code: Option<String>,
        message: Option<String>,
    }
    let told = serde_json::from_slice(body).ok();
    let (code, message) = told.map_or((None, None), |Told { error }| (error.code, error.message));
    let message = message.as_deref().unwrap_or("the backend does not do this");
    AppFailure::refused(code.as_deref().unwrap_or("refused"), message)
}

/// A body from JSON: as its `encoding` says, or else its type.
fn decoded(
    what: &str,
    data: Option<&RawValue>,
    content_type: Option<&str>,
    encoding: Option<Encoding>,
    headers: Headers,
) -> Result<AppBody, AppFailure> {
    let bad = |fault: &str| AppFailure::BadAnswer(format!("{what}.data: {fault}"));
    let is_text = |name: &str| name.starts_with("text/");
    let encoding = encoding.unwrap_or(match content_type {
        name if is_json(name) => Encoding::Json,
        Some(name) if is_text(name) => Encoding::Text,
        _ => Encoding::Base64,
    });
    let text = || {
        let text = data.and_then(|data| serde_json::from_str::<String>(data.get()).ok());
        text.ok_or_else(|| bad("not a string, which its type or encoding wants"))
    };
    let (body, fallback): (Bytes, _) = match encoding {
        Encoding::Json => {
            let body = data.map_or_else(Bytes::new, |data| data.get().to_owned().into());
            (body, ContentType::Json)
        }
        Encoding::Text => (text()?.into(), ContentType::Text),
        Encoding::Base64 => {
            let body = STANDARD.decode(text()?).map_err(|_| bad("not base64"))?;
            (body.into(), ContentType::Unspecified)
        }
    };
    let is_json_body = matches!(encoding, Encoding::Json) && !body.is_empty();
    Ok(AppBody {
        body,
        content_type: content_type.map_or(fallback, ContentType::from),
        is_json: is_json_body,
        headers: headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_the_contract_says() {
        assert_eq!(read(b" \n"), Ok(AppReply::nothing()));
        assert_eq!(read(b"{}"), Ok(AppReply::nothing()));
        let answer = br#"{"send": [
            {"to": "/topic/a", "data": {"a": 1}, "headers": {"x": "y"}},
            {"to": "/user/queue/b", "only": "session", "data": "hi", "content_type": "text/plain"},
            {"to": "/topic/c", "data": "aGk=", "content_type": "image/png"},
            {"to": "/topic/d", "data": "hi", "encoding": "text"},
            {"to": "/topic/e"}
        ], "reply": {"data": [1]}}"#;
        let send = |to: &str, body| AppSend { to: to.into(), only_session: false, body };
        let hi = AppSend { only_session: true, ..send("/user/queue/b", AppBody::text("hi")) };
        let image = AppBody::bytes("hi", ContentType::Other("image/png".into()));
        let empty = AppBody { is_json: false, ..AppBody::of_json("") };
        let expected = AppReply {
            sends: vec![
                send("/topic/a", AppBody::of_json("{\"a\": 1}").with_header("x", "y")),
                hi,
                send("/topic/c", image),
                send("/topic/d", AppBody::text("hi")),
                send("/topic/e", empty),
            ],
            reply: Some(AppBody::of_json("[1]")),
        };
        assert_eq!(read(answer), Ok(expected));
        let refusal = read(br#"{"error": {"code": "room_full", "message": "Full"}}"#);
        assert_eq!(refusal, Err(AppFailure::refused("room_full", "Full")));
    }

    /// As most serialisers write what is not there.
    #[test]
    fn what_is_null_is_absent() {
        assert_eq!(read(b"null"), Ok(AppReply::nothing()));
        let nothing = br#"{"send": null, "reply": null, "error": null}"#;
        assert_eq!(read(nothing), Ok(AppReply::nothing()));
        let all = br#"{"send": [{"to": "/topic/a", "only": null, "data": 1, "content_type": null,
            "encoding": null, "headers": null}, {"to": "/topic/b", "data": 2, "headers":
            {"x": null, "y": "z"}}], "reply": {"data": 3, "content_type": null, "encoding": null,
            "headers": null}, "error": null}"#;
        let expected = AppReply::reply(AppBody::of_json("3"))
            .send("/topic/a", AppBody::of_json("1"))
            .send("/topic/b", AppBody::of_json("2").with_header("y", "z"));
        assert_eq!(read(all), Ok(expected));
        let refusal =
            br#"{"send": null, "reply": null, "error": {"code": "room-full", "message": null}}"#;
        assert_eq!(read(refusal), Err(AppFailure::refused("room-full", "")));
    }

    #[test]
    fn a_status_that_refuses_may_say_why_and_need_not() {
        let usual = "the backend does not do this";
        for (body, code, message) in [
            (
                r#"{"error":{"code":"room_full","message":"Full"},"status":409}"#,
                "room_full",
                "Full",
            ),
            (r#"{"error":{"code":"room full"}}"#, "room full", usual),
            (r#"{"error":"Not Found","status":404}"#, "refused", usual),
            (r#"{"error":{"message":"Full"}}"#, "refused", "Full"),
            ("<html>", "refused", usual),
            ("", "refused", usual),
        ] {
            assert_eq!(refusal(body.as_bytes()), AppFailure::refused(code, message), "{body}");
        }
    }

    #[test]
    fn an_answer_that_can_not_be_meant_says_what_is_wrong_with_it() {
        for (answer, fault) in [
            ("ok", "it can't be read"),
            (r#"{"sends": []}"#, "unknown field `sends`"),
            (r#"{"send": [{"data": 1}]}"#, "missing field `to`"),
            (r#"{"send": [{"to": "/topic/a", "only": "user", "data": 1}]}"#, "unknown variant"),
            (r#"{"reply": {"data": 1, "content_type": "text/plain"}}"#, "reply.data: not a string"),
            (r#"{"reply": {"data": "?", "encoding": "base64"}}"#, "reply.data: not base64"),
            (r#"{"reply": {"data": 1}, "error": {"code": "a"}}"#, "holds an error, and also"),
        ] {
            match read(answer.as_bytes()) {
                Err(AppFailure::BadAnswer(told)) => assert!(told.contains(fault), "{told}"),
                other => panic!("{answer}: {other:?}"),
            }
        }
    }
}
