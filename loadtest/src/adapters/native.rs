//! `fanlight.v1.json`, the gateway's own protocol.

use std::fmt::Write;

use super::{Adapter, Incoming, Position, Session, field, not_understood, shortened, upgrade};
use crate::stamp::Stamp;

/// The adapter.
pub struct Native;

impl Adapter for Native {
    fn request(&self, session: &Session<'_>) -> String {
        let headers = format!(
            "Sec-WebSocket-Protocol: fanlight.v1.json\r\nAuthorization: Bearer {}\r\n",
            session.token
        );
        upgrade(session, "/ws", &headers)
    }

    fn connect(&self, _: &Session<'_>) -> Option<String> {
        Some(r#"{"type":"connect"}"#.into())
    }

    fn subscribe(&self, session: &Session<'_>) -> Option<String> {
        let mut text = format!(r#"{{"type":"subscribe","to":"{}","id":"s""#, session.destination);
        if let Some(Position { epoch, offset }) = session.since {
            let _ = write!(text, r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#);
        }
        if session.presence {
            text += r#","presence":true"#;
        }
        Some(text + "}")
    }

    fn publish(&self, to: &str, body: &str, id: u64) -> String {
        format!(r#"{{"type":"send","to":"{to}","data":"{body}","id":{id}}}"#)
    }

    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming)) {
        tell(meaning(message));
    }
}

pub(super) fn meaning(message: &str) -> Incoming {
    let kind = message.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split('"').next());
    match kind {
        Some("message") => delivery(message),
        Some("connected") => Incoming::Connected,
        Some("ok") if message.starts_with(r#"{"type":"ok","id":"s""#) => subscribed(message),
        Some("ok") => Incoming::Published,
        Some("presence") => Incoming::Presence,
        Some("reconnect") => Incoming::Leaving { after_ms: after_ms(message) },
        Some("error" | "lost") => Incoming::Fault(shortened(message)),
        _ => not_understood(message),
    }
}

fn delivery(message: &str) -> Incoming {
    let Some(stamp) = Stamp::find(message) else { return not_understood(message) };
    // Behind the body; without a history this looks at the little that is there.
    let tail = message.get(message.len().saturating_sub(TAIL_BYTES)..).unwrap_or(message);
    let offset = field(tail, r#""offset":"#).and_then(|offset| offset.parse().ok());
    Incoming::Delivery { stamp, offset }
}

pub(super) fn subscribed(message: &str) -> Incoming {
    let epoch = field(message, r#""epoch":"#);
    let offset = field(message, r#""offset":"#).and_then(|offset| offset.parse().ok());
    Incoming::Subscribed {
        position: epoch
            .zip(offset)
            .map(|(epoch, offset)| Position { epoch: epoch.to_owned(), offset }),
        recovered: field(message, r#""recovered":"#).map(|recovered| recovered == "true"),
    }
}

/// What a `reconnect` advises.
fn after_ms(message: &str) -> Option<u64> {
    field(message, r#""after_ms":"#)?.parse().ok()
}

const TAIL_BYTES: usize = 96;
