//! Queues: each message goes to one consumer of the cluster, and comes again until it is
//! acknowledged.
//!
//! Publishing to such a destination is [`Broker::publish`](crate::broker::Broker::publish), which
//! stores the message; whoever consumes is woken by a [`wake`] on the destination's channel, and
//! fetches as much as its consumers have credit for. [`Consumers`] is a worker's side of it,
//! without I/O; [`Queues`] is the broker's.

mod consumers;
mod encode;
mod memory;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::Destination;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::broker::{Channel, PublishError};
use crate::publication::{ContentType, Publication, PublicationId};

pub use consumers::{
    AckMode, ConsumerKey, Consumers, Counts, Dispatch, Fetch, NewConsumer, Settlement,
};
pub(crate) use memory::MemoryQueues;

/// How the queues of a namespace behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// The most messages that one subscription holds without having acknowledged them.
    pub prefetch: u16,
    /// How long a consumer may take to acknowledge, in milliseconds.
    pub ack_timeout_ms: u64,
    /// How often a message is delivered before it becomes a dead letter.
    pub max_deliveries: u32,
    /// The most messages of one queue, those that consumers hold included.
    pub max_length: u32,
    /// How long a queue is kept that nobody publishes to or consumes, in milliseconds.
    pub expires_after_ms: u64,
    /// Where dead letters go; `None` drops them.
    pub dead_letter: Option<Destination>,
}

impl QueueOptions {
    /// The largest prefetch: what one subscription holds is searched from end to end.
    pub const PREFETCH_MAX: u16 = 1024;

    /// After so much idle time a message is taken from a node that has neither acknowledged it
    /// nor given it back: it has crashed or hangs, since a node gives back at the ack timeout.
    pub fn claim_after_ms(&self) -> u64 {
        self.ack_timeout_ms.saturating_add(CLAIM_MARGIN_MS)
    }

    /// How often a queue with consumers is looked at, in milliseconds, should a wake be lost or a
    /// node have crashed.
    pub fn look_every_ms(&self) -> u64 {
        (self.ack_timeout_ms / 4).clamp(LOOK_MIN_MS, LOOK_MAX_MS)
    }
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            prefetch: 16,
            ack_timeout_ms: 30_000,
            max_deliveries: 5,
            max_length: 10_000,
            expires_after_ms: 7 * 24 * 3600 * 1000,
            dead_letter: None,
        }
    }
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its destination, absolute.
    pub destination: Destination,
    /// The destination's channel: says where the queue is kept, and carries its wakes.
    pub channel: Channel,
    /// How it behaves.
    pub options: QueueOptions,
}

/// A message's place in its queue; they rise in the order of publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, by the broker's clock.
    pub ms: u64,
    /// Orders what was published in one millisecond.
    pub seq: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = ParseIntError;

    /// As Redis writes the ids of streams: `1700000000000-0`.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { ms: ms.parse()?, seq: seq.parse()? })
    }
}

/// One delivery of a message: each time that it is fetched it has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// The message.
    pub entry: EntryId,
    /// How often it has been delivered, this time included.
    pub count: u32,
}

/// A message that was taken from its queue and is now this node's to deliver.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its delivery.
    pub delivery: DeliveryId,
    /// The message.
    pub publication: Arc<Publication>,
}

impl Fetched {
    /// Whether it has been delivered as often as it may be: it is a dead letter now.
    pub fn is_dead(&self, options: &QueueOptions) -> bool {
        self.delivery.count > options.max_deliveries
    }
}

/// What a fetch came to.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What was taken.
    pub messages: Vec<Fetched>,
    /// Whether there may be more, so that it is to be fetched on rather than waited.
    pub has_more: bool,
}

/// A delivery that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// The delivery. Nothing happens if the message has been acknowledged, or is by now delivered
    /// to somebody else.
    pub delivery: DeliveryId,
    /// Whether a consumer had it; otherwise it does not count as a delivery.
    pub was_delivered: bool,
}

