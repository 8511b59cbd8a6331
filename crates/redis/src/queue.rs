//! Queues over Redis: a stream and its consumer group for each, worked by the scripts
//! `lua/queue_*.lua`.
//!
//! | key | what |
//! |---|---|
//! | `q` | the stream; absent while the queue is empty. Its group is `fl`, its consumers are nodes |
//! | `qr` | ids of released messages, which are still the group's, in the order of publication |
//! | `qs` | when to look for what crashed nodes hold, and from where on |
//! | `qh` | there while some node would have fetched more than there was: whoever adds a message wakes |
//! | `qk` | publications by their idempotency keys |
//! | `qx` | of a node in one partition: the queues of which it holds something |
//! | `qd` | of a partition: messages that are dead letters, or may be, by when to look at them |
//!
//! A message is held by the node that fetched it until that acknowledges or releases it, or has
//! not done so for longer than the ack timeout and a margin: then any node may claim it. What a
//! dead node holds is released by the reapers.

mod dead;
mod reap;

use std::fmt;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use fanlight_engine::broker::{PublishError, Published, Reach};
use fanlight_engine::history::{ContentDigest, IdempotencyKey};
use fanlight_engine::policy::PublishPermit;
use fanlight_engine::publication::{Publication, PublicationId};
use fanlight_engine::queue::{
    self, Batch, Dead, DeliveryId, EntryId, FETCH_BYTES_MAX, FETCH_MAX, Fetched, Queue, QueueError,
    QueueOptions, Queues, Release,
};
use fanlight_proto::Destination;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::broker::{Publishing, RedisBroker, refused};
use crate::command;
use crate::envelope;
use crate::history::once_text;
use crate::lease::Lease;
use crate::names::{Kind, Names, Partition};
use crate::resp3::Value;
use crate::scripts::{QUEUE_ACK, QUEUE_FETCH, QUEUE_PUBLISH, QUEUE_RELEASE};

/// Fetches and settles messages of queues, in the name of this node's lease.
pub struct RedisQueues {
    broker: Arc<RedisBroker>,
    lease: Arc<Lease>,
}

/// The names of one queue.
struct Keys {
    partition: Partition,
    stream: Vec<u8>,
    released: Vec<u8>,
    state: Vec<u8>,
    hungry: Vec<u8>,
    dead: Vec<u8>,
}

impl Keys {
    fn of(names: &Names, channel: &fanlight_engine::broker::Channel) -> Self {
        let partition = Partition::of(channel.as_str());
        let key = |kind| names.key(partition, kind, channel.as_str());
        Self {
            partition,
            stream: key(STREAM),
            released: key(RELEASED),
            state: key(STATE),
            hungry: key(HUNGRY),
            dead: names.key(partition, DEAD, ""),
        }
    }
}

impl RedisBroker {
    /// Stores a message in the queue that `permit` allows to publish to.
    pub(crate) fn enqueue(
        &self,
        permit: &PublishPermit,
        options: &QueueOptions,
        publication: &Publication,
        key: Option<&IdempotencyKey>,
    ) -> Publishing {
        let channel = permit.channel();
        let keys = Keys::of(&self.names, channel);
        let once = key.map(|key| {
            let text = once_text(permit.destination(), key);
            self.names.key(keys.partition, IDEMPOTENCY, &text)
        });
        let (id, content) = (publication.id, key.and_then(|key| key.content));
        let names = [Some(&keys.stream), Some(&keys.hungry), once.as_ref()];
        let names: Vec<&[u8]> = names.into_iter().flatten().map(Vec::as_slice).collect();
        let command = QUEUE_PUBLISH.call(
            &names,
            &[
                &encoded(publication),
                options.max_length.to_string().as_bytes(),
                options.expires_after_ms.to_string().as_bytes(),
                command::publish_word(self.shards.sharded_pubsub()),
                &wake(permit.destination()),
                &self.names.of(channel).concat(),
                remembered(id, content).as_bytes(),
                IdempotencyKey::WINDOW_MS.to_string().as_bytes(),
            ],
        );
        let answer = self.shards.call_kept(keys.partition, |_| command);
        let shards = Arc::clone(&self.shards);
        Box::pin(async move {
            let result = match answer.await {
                Ok(Value::Error(refusal)) => Err(refused(&refusal)),
                Ok(answer) => published(&answer, id, content),
                Err(error) => Err(error),
            };
            shards.of(keys.partition).context.meters.on_published(&result);
            result
        })
    }
}

