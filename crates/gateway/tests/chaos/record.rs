//! What a run recorded: every send with its outcome, everything a subscriber heard, every fault.

use std::collections::BTreeMap;

use fanlight_proto::Position;

/// A whole run; what the checker judges.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub destinations: Vec<Destination>,
    /// By publisher, in the order of sending.
    pub sends: Vec<Send>,
    pub subscribers: Vec<Subscriber>,
    pub consumers: Vec<Consumer>,
    /// What consumers got from queues, in the order in which they got it.
    pub deliveries: Vec<Delivery>,
    pub faults: Vec<Fault>,
    /// How many nodes there are.
    pub nodes: usize,
    /// The sessions that clients knew they had.
    pub sessions: Vec<Session>,
    /// What registry and presence said, in the order of time.
    pub samples: Vec<Sample>,
    /// The lifecycle events, as a consumer got them at the end.
    pub events: Vec<Event>,
    /// The history of each destination that keeps one, as a new reader got it at the end.
    pub finals: BTreeMap<usize, Vec<(Position, Content)>>,
}

/// A destination, by its place in [`Run::destinations`].
#[derive(Debug, Clone)]
pub struct Destination {
    pub name: String,
    pub history: bool,
    /// For a user destination: the only user that may receive from it.
    pub owner: Option<String>,
    /// For a queue: how it behaves.
    pub queue: Option<QueueRules>,
}

/// How a queue behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRules {
    pub ack_timeout_ms: u64,
    /// Where its dead letters go.
    pub dead_letter: Option<usize>,
}

/// What a body says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    pub publisher: usize,
    /// Counts a publisher's sends, whatever their destination.
    pub number: u64,
    pub destination: usize,
}

/// A publication that a client asked for.
#[derive(Debug, Clone)]
pub struct Send {
    pub content: Content,
    /// Counts the connections of this publisher.
    pub connection: u64,
    pub sent_at_ms: u64,
    pub ended_at_ms: u64,
    pub outcome: Outcome,
    /// Whether it was sent again, with its key, until there was an answer.
    pub repeated: bool,
}

/// What became of a [`Send`], as its publisher knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Acked {
        position: Option<Position>,
        /// Only the subscribers of the publisher's node were reached.
        degraded: bool,
    },
    /// Refused with a code that says that nothing was published.
    Refused(String),
    /// No answer, or one that says that it may have been published.
    Unknown,
}

/// One client that subscribes, over all its connections.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub name: String,
    pub user: String,
    /// In the order in which it heard them.
    pub heard: Vec<Heard>,
}

/// Something that happened to a subscriber.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at_ms: u64,
    pub destination: usize,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It asks to subscribe, on a connection to this node.
    Asks { node: usize, since: Option<Position> },
    /// The answer.
    Joined { position: Option<Position>, recovered: Option<bool>, reason: Option<String> },
    /// A message; `content` is absent where the body is not one that was ever sent.
    Message { position: Option<Position>, content: Option<Content> },
    /// It was told that something is missing before what comes next.
    Lost {
        reason: String,
        /// Where it goes on, if it was told.
        position: Option<Position>,
    },
    /// The connection ended.
    Left,
}

/// One client that consumes a queue, over all its connections.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub name: String,
    pub user: String,
    /// The queue.
    pub destination: usize,
    /// Whether it acknowledges by taking.
    pub is_auto: bool,
}

/// A message that a consumer got from a queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// By its place in [`Run::consumers`].
    pub consumer: usize,
    /// The node that it was connected to.
    pub node: usize,
    pub destination: usize,
    /// Absent where the body is not one that was ever sent.
    pub content: Option<Content>,
    /// How often it has been delivered, as the consumer was told: 1 where it is not marked as
    /// redelivered, 0 where it is and does not say how often.
    pub count: u64,
    /// For a dead letter: the queue that it says it comes from.
    pub original: Option<String>,
    pub got_at_ms: u64,
    pub settled: Settled,
    /// When the connection ended, or was left, on which it was held.
    pub left_at_ms: Option<u64>,
}

/// What its consumer said of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Nothing.
    Held,
    /// It acknowledges by taking.
    Taken,
    Acked {
        asked_at_ms: u64,
        /// When it was told that this is done.
        confirmed_at_ms: Option<u64>,
    },
    Nacked {
        asked_at_ms: u64,
    },
}

/// A fault that was made, and its healing.
#[derive(Debug, Clone)]
pub struct Fault {
    pub from_ms: u64,
    pub to_ms: u64,
    pub what: String,
    /// Whether Redis may have lost what it had accepted.
    pub loses_data: bool,
    /// Whether it may have lost even what as many replicas had as were asked to.
    pub loses_copied: bool,
    /// Whether it may have lost all of it, not only the newest.
    pub wipes: bool,
    pub strikes: Strikes,
}

/// Whom a fault keeps from entering, removing and reaping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strikes {
    Nobody,
    /// All nodes.
    Redis,
    /// One node, which lives.
    Node(usize),
    /// One node, which ends where the fault begins and is started anew where it is healed.
    KilledNode(usize),
}

/// A session as its client knew it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Hexadecimal, without hyphens.
    pub id: String,
    pub user: String,
    pub node: usize,
    /// When it was told that it has one.
    pub from_ms: u64,
    /// When it ended; `None` where it lived at the end of the run.
    pub to_ms: Option<u64>,
    /// Whether it was the connection that ended, not the client that left.
    pub cut: bool,
    /// How often it has stopped reading for a while.
    pub stalls: usize,
    /// Whether the kernels keep so little for it that a burst is too much.
    pub is_narrow: bool,
    /// The destinations that it asked to subscribe to.
    pub places: Vec<usize>,
}

/// What a node said of all sessions.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When it was asked.
    pub at_ms: u64,
    pub node: usize,
    /// Whether all was healed and everybody had come back.
    pub is_final: bool,
    /// How many nodes have a lease.
    pub leases: usize,
    /// From the registry: user and session.
    pub registry: Vec<(String, String)>,
    /// By destination with presence: users, and how many sessions each has there.
    pub members: BTreeMap<usize, BTreeMap<String, u64>>,
}

/// A lifecycle event of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Hexadecimal, without hyphens.
    pub session: String,
    pub user: String,
    /// `connected` or `disconnected`.
    pub kind: String,
    pub reason: Option<String>,
}

impl Run {
    /// Whether any fault was near this moment.
    pub fn troubled_at(&self, at_ms: u64) -> bool {
        self.faults.iter().any(|fault| {
            fault.from_ms <= at_ms && at_ms <= fault.to_ms.saturating_add(AFTERMATH_MS)
        })
    }

    /// Whether a fault that loses Redis' data was made.
    pub fn may_lose_data(&self) -> bool {
        self.faults.iter().any(|fault| fault.loses_data)
    }
}

impl Send {
    /// The position that the publisher was told.
    pub fn position(&self) -> Option<Position> {
        match self.outcome {
            Outcome::Acked { position, .. } => position,
            Outcome::Refused(_) | Outcome::Unknown => None,
        }
    }

    pub fn acked(&self) -> bool {
        matches!(self.outcome, Outcome::Acked { .. })
    }
}

/// For how long after its end a fault may still be felt: reconnects are at most 5 s apart, and a
/// failed one may take as long again.
const AFTERMATH_MS: u64 = 15_000;
