//! All shards: which has what, and how calls and interests get there also while that changes.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use fanlight_engine::broker::{BrokerHealth, Channel, Joined, PublishError, WorkerId};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::cluster::{self, Cluster};
use crate::config::Servers;
use crate::names::Partition;
use crate::partitions::PartitionSet;
use crate::pipeline::Answer;
use crate::sentinel::Sentinels;
use crate::shard::{Environment, Shard};
use crate::topology::{Place, ShardId, spread};
use crate::writer::Link;

/// All shards; a channel is in exactly one of them.
#[derive(Debug)]
pub(crate) struct Shards {
    table: Arc<Table>,
    pub(crate) cluster: Option<Arc<Cluster>>,
}

/// Which shard has each partition. A join or its end is entered into its shard while the table is
/// locked, so that none is left behind by a move.
#[derive(Debug)]
pub(crate) struct Table(RwLock<Rows>);

#[derive(Debug)]
struct Rows {
    /// At the index of the partition.
    of: Vec<Arc<Shard>>,
    /// Those that have a partition.
    shards: Vec<Arc<Shard>>,
    /// Counts of shards that are gone.
    dropped_before: u64,
    rejected_before: u64,
}

impl Shards {
    /// Starts all tasks of all shards.
    pub(crate) fn start(environment: &Environment) -> Self {
        let boot = Uuid::now_v7();
        match environment.config.servers.clone() {
            Servers::Standalone(endpoints) => {
                assert!(!endpoints.is_empty(), "a configuration names at least one Redis");
                let of = spread(&endpoints);
                let start = |(index, endpoint)| {
                    let place = Place::Fixed(endpoint);
                    Arc::new(Shard::start(ShardId(index as u16), place, None, boot, environment))
                };
                let shards: Vec<_> = endpoints.into_iter().enumerate().map(start).collect();
                let of = of.into_iter().map(|index| Arc::clone(&shards[usize::from(index)]));
                Self { table: Arc::new(Table::new(of.collect(), shards)), cluster: None }
            }
            Servers::Sentinel { sentinels, master } => {
                assert!(!sentinels.is_empty(), "a configuration names at least one sentinel");
                let sentinels = Arc::new(Sentinels::new(sentinels, master));
                let watching = Arc::clone(&sentinels).watch(Arc::clone(&environment.config));
                let shutdown = environment.shutdown.clone();
                environment.tracker.spawn(async move {
                    shutdown.run_until_cancelled(watching).await;
                });
                let place = Place::Sentinel(sentinels);
                let shard = Arc::new(Shard::start(ShardId(0), place, None, boot, environment));
                let of = vec![Arc::clone(&shard); Partition::COUNT];
                Self { table: Arc::new(Table::new(of, vec![shard])), cluster: None }
            }
            Servers::Cluster { seeds } => {
                assert!(!seeds.is_empty(), "a configuration names at least one seed");
                let cluster = Arc::new(Cluster::new(seeds, &environment.config));
                let nowhere = Arc::new(Shard::nowhere(Arc::clone(&cluster), boot, environment));
                let of = vec![Arc::clone(&nowhere); Partition::COUNT];
                let table = Arc::new(Table::new(of, Vec::new()));
                cluster::start(Arc::clone(&cluster), Arc::clone(&table), nowhere, environment);
                Self { table, cluster: Some(cluster) }
            }
        }
    }

    /// The shard that has `partition` now.
    pub(crate) fn of(&self, partition: Partition) -> Arc<Shard> {
        self.table.of(partition)
    }

