//! The native protocol `fanlight.v1.json`: one JSON object per text message, or an array of them.
//!
//! Objects are flat and `type` tells them apart. A client's may carry an `id`, a number or a
//! string, which the answer repeats:
//!
//! ```json
//! {"type":"send","to":"/topic/a","data":{"price":7},"id":1}
//! {"type":"ok","id":1,"message_id":"0198c5"}
//! ```
//!
//! A body travels as JSON in `data` when its content type is absent or JSON; any other as a base64
//! string, with `content_type` beside it.

mod body;
mod client;
mod error;
mod presence;
#[cfg(test)]
mod properties;
mod request_id;
mod server;
#[cfg(test)]
mod tests;
mod vocabulary;
mod write;

pub use body::is_json;
pub use client::{
    ClientMessage, HeaderPairs, MAX_ACK_IDS, MAX_BATCH, MAX_HEADERS, MAX_HISTORY, MAX_MEMBERS,
    Messages, parse, parse_send,
};
pub use error::{NativeError, Problem};
pub use presence::{PresenceChange, PresenceMember, write_presence};
pub use request_id::RequestId;
pub use server::{Confirmed, History, Message, ServerMessage, SessionLimits};
pub use write::{HistoryWriter, MessageFields, QueueMark, write_message, write_queue_message};

/// The protocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "fanlight.v1.json";
