//! The lifecycle events for one reader that all nodes are together: each stream is read by one
//! node at a time, which holds it by a lease, and by another one soon after that node has died.
//!
//! The reader is a consumer group with one consumer, whichever node that is: so what a dead node
//! was given and has not acknowledged is given to the next one first, and nothing overtakes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::PublishError;

use crate::broker::RedisBroker;
use crate::command;
use crate::events::{Entries, Event, EventId, begin, entries};
use crate::lease::{held_partitions, refuse_errors};
use crate::names::{Kind, Names, Partition};
use crate::registry::EVENTS;
use crate::resp3::Value;
use crate::scripts;
use crate::shards::Shards;

/// Reads lifecycle events for one group.
pub struct EventFeed {
    shards: Arc<Shards>,
    names: Names,
    group: String,
    /// This process, as it holds streams.
    owner: String,
}

/// One of the streams of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventStream(Partition);

/// How far whoever holds a stream has come. By default, at what was given before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPlace(
    /// Behind this entry of those that were given before and not acknowledged; or, if `None`, at
    /// what nobody was given yet.
    Option<String>,
);

/// How far a stream was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that nobody was given yet.
    pub waiting: u64,
    /// Events that were dropped, as the stream was full, before anybody was given them; each is
    /// told once.
    pub lost: u64,
}

impl EventFeed {
    /// For the group of this name, which begins with the oldest event there is.
    pub fn new(broker: &RedisBroker, group: &str) -> Self {
        let (shards, names, _) = broker.parts();
        let owner = uuid::Uuid::now_v7().simple().to_string();
        Self { shards, names, group: group.to_owned(), owner }
    }

    /// All streams.
    pub fn streams() -> impl Iterator<Item = EventStream> {
        held_partitions().map(EventStream)
    }

    /// Takes a stream for so long, or keeps it; whether it is this process's now.
    pub async fn hold(&self, stream: EventStream, time: Duration) -> Result<bool, PublishError> {
        let (key, time_ms) = (self.holder_key(stream), time.as_millis().to_string());
        let arguments = [self.owner.as_bytes(), time_ms.as_bytes()];
        let command = scripts::EVENTS_HOLD.call(&[&key], &arguments);
        let answer = refuse_errors(self.shards.call(stream.0, |_| command).await?)?;
        Ok(answer == Value::Integer(1))
    }

    /// Gives a stream up, if it is this process's.
    pub async fn give_up(&self, stream: EventStream) {
        let key = self.holder_key(stream);
        let command = scripts::EVENTS_GIVE_UP.call(&[&key], &[self.owner.as_bytes()]);
        let _ = self.shards.call(stream.0, |_| command).await;
    }

    /// Sees to it that the stream and the group are there.
    pub async fn begin(&self, stream: EventStream) -> Result<(), PublishError> {
        begin(&self.shards, &self.names, stream.0, &self.group).await
    }

    /// Up to `count` events from `place` on, which it moves: first those that were given before and
    /// not acknowledged. With which of these are gone, as the stream was full; they count as
    /// acknowledged. After an error it begins again, as something may have been given all the same:
    /// so who reads on while it has events in hand may be given these again.
    pub async fn read(
        &self,
        stream: EventStream,
        count: usize,
        place: &mut EventPlace,
    ) -> Result<(Vec<Event>, Vec<EventId>), PublishError> {
        let read = self.read_on(stream, count, place).await;
        if read.is_err() {
            *place = EventPlace::default();
        }
        read
    }

    async fn read_on(
        &self,
        stream: EventStream,
        count: usize,
        EventPlace(place): &mut EventPlace,
    ) -> Result<(Vec<Event>, Vec<EventId>), PublishError> {
        let mut lost = Vec::new();
        loop {
            let from = place.clone().unwrap_or_else(|| ">".to_owned());
            let Entries { events, gone } = self.read_from(stream, count, from.as_bytes()).await?;
            self.ack(stream, &gone).await?;
            let is_new = place.is_none();
            if !is_new {
                let given = events.iter().map(|event| &event.id).chain(&gone);
                *place = given
                    .max_by_key(|id| id.order())
                    .map(|last| String::from_utf8_lossy(last.entry()).into_owned());
            }
            lost.extend(gone);
            if is_new || !events.is_empty() {
                return Ok((events, lost));
            }
        }
    }

