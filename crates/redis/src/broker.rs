//! `RedisBroker`: the broker contract over Redis.

use std::fmt;
use std::sync::{Arc, Mutex};

use fanlight_engine::broker::{
    Broker, BrokerHealth, Channel, DeliverySink, Joined, PublishError, Published, Reach, WorkerId,
};
use fanlight_engine::history::{HistoryError, HistoryPage, HistoryQuery, IdempotencyKey, Removed};
use fanlight_engine::policy::{PublishPermit, RemovalPermit};
use fanlight_engine::publication::Publication;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agreement;
use crate::command;
use crate::config::RedisConfig;
use crate::envelope::Destinations;
use crate::history::{self, Kept};
use crate::names::{Names, Partition};
use crate::resp3::Value;
use crate::shard::Environment;
use crate::shards::Shards;

/// Carries publications between nodes through Redis.
///
/// Nothing is acknowledged as published to the cluster before Redis accepted it (design invariant
/// 5). While Redis can't be reached, what is not kept anywhere is delivered to this node's own
/// subscribers, and its publisher is told so.
pub struct RedisBroker {
    pub(crate) shards: Arc<Shards>,
    pub(crate) names: Names,
    pub(crate) config: Arc<RedisConfig>,
    sinks: Arc<[Arc<dyn DeliverySink>]>,
    /// For messages of queues; held while some are decoded.
    pub(crate) destinations: Arc<Mutex<Destinations>>,
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
        let sinks: Arc<[_]> = sinks.into();
        let config = Arc::new(config);
        let environment = Environment {
            config: Arc::clone(&config),
            names: names.clone(),
            sinks: Arc::clone(&sinks),
            tracker,
            shutdown,
        };
        let shards = Arc::new(Shards::start(&environment));
        let watching = agreement::watch(Arc::clone(&shards), names.clone(), Arc::clone(&config));
        let Environment { tracker, shutdown, .. } = environment;
        tracker.spawn(async move { shutdown.run_until_cancelled(watching).await });
        Arc::new(Self { shards, names, config, sinks, destinations: Arc::default() })
    }

    /// For what else lives in the same Redis.
    pub(crate) fn parts(&self) -> (Arc<Shards>, Names, Arc<RedisConfig>) {
        (Arc::clone(&self.shards), self.names.clone(), Arc::clone(&self.config))
    }

    /// Deliveries that were dropped because a worker's inbox was full, since the start.
    pub fn deliveries_dropped(&self) -> u64 {
        self.shards.deliveries_dropped()
    }

    /// Messages on our channels that were no envelope of ours and were dropped, since the start.
    pub fn envelopes_rejected(&self) -> u64 {
        self.shards.envelopes_rejected()
    }
}

impl RedisBroker {
    /// Publishes what Redis keeps nothing of.
    fn publish_plain(&self, permit: &PublishPermit, publication: Publication) -> Publishing {
        let published =
            Published { id: publication.id, position: publication.position, reach: Reach::Cluster };
        let channel = permit.channel().clone();
        let partition = Partition::of(channel.as_str());
        let name = self.names.within(partition, &channel);
        let command = command::publish(&publication, name, self.shards.sharded_pubsub());
        let answer = self.shards.call(partition, |_| command);
        let shards = Arc::clone(&self.shards);
        let sinks = Arc::clone(&self.sinks);
        Box::pin(async move {
            let answer = answer.await;
            // Not before: the partition may have moved meanwhile, and its interests with it.
            let shard = shards.of(partition);
            let meters = &shard.context.meters;
            let result = match answer {
                Ok(Value::Integer(_receivers)) => Ok(published),
                // It was certainly not published, so nobody gets it twice.
                Ok(_) | Err(PublishError::Unavailable) => {
                    let lane = shard.lane(&channel);
                    let dropped = lane.deliver_here(&sinks, &channel, Arc::new(publication));
                    meters.dropped.add(dropped);
                    Ok(Published { reach: Reach::ThisNode, ..published })
                }
                Err(error) => Err(error),
            };
            meters.on_published(&result);
            result
        })
    }

