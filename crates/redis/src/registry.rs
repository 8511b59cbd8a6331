//! `RedisRegistry`: the registry contract over Redis.
//!
//! A user's sessions are a hash in the user's partition, and each owner has an index per
//! partition of what it entered there; so entering, leaving and reaping are one script each, which
//! also writes the lifecycle event. What waits is sent per partition, as much as there is in one
//! call. Where nothing can be sent, it waits; where too much waits, all of it is dropped and this
//! node gives up its owner, so that the reapers remove what is not so any more, and its workers
//! enter again what is.

mod control;
mod lanes;
mod operation;
mod reap;

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanlight_engine::broker::{Broker, Channel, PublishError, WorkerId};
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{
    Command, Entered, Entry, NodeStatus, Order, Registry, RegistryUnavailable, SessionLimit,
    SessionStatus, Sessions, SubscriptionChange, Target, Told, UserStatus,
};
use fanlight_proto::CloseReason;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::RedisBroker;
use crate::command;
use crate::lease::{Lease, boot_of, held_partition_of, refuse_errors};
use crate::names::Names;
use crate::resp3::Value;
use crate::shards::Shards;

pub use control::{ControlInbox, control};
pub(crate) use control::{REVOKED, destination as node_destination, say};
use lanes::{Batch, Lanes, Taken};
pub(crate) use operation::EVENTS;
use operation::{Held, Operation, Outcome, Record, USER, What};

/// What a registry is told at its start.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// How many sessions a user may have.
    pub limit: SessionLimit,
    /// About how many lifecycle events each of the 32 streams keeps; `None`: none are written.
    pub events: Option<u64>,
    /// The most operations that wait while Redis is away.
    pub queue: usize,
}

/// Keeps the sessions of all nodes in Redis.
pub struct RedisRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Arc<Shards>,
    names: Names,
    lease: Arc<Lease>,
    options: RegistryOptions,
    /// How long a session waits for its entry.
    enter_timeout: Duration,
    sessions: Arc<dyn Sessions>,
    lanes: Lanes,
    /// Numbers the calls, so that one that arrives after a later one can be told.
    calls: AtomicU64,
    /// How many subscriptions of this node stand behind each destination that is recorded.
    occupied: Mutex<HashMap<Channel, u32>>,
}

impl RegistryOptions {
    /// How many operations wait by default.
    pub const QUEUE: usize = 64 * 1024;

    fn stream_length(&self) -> u64 {
        self.events.unwrap_or(0)
    }
}

impl RedisRegistry {
    /// Starts the registry of this node; `control` is what was given to the broker as the sink at
    /// index `control_worker`, behind those of the workers.
    pub fn start(
        broker: &Arc<RedisBroker>,
        lease: &Arc<Lease>,
        options: RegistryOptions,
        sessions: Arc<dyn Sessions>,
        (control, control_worker): (ControlInbox, WorkerId),
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let (shards, names, config) = broker.parts();
        let inner = Arc::new(Inner {
            shards,
            names,
            lease: Arc::clone(lease),
            enter_timeout: config.response_timeout,
            lanes: Lanes::new(options.queue.max(1)),
            calls: AtomicU64::new(0),
            options,
            sessions,
            occupied: Mutex::default(),
        });
        let joined = broker.subscribe(control_worker, &Channel::of_node(lease.boot()));
        let run = |job: BoxFuture<'static, ()>| {
            let shutdown = shutdown.clone();
            tracker.spawn(async move { shutdown.run_until_cancelled(job).await });
        };
        run(joined.map(drop).boxed());
        run(Arc::clone(&inner).send_all().boxed());
        run(Arc::clone(&inner).watch_rounds().boxed());
        run(control.run(Arc::clone(&inner.sessions)).boxed());
        Arc::new(Self { inner })
    }

    /// Waits until everything is written, but not for long: to be called when the last session
    /// has left.
    pub async fn flush(&self) {
        let written = async {
            while !self.inner.lanes.is_empty() {
                sleep(FLUSH_POLL).await;
            }
        };
        let _ = timeout(self.inner.enter_timeout, written).await;
    }
}

