//! STOMP 1.0, 1.1 and 1.2: bytes ⇄ frames.
//!
//! One codec serves both roles: a server decodes SEND and writes MESSAGE, a client the other way
//! round. Where the versions differ:
//!
//! | | 1.0 | 1.1 | 1.2 |
//! |---|---|---|---|
//! | escapes in headers | none | `\n` `\c` `\\` | `\r` `\n` `\c` `\\` |
//! | undefined escape | plain text | error | error |
//! | end of line, as specified | LF | LF | LF or CRLF |
//!
//! An optional CR before the LF is accepted in every version, as most servers do; so a value that
//! ends in a bare CR loses it in 1.0 and 1.1, which cannot express it. Headers are never trimmed
//! ("Frames and Headers"), and CONNECT, STOMP and CONNECTED are never escaped ("Value Encoding").

mod decode;
mod encode;
mod error;
mod escape;
mod headers;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

pub use decode::{Decoder, Limits};
pub use encode::{Writer, message_head};
pub use error::{StompError, UnknownVersion};
pub use escape::escape;
pub use headers::Headers;

/// A version of the protocol ("Protocol Negotiation").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// STOMP 1.0
    V10,
    /// STOMP 1.1
    V11,
    /// STOMP 1.2
    V12,
}

/// What a frame asks or tells ("Client Frames", "Server Frames").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Opens a session.
    Connect,
    /// Opens a session, from 1.1 on.
    Stomp,
    /// Publishes a message.
    Send,
    /// Registers to listen to a destination.
    Subscribe,
    /// Removes a subscription.
    Unsubscribe,
    /// Starts a transaction.
    Begin,
    /// Commits a transaction.
    Commit,
    /// Rolls a transaction back.
    Abort,
    /// Acknowledges a message.
    Ack,
    /// Tells that a message was not consumed, from 1.1 on.
    Nack,
    /// Ends the session.
    Disconnect,
    /// The server accepted CONNECT.
    Connected,
    /// A message for a subscription.
    Message,
    /// The server has processed a frame that asked for a receipt.
    Receipt,
    /// Something went wrong; the server closes after it.
    Error,
}

/// One frame, its headers unescaped ("STOMP Frames").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it asks or tells.
    pub command: Command,
    /// Its headers, the first of each name.
    pub headers: Headers,
    /// Its body; empty for all commands but SEND, MESSAGE and ERROR.
    pub body: Bytes,
}

/// What a [`Decoder`] found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// An end of line between frames ("Heart-beating").
    Heartbeat,
    /// A whole frame.
    Frame(Frame),
}

/// The highest version that a CONNECT's `accept-version` and we have in common
/// ("Protocol Negotiation"). An absent header means 1.0.
pub fn negotiate(accept_version: Option<&str>) -> Option<Version> {
    let Some(list) = accept_version else {
        return Some(Version::V10);
    };
    list.split(',').filter_map(|version| version.trim().parse().ok()).max()
}

/// Both numbers of a `heart-beat` header, in milliseconds: what the sender can do, then what it
/// wants ("Heart-beating"). Numbers beyond `u32` mean its maximum.
pub fn parse_heart_beat(value: &str) -> Result<(u32, u32), StompError> {
    let milliseconds = |digits: &str| match digits.parse::<u32>() {
        _ if !is_digits(digits) => Err(StompError::MalformedHeartBeat),
        parsed => Ok(parsed.unwrap_or(u32::MAX)),
    };
    let (can_do, wants) = value.split_once(',').ok_or(StompError::MalformedHeartBeat)?;
    Ok((milliseconds(can_do)?, milliseconds(wants)?))
}

impl Version {
    /// All versions, in the form of the `version` header of an ERROR that refuses a CONNECT.
    pub const SUPPORTED: &str = "1.0,1.1,1.2";

    /// `1.0`, `1.1` or `1.2`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V12 => "1.2",
        }
    }

    /// The version whose escapes `command` uses: the frames that open a session have none, as 1.0
    /// ("Value Encoding").
    fn escapes_of(self, command: Command) -> Self {
        match command {
            Command::Connect | Command::Stomp | Command::Connected => Self::V10,
            _ => self,
        }
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        match text {
            "1.0" => Ok(Self::V10),
            "1.1" => Ok(Self::V11),
            "1.2" => Ok(Self::V12),
            _ => Err(UnknownVersion),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Stomp,
        Self::Send,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Begin,
        Self::Commit,
        Self::Abort,
        Self::Ack,
        Self::Nack,
        Self::Disconnect,
        Self::Connected,
        Self::Message,
        Self::Receipt,
        Self::Error,
    ];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Stomp => "STOMP",
            Self::Send => "SEND",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Disconnect => "DISCONNECT",
            Self::Connected => "CONNECTED",
            Self::Message => "MESSAGE",
            Self::Receipt => "RECEIPT",
            Self::Error => "ERROR",
        }
    }

    /// Whether its frames may have a body ("Body").
    pub fn allows_body(self) -> bool {
        matches!(self, Self::Send | Self::Message | Self::Error)
    }

    fn from_bytes(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"CONNECT" => Self::Connect,
            b"STOMP" => Self::Stomp,
            b"SEND" => Self::Send,
            b"SUBSCRIBE" => Self::Subscribe,
            b"UNSUBSCRIBE" => Self::Unsubscribe,
            b"BEGIN" => Self::Begin,
            b"COMMIT" => Self::Commit,
            b"ABORT" => Self::Abort,
            b"ACK" => Self::Ack,
            b"NACK" => Self::Nack,
            b"DISCONNECT" => Self::Disconnect,
            b"CONNECTED" => Self::Connected,
            b"MESSAGE" => Self::Message,
            b"RECEIPT" => Self::Receipt,
            b"ERROR" => Self::Error,
            _ => return None,
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Frame {
    /// The value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Appends the frame to `out`, escaped for `version`.
    pub fn write(&self, out: &mut Vec<u8>, version: Version) {
        Writer::new(out, self.command, version).headers(self.headers.iter()).body(&self.body);
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
