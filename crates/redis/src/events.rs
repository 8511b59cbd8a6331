//! Reading the lifecycle events: a consumer group over the streams of all partitions.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use fanlight_engine::broker::PublishError;
use futures_util::future::try_join_all;

use crate::broker::RedisBroker;
use crate::command;
use crate::lease::{held_partitions, refuse_errors};
use crate::names::{Names, Partition};
use crate::registry::EVENTS;
use crate::resp3::Value;
use crate::scripts;
use crate::shards::Shards;

/// Reads lifecycle events, each at least once per group and in order per session.
pub struct Events {
    shards: Arc<Shards>,
    names: Names,
}

/// One lifecycle event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which it is, for [`Events::ack`].
    pub id: EventId,
    /// `connected`, `disconnected`, `subscribed`, `unsubscribed`, `occupied`, `vacated`.
    pub kind: String,
    /// When it came about, in Unix milliseconds, by the clock of the node that tells it.
    pub at_unix_ms: u64,
    /// The owner that held what the event is about: `{boot}:{generation}`.
    pub node: String,
    /// Whose session.
    pub session: Option<String>,
    /// Whose user.
    pub user: Option<String>,
    /// Of which destination.
    pub destination: Option<String>,
    /// Why it ended: a close reason, or `node_lost`.
    pub reason: Option<String>,
}

/// Names an event: its stream and its place there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId {
    partition: Partition,
    entry: String,
}

/// What one stream has for a consumer.
#[derive(Default)]
pub(crate) struct Entries {
    pub(crate) events: Vec<Event>,
    /// Given out before and trimmed since, of which Redis tells the id only; or not readable.
    pub(crate) gone: Vec<EventId>,
}

impl EventId {
    /// Its place in its stream.
    pub(crate) fn entry(&self) -> &[u8] {
        self.entry.as_bytes()
    }

    /// By which it stands in its stream: a time, and a number within that.
    pub(crate) fn order(&self) -> (u64, u64) {
        let (time, number) = self.entry.split_once('-').unwrap_or((&self.entry, ""));
        (time.parse().unwrap_or_default(), number.parse().unwrap_or_default())
    }
}

/// Unique among the events of a cluster, in ASCII.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.partition.0, self.entry)
    }
}

impl Events {
    /// A reader over what `broker` is connected to.
    pub fn new(broker: &RedisBroker) -> Self {
        let (shards, names, _) = broker.parts();
        Self { shards, names }
    }

    /// Makes the group, where it is not there yet. It begins with the oldest event there is.
    pub async fn create_group(&self, group: &str) -> Result<(), PublishError> {
        let begin = |partition| begin(&self.shards, &self.names, partition, group);
        try_join_all(held_partitions().map(begin)).await.map(drop)
    }

    /// Up to `count` events of each stream that no consumer of the group was given before.
    pub async fn read(
        &self,
        group: &str,
        consumer: &str,
        count: usize,
    ) -> Result<Vec<Event>, PublishError> {
        self.read_from(group, consumer, count, ">").await
    }

    /// Up to `count` events of each stream that this consumer was given and has not acknowledged.
    /// What was trimmed meanwhile counts as acknowledged.
    pub async fn read_again(
        &self,
        group: &str,
        consumer: &str,
        count: usize,
    ) -> Result<Vec<Event>, PublishError> {
        self.read_from(group, consumer, count, "0").await
    }

    /// Acknowledges events, so that they are not given again.
    pub async fn ack(&self, group: &str, events: &[EventId]) -> Result<(), PublishError> {
        let mut streams: HashMap<Partition, Vec<&[u8]>> = HashMap::new();
        for EventId { partition, entry } in events {
            streams.entry(*partition).or_default().push(entry.as_bytes());
        }
        let acking = streams.iter().map(|(partition, entries)| async move {
            let key = self.names.key(*partition, EVENTS, "");
            let mut words: Vec<&[u8]> = vec![b"XACK", &key, group.as_bytes()];
            words.extend(entries);
            refuse_errors(self.call(*partition, &words).await?)
        });
        try_join_all(acking).await.map(drop)
    }

    async fn read_from(
        &self,
        group: &str,
        consumer: &str,
        count: usize,
        from: &str,
    ) -> Result<Vec<Event>, PublishError> {
        let count = count.clamp(1, READ_MAX).to_string();
        let count = count.as_bytes();
        let reading = held_partitions().map(|partition| async move {
            let key = self.names.key(partition, EVENTS, "");
            let words: [&[u8]; 9] = [
                b"XREADGROUP",
                b"GROUP",
                group.as_bytes(),
                consumer.as_bytes(),
                b"COUNT",
                count,
                b"STREAMS",
                &key,
                from.as_bytes(),
            ];
            loop {
                let answer = refuse_errors(self.call(partition, &words).await?)?;
                let Entries { events, gone } = entries(partition, &answer);
                if gone.is_empty() {
                    return Ok::<_, PublishError>(events);
                }
                // They would stand in the way of what comes after them for ever.
                self.ack(group, &gone).await?;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
        });
        Ok(try_join_all(reading).await?.into_iter().flatten().collect())
    }

    async fn call(&self, partition: Partition, words: &[&[u8]]) -> Result<Value, PublishError> {
        let mut command = Vec::new();
        command::words(words, &mut command);
        self.shards.call(partition, |_| command).await
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Sees to it that a stream and a group of its readers are there.
pub(crate) async fn begin(
    shards: &Shards,
    names: &Names,
    partition: Partition,
    group: &str,
) -> Result<(), PublishError> {
    let key = names.key(partition, EVENTS, "");
    let command = scripts::EVENTS_BEGIN.call(&[&key], &[group.as_bytes()]);
    refuse_errors(shards.call(partition, |_| command).await?).map(drop)
}

/// From the answer about one stream. What can't be read at all would stand in the way of what comes
/// after it, and counts as gone.
pub(crate) fn entries(partition: Partition, answer: &Value) -> Entries {
    let mut found = Entries::default();
    let Value::Map(streams) = answer else { return found };
    for (_, entries) in streams {
        let Value::Array(entries) = entries else { continue };
        for entry in entries {
            let Value::Array(parts) = entry else { continue };
            let [id, fields] = &parts[..] else { continue };
            let Some(entry) = id.as_text().map(str::to_owned) else { continue };
            let id = EventId { partition, entry };
            match event(&id, fields) {
                Some(event) => found.events.push(event),
                None => found.gone.push(id),
            }
        }
    }
    found
}

fn event(id: &EventId, fields: &Value) -> Option<Event> {
    let Value::Array(fields) = fields else { return None };
    let field = |name: &str| {
        let pair = fields.chunks_exact(2).find(|pair| pair[0].as_text() == Some(name))?;
        pair[1].as_text().map(str::to_owned)
    };
    Some(Event {
        id: id.clone(),
        kind: field("type")?,
        at_unix_ms: field("at")?.parse().ok()?,
        node: field("node")?,
        session: field("session"),
        user: field("user"),
        destination: field("destination"),
        reason: field("reason"),
    })
}

/// Events of one stream that are read at once.
const READ_MAX: usize = 256;
