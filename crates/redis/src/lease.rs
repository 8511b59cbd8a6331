//! A node's lease: what it holds in Redis counts only while this is renewed (design §8).
//!
//! All leases stand in one sorted set, scored by their deadline in Redis' own time. Who finds its
//! lease gone, because it was paused or because Redis lost its data, or finds another master than
//! before, is *fenced*: it goes on under the next generation, and everything it holds is entered
//! again under that owner. What is not, was not so any more, and goes with the former owner.

mod members;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanlight_engine::broker::PublishError;
use futures_util::future::{BoxFuture, join_all};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

use crate::broker::RedisBroker;
use crate::config::RedisConfig;
use crate::meters::amount;
use crate::names::{Kind, Names, Partition};
use crate::pipeline::Answer;
use crate::resp3::Value;
use crate::scripts::{self, Script};
use crate::shards::Shards;
use members::{Members, Told};

/// What other nodes are told of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// What operators call it.
    pub name: String,
    /// Where its clients connect.
    pub address: String,
    /// When it started, in Unix milliseconds.
    pub started_unix_ms: u64,
}

/// A node as the last renewal saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedNode {
    /// `{boot}:{generation}`
    pub owner: Arc<str>,
    /// What it told of itself.
    pub info: NodeInfo,
    /// How many sessions it had when all nodes were last listed: see [`Lease::nodes`].
    pub sessions: u64,
    /// How many of them could go to another node then: see [`Lease::set_movable`].
    pub movable: u64,
    /// Whether it took further sessions then: see [`Lease::set_takes_sessions`].
    pub takes_sessions: bool,
    /// How long its lease still ran then; `None` when it had expired by our last renewal.
    pub left: Option<Duration>,
}

/// Under which owner things are held, and how often that had to begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// `{boot}:{generation}`
    pub owner: Arc<str>,
    /// Whenever this grows, everything that is held must be entered again: the owner is another
    /// one, or Redis may have lost what it had.
    pub round: u64,
}

/// This node's lease, and what its renewals tell of the other nodes.
pub struct Lease {
    shards: Arc<Shards>,
    names: Names,
    lasts: Duration,
    renew_every: Duration,
    boot: String,
    info: NodeInfo,
    hold: watch::Sender<Hold>,
    listed: watch::Sender<()>,
    fence: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are facts that have nothing in common")]
struct State {
    /// The owner that is given up when the next one is taken.
    previous: Option<Arc<str>>,
    generation: u64,
    /// Whether Redis has this generation.
    taken: bool,
    /// When the last successful renewal was begun.
    renewed_at: Option<Instant>,
    /// When Redis was last found unreachable, or another than before; at first the start.
    troubled_at: Instant,
    replication: Masters,
    sessions: u64,
    movable: u64,
    takes_sessions: bool,
    members: Members,
    dead: HashSet<Arc<str>>,
    fence_asked: bool,
    released: bool,
    fenced: u64,
}

/// By partition, the replication id of the master that has it.
type Masters = HashMap<Partition, Arc<str>>;

/// What a renewal came to.
enum Renewed {
    Held(Told),
    Fenced,
}

impl Lease {
    /// Takes a lease and renews it until the shutdown; returns at once.
    pub fn start(
        broker: &RedisBroker,
        info: NodeInfo,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (shards, names, config) = broker.parts();
        let lease = Arc::new(Self::new(shards, names, &config, info));
        let renewing = Arc::clone(&lease);
        tracker.spawn(async move { shutdown.run_until_cancelled(renewing.keep()).await });
        lease
    }

    fn new(shards: Arc<Shards>, names: Names, config: &RedisConfig, info: NodeInfo) -> Self {
        let boot = Uuid::now_v7().simple().to_string();
        let owner = format!("{boot}:1").into();
        Self {
            shards,
            names,
            lasts: config.lease,
            renew_every: config.lease_renew,
            boot,
            info,
            hold: watch::Sender::new(Hold { owner, round: 0 }),
            listed: watch::Sender::new(()),
            fence: Notify::new(),
            state: Mutex::new(State {
                previous: None,
                generation: 1,
                taken: false,
                renewed_at: None,
                troubled_at: Instant::now(),
                replication: HashMap::new(),
                sessions: 0,
                movable: 0,
                takes_sessions: false,
                members: Members::new(),
                dead: HashSet::new(),
                fence_asked: false,
                released: false,
                fenced: 0,
            }),
        }
    }

    /// This process' own id, the same in all its generations.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Under what everything is to be entered: `{boot}:{generation}`.
    pub fn owner(&self) -> Arc<str> {
        Arc::clone(&self.hold.borrow().owner)
    }

