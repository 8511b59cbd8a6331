//! A shard: its publishing connection, its subscriber connections, and what they share.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use fanlight_engine::broker::{BrokerHealth, Channel, DeliverySink, PublishError};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::RedisConfig;
use crate::connection::{Connection, ConnectionError};
use crate::flights::Flights;
use crate::health::Health;
use crate::meters::Meters;
use crate::names::{Names, Partition};
use crate::pipeline::Answer;
use crate::subscriber::{Lane, Subscriber};
use crate::topology::{ShardId, Topology};
use crate::writer::{CommandQueue, Link, Writer};

/// All shards of the topology; a channel is in exactly one of them.
#[derive(Debug)]
pub(crate) struct Shards {
    topology: Arc<Topology>,
    /// At the index of its `ShardId`.
    shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) context: Arc<Context>,
    pub(crate) commands: Arc<CommandQueue>,
    pub(crate) flights: Flights,
    /// One per subscriber connection; a channel is always on the same one.
    lanes: Vec<Arc<Lane>>,
    /// Channels are named by clients, so what lane they get is theirs to guess only.
    hasher: RandomState,
}

/// What the tasks of one shard share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) names: Names,
    pub(crate) health: Health,
    pub(crate) meters: Meters,
    /// Names this process' canaries and clients; new at each start.
    pub(crate) boot: Uuid,
    topology: Arc<Topology>,
    shard: ShardId,
}

/// What every task is given.
pub(crate) struct Environment {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) names: Names,
    pub(crate) sinks: Arc<[Arc<dyn DeliverySink>]>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Shards {
    /// Starts all tasks of all shards.
    pub(crate) fn start(topology: Topology, environment: &Environment) -> Self {
        let topology = Arc::new(topology);
        let shards = topology
            .shards()
            .map(|shard| Shard::start(Arc::clone(&topology), shard, environment))
            .collect();
        Self { topology, shards }
    }

    /// The shard that has `partition`.
    pub(crate) fn of(&self, partition: Partition) -> &Shard {
        &self.shards[usize::from(self.topology.shard_of(partition).0)]
    }

    /// The shard that has `channel`.
    pub(crate) fn of_channel(&self, channel: &Channel) -> &Shard {
        self.of(Partition::of(channel.as_str()))
    }

    /// Runs a command on the shard of `partition`, to which all its keys belong. Commands of one
    /// partition are executed in the order of the calls, whatever the order in which the futures
    /// are polled.
    pub(crate) fn call(
        &self,
        partition: Partition,
        command: impl FnOnce(&Link) -> Vec<u8>,
    ) -> BoxFuture<'static, Answer> {
        self.send(partition, false, command)
    }

    /// As [`Shards::call`], of a command that leaves something in Redis: its answer waits for
    /// replicas, where that is configured.
    pub(crate) fn call_kept(
        &self,
        partition: Partition,
        command: impl FnOnce(&Link) -> Vec<u8>,
    ) -> BoxFuture<'static, Answer> {
        self.send(partition, true, command)
    }

    fn send(
        &self,
        partition: Partition,
        kept: bool,
        command: impl FnOnce(&Link) -> Vec<u8>,
    ) -> BoxFuture<'static, Answer> {
        let queued = self.of(partition).commands.send_with(kept, command);
        Box::pin(async move {
            match queued {
                // The writer answers everything it was given, unless its runtime is torn down.
                Ok(answer) => answer.await.unwrap_or(Err(PublishError::Unknown)),
                Err(error) => Err(error),
            }
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// Healthy when every shard is.
    pub(crate) fn health(&self) -> BrokerHealth {
        let now = Instant::now();
        self.iter()
            .map(|shard| shard.context.health.status(now))
            .find(|health| *health != BrokerHealth::Healthy)
            .unwrap_or(BrokerHealth::Healthy)
    }
}

impl Shard {
    fn start(topology: Arc<Topology>, shard: ShardId, environment: &Environment) -> Self {
        let config = &environment.config;
        let lanes_max = RedisConfig::MAX_SUBSCRIBER_CONNECTIONS;
        let lanes = config.subscriber_connections.get().min(lanes_max);
        let place = topology.describe(shard);
        let context = Arc::new(Context {
            config: Arc::clone(config),
            names: environment.names.clone(),
            health: Health::new(place, lanes, config.canary_interval),
            meters: Meters::new(shard),
            boot: Uuid::now_v7(),
            topology,
            shard,
        });
        let commands =
            Arc::new(CommandQueue::new(config.publish_queue_messages, config.publish_queue_bytes));
        let writer = Writer {
            commands: Arc::clone(&commands),
            context: Arc::clone(&context),
            shutdown: environment.shutdown.clone(),
        };
        environment.tracker.spawn(writer.run());
        let lanes = (0..lanes)
            .map(|index| {
                let lane = Arc::new(Lane::new(config.linger, config.join_timeout));
                let subscriber = Subscriber::new(
                    index,
                    Arc::clone(&lane),
                    Arc::clone(&context),
                    Arc::clone(&commands),
                    Arc::clone(&environment.sinks),
                );
                let shutdown = environment.shutdown.clone();
                environment.tracker.spawn(subscriber.run(shutdown));
                lane
            })
            .collect();
        Self { context, commands, flights: Flights::new(), lanes, hasher: RandomState::new() }
    }

    pub(crate) fn lane(&self, channel: &Channel) -> &Arc<Lane> {
        match self.lanes.as_slice() {
            [only] => only,
            lanes => &lanes[self.hasher.hash_one(channel) as usize % lanes.len()],
        }
    }
}

impl Context {
    /// Opens a connection to this shard's master; `job` is what `CLIENT LIST` shows.
    pub(crate) async fn connect(&self, job: &str) -> Result<Connection, ConnectionError> {
        let client_name = format!("fanlight-{job}-{}", self.boot.simple());
        let opened = Connection::open(&self.topology, self.shard, &self.config, &client_name).await;
        match &opened {
            Ok(_) => self.meters.connected.increment(1),
            Err(_) => self.meters.not_connected.increment(1),
        }
        opened
    }
}
