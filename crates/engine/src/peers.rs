//! The contract of peers: which node has a session that its client named, and asking that node.

mod memory;
mod name;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::registry::Handle;

pub use memory::{MemoryPeers, Sleep};
pub use name::{ClaimName, NameTooLong};

/// Lets requests for a session that its client has named come to any node.
///
/// The node that has the session has claimed its name, and the other nodes ask that node. The
/// contract suite in `fanlight-testkit` checks every implementation.
pub trait Peers: Send + Sync + 'static {
    /// Claims `name` for a session of this node, unless a living node has it; tells who has it.
    ///
    /// Nothing is claimed where this answers with an error, or is dropped before it has answered.
    /// Others may ask for the session from the call on. Its claim stands until it is released,
    /// or until [`Answerer::lost`] tells otherwise.
    fn claim(
        &self,
        name: ClaimName,
        handle: Handle,
    ) -> BoxFuture<'static, Result<Claim, PeerError>>;

    /// Who has `name`, without claiming it. [`PeerError::Gone`]: a node that is dead had it.
    fn holder(&self, name: ClaimName) -> BoxFuture<'static, Result<Option<Holder>, PeerError>>;

    /// Gives up a claim, if that session still has it.
    fn release(&self, name: ClaimName, handle: Handle);

    /// Asks the node of `holder`, whose [`Answerer`] answers. What one node asks another arrives
    /// in the order of the calls, once or not at all.
    ///
    /// Dropping the future gives up: the other node is told so. If that node dies,
    /// [`PeerError::Gone`] comes as soon as it is known here. The own node's sessions are asked
    /// in the same way, as this says whether they still have their claims.
    fn ask(
        &self,
        holder: &Holder,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Asks a node itself, as [`NodeStatus::id`](crate::registry::NodeStatus::id) names it, this
    /// one included, in the way of [`Peers::ask`]. [`PeerError::Gone`] also where it does not
    /// understand the request.
    fn ask_node(
        &self,
        node: &Arc<str>,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Waits, for a bounded time, until the other nodes have their answers; for a node whose
    /// sessions have ended, and that is about to end itself.
    fn settle(&self) -> BoxFuture<'static, ()>;
}

/// What answers the other nodes' requests on this one.
pub trait Answerer: Send + Sync + 'static {
    /// Answers a request for a session of this node; `None`: there is no such session.
    ///
    /// It is called in the order in which one node has asked, and the futures are polled side by
    /// side. A future that nobody waits for any more is dropped.
    fn answer(&self, handle: Handle, request: Bytes) -> BoxFuture<'static, Option<Bytes>>;

    /// Answers a request for this node itself, in the same way; `None`: it is not understood.
    fn answer_node(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>>;

    /// Another session has the claim now, or may have it: this node was paused, or its claim was
    /// lost. The session must end, and must not release the claim.
    fn lost(&self, name: ClaimName, handle: Handle) -> BoxFuture<'static, ()>;
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is this session's, and was nobody's before, or this session's already.
    Ours(Holder),
    /// It is this session's, and was that of a node that is dead.
    TakenOver(Holder),
    /// Another session has it; it may be one of this node.
    Theirs(Holder),
}

/// Who has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Of what.
    pub name: ClaimName,
    /// Which life of which node, as in [`NodeStatus::id`](crate::registry::NodeStatus::id).
    pub owner: Arc<str>,
    /// Where that node finds the session.
    pub handle: Handle,
}

/// Why a claim, a look-up or an ask came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The store can't be reached, or what is in it can't be relied on now. Nothing was asked.
    #[error("the other nodes can't be reached now; try again later")]
    Unavailable,
    /// The node that had it is dead, or does not hear, or has no such session.
    #[error("the session is gone, or its node is")]
    Gone,
    /// No answer came in time. It may have been done or not, and is not done later.
    #[error("the session's node did not answer in time")]
    Timeout,
    /// The request or its answer has more than [`MESSAGE_MAX_BYTES`].
    #[error("the message is larger than {MESSAGE_MAX_BYTES} bytes")]
    TooLarge,
    /// Too many asks of this node wait for their answers; this one was not asked.
    #[error("too many requests wait for other nodes; try again later")]
    Overloaded,
}

/// The most that a request, or an answer, may have: what waits for who polls, or one message of
/// control characters alone, each of which a frame of SockJS has as six. More would soon fill what
/// Redis holds for a node that reads slowly.
pub const MESSAGE_MAX_BYTES: usize = 8 << 20;