    /// The owner and its round, as they are now.
    pub fn hold(&self) -> Hold {
        self.hold.borrow().clone()
    }

    /// The owner and its round, to be watched: see [`Hold::round`].
    pub fn changed(&self) -> watch::Receiver<Hold> {
        self.hold.subscribe()
    }

    /// Whether this node's lease surely stands. While it does not, nothing should be entered: if
    /// the node ended before it has a lease again, nobody would ever reap it.
    pub fn is_held(&self) -> bool {
        let state = self.state();
        !state.released && state.renewed_at.is_some_and(|at| at.elapsed() < self.lasts)
    }

    /// Whether what `owner` holds counts. One that was never heard of counts: it may have come
    /// since the last renewal, while the dead are known until they hold nothing any more. One
    /// that a living node has just given up counts until that has had the time to enter
    /// everything again.
    pub fn is_live(&self, owner: &str) -> bool {
        !self.state().dead.contains(owner)
    }

    /// Whether the process that `owner` is of has a lease, under whatever owner.
    pub(crate) fn goes_on(&self, owner: &str) -> bool {
        let state = self.state();
        let mut generations = state.members.generations(boot_of(owner));
        generations.any(|one| !state.dead.contains(one))
    }

    /// Whether `owner` had a lease at the last renewal, or had just let it expire.
    pub(crate) fn has(&self, owner: &str) -> bool {
        self.state().members.nodes().contains_key(owner)
    }

    /// Tells of each renewal: who is dead may have become known.
    pub(crate) fn listed(&self) -> watch::Receiver<()> {
        self.listed.subscribe()
    }

    /// All nodes that had a lease at the last renewal, and those that had just let it expire. What
    /// each told of itself then is of the last time that all were listed: with up to 64 nodes that
    /// is each renewal, and with more every second one, every third, and so on.
    pub fn nodes(&self) -> Vec<LeasedNode> {
        self.state().members.nodes().values().cloned().collect()
    }

    /// How many sessions this node has, for the other nodes to know.
    pub fn set_sessions(&self, sessions: u64) {
        self.state().sessions = sessions;
    }

    /// How many of its sessions could go to another node, for the other nodes to know.
    pub fn set_movable(&self, movable: u64) {
        self.state().movable = movable;
    }

    /// Whether this node takes further sessions, for the other nodes to know.
    pub fn set_takes_sessions(&self, takes_sessions: bool) {
        self.state().takes_sessions = takes_sessions;
    }

    /// How often all nodes were listed: [`Lease::nodes`] tells anew of each whenever this grows.
    pub fn listings(&self) -> u64 {
        self.state().members.listings()
    }

    /// How often this node was fenced.
    pub fn fenced(&self) -> u64 {
        self.state().fenced
    }

    /// Gives up everything that this node holds, to enter it again under the next generation.
    pub fn fence(&self) {
        self.state().fence_asked = true;
        self.fence.notify_one();
    }

    /// Ends the lease for good, at a shutdown: what is still held is reaped at once.
    pub async fn release(&self) {
        let owner = self.owner();
        {
            let mut state = self.state();
            state.released = true;
            state.renewed_at = None;
        }
        let _ = self.give_up(&[owner], Duration::ZERO).await;
    }

    /// Whether Redis was neither unreachable nor another one for a whole lease period, so that
    /// who has let its lease expire is really gone.
    pub(crate) fn is_calm(&self) -> bool {
        let troubled_at = self.state().troubled_at;
        self.is_held() && troubled_at.elapsed() >= self.lasts
    }

    pub(crate) fn lasts(&self) -> Duration {
        self.lasts
    }

    pub(crate) fn renew_every(&self) -> Duration {
        self.renew_every
    }

    /// Runs a script over keys of the leases' partition; `kinds` names them.
    pub(crate) async fn call(
        &self,
        script: &Script,
        kinds: &[Kind],
        arguments: &[&[u8]],
    ) -> Result<Value, PublishError> {
        let keys: Vec<_> = kinds.iter().map(|kind| self.names.key(PARTITION, *kind, "")).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let command = script.call(&keys, arguments);
        refuse_errors(self.shards.call(PARTITION, |_| command).await?)
    }

    async fn keep(self: Arc<Self>) {
        while !self.state().released {
            let wait = if self.turn().await.is_ok() {
                self.renew_every
            } else {
                let mut state = self.state();
                state.troubled_at = Instant::now();
                // Until it has its first, the node is not ready.
                let retry_after = if state.taken { RETRY_AFTER } else { TAKE_AFTER };
                self.renew_every.min(retry_after)
            };
            select! {
                () = sleep(wait) => {}
                () = self.fence.notified() => {}
            }
        }
    }

