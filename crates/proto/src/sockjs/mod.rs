//! SockJS 0.3.4: paths, frames and bodies of every transport.
//!
//! A message travels as a JSON string ([`quote`]) in a frame ([`frame`]), and the frame in what the
//! transport needs around it ([`Receiver`]). Clients send JSON: [`read_message`] on a WebSocket,
//! [`read_xhr_send`] and [`read_jsonp_send`] in bodies.
//!
//! ```
//! use fanlight_proto::sockjs::{Receiver, frame, quote};
//!
//! let (mut message, mut messages, mut out) = (Vec::new(), Vec::new(), Vec::new());
//! quote("hi", &mut message);
//! frame::messages(&mut messages, [&message]);
//! Receiver::EventSource.frame(&mut out, &messages);
//! assert_eq!(out, b"data: a[\"hi\"]\r\n\r\n");
//! ```
//!
//! Where this differs from sockjs-node, which the protocol's test suite does not ask for:
//! characters beyond U+FFFF are sent as they are, `<` is escaped inside scripts, ids are at most
//! [`Route::MAX_ID_BYTES`] long, and a client's messages must be strings.

mod callback;
mod close;
pub mod frame;
pub mod headers;
mod page;
mod payload;
mod quote;
mod receiver;
mod route;
#[cfg(test)]
mod tests;

pub use callback::{Callback, CallbackError};
pub use close::Close;
pub use page::{GREETING, Iframe, Info};
pub use payload::{Limits, PayloadError, read_jsonp_send, read_message, read_xhr_send};
pub use quote::{escape, escape_lossy, quote};
pub use receiver::Receiver;
pub use route::Route;

/// The last part of a session's path: how frames are received, or messages sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `xhr`: one response per frame.
    Xhr,
    /// `xhr_send`: the sending side of all but `jsonp` and `websocket`.
    XhrSend,
    /// `xhr_streaming`: frames as lines of one response.
    XhrStreaming,
    /// `eventsource`: frames as server-sent events.
    EventSource,
    /// `htmlfile`: frames as scripts of one page.
    HtmlFile,
    /// `jsonp`: one script per frame.
    Jsonp,
    /// `jsonp_send`: the sending side of `jsonp`.
    JsonpSend,
    /// `websocket`: both directions.
    WebSocket,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 8] = [
        Self::Xhr,
        Self::XhrSend,
        Self::XhrStreaming,
        Self::EventSource,
        Self::HtmlFile,
        Self::Jsonp,
        Self::JsonpSend,
        Self::WebSocket,
    ];

    /// As it stands in a path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xhr => "xhr",
            Self::XhrSend => "xhr_send",
            Self::XhrStreaming => "xhr_streaming",
            Self::EventSource => "eventsource",
            Self::HtmlFile => "htmlfile",
            Self::Jsonp => "jsonp",
            Self::JsonpSend => "jsonp_send",
            Self::WebSocket => "websocket",
        }
    }

    /// The transport of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.as_str() == name)
    }

    /// Whether its requests send messages rather than receive frames. A WebSocket does both and is
    /// not meant.
    pub fn is_send(self) -> bool {
        matches!(self, Self::XhrSend | Self::JsonpSend)
    }

    /// Whether one response carries many frames, until it has grown too long.
    pub fn is_streaming(self) -> bool {
        matches!(self, Self::XhrStreaming | Self::EventSource | Self::HtmlFile)
    }

    /// Whether it needs a callback, in the query as `c` or `callback`.
    pub fn needs_callback(self) -> bool {
        matches!(self, Self::HtmlFile | Self::Jsonp)
    }
}
