//! The contract of presence: who is at a destination, as changes, counts and pages.

mod memory;

use std::sync::Arc;

use fanlight_proto::Destination;
use fanlight_proto::native::MAX_MEMBERS;
use futures_util::future::BoxFuture;

use crate::broker::Channel;
use crate::publication::SessionId;

pub use memory::MemoryPresence;

/// A destination whose namespace has presence, and the channel on which its changes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The destination's channel, which says where its members are kept.
    pub channel: Channel,
    /// The destination, absolute.
    pub destination: Destination,
}

/// Who counts as one at a place, however many sessions it has there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// A user.
    User(Arc<str>),
    /// A session without a user: it counts, but is shown without a name.
    Anonymous(SessionId),
}

/// Keeps who is where, over all nodes.
///
/// A member joins a place with the first and leaves it with the last of its sessions, wherever in
/// the cluster they are. What changed is published on the place's channel, some time later and
/// together: a [`ContentType::Presence`](crate::publication::ContentType::Presence) publication
/// whose body is a [`PresenceChange`](fanlight_proto::native::PresenceChange). Each such change is
/// true when it is published, and the last one about a member is true until the next.
///
/// A node that ends without a word takes its sessions along: a while after it, they are no longer
/// counted. Where the store can't be reached, what happens here is kept and told when it can.
pub trait Presence: Send + Sync + 'static {
    /// One more session of `member` is at `place`. Counted: as many [`Presence::exit`]s undo it.
    fn enter(&self, place: &Place, member: Member);

    /// One session less.
    fn exit(&self, place: &Place, member: Member);

    /// Reads the members, a page at a time. What this node has entered before the call is seen.
    fn members(
        &self,
        query: MembersQuery,
    ) -> BoxFuture<'static, Result<MembersPage, PresenceError>>;

    /// Tells the cluster at once what has happened here; for a node that is about to end. Waits for
    /// a bounded time.
    fn settle(&self) -> BoxFuture<'static, ()>;
}

/// Which members to read.
#[derive(Debug, Clone)]
pub struct MembersQuery {
    /// Where.
    pub place: Place,
    /// Where the page before ended; `None` for the first page.
    pub cursor: Option<Box<str>>,
    /// About how many: a page may be somewhat longer, at most by [`MembersQuery::SURPLUS`]. 0 asks
    /// for the count only.
    pub limit: u32,
}

impl MembersQuery {
    /// The most that a client may ask for.
    pub const MAX_LIMIT: u32 = MAX_MEMBERS;
    /// What a client gets that does not say.
    pub const DEFAULT_LIMIT: u32 = 100;
    /// By how much a page may exceed its limit: Redis gives small hashes in whole.
    pub const SURPLUS: u32 = 1000;
}

/// Some of the members. Over the pages of one reading, who stays throughout is there; who comes or
/// goes meanwhile may be, and a member may be there twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// In no order.
    pub members: Vec<Present>,
    /// How many members there are just now.
    pub count: u64,
    /// What to ask for the next page with; `None` when this is the last.
    pub cursor: Option<String>,
}

/// A member, and how many sessions it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The user; `None` for a session without one.
    pub user: Option<Arc<str>>,
    /// Its sessions at the place.
    pub sessions: u32,
}

/// The members could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The store can't be reached, or did not answer in time.
    #[error("the members can't be read now; try again later")]
    Unavailable,
    /// The cursor is none of ours, or what it pointed into is gone.
    #[error("the cursor is not good any more; begin again without one")]
    BadCursor,
}

impl Member {
    /// What others are shown.
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::User(user) => Some(user),
            Self::Anonymous(_) => None,
        }
    }
}

/// A change whose members take more as JSON tells the count only, whatever their number: it must
/// fit into any subscriber's outbox.
pub const CHANGE_MAX_BYTES: usize = 32 << 10;
