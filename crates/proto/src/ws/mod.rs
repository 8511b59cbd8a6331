//! WebSocket (RFC 6455) and permessage-deflate (RFC 7692): bytes ⇄ messages.
//!
//! Input goes through a [`Decoder`], which borrows whole messages from the caller's read buffer
//! and keeps nothing while it is idle. Output is written by free functions: [`frame`] appends a
//! whole frame, [`frame_header`] makes only the header, for a payload that is shared between
//! connections and sent beside it.

mod decode;
pub mod deflate;
mod encode;
mod frame;
pub mod handshake;
mod mask;
mod partial;
mod utf8;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::CloseReason;

pub use decode::Decoder;
pub use encode::{FrameHeader, close_frame, frame, frame_header, frame_masked};
pub use frame::Opcode;

/// Which end of the connection this is (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What comes in is from a client and must be masked.
    Server,
    /// What comes in is from a server and must not be masked.
    Client,
}

/// One whole message: a data message (RFC 6455 §5.6) or a control frame (§5.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'i> {
    /// Text, already known to be UTF-8.
    Text(Cow<'i, str>),
    /// Binary data.
    Binary(Cow<'i, [u8]>),
    /// To be answered by a pong with the same payload (RFC 6455 §5.5.2).
    Ping(Cow<'i, [u8]>),
    /// An answer to a ping, or an unsolicited heartbeat (RFC 6455 §5.5.3).
    Pong(Cow<'i, [u8]>),
    /// The last message of the connection (RFC 6455 §5.5.1).
    Close(Option<CloseFrame>),
}

impl Message<'_> {
    /// The same message, without a borrow from the input.
    pub fn into_owned(self) -> Message<'static> {
        match self {
            Self::Text(text) => Message::Text(Cow::Owned(text.into_owned())),
            Self::Binary(data) => Message::Binary(Cow::Owned(data.into_owned())),
            Self::Ping(data) => Message::Ping(Cow::Owned(data.into_owned())),
            Self::Pong(data) => Message::Pong(Cow::Owned(data.into_owned())),
            Self::Close(frame) => Message::Close(frame),
        }
    }
}

/// What the peer says of its close (RFC 6455 §5.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// A code that may appear on the wire (RFC 6455 §7.4).
    pub code: u16,
    /// For a log, not for a person.
    pub reason: String,
}

/// How the peer broke the protocol. Nothing more can be read from such a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// RSV2 or RSV3, or an RSV1 that permessage-deflate doesn't allow (RFC 6455 §5.2, RFC 7692 §6).
    #[error("a reserved bit is set")]
    ReservedBit,
    /// Opcodes 3-7 and 11-15 (RFC 6455 §5.2).
    #[error("opcode {opcode:#x} is not defined")]
    UnknownOpcode {
        /// As it came.
        opcode: u8,
    },
    /// A client's frame without a mask (RFC 6455 §5.1).
    #[error("a client's frame is not masked")]
    NotMasked,
    /// A server's frame with a mask (RFC 6455 §5.1).
    #[error("a server's frame is masked")]
    Masked,
    /// A control frame without FIN (RFC 6455 §5.5).
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A control frame of more than 125 bytes (RFC 6455 §5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A length in more bytes than it needs, or of 2^63 and more (RFC 6455 §5.2).
    #[error("a frame's length is not in its minimal encoding")]
    BadLength,
    /// A continuation frame of nothing (RFC 6455 §5.4).
    #[error("a continuation without a message to continue")]
    NothingToContinue,
    /// A new data message before the fragmented one ended (RFC 6455 §5.4).
    #[error("a new message inside a fragmented one")]
    Interleaved,
    /// A close payload of one byte (RFC 6455 §5.5.1).
    #[error("a close frame with half a code")]
    ClosePayload,
    /// A code that must not be on the wire (RFC 6455 §7.4).
    #[error("close code {code} is not allowed")]
    CloseCode {
        /// As it came.
        code: u16,
    },
    /// A text message or a close reason that is not UTF-8 (RFC 6455 §8.1).
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A compressed message that is not deflate data, or not all of it (RFC 7692 §7.2.2).
    #[error("compressed data is malformed")]
    BadDeflate,
    /// A message longer than is accepted here (RFC 6455 §10.4).
    #[error("a message is longer than {limit} bytes")]
    TooLarge {
        /// The limit that was in force.
        limit: usize,
    },
}

impl WsError {
    /// Why the session ends.
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::InvalidUtf8 => CloseReason::InvalidUtf8,
            Self::TooLarge { .. } => CloseReason::TooLarge,
            _ => CloseReason::ProtocolError,
        }
    }
}
