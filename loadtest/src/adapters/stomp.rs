//! STOMP 1.2, the gateway's and Spring's.

use std::fmt::Write;

use super::{Adapter, Incoming, Position, Session, not_understood, shortened, upgrade};
use crate::stamp::Stamp;

/// The adapter.
pub struct Stomp {
    /// Spring's simple broker sends no RECEIPT for SUBSCRIBE and SEND.
    pub has_receipts: bool,
}

impl Adapter for Stomp {
    fn request(&self, session: &Session<'_>) -> String {
        upgrade(session, "/ws", "Sec-WebSocket-Protocol: v12.stomp\r\n")
    }

    fn connect(&self, session: &Session<'_>) -> Option<String> {
        Some(format!(
            "CONNECT\naccept-version:1.2\nhost:{}\nheart-beat:20000,20000\n\
             Authorization:Bearer {}\n\n\0",
            session.host.split(':').next().unwrap_or_default(),
            session.token
        ))
    }

    fn subscribe(&self, session: &Session<'_>) -> Option<String> {
        let mut frame = format!("SUBSCRIBE\nid:0\ndestination:{}\n", session.destination);
        if self.has_receipts {
            frame += "receipt:s\n";
        }
        if let Some(Position { epoch, offset }) = session.since {
            let _ = write!(frame, "epoch:{epoch}\noffset:{offset}\n");
        }
        if session.presence {
            frame += "presence:true\n";
        }
        Some(frame + "\n\0")
    }

    fn is_answered(&self) -> bool {
        self.has_receipts
    }

    fn publish(&self, to: &str, body: &str, id: u64) -> String {
        let receipt = if self.has_receipts { format!("receipt:{id}\n") } else { String::new() };
        format!("SEND\ndestination:{to}\n{receipt}content-type:text/plain\n\n{body}\0")
    }

    fn heartbeat(&self) -> Option<&'static str> {
        Some("\n")
    }

    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming)) {
        // A heartbeat is an end of line alone.
        if message == "\n" {
            return;
        }
        let (head, _) = message.split_once("\n\n").unwrap_or((message, ""));
        tell(match head.split('\n').next() {
            Some("MESSAGE") if head.contains("\nevent:presence") => Incoming::Presence,
            Some("MESSAGE") => delivery(message, head),
            Some("CONNECTED") => Incoming::Connected,
            Some("RECEIPT") if header(head, "receipt-id") == Some("s") => subscribed(head),
            Some("RECEIPT") => Incoming::Published,
            Some("ERROR") => fault(message, head),
            _ => not_understood(message),
        });
    }
}

fn delivery(message: &str, head: &str) -> Incoming {
    let Some(stamp) = Stamp::find(message) else { return not_understood(message) };
    let offset = header(head, "offset").and_then(|offset| offset.parse().ok());
    Incoming::Delivery { stamp, offset }
}

fn subscribed(head: &str) -> Incoming {
    let offset = header(head, "offset").and_then(|offset| offset.parse().ok());
    Incoming::Subscribed {
        position: header(head, "epoch")
            .zip(offset)
            .map(|(epoch, offset)| Position { epoch: epoch.to_owned(), offset }),
        recovered: header(head, "recovered").map(|recovered| recovered == "true"),
    }
}

/// The ERROR of a drain says when to come back.
fn fault(message: &str, head: &str) -> Incoming {
    match header(head, "retry-after") {
        Some(seconds) => {
            Incoming::Leaving { after_ms: seconds.parse().ok().map(|seconds: u64| seconds * 1000) }
        }
        None => Incoming::Fault(shortened(message)),
    }
}

fn header<'f>(head: &'f str, name: &str) -> Option<&'f str> {
    head.split('\n').find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
