//! Dead letters that no consumer has fetched: finding and taking them.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanlight_engine::queue::{
    DEAD_MAX, Dead, EntryId, FETCH_BYTES_MAX, Fetched, Queue, QueueError,
};
use futures_util::future::{BoxFuture, FutureExt, join_all};

use super::{DEAD, Keys, RedisQueues};
use crate::broker::RedisBroker;
use crate::command;
use crate::lease::refuse_errors;
use crate::names::{Kind, Partition};
use crate::resp3::Value;
use crate::scripts::{QUEUE_DEAD, QUEUE_TAKE_DEAD};

/// Those of all partitions, unless another node has just looked. A shard that is away keeps only
/// its own from being found.
pub(super) fn named(broker: Arc<RedisBroker>) -> BoxFuture<'static, Result<Vec<Dead>, QueueError>> {
    Box::pin(async move {
        if !takes_turn(&broker).await? {
            return Ok(Vec::new());
        }
        let arguments = [DEAD_MAX.to_string(), NAMED_AGAIN_MS.to_string()];
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let asking = Partition::all().map(|partition| {
            let command = QUEUE_DEAD.call(&[&broker.names.key(partition, DEAD, "")], &arguments);
            broker.shards.call(partition, |_| command)
        });
        let mut found: BTreeMap<String, Vec<EntryId>> = BTreeMap::new();
        for answer in join_all(asking).await {
            let Ok(Value::Array(letters)) = answer else { continue };
            for letter in &letters {
                let Some((entry, destination)) =
                    letter.as_text().and_then(|text| text.split_once(' '))
                else {
                    continue;
                };
                if let Ok(entry) = entry.parse() {
                    found.entry(destination.to_owned()).or_default().push(entry);
                }
            }
        }
        let dead = found.into_iter().filter_map(|(destination, mut entries)| {
            entries.sort_unstable();
            Some(Dead { destination: destination.parse().ok()?, entries })
        });
        Ok(dead.collect())
    })
}

pub(super) fn take(
    queues: &RedisQueues,
    queue: &Queue,
    entries: &[EntryId],
) -> BoxFuture<'static, Result<Vec<Fetched>, QueueError>> {
    let keys = Keys::of(&queues.broker.names, &queue.channel);
    let owner = queues.lease.owner();
    let options = &queue.options;
    let numbers = [options.max_deliveries.into(), options.claim_after_ms(), FETCH_BYTES_MAX as u64];
    let mut words = vec![owner.to_string(), queue.destination.as_str().to_owned()];
    words.extend(numbers.iter().map(u64::to_string));
    words.extend(entries.iter().take(DEAD_MAX).map(EntryId::to_string));
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    let holdings = queues.holdings(keys.partition);
    let command =
        QUEUE_TAKE_DEAD.call(&[&keys.stream, &keys.released, &holdings, &keys.dead], &words);
    let taken = queues.fetched(keys.partition, &queue.destination, command);
    taken.map(|taken| Ok(taken?.messages)).boxed()
}

/// Whether it is this node's turn: one look is enough for all of them.
async fn takes_turn(broker: &RedisBroker) -> Result<bool, QueueError> {
    let key = broker.names.key(TURN_PARTITION, TURN, "");
    let mut command = Vec::new();
    let lasts_ms = TURN_MS.to_string();
    command::words(&[b"SET", &key, b"", b"NX", b"PX", lasts_ms.as_bytes()], &mut command);
    let answer = refuse_errors(broker.shards.call(TURN_PARTITION, |_| command).await?)?;
    Ok(answer != Value::Null)
}

/// There while nobody else needs to look.
const TURN: Kind = Kind("qt");
const TURN_PARTITION: Partition = Partition(0);
const TURN_MS: u64 = 900;
/// What nobody has taken by then is named again.
const NAMED_AGAIN_MS: u64 = 30_000;