    /// Acknowledges events of a stream, so that they are not given again.
    pub async fn ack(&self, stream: EventStream, events: &[EventId]) -> Result<(), PublishError> {
        if events.is_empty() {
            return Ok(());
        }
        let key = self.stream_key(stream);
        let mut words: Vec<&[u8]> = vec![b"XACK", &key, self.group.as_bytes()];
        words.extend(events.iter().map(EventId::entry));
        refuse_errors(self.call(stream, &words).await?).map(drop)
    }

    /// How far a stream of this process's was read.
    pub async fn backlog(&self, stream: EventStream) -> Result<Backlog, PublishError> {
        let key = self.stream_key(stream);
        let about_stream = self.call(stream, &[b"XINFO", b"STREAM", &key]).await?;
        let about_groups = self.call(stream, &[b"XINFO", b"GROUPS", &key]).await?;
        let Value::Array(groups) = about_groups else { return Ok(Backlog::default()) };
        let is_ours =
            |group: &&Value| text_of(group, "name").as_deref() == Some(self.group.as_str());
        let Some(group) = groups.iter().find(is_ours) else { return Ok(Backlog::default()) };
        let number = |of: &Value, name| number_of(of, name);
        let (Some(added), Some(length), Some(read)) = (
            number(&about_stream, "entries-added"),
            number(&about_stream, "length"),
            number(group, "entries-read"),
        ) else {
            return Ok(Backlog::default());
        };
        let dropped = added.saturating_sub(length);
        let lost = dropped.saturating_sub(read);
        if lost > 0 {
            // Counted from where the stream begins now, so that each loss is told once.
            let id = text_of(group, "last-delivered-id").unwrap_or_default();
            let dropped = dropped.to_string();
            let words: [&[u8]; 7] = [
                b"XGROUP",
                b"SETID",
                &key,
                self.group.as_bytes(),
                id.as_bytes(),
                b"ENTRIESREAD",
                dropped.as_bytes(),
            ];
            refuse_errors(self.call(stream, &words).await?)?;
        }
        Ok(Backlog { waiting: added.saturating_sub(read + lost), lost })
    }

    async fn read_from(
        &self,
        stream: EventStream,
        count: usize,
        from: &[u8],
    ) -> Result<Entries, PublishError> {
        let (key, count) = (self.stream_key(stream), count.to_string());
        let words: [&[u8]; 9] = [
            b"XREADGROUP",
            b"GROUP",
            self.group.as_bytes(),
            CONSUMER,
            b"COUNT",
            count.as_bytes(),
            b"STREAMS",
            &key,
            from,
        ];
        let mut answer = self.call(stream, &words).await?;
        if matches!(&answer, Value::Error(text) if text.starts_with(b"NOGROUP")) {
            self.begin(stream).await?;
            answer = self.call(stream, &words).await?;
        }
        Ok(entries(stream.0, &refuse_errors(answer)?))
    }

    fn stream_key(&self, EventStream(partition): EventStream) -> Vec<u8> {
        self.names.key(partition, EVENTS, "")
    }

    fn holder_key(&self, EventStream(partition): EventStream) -> Vec<u8> {
        self.names.key(partition, HOLDER, &self.group)
    }

    async fn call(&self, stream: EventStream, words: &[&[u8]]) -> Result<Value, PublishError> {
        let mut command = Vec::new();
        command::words(words, &mut command);
        self.shards.call(stream.0, |_| command).await
    }
}

impl Default for EventPlace {
    fn default() -> Self {
        Self(Some("0".to_owned()))
    }
}

impl EventStream {
    /// Tells it from the others.
    pub fn number(self) -> u8 {
        self.0.0
    }
}

impl fmt::Debug for EventFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFeed").field("group", &self.group).finish_non_exhaustive()
    }
}

fn field<'v>(of: &'v Value, name: &str) -> Option<&'v Value> {
    let Value::Map(fields) = of else { return None };
    fields.iter().find(|(own, _)| own.as_text() == Some(name)).map(|(_, value)| value)
}

fn text_of(of: &Value, name: &str) -> Option<String> {
    field(of, name)?.as_text().map(str::to_owned)
}

fn number_of(of: &Value, name: &str) -> Option<u64> {
    match field(of, name)? {
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The one consumer of each group.
const CONSUMER: &[u8] = b"fanlight";
/// Which node reads a stream for a group.
const HOLDER: Kind = Kind("events-holder");