impl Registry for RedisRegistry {
    fn enter(&self, entry: Entry) -> BoxFuture<'static, Entered> {
        let inner = &self.inner;
        if entry.user.is_none() {
            if inner.lists(entry.user.as_ref()) {
                inner.push(What::Enter { entry, again: false, waiter: None });
            }
            return ready(Entered::Now).boxed();
        }
        let (waiter, entered) = oneshot::channel();
        let held = inner.lease.is_held();
        let waiter = held.then_some(waiter);
        inner.push(What::Enter { entry, again: false, waiter });
        if !held {
            count("enter", "later", 1);
            return ready(Entered::Later).boxed();
        }
        let enter_timeout = inner.enter_timeout;
        async move {
            if let Ok(Ok(entered)) = timeout(enter_timeout, entered).await {
                return entered;
            }
            count("enter", "later", 1);
            Entered::Later
        }
        .boxed()
    }

    fn leave(&self, entry: Entry, reason: CloseReason) {
        let Entry { session, user, .. } = entry;
        if self.inner.lists(user.as_ref()) {
            self.inner.push(What::Leave { session, user, reason: reason.code() });
        }
    }

    fn round(&self) -> u64 {
        self.inner.lease.hold().round
    }

    fn reenter(&self, entry: Entry) -> bool {
        if !self.inner.lists(entry.user.as_ref()) {
            return true;
        }
        if !self.inner.lanes.has_room() {
            return false;
        }
        self.inner.push(What::Enter { entry, again: true, waiter: None });
        true
    }

    fn record(&self, session: SessionId, change: SubscriptionChange) {
        let inner = &self.inner;
        if inner.options.events.is_none() {
            return;
        }
        let SubscriptionChange { user, destination, began } = change;
        let kind = if began { "subscribed" } else { "unsubscribed" };
        inner.record(kind, session, user, Some(destination.clone()));
        inner.count_subscription(destination, began);
    }

    fn status(
        &self,
        users: Vec<Arc<str>>,
    ) -> BoxFuture<'static, Result<Vec<UserStatus>, RegistryUnavailable>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let mut found = Vec::with_capacity(users.len());
            for some in users.chunks(STATUS_AT_ONCE) {
                for sessions in join_all(some.iter().map(|user| inner.held(user))).await {
                    found.push(sessions.map_err(|_| RegistryUnavailable)?);
                }
            }
            let status = |(user, held): (Arc<str>, Vec<Held>)| {
                let sessions = held.into_iter().map(|held| SessionStatus {
                    session: held.session,
                    node: held.owner.as_str().into(),
                    since_unix_ms: held.since_unix_ms,
                    kind: held.kind,
                });
                UserStatus { user, sessions: sessions.collect() }
            };
            Ok(users.into_iter().zip(found).map(status).collect())
        }
        .boxed()
    }

    fn order(
        &self,
        target: Target,
        command: Command,
    ) -> BoxFuture<'static, Result<Told, RegistryUnavailable>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let told = match target {
                Target::User(user) => inner.order_user(&user, command).await,
                Target::Session(session) => inner.order_session(session, command).await,
            };
            told.map_err(|_| RegistryUnavailable)
        }
        .boxed()
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let own = self.inner.lease.boot();
        let nodes = self.inner.lease.nodes().into_iter().map(|node| NodeStatus {
            is_self: boot_of(&node.owner) == own,
            id: node.owner,
            name: node.info.name,
            address: node.info.address,
            started_unix_ms: node.info.started_unix_ms,
            sessions: node.sessions,
            lease_left_ms: node.left.map_or(0, |left| left.as_millis() as u64),
        });
        nodes.collect()
    }

    fn set_sessions(&self, sessions: u64) {
        self.inner.lease.set_sessions(sessions);
    }
}

impl Inner {
    fn push(&self, what: What) {
        match self.lanes.push(Operation { what, at_unix_ms: unix_ms() }) {
            Taken::Queued => {}
            Taken::Dropped => count_dropped(1),
            Taken::Overflowed { records } => {
                tracing::warn!(
                    "too much waits for Redis; the registry forgets it, and this node enters its \
                     sessions again when Redis is back"
                );
                count_dropped(records);
                self.lease.fence();
            }
        }
    }

    /// Whether a session of this user is entered. One of nobody is only so that whoever reaps its
    /// node can tell of its end.
    fn lists(&self, user: Option<&Arc<str>>) -> bool {
        user.is_some() || self.options.events.is_some()
    }