impl RedisQueues {
    /// The queues of a broker, for the node that has this lease.
    pub fn new(broker: Arc<RedisBroker>, lease: Arc<Lease>) -> Self {
        Self { broker, lease }
    }

    /// Where it stands of which queues of a partition this node holds something.
    fn holdings(&self, partition: Partition) -> Vec<u8> {
        self.broker.names.key(partition, HOLDINGS, &self.lease.owner())
    }

    /// Runs a script whose answer is messages of one queue.
    fn fetched(
        &self,
        partition: Partition,
        destination: &Destination,
        command: Vec<u8>,
    ) -> BoxFuture<'static, Result<Batch, QueueError>> {
        let answer = self.broker.shards.call(partition, |_| command);
        let shards = Arc::clone(&self.broker.shards);
        let destinations = Arc::clone(&self.broker.destinations);
        let destination = destination.clone();
        Box::pin(async move {
            let (has_more, entries) = batch(answer.await?).ok_or(QueueError::Unavailable)?;
            let mut destinations = destinations.lock().unwrap_or_else(PoisonError::into_inner);
            let mut messages = Vec::with_capacity(entries.len());
            for entry in entries {
                let (delivery, envelope) = delivery(entry).ok_or(QueueError::Unavailable)?;
                messages.push(match envelope::decode(envelope, &mut destinations) {
                    Ok(publication) => Fetched { delivery, publication: Arc::new(publication) },
                    Err(error) => {
                        shards.of(partition).context.meters.rejected.add(1);
                        tracing::debug!("a queue holds what is no publication: {error}");
                        unreadable(delivery, destination.clone())
                    }
                });
            }
            Ok(Batch { messages, has_more })
        })
    }

    /// Runs a script whose answer says nothing but that it has run.
    fn told(
        &self,
        partition: Partition,
        command: Vec<u8>,
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        let answer = self.broker.shards.call(partition, |_| command);
        Box::pin(async move {
            match answer.await? {
                Value::Integer(_) => Ok(()),
                _ => Err(QueueError::Unavailable),
            }
        })
    }
}

impl Queues for RedisQueues {
    fn fetch(&self, queue: &Queue, count: u32) -> BoxFuture<'static, Result<Batch, QueueError>> {
        let keys = Keys::of(&self.broker.names, &queue.channel);
        let options = &queue.options;
        let number = |number: u64| number.to_string().into_bytes();
        let holdings = self.holdings(keys.partition);
        let command = QUEUE_FETCH.call(
            &[&keys.stream, &keys.released, &keys.state, &keys.hungry, &holdings, &keys.dead],
            &[
                self.lease.owner().as_bytes(),
                &number(count.min(FETCH_MAX).into()),
                &number(options.claim_after_ms()),
                &number(options.look_every_ms()),
                &number(options.expires_after_ms),
                &number(HUNGRY_MS),
                queue.destination.as_str().as_bytes(),
                &number(options.max_deliveries.into()),
                &number(FETCH_BYTES_MAX as u64),
            ],
        );
        self.fetched(keys.partition, &queue.destination, command)
    }

    fn ack(
        &self,
        queue: &Queue,
        entries: &[EntryId],
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        if entries.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let keys = Keys::of(&self.broker.names, &queue.channel);
        let owner = self.lease.owner();
        let mut words = vec![owner.as_bytes(), queue.destination.as_str().as_bytes()];
        let ids: Vec<String> = entries.iter().map(EntryId::to_string).collect();
        words.extend(ids.iter().map(String::as_bytes));
        let holdings = self.holdings(keys.partition);
        let names: [&[u8]; 5] = [&keys.stream, &keys.released, &keys.state, &holdings, &keys.dead];
        let command = QUEUE_ACK.call(&names, &words);
        self.told(keys.partition, command)
    }

    fn release(
        &self,
        queue: &Queue,
        releases: &[Release],
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        if releases.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let names = &self.broker.names;
        let keys = Keys::of(names, &queue.channel);
        let mut words = vec![
            self.lease.owner().as_bytes().to_vec(),
            queue.options.expires_after_ms.to_string().into_bytes(),
            command::publish_word(self.broker.shards.sharded_pubsub()).to_vec(),
            wake(&queue.destination),
            queue.destination.as_str().as_bytes().to_vec(),
            queue.options.max_deliveries.to_string().into_bytes(),
            names.of(&queue.channel).concat(),
        ];
        for Release { delivery: DeliveryId { entry, count }, was_delivered } in releases {
            words.push(entry.to_string().into_bytes());
            words.push(count.to_string().into_bytes());
            words.push(if *was_delivered { b"1".to_vec() } else { Vec::new() });
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let holdings = self.holdings(keys.partition);
        let command = QUEUE_RELEASE
            .call(&[&keys.stream, &keys.released, &keys.hungry, &holdings, &keys.dead], &words);
        self.told(keys.partition, command)
    }

    fn dead(&self) -> BoxFuture<'static, Result<Vec<Dead>, QueueError>> {
        dead::named(Arc::clone(&self.broker))
    }

    fn take_dead(
        &self,
        queue: &Queue,
        entries: &[EntryId],
    ) -> BoxFuture<'static, Result<Vec<Fetched>, QueueError>> {
        dead::take(self, queue, entries)
    }
}

