//! The contract of a registry: which user has which sessions, and on which node each is.

mod memory;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fanlight_proto::{CloseReason, Destination};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::broker::{Channel, WorkerId};
use crate::publication::SessionId;

pub use memory::MemoryRegistry;

/// Knows the sessions of all nodes, by their users.
///
/// Entering and leaving take effect in the order of the calls. What is entered counts for as long
/// as its node lives; the contract suite in `fanlight-testkit` checks every implementation.
pub trait Registry: Send + Sync + 'static {
    /// Enters a session that has just connected, if its user may have one more.
    fn enter(&self, entry: Entry) -> BoxFuture<'static, Entered>;

    /// Undoes [`Registry::enter`].
    fn leave(&self, entry: Entry, reason: CloseReason);

    /// Grows when everything that this node has is to be entered again, by
    /// [`Registry::reenter`], at a pace: its node was taken for dead, or the data was lost.
    fn round(&self) -> u64;

    /// Enters a session that was entered before; `false` when there is no room now.
    fn reenter(&self, entry: Entry) -> bool;

    /// Records that a session subscribed or unsubscribed, where its namespace asks for that.
    fn record(&self, session: SessionId, change: SubscriptionChange);

    /// The sessions of many users, in the order asked.
    fn status(
        &self,
        users: Vec<Arc<str>>,
    ) -> BoxFuture<'static, Result<Vec<UserStatus>, RegistryUnavailable>>;

    /// Tells sessions what to do, wherever they are; tells who was told.
    fn order(
        &self,
        target: Target,
        command: Command,
    ) -> BoxFuture<'static, Result<Told, RegistryUnavailable>>;

    /// How many sessions this node has, those without a user included, for all nodes to know.
    fn set_sessions(&self, sessions: u64);

    /// The nodes that are known.
    fn nodes(&self) -> Vec<NodeStatus>;
}

/// The sessions of one node, as its registry sees them.
pub trait Sessions: Send + Sync + 'static {
    /// Tells a session what to do, if it is here still; waits while its worker has no room for the
    /// order.
    fn order(&self, order: Order) -> BoxFuture<'static, ()>;
}

/// A session as it is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is; an anonymous one only leaves a trace in the lifecycle events.
    pub user: Option<Arc<str>>,
    /// Its id, which also tells when it began.
    pub session: SessionId,
    /// Where its node finds it.
    pub handle: Handle,
    /// Whether the limit of sessions per user is for it.
    pub is_limited: bool,
    /// What it comes by.
    pub kind: SessionKind,
}

/// What a session comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKind {
    /// Its transport.
    pub transport: Transport,
    /// Whether it speaks STOMP; else the native protocol.
    pub is_stomp: bool,
}

/// By what a session comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// SockJS over one.
    SockJsWebSocket,
    /// SockJS by requests.
    SockJsHttp,
    /// Server-sent events.
    Events,
    /// Polls.
    Poll,
    /// STOMP over TCP.
    StompTcp,
}

/// Where a node finds a session: which worker, where in it, and which of those that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The worker.
    pub worker: WorkerId,
    /// The place in the worker.
    pub slot: u32,
    /// Tells it from others in the same place.
    pub serial: u64,
}

/// How entering went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It stands in the registry.
    Now,
    /// The registry can't be reached in time; the session is entered when it can.
    Later,
    /// Its user has as many sessions as are allowed; it was not entered.
    Full,
}

/// How many sessions a user may have, in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimit {
    /// The most; 0 is no limit.
    pub sessions_per_user: u32,
    /// What gives way.
    pub when_full: WhenFull,
}

/// What gives way when a user has as many sessions as are allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest session is ended.
    #[default]
    KickOldest,
    /// The new session is refused.
    Reject,
}

/// That a subscription began or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Whose session it is.
    pub user: Option<Arc<str>>,
    /// To what: a destination, or a whole namespace where that allows patterns.
    pub destination: Channel,
    /// Whether it began.
    pub began: bool,
}

/// Is told what comes about in the registry of a node that is alone, at once and in order.
pub trait EventSink: Send + Sync + 'static {
    /// Takes one event, without waiting.
    fn tell(&self, event: Lifecycle);
}

/// That something came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// What.
    pub occurrence: Occurrence,
    /// Whose session.
    pub session: Option<SessionId>,
    /// Whose user.
    pub user: Option<Arc<str>>,
    /// Of which destination.
    pub destination: Option<Channel>,
    /// Why it ended.
    pub reason: Option<CloseReason>,
}

/// What came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// A session has begun.
    Connected,
    /// A session has ended.
    Disconnected,
    /// A session has subscribed.
    Subscribed,
    /// A subscription has ended.
    Unsubscribed,
    /// The first subscription of a destination.
    Occupied,
    /// The last one has ended.
    Vacated,
}

/// A user's sessions; none: the user is offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStatus {
    /// The user.
    pub user: Arc<str>,
    /// Oldest first.
    pub sessions: Vec<SessionStatus>,
}

