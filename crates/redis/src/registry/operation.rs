//! What the registry does in Redis, one script call for all that waits in one partition.

use std::sync::Arc;

use fanlight_engine::broker::Channel;
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Entered, Entry, SessionKind, WhenFull};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::lease::{boot_of, held_partition_of};
use crate::names::{Kind, Names, Partition};
use crate::registry::RegistryOptions;
use crate::resp3::Value;
use crate::scripts;

/// Something to be done, and when it came about.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) what: What,
    pub(super) at_unix_ms: u64,
}

#[derive(Debug)]
pub(super) enum What {
    Enter {
        entry: Entry,
        /// It was entered before, so it is not limited.
        again: bool,
        waiter: Option<oneshot::Sender<Entered>>,
    },
    Leave {
        session: SessionId,
        user: Option<Arc<str>>,
        reason: &'static str,
    },
    Record(Record),
    Occupy(Channel),
    Vacate(Channel),
}

/// An event of a session that the registry need not know of otherwise.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: &'static str,
    pub(super) session: SessionId,
    pub(super) user: Option<Arc<str>>,
    pub(super) destination: Option<Channel>,
}

/// A session as it stands in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) owner: String,
    /// As its node wrote it.
    pub(super) handle: String,
    pub(super) since_unix_ms: u64,
    pub(super) kind: Option<SessionKind>,
}

/// What an operation came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Done; these had to give way.
    Done(Vec<Held>),
    /// These leave no room.
    Full(Vec<Held>),
}

impl Operation {
    /// Whether it only tells something: nothing that is held would be wrong without it.
    pub(super) fn is_record(&self) -> bool {
        matches!(self.what, What::Record(_))
    }

    /// Where it belongs: all events of a session are in one partition, in order.
    pub(super) fn partition(&self) -> Partition {
        match &self.what {
            What::Enter { entry: Entry { session, user, .. }, .. }
            | What::Leave { session, user, .. }
            | What::Record(Record { session, user, .. }) => match user {
                Some(user) => held_partition_of(user),
                None => held_partition_of(&id_text(*session)),
            },
            What::Occupy(channel) | What::Vacate(channel) => held_partition_of(channel.as_str()),
        }
    }

    fn key(&self, names: &Names, partition: Partition) -> Vec<u8> {
        match &self.what {
            What::Enter { entry: Entry { user, .. }, .. } | What::Leave { user, .. } => {
                sessions_key(names, partition, user.as_deref().unwrap_or_default())
            }
            What::Record(_) => names.key(partition, EVENTS, ""),
            What::Occupy(channel) | What::Vacate(channel) => {
                names.key(partition, DESTINATION, channel.as_str())
            }
        }
    }

    fn arguments(&self) -> [String; 7] {
        let at = self.at_unix_ms.to_string();
        let none = String::new;
        match &self.what {
            What::Enter { entry, again, .. } => [
                "enter".to_owned(),
                at,
                id_text(entry.session),
                entry.handle.to_string(),
                session_text(entry),
                entry.user.as_deref().unwrap_or_default().to_owned(),
                u8::from(!again && entry.is_limited && entry.user.is_some()).to_string(),
            ],
            What::Leave { session, user, reason } => [
                "leave".to_owned(),
                at,
                id_text(*session),
                user.as_deref().unwrap_or_default().to_owned(),
                (*reason).to_owned(),
                none(),
                none(),
            ],
            What::Record(Record { kind, session, user, destination }) => [
                "record".to_owned(),
                at,
                (*kind).to_owned(),
                id_text(*session),
                user.as_deref().unwrap_or_default().to_owned(),
                destination.as_ref().map(Channel::as_str).unwrap_or_default().to_owned(),
                none(),
            ],
            What::Occupy(channel) => {
                let channel = channel.as_str().to_owned();
                ["occupy".to_owned(), at, channel, none(), none(), none(), none()]
            }
            What::Vacate(channel) => {
                let channel = channel.as_str().to_owned();
                ["vacate".to_owned(), at, channel, none(), none(), none(), none()]
            }
        }
    }
}

