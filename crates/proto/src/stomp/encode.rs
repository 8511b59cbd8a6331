//! Frames → bytes, for both roles.

use std::io::Write;

use super::escape::{escape, escape_name};
use super::{Command, Version};

/// Writes one frame: `Writer::new(..).header(..).header(..)`, then `body` or `end`.
///
/// Names and values are escaped for the version, so that no value can add a header or end the
/// frame. `content-length` is the writer's own: it is written for every body that is not empty, and
/// a header of that name is left out, as is one without a name.
#[must_use = "a frame ends with `body` or `end`"]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    escapes: Version,
}

/// Appends the part of a MESSAGE that differs between its subscribers; what all of them share is
/// appended after it, written by [`Writer::continuing`].
///
/// `subscription` may be absent in 1.0 only; `ack` is for subscriptions that acknowledge, in 1.2
/// ("MESSAGE").
pub fn message_head(
    out: &mut Vec<u8>,
    version: Version,
    subscription: Option<&str>,
    ack: Option<&str>,
) {
    let mut head = Writer::new(out, Command::Message, version);
    for (name, value) in [("subscription", subscription), ("ack", ack)] {
        if let Some(value) = value {
            head = head.header(name, value);
        }
    }
}

impl<'o> Writer<'o> {
    /// Begins a frame. Before a version is negotiated, write in [`Version::V10`].
    pub fn new(out: &'o mut Vec<u8>, command: Command, version: Version) -> Self {
        out.extend_from_slice(command.as_str().as_bytes());
        out.push(b'\n');
        Self { out, escapes: version.escapes_of(command) }
    }

    /// Goes on with a frame that [`message_head`] began, perhaps in another buffer.
    pub fn continuing(out: &'o mut Vec<u8>, version: Version) -> Self {
        Self { out, escapes: version }
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        if !name.is_empty() && name != CONTENT_LENGTH {
            escape_name(name, self.escapes, self.out);
            self.out.push(b':');
            escape(value, self.escapes, self.out);
            self.out.push(b'\n');
        }
        self
    }

    /// Adds headers, in order.
    pub fn headers<N, V>(self, headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        headers
            .into_iter()
            .fold(self, |writer, (name, value)| writer.header(name.as_ref(), value.as_ref()))
    }

    /// Ends the frame with a body ("Body").
    pub fn body(self, body: &[u8]) {
        if !body.is_empty() {
            writeln!(self.out, "{CONTENT_LENGTH}:{}", body.len())
                .expect("a Vec takes all that is written");
        }
        self.out.reserve(body.len() + 2);
        self.out.push(b'\n');
        self.out.extend_from_slice(body);
        self.out.push(0);
    }

    /// Ends the frame without a body.
    pub fn end(self) {
        self.body(&[]);
    }
}

const CONTENT_LENGTH: &str = "content-length";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_has_its_content_length_and_an_empty_one_has_none() {
        let send = |body: &'static [u8]| {
            written(|out| {
                Writer::new(out, Command::Send, Version::V12)
                    .header("destination", "/queue/a")
                    .header("content-length", "999")
                    .body(body);
            })
        };
        assert_eq!(send(b"a\0b"), "SEND\ndestination:/queue/a\ncontent-length:3\n\na\0b\0");
        assert_eq!(send(b""), "SEND\ndestination:/queue/a\n\n\0");
    }

    #[test]
    fn no_value_adds_a_header_or_ends_the_frame_in_any_version() {
        for (version, expected) in [
            (Version::V10, "RECEIPT\na b:1  admin:true   \n\n\0"),
            (Version::V11, "RECEIPT\na\\cb:1 \\nadmin\\ctrue   \n\n\0"),
            (Version::V12, "RECEIPT\na\\cb:1\\r\\nadmin\\ctrue\\r  \n\n\0"),
        ] {
            let frame = written(|out| {
                Writer::new(out, Command::Receipt, version)
                    .header("a:b", "1\r\nadmin:true\r\0\0")
                    .end();
            });
            assert_eq!(frame, expected, "{version}");
        }
    }

    #[test]
    fn the_frames_that_open_a_session_are_not_escaped() {
        let frame = written(|out| {
            Writer::new(out, Command::Connected, Version::V12).header("session", r"a:b\c").end();
        });
        assert_eq!(frame, "CONNECTED\nsession:a:b\\c\n\n\0");
    }

    #[test]
    fn a_header_without_a_name_is_left_out() {
        let frame = written(|out| {
            Writer::new(out, Command::Receipt, Version::V12).header("", "x").end();
        });
        assert_eq!(frame, "RECEIPT\n\n\0");
    }

    #[test]
    fn a_message_in_two_parts_is_one_frame() {
        let frame = written(|out| {
            message_head(out, Version::V12, Some("sub:0"), Some("7"));
            Writer::continuing(out, Version::V12).header("message-id", "m").body(b"hi");
        });
        let expected =
            "MESSAGE\nsubscription:sub\\c0\nack:7\nmessage-id:m\ncontent-length:2\n\nhi\0";
        assert_eq!(frame, expected);
    }
}
