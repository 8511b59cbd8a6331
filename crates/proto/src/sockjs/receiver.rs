//! What each receiving transport puts around a frame, and before the first one.

use super::{Callback, Transport};

/// A transport that receives, with what it needs to wrap a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// [`Transport::Xhr`]
    Xhr,
    /// [`Transport::XhrStreaming`]
    XhrStreaming,
    /// [`Transport::EventSource`]
    EventSource,
    /// [`Transport::HtmlFile`]
    HtmlFile(Callback),
    /// [`Transport::Jsonp`]
    Jsonp(Callback),
    /// [`Transport::WebSocket`]
    WebSocket,
}

impl Receiver {
    /// The longest prelude.
    pub const MAX_PRELUDE_BYTES: usize = 2049;

    /// The transport.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Xhr => Transport::Xhr,
            Self::XhrStreaming => Transport::XhrStreaming,
            Self::EventSource => Transport::EventSource,
            Self::HtmlFile(_) => Transport::HtmlFile,
            Self::Jsonp(_) => Transport::Jsonp,
            Self::WebSocket => Transport::WebSocket,
        }
    }

    /// Appends what comes before the first frame of a response: something that makes the browser
    /// begin to read, for the transports that stream.
    pub fn prelude(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        match self {
            Self::Xhr | Self::Jsonp(_) | Self::WebSocket => {}
            Self::XhrStreaming => {
                out.resize(begin + XHR_PRELUDE_BYTES, b'h');
                out.push(b'\n');
            }
            Self::EventSource => out.extend_from_slice(b"\r\n"),
            Self::HtmlFile(callback) => {
                for part in [HTML_HEAD, callback.as_str(), HTML_REST] {
                    out.extend_from_slice(part.as_bytes());
                }
                let padded = out.len().max(begin + HTML_PRELUDE_BYTES);
                out.resize(padded, b' ');
                out.extend_from_slice(b"\r\n\r\n");
            }
        }
    }

    /// Appends a frame as it is sent.
    pub fn frame(&self, out: &mut Vec<u8>, frame: &[u8]) {
        self.begin(out);
        self.content(out, frame);
        self.end(out);
    }

    /// Appends what is before a frame.
    pub fn begin(&self, out: &mut Vec<u8>) {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::WebSocket => {}
            Self::EventSource => out.extend_from_slice(b"data: "),
            Self::HtmlFile(_) => out.extend_from_slice(b"<script>\np(\""),
            Self::Jsonp(callback) => {
                // The comment keeps the name from being taken for the head of a Flash file.
                out.extend_from_slice(b"/**/");
                out.extend_from_slice(callback.as_str().as_bytes());
                out.extend_from_slice(b"(\"");
            }
        }
    }

    /// Appends a frame's content, escaped as the transport needs it. It may come in pieces, split
    /// anywhere.
    pub fn content(&self, out: &mut Vec<u8>, content: &[u8]) {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::WebSocket => out.extend_from_slice(content),
            Self::EventSource => replace(content, in_event, out),
            Self::HtmlFile(_) | Self::Jsonp(_) => replace(content, in_script, out),
        }
    }

    /// Appends what is after a frame.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Xhr | Self::XhrStreaming => b"\n",
            Self::EventSource => b"\r\n\r\n",
            Self::HtmlFile(_) => b"\");\n</script>\r\n",
            Self::Jsonp(_) => b"\");\r\n",
            Self::WebSocket => b"",
        });
    }
}

/// The client decodes an event with `decodeURI`, so that a percent sign must be escaped as well as
/// what ends a line.
fn in_event(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'%' => Some(b"%25"),
        b'\r' => Some(b"%0D"),
        b'\n' => Some(b"%0A"),
        0 => Some(b"%00"),
        _ => None,
    }
}

/// In a script the frame is a string once more. A frame has no bare line ends or control characters;
/// they are escaped all the same, and `<`, which could end the script.
fn in_script(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'"' => Some(b"\\\""),
        b'\\' => Some(b"\\\\"),
        b'<' => Some(b"\\u003c"),
        b'\r' => Some(b"\\r"),
        b'\n' => Some(b"\\n"),
        0 => Some(b"\\u0000"),
        _ => None,
    }
}

fn replace(content: &[u8], by: fn(u8) -> Option<&'static [u8]>, out: &mut Vec<u8>) {
    out.reserve(content.len());
    let mut plain = 0;
    for (at, byte) in content.iter().enumerate() {
        if let Some(replacement) = by(*byte) {
            out.extend_from_slice(&content[plain..at]);
            out.extend_from_slice(replacement);
            plain = at + 1;
        }
    }
    out.extend_from_slice(&content[plain..]);
}

/// Internet Explorer reads no further before 2 KiB.
const XHR_PRELUDE_BYTES: usize = 2048;
/// Safari looks at 1 KiB before it takes a page for one.
const HTML_PRELUDE_BYTES: usize = 1024;

const HTML_HEAD: &str = r#"<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent."#;

const HTML_REST: &str = ";
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
";