/// One call for all of `operations`, which are of `partition`; the `number` is higher than that of
/// every call before it.
pub(super) fn call(
    operations: &[&Operation],
    partition: Partition,
    names: &Names,
    (owner, number): (&str, u64),
    options: &RegistryOptions,
) -> Vec<u8> {
    let mut keys = vec![
        names.key(partition, SESSIONS_OF, owner),
        names.key(partition, EVENTS, ""),
        names.key(partition, DESTINATIONS_OF, owner),
        names.key(partition, CALLS, boot_of(owner)),
    ];
    keys.extend(operations.iter().map(|operation| operation.key(names, partition)));
    let when_full = match options.limit.when_full {
        WhenFull::KickOldest => "kick",
        WhenFull::Reject => "reject",
    };
    let mut arguments = vec![
        owner.to_owned(),
        options.limit.sessions_per_user.to_string(),
        when_full.to_owned(),
        options.stream_length().to_string(),
        number.to_string(),
    ];
    arguments.extend(operations.iter().flat_map(|operation| operation.arguments()));
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
    scripts::REGISTRY.call(&keys, &arguments)
}

/// What each operation came to, and how many events were recorded; `None` for an answer that is
/// none.
pub(super) fn read(answer: &Value, operations: usize) -> Option<(Vec<Outcome>, u64)> {
    let Value::Array(answers) = answer else { return None };
    let (Value::Integer(recorded), outcomes) = answers.split_last()? else { return None };
    if outcomes.len() != operations {
        return None;
    }
    let outcome = |answer: &Value| {
        let Value::Array(parts) = answer else { return None };
        let (Value::Integer(done), sessions) = parts.split_first()? else { return None };
        let sessions = sessions.chunks_exact(2).filter_map(|pair| Held::read(&pair[0], &pair[1]));
        let sessions = sessions.collect();
        Some(if *done == 1 { Outcome::Done(sessions) } else { Outcome::Full(sessions) })
    };
    let outcomes = outcomes.iter().map(outcome).collect::<Option<_>>()?;
    Some((outcomes, recorded.unsigned_abs()))
}

/// Which entries were refused and are still wanted: not those that leave in the same batch.
pub(super) fn refused(operations: &[Operation], outcomes: &[Outcome]) -> Vec<usize> {
    let leaves_after = |at: usize, entry: &Entry| {
        operations[at..].iter().any(|operation| match &operation.what {
            What::Leave { session, .. } => *session == entry.session,
            _ => false,
        })
    };
    let is_refused = |at: &usize| match (&operations[*at].what, &outcomes[*at]) {
        (What::Enter { entry, .. }, Outcome::Full(_)) => !leaves_after(*at, entry),
        _ => false,
    };
    (0..operations.len()).filter(is_refused).collect()
}

impl Held {
    /// From a field and its value, `owner|handle|since|transport|protocol`.
    pub(super) fn read(session: &Value, value: &Value) -> Option<Self> {
        let session = SessionId(Uuid::parse_str(session.as_text()?).ok()?);
        let mut parts = value.as_text()?.splitn(5, '|');
        Some(Self {
            session,
            owner: parts.next()?.to_owned(),
            handle: parts.next()?.to_owned(),
            since_unix_ms: parts.next()?.parse().ok()?,
            kind: SessionKind::named(parts.next()?, parts.next()?),
        })
    }

    /// Which process has it.
    pub(super) fn boot(&self) -> &str {
        boot_of(&self.owner)
    }
}

/// What a session's value ends with: `since|transport|protocol`.
fn session_text(entry: &Entry) -> String {
    let (since, kind) = (entry.since_unix_ms(), entry.kind);
    format!("{since}|{}|{}", kind.transport.name(), kind.protocol())
}

/// The hash of a user's sessions; those of nobody stand together.
pub(super) fn sessions_key(names: &Names, partition: Partition, user: &str) -> Vec<u8> {
    let kind = if user.is_empty() { ANONYMOUS } else { USER };
    names.key(partition, kind, user)
}

/// A session's id as it stands in keys and events.
pub(super) fn id_text(session: SessionId) -> String {
    session.0.simple().to_string()
}

/// A user's sessions.
pub(super) const USER: Kind = Kind("u");
/// The sessions of a partition that are nobody's; they stand there only for their events.
const ANONYMOUS: Kind = Kind("a");
/// What keeps calls of a process out that arrive too late.
pub(super) const CALLS: Kind = Kind("calls");
/// The nodes that have subscribers of a destination.
pub(super) const DESTINATION: Kind = Kind("d");
/// The sessions of an owner, as `session user`.
pub(super) const SESSIONS_OF: Kind = Kind("x");
/// The destinations that an owner occupies.
pub(super) const DESTINATIONS_OF: Kind = Kind("y");
/// The stream of lifecycle events.
pub(crate) const EVENTS: Kind = Kind("events");
