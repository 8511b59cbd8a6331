//! Socket.IO 5 on Engine.IO 4 (socket.io/docs/v4/socket-io-protocol), over a WebSocket from the start.

use super::{
    Adapter, Incoming, Names, Place, Session, not_understood, shortened, upgrade, user_name,
};
use crate::stamp::Stamp;

/// The adapter. The server knows the events `subscribe` and `publish`, acknowledges both, and sends
/// `message`: see `peers/socketio/server.mjs`.
pub struct SocketIo;

impl Adapter for SocketIo {
    fn request(&self, session: &Session<'_>) -> String {
        upgrade(session, "/socket.io/?EIO=4&transport=websocket", "")
    }

    fn is_greeted(&self) -> bool {
        true
    }

    fn connect(&self, session: &Session<'_>) -> Option<String> {
        Some(format!(r#"40{{"token":"{}"}}"#, session.token))
    }

    fn subscribe(&self, session: &Session<'_>) -> Option<String> {
        Some(format!(r#"420["subscribe","{}"]"#, session.destination))
    }

    fn publish(&self, to: &str, body: &str, id: u64) -> String {
        format!(r#"42{}["publish","{to}","{body}"]"#, id + 1)
    }

    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming)) {
        let mut kinds = message.bytes();
        tell(match (kinds.next(), kinds.next()) {
            (Some(b'0'), _) => Incoming::Greeting,
            (Some(b'2'), None) => Incoming::Reply("3"),
            (Some(b'1'), _) | (Some(b'4'), Some(b'1')) => Incoming::Leaving { after_ms: None },
            (Some(b'4'), Some(b'0')) => Incoming::Connected,
            (Some(b'4'), Some(b'2')) => match Stamp::find(message) {
                Some(stamp) => Incoming::Delivery { stamp, offset: None },
                None => not_understood(message),
            },
            (Some(b'4'), Some(b'3')) if message.starts_with("430[") => {
                Incoming::Subscribed { position: None, recovered: None }
            }
            (Some(b'4'), Some(b'3')) => Incoming::Published,
            (Some(b'4'), Some(b'4')) => Incoming::Fault(shortened(message)),
            _ => not_understood(message),
        });
    }

    fn names(&self, place: Place) -> Names {
        Names::same(match place {
            Place::Room(number) => format!("room.{number}"),
            Place::User(number) => format!("queue.{}", user_name(number)),
        })
    }
}
