//! Server-sent events for those who listen, and `POST /publish` for those who publish.

use super::{
    Adapter, Framing, Incoming, Position, Session, field, native, not_understood, shortened,
};
use crate::stamp::Stamp;

/// The adapter of those who listen.
pub struct Events;

/// The adapter of those who publish: each publication is a request.
pub struct Requests;

impl Adapter for Events {
    fn framing(&self) -> Framing {
        Framing::Events
    }

    fn request(&self, session: &Session<'_>) -> String {
        let Session { host, token, destination, .. } = session;
        let last = match session.since {
            Some(Position { epoch, offset }) => format!("Last-Event-ID: {epoch}:{offset}\r\n"),
            None => String::new(),
        };
        let presence = if session.presence { "&presence=true" } else { "" };
        format!(
            "GET /events?destination={destination}{presence} HTTP/1.1\r\nHost: {host}\r\n\
             Accept: text/event-stream\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        )
    }

    fn connect(&self, _: &Session<'_>) -> Option<String> {
        None
    }

    fn subscribe(&self, _: &Session<'_>) -> Option<String> {
        None
    }

    fn publish(&self, _: &str, _: &str, _: u64) -> String {
        String::new()
    }

    fn publisher(&self) -> Option<&'static dyn Adapter> {
        Some(&Requests)
    }

    fn read(&self, event: &str, tell: &mut dyn FnMut(Incoming)) {
        let line = |name: &str| event.split('\n').find_map(|line| line.strip_prefix(name));
        let Some(data) = line("data: ") else {
            // A comment is a heartbeat.
            return;
        };
        let after_ms = line("retry: ").and_then(|after_ms| after_ms.parse().ok());
        tell(match line("event: ") {
            None => match Stamp::find(data) {
                Some(stamp) => Incoming::Delivery {
                    stamp,
                    offset: field(data, r#""offset":"#).and_then(|offset| offset.parse().ok()),
                },
                None => not_understood(event),
            },
            Some("connected") => Incoming::Connected,
            Some("subscribed") => native::subscribed(data),
            Some("presence") => Incoming::Presence,
            Some("reconnect") => Incoming::Leaving { after_ms },
            Some(_) => Incoming::Fault(shortened(event)),
        });
        if let (Some(after_ms), Some("connected")) = (after_ms, line("event: ")) {
            tell(Incoming::Retry { after_ms });
        }
    }
}

impl Adapter for Requests {
    fn framing(&self) -> Framing {
        Framing::Answers
    }

    fn request(&self, session: &Session<'_>) -> String {
        // What each request begins with; nothing is sent before there is something to publish.
        format!(
            "POST /publish HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n",
            session.host, session.token
        )
    }

    fn connect(&self, _: &Session<'_>) -> Option<String> {
        None
    }

    fn subscribe(&self, _: &Session<'_>) -> Option<String> {
        None
    }

    fn publish(&self, to: &str, body: &str, _: u64) -> String {
        let content = format!(r#"{{"to":"{to}","data":"{body}"}}"#);
        format!("Content-Length: {}\r\n\r\n{content}", content.len())
    }

    fn read(&self, answer: &str, tell: &mut dyn FnMut(Incoming)) {
        let accepted = answer.starts_with("HTTP/1.1 200");
        tell(if accepted { Incoming::Published } else { Incoming::Fault(shortened(answer)) });
    }
}
