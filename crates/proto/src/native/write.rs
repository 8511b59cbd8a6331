//! The hot path: one `message` per publication and node, written without an intermediate value.

use crate::position::Position;

use super::{RequestId, body};

/// What a `message` tells.
#[derive(Debug, Clone, Copy)]
pub struct MessageFields<'a> {
    /// The destination, as the subscriber is shown it.
    pub to: &'a str,
    /// The publication's id.
    pub id: &'a str,
    /// The body, as the publisher sent it.
    pub body: &'a [u8],
    /// What the publisher says the body is.
    pub content_type: Option<&'a str>,
    /// Whether the body is known to be JSON, as its type says: then nothing looks at it again.
    pub is_json: bool,
    /// The user that published it.
    pub from: Option<&'a str>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Its place in the destination's history, where one is kept.
    pub position: Option<Position>,
    /// The sender's headers that are passed on.
    pub headers: &'a [(Box<str>, Box<str>)],
}

/// What a queue's `message` tells besides.
#[derive(Debug, Clone, Copy)]
pub struct QueueMark {
    /// Whether the client is to acknowledge it.
    pub needs_ack: bool,
    /// How often it has been delivered, this time included.
    pub delivery_count: u32,
}

/// Appends a `message` of a queue.
pub fn write_queue_message(out: &mut Vec<u8>, fields: &MessageFields<'_>, mark: QueueMark) {
    write_message(out, fields);
    if mark.needs_ack {
        append_field(out, br#""ack":true"#);
    }
    if mark.delivery_count > 1 {
        append_field(out, br#""redelivered":true"#);
        append_field(out, format!(r#""delivery_count":{}"#, mark.delivery_count).as_bytes());
    }
}

/// Appends a `message`. A reader gets it as [`super::Message`].
pub fn write_message(out: &mut Vec<u8>, fields: &MessageFields<'_>) {
    out.reserve(fields.body.len() + 192);
    out.extend_from_slice(br#"{"type":"message","to":"#);
    json(out, fields.to);
    out.extend_from_slice(br#","id":"#);
    json(out, fields.id);
    out.extend_from_slice(br#","data":"#);
    if let Some(content_type) = body::encode(out, fields) {
        out.extend_from_slice(br#","content_type":"#);
        json(out, content_type);
    }
    if let Some(from) = fields.from {
        out.extend_from_slice(br#","from":"#);
        json(out, from);
    }
    out.extend_from_slice(br#","at":"#);
    json(out, &fields.at_unix_ms);
    if let Some(Position { epoch, offset }) = fields.position {
        out.extend_from_slice(br#","epoch":"#);
        json(out, &format_args!("{epoch:x}"));
        out.extend_from_slice(br#","offset":"#);
        json(out, &offset);
    }
    if !fields.headers.is_empty() {
        out.extend_from_slice(br#","headers":{"#);
        for (at, (name, value)) in fields.headers.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            json(out, name);
            out.push(b':');
            json(out, value);
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// Writes a `history` answer message by message. A reader gets it as [`super::History`].
#[derive(Debug)]
pub struct HistoryWriter {
    is_empty: bool,
}

impl HistoryWriter {
    /// Begins the answer to a request.
    pub fn begin(out: &mut Vec<u8>, id: &RequestId, to: &str) -> Self {
        out.extend_from_slice(br#"{"type":"history","id":"#);
        out.extend_from_slice(id.as_json().as_bytes());
        out.extend_from_slice(br#","to":"#);
        json(out, to);
        out.extend_from_slice(br#","messages":["#);
        Self { is_empty: true }
    }

    /// Adds a message, as [`write_message`] wrote it.
    pub fn message(&mut self, out: &mut Vec<u8>, message: &[u8]) {
        if !std::mem::replace(&mut self.is_empty, false) {
            out.push(b',');
        }
        out.extend_from_slice(message);
    }

    /// Ends it: up to where it goes, and whether there is more or why there is not.
    pub fn end(self, out: &mut Vec<u8>, position: Position, more: bool, reason: Option<&str>) {
        out.extend_from_slice(br#"],"epoch":"#);
        json(out, &position.epoch_text());
        out.extend_from_slice(br#","offset":"#);
        json(out, &position.offset);
        if more {
            out.extend_from_slice(br#","more":true"#);
        }
        if let Some(reason) = reason {
            out.extend_from_slice(br#","reason":"#);
            json(out, reason);
        }
        out.push(b'}');
    }
}

/// Adds a field to the object that `out` ends with.
fn append_field(out: &mut Vec<u8>, field: &[u8]) {
    out.pop();
    out.push(b',');
    out.extend_from_slice(field);
    out.push(b'}');
}

fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes all that is written");
}
