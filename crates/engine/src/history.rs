//! History: what a namespace keeps of each destination's publications, and how it is read.
//!
//! Every publication of such a destination has a [`Position`]; offsets are consecutive. An epoch
//! ends where the broker can't vouch for it any more: with its data, or with a failover that may
//! have lost the newest of it. Where a broker knows up to which offset the epochs before agree
//! with the present one, positions up to there stay good.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::{Destination, Position};
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::broker::Channel;
use crate::publication::{ContentType, Publication, PublicationId};

/// How much of each destination's publications is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The most publications; older ones are dropped.
    pub size: u32,
    /// How long they outlive the newest, in milliseconds.
    pub ttl_ms: u64,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// The destination's channel, which says where it is kept.
    pub channel: Channel,
    /// The destination, absolute.
    pub destination: Destination,
    /// What the namespace keeps.
    pub history: History,
    /// Which publications.
    pub range: HistoryRange,
    /// The most publications to return. With 0 only the top is asked for.
    pub limit: u32,
}

/// Which publications to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryRange {
    /// The oldest ones after this position.
    After(Position),
    /// The newest ones.
    Newest,
}

/// What was read, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Oldest first, without a gap, each with its position; they may be of more than one epoch,
    /// but their offsets are consecutive. Empty when `lost` is set.
    pub publications: Vec<Arc<Publication>>,
    /// The position of the newest publication that there was, returned or not. Its offset is 0
    /// where there has been none.
    pub top: Position,
    /// Why what came after the asked position can't be given in whole.
    pub lost: Option<Lost>,
}

impl HistoryPage {
    /// Whether the page ends at the top.
    ///
    /// Only offsets count: the newest publication may be of an earlier epoch than the top.
    pub fn is_last(&self) -> bool {
        let offset = |publication: &Publication| publication.position.map(|at| at.offset);
        self.lost.is_some()
            || self.publications.last().is_none_or(|last| offset(last) == Some(self.top.offset))
    }
}

/// Why publications after a position can't be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// The position's epoch ended and its content can't be vouched for.
    #[error("the history that the position counted in is gone")]
    EpochChanged,
    /// What followed the position is not kept any more.
    #[error("the position is older than the history that is kept")]
    TooOld,
    /// The destination keeps no history, or the subscription is to a pattern.
    #[error("no history is kept here")]
    NoHistory,
    /// The broker could not be asked.
    #[error("the history can't be read now")]
    Unavailable,
}

impl Lost {
    /// A stable code for clients.
    pub fn code(self) -> &'static str {
        match self {
            Self::EpochChanged => "epoch_changed",
            Self::TooOld => "position_too_old",
            Self::NoHistory => "no_history",
            Self::Unavailable => "unavailable",
        }
    }
}

/// That a history was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many publications that were.
    pub publications: u64,
    /// Up to where: positions up to here are too old now, and those from here on stay good.
    pub position: Position,
}

/// What tells everybody who receives a destination's channel that its history was removed, up to
/// the position that it has or is given.
pub fn removal(destination: Destination, position: Option<Position>) -> Publication {
    Publication {
        id: PublicationId(Uuid::nil()),
        destination,
        body: Bytes::new(),
        content_type: ContentType::HistoryRemoved,
        headers: Box::default(),
        publisher: None,
        at_unix_ms: 0,
        position,
        only_for: None,
        except: None,
        is_json: false,
    }
}

/// The history could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The broker can't be reached, or did not answer in time.
    #[error("the history can't be read now; try again later")]
    Unavailable,
}

/// A publisher's name for one publication: within the window, only the first with it is published.
///
/// It counts per destination and publisher; the session makes it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The name.
    pub text: Arc<str>,
    /// What it names; with `None`, whatever is published under it.
    pub content: Option<ContentDigest>,
}

/// Tells whether what came under an idempotency key once is what comes again.
///
/// It is short, as whoever finds two contents with one digest has found them among his own; and it
/// is of what the publisher sent, not of what a backend made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentDigest(pub [u8; 8]);

impl ContentDigest {
    /// Of a body of this type. Headers don't count: those of a trace differ each time.
    pub fn of(body: &[u8], content_type: &ContentType) -> Self {
        let name = content_type.as_str().unwrap_or_default();
        let mut hash = Sha1::new();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(body);
        let digest = hash.finalize();
        Self(std::array::from_fn(|at| digest[at]))
    }

    /// Whether a key that was used for `first` may name this as well; where one of them is not
    /// known, it may.
    pub fn may_repeat(this: Option<Self>, first: Option<Self>) -> bool {
        this.zip(first).is_none_or(|(this, first)| this == first)
    }
}

impl IdempotencyKey {
    /// A key of whatever is published under it.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), content: None }
    }

    /// The same, of this alone.
    #[must_use]
    pub fn of(self, body: &[u8], content_type: &ContentType) -> Self {
        Self { content: Some(ContentDigest::of(body, content_type)), ..self }
    }

    /// How long a key is remembered, in milliseconds.
    pub const WINDOW_MS: u64 = 5 * 60 * 1000;
    /// The longest key that a client may give, in bytes.
    pub const MAX_BYTES: usize = 128;
}
