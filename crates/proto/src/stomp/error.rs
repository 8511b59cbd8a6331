//! What a peer did wrong in STOMP, and how its session ends for it.

use crate::close::CloseReason;

use super::Command;

/// A version that is none of [`super::Version`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a STOMP version spoken here: {}", super::Version::SUPPORTED)]
pub struct UnknownVersion;

/// A rule that the peer broke. Its text is fit for the `message` header of an ERROR: it says what
/// and where, and repeats nothing that could be a secret. Header lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StompError {
    /// The first line is no command ("Augmented BNF"); only its beginning is kept.
    #[error("unknown command {found:?}{}", hint(found))]
    UnknownCommand {
        /// The line's beginning.
        found: Box<str>,
    },
    /// The frame is over its limit ("Size Limits").
    #[error("frame exceeds {limit} bytes; send a smaller body or fewer headers")]
    FrameTooLarge {
        /// The most bytes a frame may have.
        limit: usize,
    },
    /// A header line is over its limit ("Size Limits").
    #[error("header line {line} exceeds {limit} bytes")]
    HeaderTooLong {
        /// Which header line.
        line: usize,
        /// The most bytes a header line may have.
        limit: usize,
    },
    /// More header lines than allowed ("Size Limits").
    #[error("frame has more than {limit} headers")]
    TooManyHeaders {
        /// The most headers a frame may have, repeated ones included.
        limit: usize,
    },
    /// A header line without a colon.
    #[error("header line {line} has no colon between name and value")]
    MissingColon {
        /// Which header line.
        line: usize,
    },
    /// A header line that begins with its colon.
    #[error("header line {line} has an empty name")]
    EmptyHeaderName {
        /// Which header line.
        line: usize,
    },
    /// An escape that the version does not define ("Value Encoding").
    #[error(r"header line {line} has an undefined escape; write a backslash as \\")]
    UndefinedEscape {
        /// Which header line.
        line: usize,
    },
    /// A header that is not UTF-8 ("Frames and Headers").
    #[error("header line {line} is not UTF-8")]
    HeaderNotUtf8 {
        /// Which header line.
        line: usize,
    },
    /// NUL before the blank line that ends the headers.
    #[error("frame ends before the blank line after its headers")]
    NulInHead,
    /// `content-length` is not a number ("Header content-length").
    #[error("content-length is not a number of bytes")]
    MalformedContentLength,
    /// The octet after `content-length` octets of body is not NUL ("Header content-length").
    #[error("body is not followed by NUL; content-length says {content_length} bytes")]
    MissingNul {
        /// What the header said.
        content_length: usize,
    },
    /// A body where the command has none ("Body").
    #[error("{command} must not have a body")]
    BodyNotAllowed {
        /// The command.
        command: Command,
    },
    /// `heart-beat` is not two numbers ("Heart-beating").
    #[error("heart-beat must be two numbers of milliseconds, such as 10000,10000")]
    MalformedHeartBeat,
}

impl StompError {
    /// Why the session ends.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::FrameTooLarge { .. } | Self::HeaderTooLong { .. } => CloseReason::TooLarge,
            Self::TooManyHeaders { .. } => CloseReason::LimitExceeded,
            Self::HeaderNotUtf8 { .. } => CloseReason::InvalidUtf8,
            Self::UnknownCommand { .. }
            | Self::MissingColon { .. }
            | Self::EmptyHeaderName { .. }
            | Self::UndefinedEscape { .. }
            | Self::NulInHead
            | Self::MalformedContentLength
            | Self::MissingNul { .. }
            | Self::BodyNotAllowed { .. }
            | Self::MalformedHeartBeat => CloseReason::ProtocolError,
        }
    }
}

/// The remedy for an unknown command, where one can be guessed.
fn hint(found: &str) -> &'static str {
    let upper = found.trim().to_ascii_uppercase();
    if Command::from_bytes(upper.as_bytes()).is_some() {
        "; commands are upper case, without spaces"
    } else {
        ""
    }
}
