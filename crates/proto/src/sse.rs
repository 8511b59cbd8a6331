//! Server-sent events, as the HTML standard has them ("Server-sent events").
//!
//! ```
//! use fanlight_proto::sse::{self, Field};
//!
//! let mut out = Vec::new();
//! sse::event(&mut out, Some(Field::new("7")?), None, b"one\ntwo");
//! assert_eq!(out, b"id: 7\ndata: one\ndata: two\n\n");
//! # Ok::<(), sse::FieldError>(())
//! ```
//!
//! An event that many clients get is written once with [`body`]; each client's id goes before it,
//! by [`id`] or [`cursor_id`].

use std::io::Write as _;

use crate::cursor::Cursor;
use crate::position::Position;

/// `Content-Type` of a stream of events.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// `Cache-Control` of a stream of events; `no-transform` keeps proxies from holding it back to
/// compress it.
pub const CACHE_CONTROL: &str = "no-store, no-transform";

/// An id or an event's name: text that stays within its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field<'a>(&'a str);

/// A text that ends its line, or has a NUL, for which a client would ignore an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event's id and name must not have CR, LF or NUL")]
pub struct FieldError;

impl<'a> Field<'a> {
    /// From any text without CR, LF and NUL.
    pub const fn new(text: &'a str) -> Result<Self, FieldError> {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if matches!(bytes[at], b'\r' | b'\n' | 0) {
                return Err(FieldError);
            }
            at += 1;
        }
        Ok(Self(text))
    }

    /// The text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// Appends an event. Without a name it is a `message`.
pub fn event(out: &mut Vec<u8>, id: Option<Field<'_>>, event: Option<Field<'_>>, data: &[u8]) {
    if let Some(text) = id {
        self::id(out, text);
    }
    body(out, event, data);
}

/// Appends the id of the event whose [`body`] comes next: what the client names in `Last-Event-ID`
/// when it reconnects.
pub fn id(out: &mut Vec<u8>, id: Field<'_>) {
    line(out, b"id: ", id.0.as_bytes());
}

/// The same for a cursor of one position.
pub fn position_id(out: &mut Vec<u8>, position: Position) {
    writeln!(out, "id: {position}").expect("a Vec takes all that is written");
}

/// The same for a cursor.
pub fn cursor_id(out: &mut Vec<u8>, cursor: &Cursor) {
    out.extend_from_slice(b"id: ");
    cursor.write(out);
    out.push(b'\n');
}

/// Appends an event but for its id. Whatever ends a line in the data ends one for the client, who
/// reads each as LF.
pub fn body(out: &mut Vec<u8>, event: Option<Field<'_>>, data: &[u8]) {
    out.reserve(data.len() + 32);
    if let Some(name) = event {
        line(out, b"event: ", name.0.as_bytes());
    }
    lines(out, b"data: ", data);
    end(out);
}

/// Ends what was written since the last event. After an [`id`] alone it moves the client's
/// `Last-Event-ID` without an event.
pub fn end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// Appends a comment, which clients ignore; an empty one is a heartbeat.
pub fn comment(out: &mut Vec<u8>, text: &str) {
    lines(out, if text.is_empty() { b":" } else { b": " }, text.as_bytes());
    end(out);
}

/// Appends how long the client is to wait before it reconnects.
pub fn retry(out: &mut Vec<u8>, after_ms: u64) {
    write!(out, "retry: {after_ms}\n\n").expect("a Vec takes all that is written");
}

/// Appends every line of a text, each behind the prefix; at least one.
fn lines(out: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        line(out, prefix, &rest[..at]);
        rest = &rest[at..];
        rest = rest.strip_prefix(b"\r\n").unwrap_or(&rest[1..]);
    }
    line(out, prefix, rest);
}

fn line(out: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(text);
    out.push(b'\n');
}