    /// One renewal, and what follows from it. That a master is away does not keep the lease from
    /// being renewed: what this node has in the others still counts.
    async fn turn(&self) -> Result<(), PublishError> {
        let asked = self.look_at_masters();
        let renewed = self.renew_until_held().await;
        let mut answers = join_all(asked).await.into_iter();
        let are_there = answers.try_for_each(|answer| refuse_errors(answer?).map(drop));
        renewed.and(are_there)
    }

    async fn renew_until_held(&self) -> Result<(), PublishError> {
        if std::mem::take(&mut self.state().fence_asked) {
            self.advance();
        }
        let begun_at = Instant::now();
        let told = loop {
            match self.renew().await? {
                Renewed::Held(told) => break told,
                Renewed::Fenced if self.state().released => return Ok(()),
                Renewed::Fenced => self.advance(),
            }
        };
        let missing = self.on_renewed(told, begun_at);
        if !missing.is_empty() {
            // They had a lease, and Redis knows nothing of them: they may hold something still.
            self.give_up(&missing, self.lasts).await?;
        }
        Ok(())
    }

    /// Asks all masters that have registry partitions whether they are there. If one is another
    /// than before, this node is to be fenced, whatever else fails in this turn.
    fn look_at_masters(&self) -> Vec<BoxFuture<'static, Answer>> {
        let mut asked = Vec::new();
        let mut seen = HashMap::new();
        for partition in held_partitions() {
            asked.push(self.shards.call(partition, |link| {
                // Where it is held, its next master is not known yet.
                if !link.is_placeholder() {
                    seen.insert(partition, Arc::clone(link.replication_id()));
                }
                PING.to_vec()
            }));
        }
        let mut state = self.state();
        if may_lack_entries(&state.replication, &seen) {
            // It may lack what the former was told last: entries, and also exits.
            state.troubled_at = Instant::now();
            state.fence_asked |= state.taken;
        }
        state.replication.extend(seen);
        asked
    }

    async fn renew(&self) -> Result<Renewed, PublishError> {
        let (how, owner, previous, description, known) = {
            let state = self.state();
            let how: &[u8] = if state.taken { b"renew" } else { b"take" };
            let known = if state.taken { state.members.known() } else { "" };
            let owner = format!("{}:{}", self.boot, state.generation);
            let previous = state.previous.as_deref().unwrap_or_default().to_owned();
            let State { sessions, movable, takes_sessions, .. } = *state;
            let counts = members::Counts { sessions, movable, takes_sessions };
            let description = members::describe_node(&self.info, counts);
            (how, owner, previous, description, known.to_owned())
        };
        let lasts_ms = self.lasts.as_millis().to_string();
        let arguments = [
            owner.as_bytes(),
            lasts_ms.as_bytes(),
            description.as_bytes(),
            how,
            previous.as_bytes(),
            known.as_bytes(),
        ];
        match self.call(&scripts::LEASE, &[LEASES, DEAD, NODES, CHANGES], &arguments).await? {
            Value::Array(fields) if fields.is_empty() => Ok(Renewed::Fenced),
            Value::Array(fields) => {
                Told::read(&fields).map(Renewed::Held).ok_or(PublishError::Unknown)
            }
            _ => Err(PublishError::Unknown),
        }
    }

    /// Goes on to the next generation, which is yet to be taken.
    fn advance(&self) {
        let mut state = self.state();
        if state.taken {
            state.previous = Some(self.owner());
        }
        state.taken = false;
        state.renewed_at = None;
        state.generation += 1;
        state.fenced += 1;
        metrics::counter!("fanlight_node_fenced_total").increment(1);
        warn!(
            generation = state.generation,
            "this node's lease was lost, or what it holds in Redis is not sure; \
             all of it is entered again"
        );
    }

    /// Takes over what the renewal told; returns who had a lease and is not known any more.
    fn on_renewed(&self, told: Told, begun_at: Instant) -> Vec<Arc<str>> {
        let mut state = self.state();
        let begins = !state.taken;
        if state.renewed_at.is_some_and(|at| at.elapsed() >= self.lasts) {
            // This process has slept, and perhaps others with it.
            state.troubled_at = Instant::now();
        }
        state.taken = true;
        state.previous = None;
        if begins {
            // Before the lease stands: whoever sees that it does sees under which round, or would
            // take for its own what others may have got meanwhile.
            self.begin_round(&format!("{}:{}", self.boot, state.generation));
        }
        state.renewed_at = Some(begun_at);
        // Who is reaped is forgotten in time; but where a lease is begun, Redis may have lost them.
        let missing = state.members.take_over(told, begins);
        metrics::gauge!("fanlight_cluster_sessions").set(state.members.sessions() as f64);
        metrics::gauge!("fanlight_cluster_nodes").set(amount(state.members.nodes().len()));
        let mut dead: HashSet<_> = state.members.dead().map(Arc::clone).collect();
        // After an outage the living need time to renew.
        if state.troubled_at.elapsed() >= self.lasts {
            dead.extend(state.members.expired().map(Arc::clone));
        }
        state.dead = dead;
        drop(state);
        self.listed.send_replace(());
        missing
    }

