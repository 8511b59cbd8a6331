//! `RedisPresence`: who is where, over all nodes, entered in Redis under this node's lease.
//!
//! ```text
//! enter, exit ─ book ─ presence_set.lua ─▶ members, changes ─ presence_tell.lua ─▶ the channel
//! ```
//!
//! Everything of a place lies in its channel's partition: a hash of members (to their sessions over
//! all nodes), and a hash of changes that are not told yet. What each owner has contributed is in
//! one hash per partition, which is at once the index by which a dead owner is reaped. Counts are
//! absolute and set by compare, and calls that set them are numbered, so every step may be repeated,
//! none that comes late undoes a later one, and a dead owner's part can be taken
//! out of a member's sum without touching what other nodes have entered for the same user. Since a
//! change is noted against what was told last, whoever tells it, it is true when it is told, and
//! coming and going within the interval cancels out over all nodes.

mod book;
mod names;
mod tasks;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanlight_engine::broker::PublishError;
use fanlight_engine::presence::{
    Member, MembersPage, MembersQuery, Place, Presence, PresenceError,
};
use futures_util::future::BoxFuture;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::RedisBroker;
use crate::command;
use crate::lease::Lease;
use crate::names::Names;
use crate::reaper::Reap;
use crate::resp3::Value;
use crate::shards::Shards;

use book::{Book, Key};

/// How presence is told.
#[derive(Debug, Clone, Copy)]
pub struct PresenceOptions {
    /// How long changes of a place are gathered before they are published together.
    pub interval: Duration,
    /// A change of more members than this says the count only.
    pub changes_max: u32,
}

/// Who is where, over all nodes that share a Redis. Clones share it.
#[derive(Clone)]
pub struct RedisPresence(Arc<Node>);

/// This node's part in it.
struct Node {
    shards: Arc<Shards>,
    names: Names,
    lease: Arc<Lease>,
    options: PresenceOptions,
    shared: Mutex<Shared>,
    /// Numbers the calls, so that one that arrives after a later one can be told.
    calls: AtomicU64,
    /// There is something to send.
    changed: Notify,
    /// Something was answered.
    progress: Notify,
    meters: Meters,
}

struct Shared {
    book: Book,
    /// Under which the book is entered.
    owner: Arc<str>,
    /// Places with changes to be told, in the order of their times; each once.
    due: VecDeque<(Instant, Place)>,
    scheduled: HashSet<Place>,
    /// How many calls are under way.
    under_way: usize,
    /// Whether changes are told at once, as the node is about to end.
    hurried: bool,
}

struct Meters {
    members: Gauge,
    pending: Gauge,
    sent: Counter,
    failed: Counter,
    told: Counter,
    reaped: Counter,
}

impl RedisPresence {
    /// Starts entering what is entered here, under `lease`, until the shutdown.
    pub fn start(
        broker: &RedisBroker,
        lease: &Arc<Lease>,
        options: PresenceOptions,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (shards, names, _) = broker.parts();
        let hold = lease.changed();
        let owner = Arc::clone(&hold.borrow().owner);
        let node = Arc::new(Node {
            shards,
            names,
            lease: Arc::clone(lease),
            options,
            shared: Mutex::new(Shared {
                book: Book::new(),
                owner,
                due: VecDeque::new(),
                scheduled: HashSet::new(),
                under_way: 0,
                hurried: false,
            }),
            calls: AtomicU64::new(0),
            changed: Notify::new(),
            progress: Notify::new(),
            meters: Meters::new(),
        });
        let running = Arc::clone(&node);
        tracker.spawn(async move { shutdown.run_until_cancelled(running.run(hold)).await });
        Self(node)
    }
}

impl Node {
    async fn read(self: Arc<Self>, query: MembersQuery) -> Result<MembersPage, PresenceError> {
        self.own_entries_sent(&query.place).await;
        let partition = names::partition_of(&query.place);
        let key = names::members_key(&self.names, &query.place);
        let count = self.shards.call(partition, |_| words(&[b"HLEN", &key]));
        let mut tag = String::new();
        let mut cursor = None;
        let page = (query.limit > 0).then(|| {
            self.shards.call(partition, |link| {
                tag = tag_of(link.replication_id());
                cursor = scan_cursor(query.cursor.as_deref(), &tag);
                let limit = query.limit.to_string();
                let from = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
                match cursor {
                    Some(_) => {
                        words(&[b"HSCAN", &key, from.as_bytes(), b"COUNT", limit.as_bytes()])
                    }
                    // It is refused below.
                    None => words(&[b"HLEN", &key]),
                }
            })
        });
        let Ok(Value::Integer(count)) = count.await else { return Err(PresenceError::Unavailable) };
        let count = count.unsigned_abs();
        let Some(page) = page else {
            return Ok(MembersPage { members: Vec::new(), count, cursor: None });
        };
        let page = page.await.map_err(|_| PresenceError::Unavailable)?;
        let link = self.shards.of(partition).commands.link();
        if link.is_none_or(|link| tag_of(link.replication_id()) != tag) {
            // The partition has moved meanwhile, and nobody knows whose cursor it is.
            return Err(PresenceError::Unavailable);
        }
        if cursor.is_none() {
            return Err(PresenceError::BadCursor);
        }
        read_page(&page, count, &tag).ok_or(PresenceError::Unavailable)
    }

