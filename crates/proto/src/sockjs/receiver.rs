//! What each receiving transport puts around a frame, and before the first one.

use crate::scan;

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
            Self::EventSource => scan::replace(content, out, may_end_event, in_event),
            Self::HtmlFile(_) | Self::Jsonp(_) => {
                scan::replace(content, out, may_end_script, in_script);
            }
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
fn in_event(content: &[u8]) -> Option<(usize, &'static [u8])> {
    let escape: &[u8] = match *content.first()? {
        b'%' => b"%25",
        b'\r' => b"%0D",
        b'\n' => b"%0A",
        0 => b"%00",
        _ => return None,
    };
    Some((1, escape))
}

fn may_end_event(byte: u8) -> u8 {
    u8::from(byte < 0x20) | u8::from(byte == b'%')
}

/// In a script the frame is a string once more. A frame has no bare line ends or control characters;
/// they are escaped all the same, and `<`, which could end the script.
fn in_script(content: &[u8]) -> Option<(usize, &'static [u8])> {
    let escape: &[u8] = match *content.first()? {
        b'"' => b"\\\"",
        b'\\' => b"\\\\",
        b'<' => b"\\u003c",
        b'\r' => b"\\r",
        b'\n' => b"\\n",
        0 => b"\\u0000",
        _ => return None,
    };
    Some((1, escape))
}

fn may_end_script(byte: u8) -> u8 {
    u8::from(byte < 0x20)
        | u8::from(byte == b'"')
        | u8::from(byte == b'\\')
        | u8::from(byte == b'<')
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
