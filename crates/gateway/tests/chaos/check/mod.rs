//! The checker: a recorded run in, what breaks the delivery contract (design §5) out. It does no I/O.

mod acks;
mod delivery;
mod lifecycle;
mod order;
mod queues;
mod slow;
mod standing;
mod timeline;

use std::fmt;

use crate::record::Run;

pub use timeline::Known;

/// A rule of the delivery contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// What was acknowledged is there, or its epoch has ended visibly.
    FalseAck,
    /// The acknowledgement of a destination with history has a position.
    AckWithoutPosition,
    /// What was refused was not published.
    RefusedYetPublished,
    /// A position has one content.
    PositionWithTwoContents,
    /// What was sent once is published once.
    PublishedTwice,
    /// Offsets are consecutive.
    HoleInHistory,
    /// Without loss of Redis' data the epoch stays.
    NeedlessEpoch,
    /// A body arrives as it was sent, at the destination it was sent to, to no other user.
    Misdelivered,
    /// Nothing is delivered twice.
    Duplicate,
    /// Positions rise.
    Reordered,
    /// What is missing is told.
    SilentGap,
    /// `recovered: true` means that nothing is missing.
    FalseRecovery,
    /// A position that is good is recovered from, unless Redis is away.
    NeedlessLoss,
    /// Without a fault, a connection misses nothing, up to where it ends.
    SilentHole,
    /// A connection is ended only for a reason, and as slow only where it was.
    CutWithoutReason,
    /// A publisher's messages keep their order.
    PublisherOrder,
    /// What a queue took is consumed until it is acknowledged, or becomes a dead letter.
    LostFromQueue,
    /// What is acknowledged in time, and confirmed, is not delivered again.
    AckedYetDelivered,
    /// A message of a queue that comes again says so, and how often it came.
    RedeliveryNotMarked,
    /// One consumer at a time has a message.
    HeldByTwo,
    /// When all is healed, everybody gets everything again.
    NotLiveAgain,
    /// Who is gone is gone from the registry, also with its node.
    Ghost,
    /// And from presence.
    GhostMember,
    /// When all is healed, the registry has everybody who is there.
    Absent,
    /// And presence too.
    AbsentMember,
    /// When all is healed, each living node has one lease, and no other has.
    Leases,
    /// A session's events begin with `connected` and say at last what is so.
    EventOrder,
    /// Each session's beginning is told.
    BeginNotTold,
    /// Each session's end is told.
    EndNotTold,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    /// Absent where it is about sessions.
    pub destination: Option<usize>,
    /// The subscriber that saw it, by its place in [`Run::subscribers`].
    pub subscriber: Option<usize>,
    pub at_ms: u64,
    pub text: String,
}

/// What is wrong with sessions alone.
pub fn check_sessions(run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    standing::check(run, &mut violations);
    lifecycle::check(run, &mut violations);
    slow::ends(run, &mut violations);
    violations
}

/// What is wrong with queues alone.
pub fn check_queues(run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (destination, of_it) in run.destinations.iter().enumerate() {
        if let Some(rules) = of_it.queue {
            queues::check(run, destination, rules, &mut violations);
        }
    }
    violations
}

/// All that is wrong with a run, in the order of time.
pub fn check(run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    let topics = run.destinations.iter().enumerate().filter(|(_, it)| it.queue.is_none());
    for (destination, _) in topics {
        let known = Known::gather(run, destination, &mut violations);
        acks::check(run, destination, &known, &mut violations);
        order::check(run, destination, &known, &mut violations);
        for subscriber in 0..run.subscribers.len() {
            delivery::check(run, destination, subscriber, &known, &mut violations);
            slow::holes(run, destination, subscriber, &mut violations);
        }
    }
    violations.extend(check_queues(run));
    violations.extend(check_sessions(run));
    violations.sort_by_key(|violation| violation.at_ms);
    violations
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.rule, self.at_ms, self.text)
    }
}

/// How long a node's lease lasts in a run: longer than a healthy node on a busy machine is ever
/// silent, and shorter than most faults.
pub const LEASE_MS: u64 = 3_000;
/// How often leases are renewed and dead nodes looked for.
pub const LEASE_RENEW_MS: u64 = 1_000;
