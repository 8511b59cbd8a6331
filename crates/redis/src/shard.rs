//! A shard: one master's command connection, its subscriber connections, and what they share.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use fanlight_engine::broker::{Channel, DeliverySink};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::config::{Endpoint, RedisConfig};
use crate::connection::{Connection, ConnectionError};
use crate::flights::Flights;
use crate::health::Health;
use crate::meters::Meters;
use crate::names::{Names, Partition};
use crate::partitions::PartitionSet;
use crate::subscriber::{Lane, Subscriber};
use crate::subscriptions::Interest;
use crate::topology::{Place, ShardId};
use crate::writer::{CommandQueue, Writer};

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
    shutdown: CancellationToken,
}

/// What the tasks of one shard share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) id: ShardId,
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) names: Names,
    pub(crate) health: Health,
    pub(crate) meters: Meters,
    /// Names this process' canaries and clients; new at each start, and the same in all shards.
    pub(crate) boot: Uuid,
    /// Who is told of redirections, where there are any.
    pub(crate) cluster: Option<Arc<Cluster>>,
    place: Place,
    /// One of the shard's partitions, in which its canaries live.
    home: AtomicU8,
}

/// What every task is given.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) names: Names,
    pub(crate) sinks: Arc<[Arc<dyn DeliverySink>]>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Shard {
    /// Starts its tasks.
    pub(crate) fn start(
        id: ShardId,
        place: Place,
        cluster: Option<Arc<Cluster>>,
        boot: Uuid,
        environment: &Environment,
    ) -> Self {
        let config = &environment.config;
        let lanes_max = RedisConfig::MAX_SUBSCRIBER_CONNECTIONS;
        let lanes = config.subscriber_connections.get().min(lanes_max);
        let mut shard = Self::new(id, place, cluster, boot, lanes, environment);
        environment.tracker.spawn(shard.writer().run());
        for index in 0..lanes {
            let lane = shard.new_lane();
            let subscriber = Subscriber::new(
                index,
                Arc::clone(&lane),
                Arc::clone(&shard.context),
                Arc::clone(&shard.commands),
                Arc::clone(&environment.sinks),
            );
            environment.tracker.spawn(subscriber.run(shard.shutdown.clone()));
            shard.lanes.push(lane);
        }
        shard
    }

    /// At a master that has no partition yet: it carries commands only.
    pub(crate) fn guest(
        endpoint: Endpoint,
        cluster: Arc<Cluster>,
        boot: Uuid,
        environment: &Environment,
    ) -> Self {
        let place = Place::Fixed(endpoint);
        let shard = Self::new(ShardId::NONE, place, Some(cluster), boot, 0, environment);
        environment.tracker.spawn(shard.writer().run());
        shard
    }

    /// A place without a master: interests wait in it until they are moved, and nothing runs.
    pub(crate) fn nowhere(cluster: Arc<Cluster>, boot: Uuid, environment: &Environment) -> Self {
        let mut shard =
            Self::new(ShardId::NONE, Place::Nowhere, Some(cluster), boot, 0, environment);
        shard.lanes.push(shard.new_lane());
        shard
    }

    fn new(
        id: ShardId,
        place: Place,
        cluster: Option<Arc<Cluster>>,
        boot: Uuid,
        lanes: usize,
        environment: &Environment,
    ) -> Self {
        let config = &environment.config;
        let context = Context {
            id,
            config: Arc::clone(config),
            names: environment.names.clone(),
            health: Health::new(place.describe(), lanes, config.canary_interval),
            meters: Meters::new(&config.metrics_label, id),
            boot,
            cluster,
            place,
            home: AtomicU8::new(0),
        };
        let commands = CommandQueue::new(config.publish_queue_messages, config.publish_queue_bytes);
        Self {
            context: Arc::new(context),
            commands: Arc::new(commands),
            flights: Flights::new(),
            lanes: Vec::new(),
            hasher: RandomState::new(),
            shutdown: environment.shutdown.child_token(),
        }
    }

    fn writer(&self) -> Writer {
        Writer {
            commands: Arc::clone(&self.commands),
            context: Arc::clone(&self.context),
            shutdown: self.shutdown.clone(),
        }
    }

    fn new_lane(&self) -> Arc<Lane> {
        Arc::new(Lane::new(&self.context.config, self.context.is_cluster()))
    }

    /// The connection of a channel.
    pub(crate) fn lane(&self, channel: &Channel) -> &Arc<Lane> {
        match self.lanes.as_slice() {
            [only] => only,
            lanes => &lanes[self.hasher.hash_one(channel) as usize % lanes.len()],
        }
    }

    /// The endpoint of which it is the shard, if it is that of one.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        match &self.context.place {
            Place::Fixed(endpoint) => Some(endpoint),
            Place::Sentinel(_) | Place::Nowhere => None,
        }
    }

    /// Gives away all interests in these partitions.
    pub(crate) fn take(&self, partitions: &PartitionSet) -> Vec<Interest> {
        self.lanes.iter().flat_map(|lane| lane.take(partitions)).collect()
    }

    /// Takes an interest over; `wake` when it was the last one.
    pub(crate) fn adopt(&self, interest: Interest) {
        self.lane(interest.channel()).adopt(interest);
    }

    /// Makes its connections look at what they were given.
    pub(crate) fn wake(&self) {
        for lane in &self.lanes {
            lane.wake();
        }
    }

    /// Its partitions are these now.
    pub(crate) fn settle(&self, partitions: &PartitionSet) {
        let home = Partition(self.context.home.load(Ordering::Relaxed));
        if !partitions.contains(home)
            && let Some(first) = partitions.iter().next()
        {
            self.context.home.store(first.0, Ordering::Relaxed);
        }
    }

    /// Ends its tasks; what is under way is still answered.
    pub(crate) fn stop(&self) {
        self.shutdown.cancel();
    }
}

impl Context {
    /// Opens a connection to this shard's master; `job` is what `CLIENT LIST` shows.
    pub(crate) async fn connect(&self, job: &str) -> Result<Connection, ConnectionError> {
        let client_name = format!("fanlight-{job}-{}", self.boot.simple());
        let opened = self.place.connect(&self.config, &client_name).await;
        match &opened {
            Ok(_) => self.meters.connected.increment(1),
            Err(_) => self.meters.not_connected.increment(1),
        }
        opened
    }

    /// Fails once the master is known to be elsewhere.
    pub(crate) fn check_place(&self, connected_to: &Endpoint) -> Result<(), ConnectionError> {
        if self.place.is_still_at(connected_to) { Ok(()) } else { Err(ConnectionError::Demoted) }
    }

    /// Whether publications are carried by sharded pub/sub.
    pub(crate) fn sharded_pubsub(&self) -> bool {
        self.is_cluster()
    }

    /// The partition in which the shard's canaries live; it may change.
    pub(crate) fn home(&self) -> Partition {
        Partition(self.home.load(Ordering::Relaxed))
    }

    fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }
}