    fn record(
        &self,
        kind: &'static str,
        session: SessionId,
        user: Option<Arc<str>>,
        destination: Option<Channel>,
    ) {
        if self.options.events.is_some() {
            self.push(What::Record(Record { kind, session, user, destination }));
        }
    }

    /// Counts the subscriptions behind a destination; the first occupies it, the last vacates it.
    fn count_subscription(&self, destination: Channel, began: bool) {
        // Held while the operation is queued: the order of both must be the same.
        let mut occupied = self.occupied.lock().unwrap_or_else(PoisonError::into_inner);
        if began {
            let count = occupied.entry(destination.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.push(What::Occupy(destination));
            }
        } else if let Some(count) = occupied.get_mut(&destination) {
            *count -= 1;
            if *count == 0 {
                occupied.remove(&destination);
                self.push(What::Vacate(destination));
            }
        }
    }

    /// Occupies again what is occupied, when that is in doubt; the workers do the same with their
    /// sessions.
    async fn watch_rounds(self: Arc<Self>) {
        let mut changed = self.lease.changed();
        while changed.changed().await.is_ok() {
            let destinations: Vec<_> = {
                let occupied = self.occupied.lock().unwrap_or_else(PoisonError::into_inner);
                occupied.keys().cloned().collect()
            };
            for destination in destinations {
                while !self.lanes.has_room() {
                    sleep(RETRY_AFTER).await;
                }
                let occupied = self.occupied.lock().unwrap_or_else(PoisonError::into_inner);
                if occupied.contains_key(&destination) {
                    self.push(What::Occupy(destination));
                }
            }
        }
    }

