//! Releasing what dead nodes hold of queues.

use std::sync::Arc;

use fanlight_engine::broker::{Channel, PublishError};
use fanlight_proto::Destination;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::{HOLDINGS, Keys, RedisQueues, wake};
use crate::broker::RedisBroker;
use crate::command;
use crate::lease::{Lease, refuse_errors};
use crate::names::Partition;
use crate::reaper::{Reap, reap_each};
use crate::resp3::Value;
use crate::scripts::QUEUE_REAP;

impl Reap for RedisQueues {
    fn reap(&self, dead_owner: &str) -> BoxFuture<'static, Result<bool, PublishError>> {
        let dead = Dead {
            heir: heir(&self.lease, dead_owner),
            owner: dead_owner.into(),
            broker: Arc::clone(&self.broker),
        };
        async move {
            let reap = |partition| dead.reap_partition(partition);
            reap_each(Partition::all(), PARTITIONS_AT_ONCE, reap).await
        }
        .boxed()
    }
}

/// A dead node, and who has what it had.
struct Dead {
    owner: Arc<str>,
    heir: Option<Arc<str>>,
    broker: Arc<RedisBroker>,
}

/// The later generation of the same process, where that lives: its consumers have the messages.
fn heir(lease: &Lease, dead_owner: &str) -> Option<Arc<str>> {
    let boot = |owner: &str| owner.split(':').next().map(str::to_owned);
    let nodes = lease.nodes().into_iter();
    let mut living = nodes.filter(|node| node.left.is_some()).map(|node| node.owner);
    living.find(|owner| **owner != *dead_owner && boot(owner) == boot(dead_owner))
}

impl Dead {
    /// Releases much of what it holds in one partition; whether there was nothing any more.
    async fn reap_partition(&self, partition: Partition) -> Result<bool, PublishError> {
        for _ in 0..STEPS_MAX {
            if self.step(partition).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Releases some of it; whether there was nothing any more.
    async fn step(&self, partition: Partition) -> Result<bool, PublishError> {
        let names = &self.broker.names;
        let holdings = names.key(partition, HOLDINGS, &self.owner);
        let mut command = Vec::new();
        command::words(&[b"SRANDMEMBER", &holdings, QUEUES_AT_ONCE], &mut command);
        let answer = refuse_errors(self.broker.shards.call(partition, |_| command).await?)?;
        let (Value::Array(queues) | Value::Set(queues)) = answer else {
            return Err(PublishError::Unknown);
        };
        let queues: Vec<Destination> = queues
            .iter()
            .filter_map(|queue| queue.as_text().and_then(|text| text.parse().ok()))
            .collect();
        let heir = self.heir.as_deref().unwrap_or_default();
        let heirs = self.heir.as_ref().map(|heir| names.key(partition, HOLDINGS, heir));
        let reaping = queues.iter().map(|destination| {
            let channel = Channel::of_destination(destination.to_shared());
            let keys = Keys::of(names, &channel);
            let channel = names.of(&channel).concat();
            let own = [&holdings, &keys.stream, &keys.released, &keys.hungry, &keys.dead];
            let all: Vec<&[u8]> = own.into_iter().chain(&heirs).map(Vec::as_slice).collect();
            let command = QUEUE_REAP.call(
                &all,
                &[
                    self.owner.as_bytes(),
                    heir.as_bytes(),
                    destination.as_str().as_bytes(),
                    MESSAGES_AT_ONCE,
                    command::publish_word(self.broker.shards.sharded_pubsub()),
                    &wake(destination),
                    &channel,
                ],
            );
            self.broker.shards.call(partition, |_| command)
        });
        for answer in join_all(reaping).await {
            match refuse_errors(answer?)? {
                Value::Integer(released) => {
                    metrics::counter!("fanlight_queue_reaped_total")
                        .increment(released.unsigned_abs());
                }
                _ => return Err(PublishError::Unknown),
            }
        }
        Ok(queues.is_empty())
    }
}

const PARTITIONS_AT_ONCE: usize = 32;
/// Before the reaper looks whether all is calm still.
const STEPS_MAX: usize = 32;
const QUEUES_AT_ONCE: &[u8] = b"16";
/// So many take Redis less than a millisecond.
const MESSAGES_AT_ONCE: &[u8] = b"64";