    fn begin_round(&self, owner: &str) {
        self.hold.send_if_modified(|hold| {
            // The first is taken as it was announced.
            if *hold.owner == *owner {
                return false;
            }
            info!(owner, "everything this node holds in Redis is entered again");
            *hold = Hold { owner: owner.into(), round: hold.round + 1 };
            true
        });
    }

    async fn give_up(&self, owners: &[Arc<str>], after: Duration) -> Result<(), PublishError> {
        let after_ms = after.as_millis().to_string();
        let mut arguments = vec![after_ms.as_bytes()];
        arguments.extend(owners.iter().map(|owner| owner.as_bytes()));
        self.call(&scripts::LEASE_END, &[LEASES, DEAD, CHANGES], &arguments).await.map(drop)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("hold", &*self.hold.borrow()).finish_non_exhaustive()
    }
}

/// The partitions in which owners hold something: few, so that a dead node's indexes are few.
pub(crate) fn held_partitions() -> impl Iterator<Item = Partition> {
    (0..=u8::MAX).step_by(HELD_STEP).map(Partition)
}

/// The one of these that has `text`.
pub(crate) fn held_partition_of(text: &str) -> Partition {
    let Partition(partition) = Partition::of(text);
    Partition(partition - partition % HELD_STEP as u8)
}

/// The process that an owner is a generation of.
pub(crate) fn boot_of(owner: &str) -> &str {
    owner.split(':').next().unwrap_or_default()
}

/// Which generation of its process an owner is, as text.
pub(crate) fn generation_of(owner: &str) -> &str {
    owner.rsplit(':').next().unwrap_or_default()
}

/// Whether a partition's master is another than before, so that entries may be missing: not if the
/// slot has only moved, which is so when both masters are known and the former is still one.
fn may_lack_entries(before: &Masters, now: &Masters) -> bool {
    now.iter().any(|(partition, id)| {
        before.get(partition).is_some_and(|former| {
            let has_moved = before.values().any(|known| known == id)
                && now.values().any(|other| other == former);
            former != id && !has_moved
        })
    })
}

/// An error reply means that nothing was done, or not all: it is to be tried again.
pub(crate) fn refuse_errors(answer: Value) -> Result<Value, PublishError> {
    match answer {
        Value::Error(_) => Err(PublishError::Unavailable),
        answer => Ok(answer),
    }
}

/// All leases stand together.
const PARTITION: Partition = Partition(0);
pub(crate) const LEASES: Kind = Kind("leases");
pub(crate) const DEAD: Kind = Kind("dead");
pub(crate) const CLAIMS: Kind = Kind("claims");
pub(crate) const NODES: Kind = Kind("nodes");
pub(crate) const CHANGES: Kind = Kind("node-changes");
/// Of the 256.
pub(crate) const HELD_PARTITIONS: usize = 32;
const HELD_STEP: usize = Partition::COUNT / HELD_PARTITIONS;
/// How soon a renewal that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const TAKE_AFTER: Duration = Duration::from_millis(100);
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_came_anew_may_lack_entries_and_one_that_slots_moved_to_does_not() {
        let masters = |ids: &[&str]| -> Masters {
            ids.iter().zip(held_partitions()).map(|(id, at)| (at, Arc::from(*id))).collect()
        };
        for (before, now, lacks) in [
            (&["a", "a", "b"], &["a", "a", "b"][..], false),
            (&["a", "a", "b"], &["a", "b", "b"], false),
            (&["a", "a", "b"], &["a", "a", "a"], true),
            (&["a", "a", "b"], &["c", "c", "b"], true),
            (&["a", "a", "b"], &["a", "c", "b"], true),
            (&["a", "a", "b"], &["b", "b", "b"], true),
            (&["a", "a", "b"], &["a", "a"], false),
        ] {
            assert_eq!(may_lack_entries(&masters(before), &masters(now)), lacks, "{now:?}");
        }
        assert!(!may_lack_entries(&Masters::new(), &masters(&["a"])));
    }

    #[test]
    fn everything_that_is_held_lies_in_32_partitions() {
        assert_eq!(held_partitions().count(), 32);
        let all: HashSet<_> = held_partitions().collect();
        for number in 0..1000 {
            assert!(all.contains(&held_partition_of(&format!("user {number}"))));
        }
    }
}
