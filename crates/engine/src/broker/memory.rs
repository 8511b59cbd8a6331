//! The broker of a single node: hands publications to this process' workers.

mod log;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::ready;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{
    Broker, BrokerHealth, Channel, Delivery, DeliverySink, Joined, PublishError, Published, Reach,
    WorkerId,
};
use crate::history::{self, HistoryError, HistoryPage, HistoryQuery, IdempotencyKey, Removed};
use crate::policy::{PublishPermit, RemovalPermit};
use crate::publication::Publication;
use crate::queue::{
    self, Batch, Dead, EntryId, Fetched, MemoryQueues, Queue, QueueError, Queues, Release,
};

use log::Logs;

/// Carries publications between the workers of one process; for `--dev` and single nodes.
///
/// A publication is delivered during the call of [`Broker::publish`], under the lock of its
/// channel's shard: that makes the order of calls the order of delivery at every worker, also
/// with concurrent publishers.
pub struct MemoryBroker {
    sinks: Vec<Arc<dyn DeliverySink>>,
    shards: [Mutex<Shard>; SHARDS],
    clock: WallClock,
    epochs: AtomicU64,
    /// Channels are named by clients, so their hash is seeded and collision resistant.
    hasher: RandomState,
    dropped: AtomicU64,
}

/// Tells the time in milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Debug, Default)]
struct Shard {
    /// Which workers want a channel; never empty.
    interests: HashMap<Channel, Vec<WorkerId>>,
    logs: Logs,
    queues: MemoryQueues,
}