    /// Runs a command on the shard of `partition`, to which all its keys belong. Commands of one
    /// partition are executed in the order of the calls, whatever the order in which the futures
    /// are polled, and also when the partition moves to another master meanwhile; while it is on
    /// both sides, that is so for those of the same keys.
    ///
    /// Error replies are passed on as they are, except those that only say that the partition is
    /// elsewhere or nowhere.
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
        let queued = match &self.cluster {
            None => self.of(partition).commands.send_with(kept, command),
            Some(cluster) => {
                let master = || Arc::clone(&self.of(partition).commands);
                cluster.routes.send(partition, kept, master, command)
            }
        };
        answered(queued)
    }

    /// Runs a command on each of the shards that there are now.
    pub(crate) fn call_each(&self, command: &[u8]) -> Vec<BoxFuture<'static, Answer>> {
        let shards = self.table.shards().into_iter();
        let queue = |shard: Arc<Shard>| shard.commands.send_with(false, |_| command.to_vec());
        shards.map(queue).map(answered).collect()
    }

    /// Those that have a partition now.
    pub(crate) fn all(&self) -> Vec<Arc<Shard>> {
        self.table.shards()
    }

    /// Makes a worker receive what is published on `channel`, wherever that is or moves to.
    pub(crate) fn subscribe(
        &self,
        worker: WorkerId,
        channel: &Channel,
    ) -> BoxFuture<'static, Joined> {
        let table = self.table.rows();
        table.of[index_of(channel)].lane(channel).subscribe(worker, channel)
    }

    /// Ends what `subscribe` began.
    pub(crate) fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        let table = self.table.rows();
        table.of[index_of(channel)].lane(channel).unsubscribe(worker, channel);
    }

    /// Whether publications are carried by sharded pub/sub: SPUBLISH in place of PUBLISH.
    pub(crate) fn sharded_pubsub(&self) -> bool {
        self.cluster.is_some()
    }

    /// Deliveries that were dropped because a worker's inbox was full, since the start.
    pub(crate) fn deliveries_dropped(&self) -> u64 {
        let rows = self.table.rows();
        let now = rows.shards.iter().map(|shard| shard.context.meters.dropped.value());
        rows.dropped_before + now.sum::<u64>()
    }

    /// Messages that were no envelope of ours, since the start.
    pub(crate) fn envelopes_rejected(&self) -> u64 {
        let rows = self.table.rows();
        let now = rows.shards.iter().map(|shard| shard.context.meters.rejected.value());
        rows.rejected_before + now.sum::<u64>()
    }

    /// Healthy when every shard is, and every partition has one.
    pub(crate) fn health(&self) -> BrokerHealth {
        let now = Instant::now();
        let shards = self.table.shards();
        let unhealthy = shards
            .iter()
            .map(|shard| shard.context.health.status(now))
            .find(|health| *health != BrokerHealth::Healthy);
        let problem = || self.cluster.as_ref()?.problem().map(BrokerHealth::Unhealthy);
        unhealthy.or_else(problem).unwrap_or(BrokerHealth::Healthy)
    }
}

impl Table {
    fn new(of: Vec<Arc<Shard>>, shards: Vec<Arc<Shard>>) -> Self {
        Self(RwLock::new(Rows { of, shards, dropped_before: 0, rejected_before: 0 }))
    }

    pub(crate) fn of(&self, partition: Partition) -> Arc<Shard> {
        Arc::clone(&self.rows().of[usize::from(partition.0)])
    }

    /// Those that have a partition.
    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.rows().shards.clone()
    }

    /// Gives each partition to its new shard, with all interests in it. Returns the shards that
    /// have no partition any more.
    pub(crate) fn assign(&self, of: Vec<Arc<Shard>>, nowhere: &Arc<Shard>) -> Vec<Arc<Shard>> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut givers: Vec<(Arc<Shard>, PartitionSet)> = Vec::new();
        for partition in Partition::all() {
            let (old, new) = (&rows.of[usize::from(partition.0)], &of[usize::from(partition.0)]);
            if Arc::ptr_eq(old, new) {
                continue;
            }
            match givers.iter_mut().find(|(giver, _)| Arc::ptr_eq(giver, old)) {
                Some((_, given)) => given.insert(partition),
                None => givers.push((Arc::clone(old), [partition].into_iter().collect())),
            }
        }
        for (giver, partitions) in &givers {
            for interest in giver.take(partitions) {
                of[usize::from(interest.partition().0)].adopt(interest);
            }
        }
        let mut shards: Vec<Arc<Shard>> = Vec::new();
        for shard in &of {
            let known = shards.iter().any(|known| Arc::ptr_eq(known, shard));
            if !known && !Arc::ptr_eq(shard, nowhere) {
                shards.push(Arc::clone(shard));
            }
        }
        for shard in &shards {
            let is_its = |partition: &Partition| Arc::ptr_eq(&of[usize::from(partition.0)], shard);
            shard.settle(&Partition::all().filter(is_its).collect());
            shard.wake();
        }
        let is_gone = |shard: &Arc<Shard>| !shards.iter().any(|kept| Arc::ptr_eq(kept, shard));
        let gone: Vec<_> = rows.shards.iter().filter(|shard| is_gone(shard)).cloned().collect();
        for shard in &gone {
            rows.dropped_before += shard.context.meters.dropped.value();
            rows.rejected_before += shard.context.meters.rejected.value();
        }
        rows.of = of;
        rows.shards = shards;
        gone
    }

    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to what was queued, if it was.
fn answered(queued: Result<oneshot::Receiver<Answer>, PublishError>) -> BoxFuture<'static, Answer> {
    Box::pin(async move {
        // The writer answers everything it was given, unless its runtime is torn down.
        queued?.await.unwrap_or(Err(PublishError::Unknown))
    })
}

fn index_of(channel: &Channel) -> usize {
    usize::from(Partition::of(channel.as_str()).0)
}
