//! The broker of a single node: hands publications to this process' workers.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::ready;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{
    Broker, BrokerHealth, Channel, Delivery, DeliverySink, Joined, PublishError, Published,
    WorkerId,
};
use crate::policy::PublishPermit;
use crate::publication::Publication;

/// Carries publications between the workers of one process; for `--dev` and single nodes.
///
/// A publication is delivered during the call of [`Broker::publish`], under the lock of its
/// channel's shard: that makes the order of calls the order of delivery at every worker, also
/// with concurrent publishers.
pub struct MemoryBroker {
    sinks: Vec<Arc<dyn DeliverySink>>,
    shards: [Mutex<Interests>; SHARDS],
    /// Channels are named by clients, so their hash is seeded and collision resistant.
    hasher: RandomState,
    dropped: AtomicU64,
}

/// Which workers want a channel; never empty.
type Interests = HashMap<Channel, Vec<WorkerId>>;

impl MemoryBroker {
    /// A broker over the workers' inboxes; the sink at index `n` belongs to `WorkerId(n)`.
    pub fn new(sinks: Vec<Arc<dyn DeliverySink>>) -> Self {
        Self {
            sinks,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Deliveries that were dropped because a worker's inbox was full, since the start.
    pub fn deliveries_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, Interests> {
        let index = self.hasher.hash_one(channel) as usize % SHARDS;
        // Interests are consistent between any two statements, so a panicking sink poisons nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, channel: &Channel, publication: Publication) {
        let interests = self.shard(channel);
        let Some((channel, workers)) = interests.get_key_value(channel) else {
            return;
        };
        let publications: Arc<[_]> = Arc::new([Arc::new(publication)]);
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
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        let published = Published { id: publication.id, position: publication.position };
        self.deliver(permit.channel(), publication);
        Box::pin(ready(Ok(published)))
    }

    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined> {
        let mut interests = self.shard(channel);
        let workers = interests.entry(channel.clone()).or_default();
        if !workers.contains(&worker) {
            workers.push(worker);
        }
        Box::pin(ready(Joined::Live))
    }

    fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        let mut interests = self.shard(channel);
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