impl MemoryBroker {
    /// A broker over the workers' inboxes; the sink at index `n` belongs to `WorkerId(n)`.
    pub fn new(sinks: Vec<Arc<dyn DeliverySink>>, clock: WallClock) -> Self {
        Self {
            sinks,
            clock,
            epochs: AtomicU64::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Deliveries that were dropped because a worker's inbox was full, since the start.
    pub fn deliveries_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Delivers what Fanlight itself has to say on a channel; no history keeps it.
    pub(crate) fn announce(&self, channel: &Channel, publication: Arc<Publication>) {
        self.deliver(&self.shard(channel), channel, publication);
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(channel) as usize % SHARDS;
        // A shard is consistent between any two statements, so a panicking sink poisons nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes under the lock of the channel's shard.
    fn accept(
        &self,
        permit: &PublishPermit,
        publication: Publication,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, PublishError> {
        let now_ms = (self.clock)();
        let key = key.map(|key| (publication.destination.clone(), key));
        let mut shard = self.shard(permit.channel());
        shard.logs.expire(now_ms);
        if let Some(first) = key.as_ref().and_then(|key| shard.logs.published(key, now_ms)) {
            return first.map(|first| Published { reach: Reach::Duplicate, ..first });
        }
        if let Some(options) = &permit.options().queue {
            let wake = permit.destination().clone();
            let (id, publication) = (publication.id, Arc::new(publication));
            let queues = &mut shard.queues;
            let is_awaited = queues.append(permit.channel(), options, publication, now_ms)?;
            let published = Published { id, position: None, reach: Reach::Cluster };
            if let Some(key) = key {
                shard.logs.remember(key, published, now_ms);
            }
            if is_awaited {
                self.deliver(&shard, permit.channel(), Arc::new(queue::wake(wake)));
            }
            return Ok(published);
        }
        let publication = match permit.history() {
            Some(history) => shard.logs.append(publication, history, || self.new_epoch(), now_ms),
            None => Arc::new(publication),
        };
        let (id, position) = (publication.id, publication.position);
        let published = Published { id, position, reach: Reach::Cluster };
        if let Some(key) = key {
            shard.logs.remember(key, published, now_ms);
        }
        self.deliver(&shard, permit.channel(), publication);
        Ok(published)
    }

    fn deliver(&self, shard: &Shard, channel: &Channel, publication: Arc<Publication>) {
        let Some((channel, workers)) = shard.interests.get_key_value(channel) else {
            return;
        };
        let publications: Arc<[_]> = Arc::new([publication]);
        for worker in workers {
            let Some(sink) = self.sinks.get(usize::from(worker.0)) else {
                continue;
            };
            let delivery =
                Delivery { channel: channel.clone(), publications: Arc::clone(&publications) };
            if sink.deliver(delivery).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One that no other history of this or an earlier process has.
    fn new_epoch(&self) -> u64 {
        self.hasher.hash_one(("epoch", self.epochs.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        Box::pin(ready(self.accept(&permit, publication, None)))
    }

    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        key: IdempotencyKey,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        Box::pin(ready(self.accept(&permit, publication, Some(key))))
    }

    fn history(
        &self,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        let now_ms = (self.clock)();
        let mut shard = self.shard(&query.channel);
        shard.logs.expire(now_ms);
        let page = shard.logs.read(&query, || self.new_epoch(), now_ms);
        Box::pin(ready(Ok(page)))
    }

    fn remove_history(
        &self,
        permit: RemovalPermit,
    ) -> BoxFuture<'static, Result<Removed, HistoryError>> {
        let now_ms = (self.clock)();
        let (channel, destination) = (permit.channel(), permit.destination());
        let mut shard = self.shard(channel);
        shard.logs.expire(now_ms);
        let epoch = || self.new_epoch();
        let removed = shard.logs.remove(destination, permit.history(), epoch, now_ms);
        let told = history::removal(destination.clone(), Some(removed.position));
        self.deliver(&shard, channel, Arc::new(told));
        Box::pin(ready(Ok(removed)))
    }

    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined> {
        let interests = &mut self.shard(channel).interests;
        let workers = interests.entry(channel.clone()).or_default();
        if !workers.contains(&worker) {
            workers.push(worker);
        }
        Box::pin(ready(Joined::Live))
    }

    fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        let interests = &mut self.shard(channel).interests;
        let Some(workers) = interests.get_mut(channel) else {
            return;
        };
        workers.retain(|interested| *interested != worker);
        if workers.is_empty() {
            interests.remove(channel);
        }
    }

    fn health(&self) -> BrokerHealth {
        BrokerHealth::Healthy
    }
}

impl Queues for MemoryBroker {
    fn fetch(&self, queue: &Queue, count: u32) -> BoxFuture<'static, Result<Batch, QueueError>> {
        let now_ms = (self.clock)();
        let fetched = self.shard(&queue.channel).queues.fetch(queue, count, now_ms);
        Box::pin(ready(Ok(fetched)))
    }

    fn ack(
        &self,
        queue: &Queue,
        entries: &[EntryId],
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        self.shard(&queue.channel).queues.ack(queue, entries);
        Box::pin(ready(Ok(())))
    }

    fn release(
        &self,
        queue: &Queue,
        releases: &[Release],
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        let mut shard = self.shard(&queue.channel);
        if shard.queues.release(queue, releases) {
            let wake = queue::wake(queue.destination.clone());
            self.deliver(&shard, &queue.channel, Arc::new(wake));
        }
        Box::pin(ready(Ok(())))
    }

    fn dead(&self) -> BoxFuture<'static, Result<Vec<Dead>, QueueError>> {
        let now_ms = (self.clock)();
        let mut dead: Vec<Dead> = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // Letters of one queue follow each other.
            for (channel, entry) in shard.queues.dead(now_ms) {
                match dead.last_mut() {
                    Some(last) if last.destination.as_str() == channel.as_str() => {
                        last.entries.push(entry);
                    }
                    _ => {
                        let Ok(destination) = channel.as_str().parse() else { continue };
                        dead.push(Dead { destination, entries: vec![entry] });
                    }
                }
            }
        }
        Box::pin(ready(Ok(dead)))
    }

    fn take_dead(
        &self,
        queue: &Queue,
        entries: &[EntryId],
    ) -> BoxFuture<'static, Result<Vec<Fetched>, QueueError>> {
        let now_ms = (self.clock)();
        let taken = self.shard(&queue.channel).queues.take_dead(queue, entries, now_ms);
        Box::pin(ready(Ok(taken)))
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("workers", &self.sinks.len())
            .field("deliveries_dropped", &self.deliveries_dropped())
            .finish_non_exhaustive()
    }
}

/// Enough that publishers on different channels rarely meet.
const SHARDS: usize = 16;
