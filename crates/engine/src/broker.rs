//! The contract of a broker: what carries publications between nodes.

mod memory;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use fanlight_proto::Position;
use futures_util::future::BoxFuture;

use crate::history::{HistoryError, HistoryPage, HistoryQuery, IdempotencyKey, Removed};
use crate::policy::{PublishPermit, RemovalPermit};
use crate::publication::{Publication, PublicationId};

pub use memory::{MemoryBroker, WallClock};

/// What a node subscribes to at the broker: a destination's own text, or a whole namespace where
/// that namespace allows patterns (`ns:{name}`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// The channel of one destination.
    pub fn of_destination(text: Arc<str>) -> Self {
        Self(text)
    }

    /// The channel that carries all of a namespace. No destination has this text, because
    /// destinations begin with `/`.
    pub fn of_namespace(name: &str) -> Self {
        Self(format!("ns:{name}").into())
    }

    /// The channel on which other nodes speak to one. No destination has this text either.
    pub fn of_node(boot: &str) -> Self {
        Self(format!("node:{boot}").into())
    }

    /// Its text, as it appears in broker keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets maps keyed by channels be asked with a plain text.
impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One worker of this node, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// Publications that arrived on one channel, in broker order.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The channel they came on.
    pub channel: Channel,
    /// The publications, oldest first; shared with the other workers.
    pub publications: Arc<[Arc<Publication>]>,
}

/// What a worker should know besides publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Publications of this channel may have been missed: where the namespace keeps history, they
    /// are to be looked for there.
    Suspect(Channel),
}

/// A worker's bounded inbox, as the broker sees it.
pub trait DeliverySink: Send + Sync + 'static {
    /// Hands a delivery to the worker without waiting; `Err(Full)` when its inbox is full and the
    /// delivery was dropped. Deliveries of one channel keep the order of the calls.
    fn deliver(&self, delivery: Delivery) -> Result<(), Full>;

    /// Tells the worker something without waiting. A sink that is full remembers that something
    /// was lost and makes its worker look at everything again, so nothing is returned.
    fn notify(&self, notice: Notice);
}

/// A worker's inbox was full, so a delivery was dropped; it is counted by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker's inbox is full")]
pub struct Full;

/// Carries publications between the workers of one node, and between nodes.
///
/// The delivery contract is design §5; the contract suite in `fanlight-testkit` checks it for
/// every implementation.
pub trait Broker: Send + Sync + 'static {
    /// Publishes. The order of calls is the order of publication per channel, whatever the order
    /// in which the futures are polled. The future resolves once the broker has accepted the
    /// publication, never before (invariant 5). Where the namespace is one of queues, accepted means
    /// stored in the queue.
    fn publish(
        &self,
        permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>>;

    /// Publishes unless a publication with this key was accepted within
    /// [`IdempotencyKey::WINDOW_MS`]; then the answer is that of the first, marked as a duplicate,
    /// or [`PublishError::KeyReused`] where the key names another content than then.
    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        key: IdempotencyKey,
    ) -> BoxFuture<'static, Result<Published, PublishError>>;

    /// Reads the history of a destination whose namespace keeps one.
    fn history(&self, query: HistoryQuery)
    -> BoxFuture<'static, Result<HistoryPage, HistoryError>>;

    /// Removes what is kept of a destination. Offsets go on, and who has all that there was misses
    /// nothing; who has not is told so. Everybody who receives the destination's channel is told on
    /// it, in order with what is published there.
    fn remove_history(
        &self,
        permit: RemovalPermit,
    ) -> BoxFuture<'static, Result<Removed, HistoryError>>;

    /// Makes `worker` receive what is published on `channel`.
    ///
    /// Resolves with [`Joined::Live`] once nothing that is published after that moment is missed,
    /// or with [`Joined::Degraded`] when the broker can't be reached in time: then the interest
    /// stands and becomes live when the broker is back. The interest itself takes effect at the
    /// call; it is not counted: one `unsubscribe` undoes any number of `subscribe`.
    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined>;

    /// Ends what [`Broker::subscribe`] began. The broker may keep its own subscription for a
    /// while (linger), but the worker gets nothing more of this channel once its inbox has run
    /// dry of what was there.
    fn unsubscribe(&self, worker: WorkerId, channel: &Channel);

    /// How the broker is.
    fn health(&self) -> BrokerHealth;
}

/// What a publisher gets to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The id under which it was published.
    pub id: PublicationId,
    /// Its place in history, where the namespace keeps one.
    pub position: Option<Position>,
    /// How far it went.
    pub reach: Reach,
}

/// How far an accepted publication went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// To every node.
    #[default]
    Cluster,
    /// To this node's own subscribers, as the broker can't be reached (design §8, "Redis down").
    ThisNode,
    /// Nowhere: it had been published before under the same key.
    Duplicate,
}

/// Why a publication was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker can't be reached; nothing was published.
    #[error("the broker can't be reached; nothing was published, try again later")]
    Unavailable,
    /// The broker did not answer in time; it may or may not have been published.
    #[error("the broker did not answer in time; the message may or may not have been published")]
    Unknown,
    /// Too much is queued already; nothing was published.
    #[error("the broker's queue is full; nothing was published, slow down and try again")]
    Overloaded,
    /// The destination is a queue that has no room; nothing was published.
    #[error("the queue is full; nothing was published, try again once some of it is consumed")]
    QueueFull,
    /// The idempotency key names something else, which was published; this was not.
    #[error(
        "this idempotency key was used for another message within the last five minutes; nothing \
         was published, give each message a key of its own"
    )]
    KeyReused,
}

impl PublishError {
    /// The stable code that clients switch on.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue_full",
            Self::KeyReused => "key_reused",
        }
    }
}

/// How a join ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Nothing published from now on is missed.
    Live,
    /// The broker can't be reached; live as soon as it can.
    Degraded,
}

/// How a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerHealth {
    /// It publishes and delivers.
    Healthy,
    /// It does not; the text says what, where and the remedy.
    Unhealthy(String),
}
