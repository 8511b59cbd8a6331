//! Centrifugo's JSON protocol, version 2 (`centrifugal.dev/docs/transports/client_protocol`).

use super::{
    Adapter, Incoming, Names, Place, Session, not_understood, shortened, upgrade, user_name,
};
use crate::stamp::Stamp;

/// The adapter.
pub struct Centrifugo;

impl Adapter for Centrifugo {
    fn request(&self, session: &Session<'_>) -> String {
        upgrade(session, "/connection/websocket", "")
    }

    fn connect(&self, session: &Session<'_>) -> Option<String> {
        Some(format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, session.token))
    }

    fn subscribe(&self, session: &Session<'_>) -> Option<String> {
        Some(format!(r#"{{"id":2,"subscribe":{{"channel":"{}"}}}}"#, session.destination))
    }

    fn publish(&self, to: &str, body: &str, id: u64) -> String {
        let id = id + 3;
        format!(r#"{{"id":{id},"publish":{{"channel":"{to}","data":"{body}"}}}}"#)
    }

    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming)) {
        // A message may carry several replies, a line each.
        for line in message.lines().filter(|line| !line.is_empty()) {
            tell(meaning(line));
        }
    }

    /// Neither slashes nor private names, which mean nothing here.
    fn names(&self, place: Place) -> Names {
        Names::same(match place {
            Place::Room(number) => format!("room.{number}"),
            Place::User(number) => format!("queue.{}", user_name(number)),
        })
    }
}

fn meaning(line: &str) -> Incoming {
    if line == "{}" {
        return Incoming::Reply("{}");
    }
    if line.starts_with(r#"{"push":"#) {
        return match Stamp::find(line) {
            Some(stamp) => Incoming::Delivery { stamp, offset: None },
            None if line.contains(r#""disconnect":"#) => Incoming::Leaving { after_ms: None },
            None => not_understood(line),
        };
    }
    if line.contains(r#""error":"#) {
        return Incoming::Fault(shortened(line));
    }
    if line.starts_with(r#"{"id":1,"#) {
        return Incoming::Connected;
    }
    if line.starts_with(r#"{"id":2,"#) {
        return Incoming::Subscribed { position: None, recovered: None };
    }
    if line.starts_with(r#"{"id":"#) {
        return Incoming::Published;
    }
    not_understood(line)
}
