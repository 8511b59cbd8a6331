//! `RedisBroker`: the broker contract over Redis.

use std::fmt;
use std::sync::Arc;

use fanlight_engine::broker::{
    Broker, BrokerHealth, Channel, DeliverySink, Joined, PublishError, Published, Reach, WorkerId,
};
use fanlight_engine::history::{HistoryError, HistoryPage, HistoryQuery, IdempotencyKey};
use fanlight_engine::policy::PublishPermit;
use fanlight_engine::publication::Publication;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::command;
use crate::config::RedisConfig;
use crate::names::{Names, Partition};
use crate::queue::SharedDestinations;
use crate::resp3::Value;
use crate::shard::{Environment, Shards};
use crate::topology::Topology;

/// Carries publications between nodes through Redis.
///
/// Nothing is delivered locally that Redis did not accept, and nothing is acknowledged before it
/// did (design invariant 5).
pub struct RedisBroker {
    pub(crate) shards: Shards,
    pub(crate) names: Names,
    /// For queues; what is published otherwise is read by the subscribers.
    pub(crate) destinations: SharedDestinations,
}

impl RedisBroker {
    /// Starts a broker over the workers' inboxes; the sink at index `n` belongs to `WorkerId(n)`.
    ///
    /// Returns at once, also when Redis is down: connecting is retried in the background for
    /// ever, and [`Broker::health`] says what is wrong. Its tasks run on the current runtime, are
    /// counted by `tracker` and end on `shutdown`; publications that are under way then get up to
    /// the response timeout to be answered. A metrics recorder must be installed before.
    pub fn start(
        config: RedisConfig,
        sinks: Vec<Arc<dyn DeliverySink>>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let names = Names::new(&config.prefix);
        let topology = Topology::Standalone(config.endpoint.clone());
        let environment = Environment {
            config: Arc::new(config),
            names: names.clone(),
            sinks: sinks.into(),
            tracker,
            shutdown,
        };
        let shards = Shards::start(topology, &environment);
        Arc::new(Self { shards, names, destinations: SharedDestinations::default() })
    }

    /// Deliveries that were dropped because a worker's inbox was full, since the start.
    pub fn deliveries_dropped(&self) -> u64 {
        self.shards.iter().map(|shard| shard.context.meters.dropped.value()).sum()
    }

    /// Messages on our channels that were no envelope of ours and were dropped, since the start.
    pub fn envelopes_rejected(&self) -> u64 {
        self.shards.iter().map(|shard| shard.context.meters.rejected.value()).sum()
    }
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        if let Some(options) = &permit.options().queue {
            return self.enqueue(&permit, options, &publication, None);
        }
        let published =
            Published { id: publication.id, position: publication.position, reach: Reach::Cluster };
        let channel = permit.channel();
        let partition = Partition::of(channel.as_str());
        let command = command::publish(&publication, channel, &self.names);
        let answer = self.shards.call(partition, |_| command);
        let context = Arc::clone(&self.shards.of(partition).context);
        Box::pin(async move {
            let result = match answer.await {
                Ok(Value::Integer(_receivers)) => Ok(published),
                Ok(_) => Err(PublishError::Unavailable),
                Err(error) => Err(error),
            };
            context.meters.on_published(&result);
            result
        })
    }

    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        key: IdempotencyKey,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        if let Some(options) = &permit.options().queue {
            return self.enqueue(&permit, options, &publication, Some(&key));
        }
        self.publish(permit, publication)
    }

    fn history(
        &self,
        _query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        Box::pin(std::future::ready(Err(HistoryError::Unavailable)))
    }

    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined> {
        self.shards.of_channel(channel).lane(channel).subscribe(worker, channel)
    }

    fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        self.shards.of_channel(channel).lane(channel).unsubscribe(worker, channel);
    }

    fn health(&self) -> BrokerHealth {
        self.shards.health()
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("health", &self.health())
            .field("deliveries_dropped", &self.deliveries_dropped())
            .field("envelopes_rejected", &self.envelopes_rejected())
            .finish_non_exhaustive()
    }
}
