//! Long polling: each answer has what came since the one before, and says where the next goes on.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::events::Requests;
use super::{Adapter, Framing, Incoming, Position, Session, native, not_understood, shortened};

/// The adapter of those who listen; it publishes as those of events do.
pub struct Poll;

#[derive(Deserialize)]
struct Page<'p> {
    #[serde(borrow)]
    messages: Vec<&'p RawValue>,
    cursor: String,
}

impl Adapter for Poll {
    fn framing(&self) -> Framing {
        Framing::Answers
    }

    fn request(&self, session: &Session<'_>) -> String {
        let Session { host, token, destination, .. } = session;
        let cursor = match (session.cursor, session.since) {
            (Some(cursor), _) => format!("&cursor={cursor}"),
            (None, Some(Position { epoch, offset })) => format!("&cursor={epoch}:{offset}"),
            (None, None) => String::new(),
        };
        let presence = if session.presence { "&presence=true" } else { "" };
        format!(
            "GET /poll?destination={destination}{cursor}{presence}&wait=25s HTTP/1.1\r\n\
             Host: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
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

    fn read(&self, answer: &str, tell: &mut dyn FnMut(Incoming)) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        if !head.starts_with("HTTP/1.1 200") {
            let after_ms = crate::wire::retry_after_ms(head);
            return tell(Incoming::Refused { after_ms, answer: shortened(answer) });
        }
        let Ok(page) = serde_json::from_str::<Page<'_>>(body) else {
            return tell(not_understood(body));
        };
        tell(Incoming::Connected);
        for message in page.messages {
            tell(match native::meaning(message.get()) {
                // The only request of a poll is its one destination.
                Incoming::Published => native::subscribed(message.get()),
                meaning => meaning,
            });
        }
        tell(Incoming::Answered { cursor: page.cursor });
    }
}
