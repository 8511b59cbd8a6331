//! `Publication`: one message on its way to subscribers, shared by reference.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::{Destination, Position};
use uuid::Uuid;

/// The header that names the cells which a relay has brought a publication through, oldest first
/// with commas between. No client can set it.
pub const CELL_HEADER: &str = "fanlight-cell";

/// A publication's id: a `UUIDv7`, chosen by the node that accepted it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicationId(pub Uuid);

/// A session's id: a `UUIDv7`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub Uuid);

/// One message on its way to subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its id, unique over the cluster.
    pub id: PublicationId,
    /// Where it goes; a user destination is resolved to its user or session.
    pub destination: Destination,
    /// The body, as the publisher sent it.
    pub body: Bytes,
    /// What the body is.
    pub content_type: ContentType,
    /// The sender's headers that are passed on, in order; names and values are unescaped.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// The user that published it; `None` for an anonymous session or a backend.
    pub publisher: Option<Arc<str>>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Its place in the destination's history, where one is kept.
    pub position: Option<Position>,
    /// Of the user's sessions that have subscribed, the only one to get it.
    pub only_for: Option<SessionId>,
    /// Whether the node that accepted it found the body to be JSON, so that no other has to look.
    /// Where it did not look, what the type says is checked before the body goes on as JSON.
    pub is_json: bool,
}

/// What a body is. The common types are kept without an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentType {
    /// Not said by the publisher.
    Unspecified,
    /// `application/json`
    Json,
    /// `text/plain`
    Text,
    /// A change of presence, from Fanlight itself: nothing that a client sends becomes one. Only
    /// subscribers that asked for presence get it.
    Presence,
    /// That the destination's history was removed, from Fanlight itself, as above. Nobody gets it:
    /// it tells the workers.
    HistoryRemoved,
    /// Any other, as it was sent.
    Other(Box<str>),
}

impl ContentType {
    /// The header's value; `None` when unspecified.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Unspecified | Self::HistoryRemoved => None,
            Self::Json | Self::Presence => Some("application/json"),
            Self::Text => Some("text/plain"),
            Self::Other(text) => Some(text),
        }
    }
}

impl From<&str> for ContentType {
    fn from(text: &str) -> Self {
        match text {
            "" => Self::Unspecified,
            "application/json" => Self::Json,
            "text/plain" => Self::Text,
            other => Self::Other(other.into()),
        }
    }
}

impl Publication {
    /// Whether it is for those only who asked for presence.
    pub fn is_presence(&self) -> bool {
        self.content_type == ContentType::Presence
    }

    /// Whether it only tells that its destination's history was removed.
    pub fn is_removal(&self) -> bool {
        self.content_type == ContentType::HistoryRemoved
    }

    /// How much it is to write, roughly.
    pub fn encoded_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        self.body.len() + headers.sum::<usize>() + ENVELOPE_BYTES
    }
}

/// What is written beside body and headers, roughly.
const ENVELOPE_BYTES: usize = 256;

macro_rules! uuid_text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }
    };
}
impl FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

uuid_text!(PublicationId);
uuid_text!(SessionId);