/// One session of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus {
    /// Its id.
    pub session: SessionId,
    /// The node that has it, as in [`NodeStatus::id`].
    pub node: Arc<str>,
    /// When it began, in Unix milliseconds.
    pub since_unix_ms: u64,
    /// What it comes by, where the node that was asked knows that kind.
    pub kind: Option<SessionKind>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Names this life of the node: another one after each start.
    pub id: Arc<str>,
    /// What operators call it.
    pub name: String,
    /// Where its clients connect.
    pub address: String,
    /// When it started, in Unix milliseconds.
    pub started_unix_ms: u64,
    /// How many sessions it last said to have.
    pub sessions: u64,
    /// How long its lease still ran when that was last looked at; 0 when it had run out.
    pub lease_left_ms: u64,
    /// Whether it is the one that is asked.
    pub is_self: bool,
}

/// Which sessions are to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All sessions of a user.
    User(Arc<str>),
    /// One session, of a user or of nobody.
    Session(SessionId),
}

/// Who was told of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Sessions, where the registry knows which: for a single session it asks every node.
    pub sessions: Option<usize>,
    /// Nodes.
    pub nodes: usize,
    /// Living nodes that may have such sessions and have not heard it.
    pub unheard: usize,
}

/// What a node is told to do with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which session.
    pub session: SessionId,
    /// Where it is, if that is known.
    pub handle: Option<Handle>,
    /// What.
    pub command: Command,
}

/// Something for a session to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End.
    End {
        /// Why.
        reason: CloseReason,
        /// What its client is told.
        message: Arc<str>,
    },
    /// End, and have its token revoked.
    Revoke {
        /// Until when, in Unix milliseconds.
        until_unix_ms: u64,
    },
    /// Subscribe to this destination, which may be the session's own.
    Subscribe(Destination),
    /// End what subscriptions it has to this destination.
    Unsubscribe(Destination),
}

/// The registry can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry can't be reached; try again later")]
pub struct RegistryUnavailable;

impl Entry {
    /// When the session began, in Unix milliseconds: its id tells.
    pub fn since_unix_ms(&self) -> u64 {
        since_unix_ms(self.session.0)
    }
}

/// What a `UUIDv7` begins with (RFC 9562 §5.7).
fn since_unix_ms(id: Uuid) -> u64 {
    (id.as_u128() >> 80) as u64
}

impl SessionKind {
    /// What it speaks, as metrics call it.
    pub fn protocol(self) -> &'static str {
        if self.is_stomp { "stomp" } else { "native" }
    }

    /// From the names of its parts.
    pub fn named(transport: &str, protocol: &str) -> Option<Self> {
        let transport = Transport::ALL.into_iter().find(|known| known.name() == transport)?;
        let is_stomp = match protocol {
            "stomp" => true,
            "native" => false,
            _ => return None,
        };
        Some(Self { transport, is_stomp })
    }
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WebSocket,
        Self::SockJsWebSocket,
        Self::SockJsHttp,
        Self::Events,
        Self::Poll,
        Self::StompTcp,
    ];

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::SockJsWebSocket => "sockjs_websocket",
            Self::SockJsHttp => "sockjs_http",
            Self::Events => "sse",
            Self::Poll => "poll",
            Self::StompTcp => "stomp_tcp",
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.worker.0, self.slot, self.serial)
    }
}

/// A text that is no handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a handle of a session")]
pub struct NotAHandle;

impl FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Self, NotAHandle> {
        let mut fields = text.splitn(3, '.');
        let mut next = || fields.next().ok_or(NotAHandle);
        Ok(Self {
            worker: WorkerId(next()?.parse().map_err(|_| NotAHandle)?),
            slot: next()?.parse().map_err(|_| NotAHandle)?,
            serial: next()?.parse().map_err(|_| NotAHandle)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;
    use crate::time::Now;

    #[test]
    fn a_handle_is_read_as_it_is_written() {
        let handle = Handle { worker: WorkerId(3), slot: 70_000, serial: u64::MAX };
        assert_eq!(handle.to_string().parse(), Ok(handle));
        for text in ["", "1", "1.2", "1.2.x", "1.2.3.4", "-1.2.3", "70000.1.1"] {
            assert_eq!(text.parse::<Handle>(), Err(NotAHandle), "{text}");
        }
    }

    #[test]
    fn an_entry_tells_when_its_session_began() {
        let session = Ids::new(1).session(Now { mono_ms: 0, unix_ms: 1_700_000_000_123 });
        let handle = Handle { worker: WorkerId(0), slot: 0, serial: 0 };
        let kind = SessionKind { transport: Transport::WebSocket, is_stomp: false };
        let entry = Entry { user: None, session, handle, is_limited: true, kind };
        assert_eq!(entry.since_unix_ms(), 1_700_000_000_123);
    }
}
