//! SockJS 0.3.4 over its WebSocket, with STOMP inside.

use super::{Adapter, Incoming, Session, not_understood, stomp::Stomp, upgrade};

/// The adapter.
pub struct SockJs;

const INSIDE: Stomp = Stomp { has_receipts: true };

impl Adapter for SockJs {
    fn request(&self, session: &Session<'_>) -> String {
        upgrade(session, &format!("/sockjs/000/load-{}/websocket", session.number), "")
    }

    fn is_greeted(&self) -> bool {
        true
    }

    fn connect(&self, session: &Session<'_>) -> Option<String> {
        INSIDE.connect(session).map(|frame| quoted(&frame))
    }

    fn subscribe(&self, session: &Session<'_>) -> Option<String> {
        INSIDE.subscribe(session).map(|frame| quoted(&frame))
    }

    fn publish(&self, to: &str, body: &str, id: u64) -> String {
        quoted(&INSIDE.publish(to, body, id))
    }

    fn heartbeat(&self) -> Option<&'static str> {
        Some(r#"["\n"]"#)
    }

    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming)) {
        match message.as_bytes().first() {
            Some(b'o') => tell(Incoming::Greeting),
            Some(b'h') => {}
            Some(b'a') => match serde_json::from_str::<Vec<String>>(&message[1..]) {
                Ok(frames) => frames.iter().for_each(|frame| INSIDE.read(frame, tell)),
                Err(_) => tell(not_understood(message)),
            },
            Some(b'c') => tell(Incoming::Leaving { after_ms: None }),
            _ => tell(not_understood(message)),
        }
    }
}

fn quoted(frame: &str) -> String {
    serde_json::json!([frame]).to_string()
}
