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
use crate::scan;

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
    lines(out, b"\ndata: ", data);
    end(out);
}

/// Ends what was written since the last event. After an [`id`] alone it moves the client's
/// `Last-Event-ID` without an event.
pub fn end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// Appends a comment, which clients ignore; an empty one is a heartbeat.
pub fn comment(out: &mut Vec<u8>, text: &str) {
    lines(out, b"\n: ", text.as_bytes());
    end(out);
}

/// Appends how long the client is to wait before it reconnects; the event whose [`body`] comes next
/// ends it, or [`end`].
pub fn retry(out: &mut Vec<u8>, after_ms: u64) {
    writeln!(out, "retry: {after_ms}").expect("a Vec takes all that is written");
}

/// Appends every line of a text, at least one, each behind what `between` has after its line end.
fn lines(out: &mut Vec<u8>, between: &'static [u8], text: &[u8]) {
    out.extend_from_slice(&between[1..]);
    let is_end = |byte| u8::from(byte == b'\r') | u8::from(byte == b'\n');
    scan::replace(text, out, is_end, |rest| {
        let end_bytes = if rest.starts_with(b"\r\n") { 2 } else { 1 };
        Some((end_bytes, between))
    });
    out.push(b'\n');
}

fn line(out: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    /// What a client makes of a stream, by the standard's own steps ("Interpreting an event
    /// stream").
    #[derive(Debug, Default, PartialEq)]
    struct Client {
        events: Vec<Event>,
        last_event_id: String,
        retry_ms: Option<u64>,
    }

    #[derive(Debug, PartialEq)]
    struct Event {
        id: String,
        name: String,
        data: String,
    }

    fn read(stream: &[u8]) -> Client {
        let stream = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
        let mut client = Client::default();
        let (mut id, mut name, mut data) = (String::new(), String::new(), String::new());
        // What follows the last line end is not a line yet.
        let complete = stream.rsplit_once('\n').map_or("", |(complete, _)| complete);
        for line in complete.split('\n') {
            if line.is_empty() {
                client.last_event_id.clone_from(&id);
                if let Some(data) = data.strip_suffix('\n') {
                    let (id, name) = (id.clone(), std::mem::take(&mut name));
                    let name = if name.is_empty() { "message".to_owned() } else { name };
                    client.events.push(Event { id, name, data: data.to_owned() });
                }
                (name, data) = (String::new(), String::new());
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => {}
                "id" if !value.contains('\0') => value.clone_into(&mut id),
                "event" => value.clone_into(&mut name),
                "data" => data.extend([value, "\n"]),
                "retry" => client.retry_ms = value.parse().ok(),
                _ => panic!("{field}"),
            }
        }
        client
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn field(text: &str) -> Field<'_> {
        Field::new(text).unwrap()
    }

    #[test]
    fn an_event_has_a_line_for_each_of_its_parts() {
        let event = |id: Option<&'static str>, name: Option<&'static str>, data: &str| {
            written(|out| event(out, id.map(field), name.map(field), data.as_bytes()))
        };
        assert_eq!(event(None, None, "a"), "data: a\n\n");
        assert_eq!(event(Some("7"), Some("join"), "a"), "id: 7\nevent: join\ndata: a\n\n");
        assert_eq!(event(None, None, ""), "data: \n\n");
        assert_eq!(event(Some(""), None, " a"), "id: \ndata:  a\n\n");
    }

    #[test]
    fn whatever_ends_a_line_begins_another_of_data() {
        for (data, expected) in [
            ("a\nb", "data: a\ndata: b\n\n"),
            ("a\rb", "data: a\ndata: b\n\n"),
            ("a\r\nb", "data: a\ndata: b\n\n"),
            ("a\n\rb", "data: a\ndata: \ndata: b\n\n"),
            ("a\r\r\nb", "data: a\ndata: \ndata: b\n\n"),
            ("\n", "data: \ndata: \n\n"),
            ("\r", "data: \ndata: \n\n"),
            ("a\n\nevent: x", "data: a\ndata: \ndata: event: x\n\n"),
        ] {
            assert_eq!(written(|out| body(out, None, data.as_bytes())), expected, "{data:?}");
        }
    }

    #[test]
    fn no_id_or_name_ends_its_line() {
        for text in ["a\nb", "a\rb", "a\0b", "\n"] {
            assert_eq!(Field::new(text), Err(FieldError), "{text:?}");
        }
        for text in ["", "a", "é: ,\t"] {
            assert_eq!(field(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_event_is_not_taken_for_one() {
        assert_eq!(written(|out| comment(out, "")), ": \n\n");
        assert_eq!(written(|out| comment(out, "a\r\ndata: b")), ": a\n: data: b\n\n");
        assert_eq!(written(|out| retry(out, 2500)), "retry: 2500\n");
        let client = read(
            written(|out| {
                comment(out, "a\ndata: b");
                retry(out, 2500);
                id(out, field("7"));
                end(out);
            })
            .as_bytes(),
        );
        let last_event_id = "7".to_owned();
        assert_eq!(client, Client { events: Vec::new(), last_event_id, retry_ms: Some(2500) });
    }

    #[test]
    fn a_shared_body_follows_each_clients_own_cursor() {
        let position = Position { epoch: 0x1f0c, offset: 41 };
        let cursor = Cursor::new(vec![Some(position), None]).unwrap();
        let event = written(|out| {
            cursor_id(out, &cursor);
            body(out, None, b"a");
        });
        assert_eq!(event, "id: 1f0c:41,-\ndata: a\n\n");
        let id = read(event.as_bytes()).last_event_id;
        assert_eq!(Cursor::parse_for(&id, 2), Ok(cursor));
    }

    fn fields() -> impl Strategy<Value = String> {
        any::<String>().prop_map(|text| text.replace(['\r', '\n', '\0'], "x"))
    }

    fn datas() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a: \r\n]{0,12}", "[a-z]{30,33}[\r\n]{0,3}[a-z]{0,40}"]
    }

    proptest! {
        #[test]
        fn a_client_reads_what_was_written(
            events in vec((option::of(fields()), option::of(fields()), datas()), 0..5),
            text in datas(),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            let mut last_id = String::new();
            for (id, name, data) in &events {
                let [id_field, name_field] =
                    [id, name].map(|text| text.as_deref().map(field));
                event(&mut stream, id_field, name_field, data.as_bytes());
                comment(&mut stream, &text);
                last_id = id.clone().unwrap_or(last_id);
                let name = name.clone().filter(|name| !name.is_empty());
                expected.push(Event {
                    id: last_id.clone(),
                    name: name.unwrap_or("message".to_owned()),
                    data: data.replace("\r\n", "\n").replace('\r', "\n"),
                });
            }
            prop_assert_eq!(read(&stream).events, expected);
        }
    }
}