    /// Waits for what was entered here to be sent, so that one sees oneself; not for long.
    async fn own_entries_sent(&self, place: &Place) {
        let mark = self.shared().book.mark(place);
        let sent = self.progressed(|shared| shared.book.is_answered(mark));
        let _ = timeout(OWN_ENTRIES_TIME, sent).await;
    }

    async fn progressed(&self, is_there: impl Fn(&Shared) -> bool) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if is_there(&self.shared()) {
                return;
            }
            progress.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.shared().book);
        self.changed.notify_one();
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence for RedisPresence {
    fn enter(&self, place: &Place, member: Member) {
        self.0.change(|book| book.enter(Key { place: place.clone(), member }));
    }

    fn exit(&self, place: &Place, member: Member) {
        self.0.change(|book| book.exit(Key { place: place.clone(), member }));
    }

    fn members(
        &self,
        query: MembersQuery,
    ) -> BoxFuture<'static, Result<MembersPage, PresenceError>> {
        Box::pin(Arc::clone(&self.0).read(query))
    }

    fn settle(&self) -> BoxFuture<'static, ()> {
        let node = Arc::clone(&self.0);
        node.shared().hurried = true;
        node.changed.notify_one();
        Box::pin(async move {
            let settled = node.progressed(Shared::is_settled);
            let _ = timeout(SETTLE_TIME, settled).await;
        })
    }
}

/// Entries are taken out by owner, so what others have entered for the same users stays.
impl Reap for RedisPresence {
    fn reap(&self, dead_owner: &str) -> BoxFuture<'static, Result<bool, PublishError>> {
        Box::pin(Arc::clone(&self.0).reap(dead_owner.to_owned()))
    }
}

impl Shared {
    fn is_settled(&self) -> bool {
        self.book.unsure() == 0 && self.due.is_empty() && self.under_way == 0
    }

    /// Has a place's changes told, if that is not planned already.
    fn plan(&mut self, place: Place, at: Instant) {
        if self.scheduled.insert(place.clone()) {
            self.due.push_back((at, place));
        }
    }
}

impl Meters {
    fn new() -> Self {
        let entered =
            |result: &'static str| counter!("fanlight_presence_entries_total", "result" => result);
        Self {
            members: gauge!("fanlight_presence_members"),
            pending: gauge!("fanlight_presence_entries_pending"),
            sent: entered("sent"),
            failed: entered("failed"),
            told: counter!("fanlight_presence_changes_total"),
            reaped: counter!("fanlight_presence_reaped_total"),
        }
    }
}

impl fmt::Debug for RedisPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPresence")
            .field("members", &self.0.shared().book.members())
            .finish_non_exhaustive()
    }
}

fn words(all: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    command::words(all, &mut out);
    out
}

/// Names a master: a scan can't be gone on with at another one, which orders its hashes otherwise.
fn tag_of(replication_id: &str) -> String {
    replication_id.chars().take(8).collect()
}

/// Where to go on, out of `{number}-{master}`; `None` when that can't be done.
fn scan_cursor(cursor: Option<&str>, tag: &str) -> Option<u64> {
    let Some(cursor) = cursor else { return Some(0) };
    let (number, of) = cursor.split_once('-')?;
    number.parse().ok().filter(|number| *number > 0 && of == tag)
}

/// The answer to HSCAN.
fn read_page(answer: &Value, count: u64, tag: &str) -> Option<MembersPage> {
    let (next, fields) = scanned(answer)?;
    let pairs = fields.chunks_exact(2);
    let members =
        pairs.filter_map(|pair| names::read_member(pair[0].as_text()?, pair[1].as_text()?));
    let cursor = (next > 0).then(|| format!("{next}-{tag}"));
    Some(MembersPage { members: members.collect(), count, cursor })
}

/// The next cursor and the fields of an answer to HSCAN.
fn scanned(answer: &Value) -> Option<(u64, &[Value])> {
    let Value::Array(parts) = answer else { return None };
    let [next, Value::Array(fields)] = parts.as_slice() else { return None };
    Some((next.as_text()?.parse().ok()?, fields))
}

fn is_done(answer: &Result<Value, PublishError>) -> bool {
    // 0: this owner was reaped, and the next one will enter everything; or it came too late.
    matches!(answer, Ok(Value::Array(_)))
}

/// How long a reader waits for this node's own entries to be sent before it reads.
const OWN_ENTRIES_TIME: Duration = Duration::from_millis(500);
/// How long the end of a node waits for its last leaves to be told.
const SETTLE_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_presence_is_documented() {
        let documented = include_str!("../../../docs/metrics.md");
        let named = include_str!("presence.rs").split('"').filter(|part| {
            part.strip_prefix("fanlight_presence_").is_some_and(|name| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            })
        });
        let missing: Vec<_> =
            named.filter(|name| !documented.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    }

    #[test]
    fn a_cursor_is_good_at_the_master_that_gave_it_and_nowhere_else() {
        let tag = tag_of("0123456789abcdef");
        assert_eq!(scan_cursor(None, &tag), Some(0));
        assert_eq!(scan_cursor(Some("7-01234567"), &tag), Some(7));
        for other in ["7-11234567", "7", "0-01234567", "-01234567", "7-", "+7-01234567x"] {
            assert_eq!(scan_cursor(Some(other), &tag), None, "{other}");
        }
    }
}