impl fmt::Debug for RedisQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueues").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// What is kept under an idempotency key.
fn remembered(id: PublicationId, content: Option<ContentDigest>) -> String {
    let id = id.0.simple();
    match content {
        Some(ContentDigest(digest)) => format!("{id}{:016x}", u64::from_be_bytes(digest)),
        None => id.to_string(),
    }
}

/// The digest in what is kept under a key.
fn digest_of(remembered: &str) -> Option<ContentDigest> {
    let digits = remembered.get(ID_DIGITS..)?;
    let digest = u64::from_str_radix(digits, 16).ok()?;
    Some(ContentDigest(digest.to_be_bytes()))
}

fn published(
    answer: &Value,
    id: PublicationId,
    content: Option<ContentDigest>,
) -> Result<Published, PublishError> {
    let stored = |id, reach| Ok(Published { id, position: None, reach });
    match answer {
        Value::Array(words) => match words.as_slice() {
            [Value::Integer(0)] => stored(id, Reach::Cluster),
            [Value::Integer(1)] => Err(PublishError::QueueFull),
            [Value::Integer(2), first] => {
                let first = first.as_text().unwrap_or_default();
                if !ContentDigest::may_repeat(content, digest_of(first)) {
                    return Err(PublishError::KeyReused);
                }
                let first = first.get(..ID_DIGITS).and_then(|first| Uuid::try_parse(first).ok());
                stored(first.map_or(id, PublicationId), Reach::Duplicate)
            }
            _ => Err(PublishError::Unavailable),
        },
        _ => Err(PublishError::Unavailable),
    }
}

/// The answer to a fetch: whether there may be more, and the entries.
fn batch(answer: Value) -> Option<(bool, Vec<Value>)> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Integer(more), Value::Array(entries)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    Some((more == 1, entries))
}

/// One entry of the answer to a fetch.
fn delivery(entry: Value) -> Option<(DeliveryId, Bytes)> {
    let Value::Array(words) = entry else { return None };
    let [id, Value::Integer(count), Value::Bulk(envelope)] = <[Value; 3]>::try_from(words).ok()?
    else {
        return None;
    };
    let entry = id.as_text()?.parse().ok()?;
    Some((DeliveryId { entry, count: u32::try_from(count).unwrap_or(u32::MAX) }, envelope))
}

/// What can't be read was never ours: it is delivered to nobody, and goes the way of dead letters.
fn unreadable(delivery: DeliveryId, destination: Destination) -> Fetched {
    let delivery = DeliveryId { count: u32::MAX, ..delivery };
    Fetched { delivery, publication: Arc::new(queue::wake(destination)) }
}

fn encoded(publication: &Publication) -> Vec<u8> {
    let mut out = Vec::with_capacity(envelope::encoded_bytes(publication));
    envelope::encode(publication, &mut out);
    out
}

fn wake(destination: &Destination) -> Vec<u8> {
    encoded(&queue::wake(destination.clone()))
}

const STREAM: Kind = Kind("q");
const RELEASED: Kind = Kind("qr");
const STATE: Kind = Kind("qs");
const HUNGRY: Kind = Kind("qh");
/// Of a publication's id in hex.
const ID_DIGITS: usize = 32;
const IDEMPOTENCY: Kind = Kind("qk");
const HOLDINGS: Kind = Kind("qx");
const DEAD: Kind = Kind("qd");
/// Whoever waits looks more often than this.
const HUNGRY_MS: u64 = 60_000;