    async fn send_all(self: Arc<Self>) {
        let mut sending = FuturesUnordered::new();
        let mut ordering = FuturesUnordered::new();
        loop {
            // Without a lease nothing is entered: nobody would reap it.
            if self.lease.is_held() {
                for batch in self.lanes.take(Instant::now()) {
                    sending.push(Arc::clone(&self).send(batch).boxed());
                }
            }
            metrics::gauge!("fanlight_registry_queue_operations")
                .set(crate::meters::amount(self.lanes.waiting()));
            select! {
                Some(orders) = sending.next(), if !sending.is_empty() => {
                    if !orders.is_empty() && ordering.len() < ORDERS_UNDER_WAY {
                        ordering.push(Arc::clone(&self).order_all(orders).boxed());
                    }
                }
                Some(()) = ordering.next(), if !ordering.is_empty() => {}
                () = self.lanes.changed.notified() => {}
                () = sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Sends one batch, tells its waiters; returns which sessions have to go for it.
    async fn send(self: Arc<Self>, mut batch: Batch) -> Vec<(String, Order)> {
        if let Ok(orders) = self.try_send(&mut batch).await {
            self.lanes.on_done(batch.partition, batch.operations.len());
            return orders;
        }
        for operation in &mut batch.operations {
            if let What::Enter { waiter, .. } = &mut operation.what {
                // It goes on without; the entry follows.
                *waiter = None;
            }
        }
        self.lanes.on_failed(batch, Instant::now() + RETRY_AFTER);
        Vec::new()
    }

    async fn try_send(&self, batch: &mut Batch) -> Result<Vec<(String, Order)>, PublishError> {
        let (partition, operations) = (batch.partition, &batch.operations);
        let mut outcomes = self.run(partition, &operations.iter().collect::<Vec<_>>()).await?;
        for _ in 0..EVICTIONS {
            // Who is dead and not reaped yet must not keep others out.
            if !self.evict_dead(partition, operations, &outcomes).await? {
                break;
            }
            let refused = operation::refused(operations, &outcomes);
            let again: Vec<_> = refused.iter().map(|at| &operations[*at]).collect();
            for (at, outcome) in refused.iter().zip(self.run(partition, &again).await?) {
                outcomes[*at] = outcome;
            }
        }
        Ok(self.conclude(&mut batch.operations, outcomes))
    }

    async fn run(
        &self,
        partition: crate::names::Partition,
        operations: &[&Operation],
    ) -> Result<Vec<Outcome>, PublishError> {
        let owner = self.lease.owner();
        // One call of a partition is under way at a time, so the numbers rise in it.
        let by = (&*owner, self.calls.fetch_add(1, Ordering::Relaxed) + 1);
        let command = operation::call(operations, partition, &self.names, by, &self.options);
        let answer = refuse_errors(self.shards.call(partition, |_| command).await?)?;
        if answer == Value::Integer(0) {
            // The owner is dead to the others, and this node does not know it yet.
            if self.lease.owner() == owner {
                self.lease.fence();
            }
            return Err(PublishError::Unavailable);
        }
        let read = operation::read(&answer, operations.len());
        let (outcomes, recorded) = read.ok_or(PublishError::Unknown)?;
        metrics::counter!("fanlight_events_written_total").increment(recorded);
        Ok(outcomes)
    }

    /// Tells what became of each operation; returns whom to disconnect for it.
    fn conclude(
        &self,
        operations: &mut [Operation],
        outcomes: Vec<Outcome>,
    ) -> Vec<(String, Order)> {
        let mut orders = Vec::new();
        for (operation, outcome) in operations.iter_mut().zip(outcomes) {
            match (&mut operation.what, outcome) {
                (What::Enter { waiter, .. }, Outcome::Done(replaced)) => {
                    count("enter", "done", 1);
                    count("enter", "replaced_another", replaced.len());
                    if let Some(waiter) = waiter.take() {
                        let _ = waiter.send(Entered::Now);
                    }
                    orders.extend(replaced.iter().filter_map(control::replaced));
                }
                (What::Enter { waiter, entry, .. }, Outcome::Full(_)) => {
                    count("enter", "full", 1);
                    let told =
                        waiter.take().is_some_and(|waiter| waiter.send(Entered::Full).is_ok());
                    if !told {
                        // It was let in when that could not be known.
                        let boot = self.lease.boot().to_owned();
                        orders.push((boot, control::limited(entry)));
                    }
                }
                (What::Leave { .. }, _) => count("leave", "done", 1),
                (What::Record(_) | What::Occupy(_) | What::Vacate(_), _) => {}
            }
        }
        orders
    }

    /// The sessions of a user, of living nodes, oldest first.
    async fn held(&self, user: &str) -> Result<Vec<Held>, PublishError> {
        let partition = held_partition_of(user);
        let key = self.names.key(partition, USER, user);
        let mut found: HashMap<SessionId, Held> = HashMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = Vec::new();
            let words = [&b"HSCAN"[..], &key, cursor.as_bytes(), b"COUNT", SCAN_COUNT];
            command::words(&words, &mut command);
            let answer = refuse_errors(self.shards.call(partition, |_| command).await?)?;
            let Value::Array(parts) = &answer else { return Err(PublishError::Unknown) };
            let [next, Value::Array(fields)] = &parts[..] else {
                return Err(PublishError::Unknown);
            };
            for held in fields.chunks_exact(2).filter_map(|pair| Held::read(&pair[0], &pair[1])) {
                if self.lease.is_live(&held.owner) {
                    found.insert(held.session, held);
                }
            }
            next.as_text().unwrap_or("0").clone_into(&mut cursor);
            if cursor == "0" || found.len() >= SESSIONS_MAX {
                break;
            }
        }
        let mut sessions: Vec<_> = found.into_values().collect();
        sessions.sort_unstable_by_key(|held| (held.since_unix_ms, held.session));
        Ok(sessions)
    }
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("waiting", &self.inner.lanes.waiting())
            .finish_non_exhaustive()
    }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn count(operation: &'static str, result: &'static str, times: usize) {
    if times > 0 {
        metrics::counter!(
            "fanlight_registry_operations_total", "operation" => operation, "result" => result
        )
        .increment(times as u64);
    }
}

fn count_dropped(records: u64) {
    if records > 0 {
        metrics::counter!("fanlight_events_dropped_total").increment(records);
    }
}

/// How soon what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// Users that are looked up at once.
const STATUS_AT_ONCE: usize = 256;
/// How many fields one look at a user's sessions is to return, about.
const SCAN_COUNT: &[u8] = b"512";
/// Sessions of one user that are looked at.
const SESSIONS_MAX: usize = 10_000;
/// How often one entry may remove the dead that keep it out.
const EVICTIONS: usize = 2;
/// Batches of disconnects that are under way; those of further ones are not told.
const ORDERS_UNDER_WAY: usize = 1024;