/// The broker's side of queues. Publishing is [`Broker::publish`](crate::broker::Broker::publish).
///
/// A message that was fetched is its fetcher's until it is acknowledged, released, or
/// [`QueueOptions::claim_after_ms`] have passed. So each message goes to one consumer of the
/// cluster at a time, and to more than one only after a failure: at least once.
pub trait Queues: Send + Sync + 'static {
    /// Takes up to `count` messages, at most [`FETCH_MAX`]: first what was released, then what
    /// crashed or stuck nodes hold, then new ones, each in the order of publication. Once these
    /// are [`FETCH_BYTES_MAX`] together, it takes no more and [`Batch::has_more`] says so. Where
    /// that is not said, the queue's channel is woken once there are more.
    fn fetch(&self, queue: &Queue, count: u32) -> BoxFuture<'static, Result<Batch, QueueError>>;

    /// Removes messages for good, also those that somebody else has by now. Resolves once the
    /// broker has it.
    fn ack(&self, queue: &Queue, entries: &[EntryId])
    -> BoxFuture<'static, Result<(), QueueError>>;

    /// Makes messages available again at once, to anybody.
    fn release(
        &self,
        queue: &Queue,
        releases: &[Release],
    ) -> BoxFuture<'static, Result<(), QueueError>>;

    /// Names messages that are dead letters, or may be, and that perhaps nobody fetches, as their
    /// queue has no consumers; each to one who asks, and again later if it is still there.
    fn dead(&self) -> BoxFuture<'static, Result<Vec<Dead>, QueueError>>;

    /// Takes those of at most [`DEAD_MAX`] messages that are dead letters and that nobody has, as
    /// a fetch does; not all of them if they are large.
    fn take_dead(
        &self,
        queue: &Queue,
        entries: &[EntryId],
    ) -> BoxFuture<'static, Result<Vec<Fetched>, QueueError>>;
}

/// Messages of one queue that are dead letters, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The queue.
    pub destination: Destination,
    /// Which, in the order of publication.
    pub entries: Vec<EntryId>,
}

/// A queue could not be asked, or told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The broker can't be reached, or did not answer in time. All that can be asked may be asked
    /// again.
    #[error("the broker can't be reached; the message may be delivered again")]
    Unavailable,
}

impl From<PublishError> for QueueError {
    fn from(_: PublishError) -> Self {
        Self::Unavailable
    }
}

/// What is sent on a queue's channel when something became available: no message, it only says to
/// look.
pub fn wake(destination: Destination) -> Publication {
    Publication {
        id: PublicationId(Uuid::nil()),
        destination,
        body: Bytes::new(),
        content_type: ContentType::Unspecified,
        headers: Box::default(),
        publisher: None,
        at_unix_ms: 0,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}

/// A message that was delivered too often, as it is published to `dead_letter`: it keeps all it
/// had, and says where it comes from and how often it was tried.
pub fn dead_letter(fetched: &Fetched, dead_letter: Destination) -> Publication {
    let letter = &*fetched.publication;
    let own = [
        (ORIGINAL_DESTINATION.into(), letter.destination.shown().into()),
        (DELIVERY_COUNT.into(), fetched.delivery.count.saturating_sub(1).to_string().into()),
    ];
    let is_own = |name: &str| [ORIGINAL_DESTINATION, DELIVERY_COUNT].contains(&name);
    let kept = letter.headers.iter().filter(|(name, _)| !is_own(name)).cloned();
    Publication {
        headers: own.into_iter().chain(kept).collect(),
        destination: dead_letter,
        position: None,
        ..letter.clone()
    }
}

/// The most messages of one fetch.
pub const FETCH_MAX: u32 = 64;
/// Once the messages of a fetch have so many bytes, it takes no more: others wait behind its answer.
pub const FETCH_BYTES_MAX: usize = 1024 * 1024;
/// The most messages that one acknowledgement or release to the broker names.
pub const SETTLE_MAX: usize = 256;
/// The most dead letters that are named or taken at once.
pub const DEAD_MAX: usize = 128;
/// The header that says where a dead letter comes from.
pub const ORIGINAL_DESTINATION: &str = "original-destination";
/// The header that says how often a message was delivered.
pub const DELIVERY_COUNT: &str = "delivery-count";
/// Workers look for timeouts ten times a second; this leaves them time to give back by themselves.
const CLAIM_MARGIN_MS: u64 = 1000;
const LOOK_MIN_MS: u64 = 250;
const LOOK_MAX_MS: u64 = 5000;