    /// Publishes by the script, for history or an idempotency key: what is kept must not differ
    /// between nodes, so nothing of this is delivered while Redis can't be reached.
    fn publish_kept(
        &self,
        permit: &PublishPermit,
        mut publication: Publication,
        key: Option<&IdempotencyKey>,
    ) -> Publishing {
        let id = publication.id;
        let history = permit.history();
        if history.is_some() {
            publication.position = None;
        }
        let channel = permit.channel();
        let partition = Partition::of(channel.as_str());
        let sharded = self.shards.sharded_pubsub();
        let kept = Kept { publication: &publication, partition, channel, history, key, sharded };
        let content = key.and_then(|key| key.content);
        let answer = self.shards.call_kept(partition, |link| kept.call(&self.names, link));
        let shards = Arc::clone(&self.shards);
        Box::pin(async move {
            let result = match answer.await {
                Ok(Value::Error(refusal)) => Err(refused(&refusal)),
                Ok(answer) => {
                    history::published(&answer, id, content).unwrap_or(Err(PublishError::Unknown))
                }
                Err(error) => Err(error),
            };
            shards.of(partition).context.meters.on_published(&result);
            result
        })
    }
}

impl Broker for RedisBroker {
    fn publish(&self, permit: PublishPermit, publication: Publication) -> Publishing {
        match (&permit.options().queue, permit.history()) {
            (Some(queue), _) => self.enqueue(&permit, queue, &publication, None),
            (None, Some(_)) => self.publish_kept(&permit, publication, None),
            (None, None) => self.publish_plain(&permit, publication),
        }
    }

    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        key: IdempotencyKey,
    ) -> Publishing {
        match &permit.options().queue {
            Some(queue) => self.enqueue(&permit, queue, &publication, Some(&key)),
            None => self.publish_kept(&permit, publication, Some(&key)),
        }
    }

    fn history(
        &self,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        let (shards, names) = (Arc::clone(&self.shards), self.names.clone());
        let partition = Partition::of(query.channel.as_str());
        let asked = query.clone();
        let outcome = self.shards.of(partition).flights.join(&query, async move {
            let answer = shards.call(partition, |link| history::read(&asked, &names, link)).await;
            let answer = answer.map_err(|_| HistoryError::Unavailable)?;
            history::page(answer).map(Arc::new).map_err(|_| HistoryError::Unavailable)
        });
        Box::pin(async move { outcome.await.map(Arc::unwrap_or_clone) })
    }

    fn remove_history(
        &self,
        permit: RemovalPermit,
    ) -> BoxFuture<'static, Result<Removed, HistoryError>> {
        let partition = Partition::of(permit.channel().as_str());
        let sharded = self.shards.sharded_pubsub();
        let call = |link: &_| history::remove(&permit, &self.names, link, sharded);
        let answer = self.shards.call_kept(partition, call);
        Box::pin(async move {
            let answer = answer.await.map_err(|_| HistoryError::Unavailable)?;
            history::removed(&answer).map_err(|_| HistoryError::Unavailable)
        })
    }

    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined> {
        self.shards.subscribe(worker, channel)
    }

    fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        self.shards.unsubscribe(worker, channel);
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

/// A future of what a publisher gets to know.
pub(crate) type Publishing = BoxFuture<'static, Result<Published, PublishError>>;

/// Whether a script that was refused may have done something before.
pub(crate) fn refused(refusal: &[u8]) -> PublishError {
    let code = refusal.split(|byte| *byte == b' ').next().unwrap_or_default();
    // These come at the first write, if not before the script.
    let untouched = matches!(code, b"OOM" | b"MISCONF" | b"NOREPLICAS");
    let within = refusal.windows(SCRIPT_ERROR.len()).any(|window| window == SCRIPT_ERROR);
    if within && !untouched { PublishError::Unknown } else { PublishError::Unavailable }
}

/// Stands in errors from within a script.
const SCRIPT_ERROR: &[u8] = b"user_script";
