//! Queues in memory, for the broker of a single node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{
    Batch, DEAD_MAX, DeliveryId, EntryId, FETCH_BYTES_MAX, FETCH_MAX, Fetched, Queue, QueueOptions,
    Release,
};
use crate::broker::{Channel, PublishError};
use crate::publication::Publication;

/// The queues of one shard of the memory broker. An empty queue takes no room.
#[derive(Debug, Default)]
pub(crate) struct MemoryQueues {
    queues: HashMap<Channel, Messages>,
    /// Channels of which somebody would have fetched more than there was.
    hungry: HashSet<Channel>,
    last: EntryId,
    /// When to look whether a queue has expired, with its channel; each is here once.
    due: BTreeSet<(u64, Channel)>,
    /// Dead letters that are not moved yet, and when to look at each.
    dead: BTreeMap<(Channel, EntryId), u64>,
}

#[derive(Debug)]
struct Messages {
    waiting: VecDeque<(EntryId, Arc<Publication>)>,
    /// Given back, with how often they were delivered.
    released: BTreeMap<EntryId, (u32, Arc<Publication>)>,
    held: BTreeMap<EntryId, Held>,
    expires_at_ms: u64,
    /// Where it stands among those that are due.
    due_at_ms: u64,
}

/// A message that somebody has and has not acknowledged.
#[derive(Debug)]
struct Held {
    count: u32,
    since_ms: u64,
    publication: Arc<Publication>,
}

/// What became of a message that may be a dead letter.
#[derive(Debug)]
enum Letter {
    NotDead,
    /// Somebody has it and moves it.
    Held,
    Taken(Fetched),
}

impl MemoryQueues {
    /// Stores a message; whether somebody waits for it.
    pub(crate) fn append(
        &mut self,
        channel: &Channel,
        options: &QueueOptions,
        publication: Arc<Publication>,
        now_ms: u64,
    ) -> Result<bool, PublishError> {
        self.expire(now_ms);
        let entry = self.next_entry(now_ms);
        let messages = self.queues.entry(channel.clone()).or_insert_with(|| {
            let expires_at_ms = now_ms + options.expires_after_ms;
            self.due.insert((expires_at_ms, channel.clone()));
            Messages::new(expires_at_ms)
        });
        if messages.len() >= options.max_length as usize {
            return Err(PublishError::QueueFull);
        }
        messages.expires_at_ms = now_ms + options.expires_after_ms;
        messages.waiting.push_back((entry, publication));
        Ok(self.hungry.remove(channel))
    }

    pub(crate) fn fetch(&mut self, queue: &Queue, count: u32, now_ms: u64) -> Batch {
        self.expire(now_ms);
        let count = count.min(FETCH_MAX) as usize;
        let batch = match self.queues.get_mut(&queue.channel) {
            Some(messages) => {
                messages.expires_at_ms = now_ms + queue.options.expires_after_ms;
                messages.take(count, &queue.options, now_ms)
            }
            None => Batch { messages: Vec::new(), has_more: false },
        };
        for one in batch.messages.iter().filter(|one| one.is_dead(&queue.options)) {
            // Should whoever moves it fail.
            let due_ms = now_ms + queue.options.claim_after_ms();
            self.dead.insert((queue.channel.clone(), one.delivery.entry), due_ms);
        }
        if !batch.has_more {
            if self.hungry.len() >= HUNGRY_MAX {
                // Those who are forgotten look by themselves before long.
                self.hungry.clear();
            }
            self.hungry.insert(queue.channel.clone());
        }
        batch
    }

    pub(crate) fn ack(&mut self, queue: &Queue, entries: &[EntryId]) {
        let Some(messages) = self.queues.get_mut(&queue.channel) else { return };
        for entry in entries {
            messages.held.remove(entry);
            messages.released.remove(entry);
            self.dead.remove(&(queue.channel.clone(), *entry));
        }
        if messages.len() == 0 {
            self.due.remove(&(messages.due_at_ms, queue.channel.clone()));
            self.queues.remove(&queue.channel);
        }
    }

    /// Makes messages available; whether somebody waits for them.
    pub(crate) fn release(&mut self, queue: &Queue, releases: &[Release]) -> bool {
        let Some(messages) = self.queues.get_mut(&queue.channel) else { return false };
        let mut any = false;
        for Release { delivery: DeliveryId { entry, count }, was_delivered } in releases {
            if messages.held.get(entry).is_none_or(|held| held.count != *count) {
                continue;
            }
            if let Some(held) = messages.held.remove(entry) {
                let count = count - u32::from(!was_delivered);
                messages.released.insert(*entry, (count, held.publication));
                if count >= queue.options.max_deliveries {
                    self.dead.insert((queue.channel.clone(), *entry), 0);
                }
                any = true;
            }
        }
        any && self.hungry.remove(&queue.channel)
    }

    /// Names dead letters that are due; each again after a time.
    pub(crate) fn dead(&mut self, now_ms: u64) -> Vec<(Channel, EntryId)> {
        let queues = &self.queues;
        self.dead.retain(|(channel, _), _| queues.contains_key(channel));
        let due = self.dead.iter_mut().filter(|(_, due_ms)| **due_ms <= now_ms).take(DEAD_MAX);
        let name = |(letter, due_ms): (&(Channel, EntryId), &mut u64)| {
            *due_ms = now_ms + NAMED_AGAIN_MS;
            letter.clone()
        };
        due.map(name).collect()
    }

    /// Takes those of `entries` that are dead letters and that nobody has.
    pub(crate) fn take_dead(
        &mut self,
        queue: &Queue,
        entries: &[EntryId],
        now_ms: u64,
    ) -> Vec<Fetched> {
        let mut taken = Vec::new();
        for entry in entries.iter().take(DEAD_MAX) {
            let letter = (queue.channel.clone(), *entry);
            let messages = self.queues.get_mut(&queue.channel);
            let state = messages.map_or(Letter::NotDead, |messages| {
                messages.take_dead(*entry, &queue.options, now_ms)
            });
            if let Letter::NotDead = state {
                self.dead.remove(&letter);
                continue;
            }
            self.dead.insert(letter, now_ms + queue.options.claim_after_ms());
            if let Letter::Taken(fetched) = state {
                taken.push(fetched);
            }
        }
        taken
    }

    fn next_entry(&mut self, now_ms: u64) -> EntryId {
        self.last = if now_ms > self.last.ms {
            EntryId { ms: now_ms, seq: 0 }
        } else {
            EntryId { seq: self.last.seq + 1, ..self.last }
        };
        self.last
    }

    /// Forgets queues that nobody uses; looks at a few only.
    fn expire(&mut self, now_ms: u64) {
        for _ in 0..LOOKS {
            if self.due.first().is_none_or(|(at_ms, _)| *at_ms > now_ms) {
                return;
            }
            let Some((_, channel)) = self.due.pop_first() else { return };
            match self.queues.get_mut(&channel) {
                Some(messages) if messages.expires_at_ms > now_ms => {
                    messages.due_at_ms = messages.expires_at_ms;
                    self.due.insert((messages.expires_at_ms, channel));
                }
                _ => {
                    self.queues.remove(&channel);
                }
            }
        }
    }
}

impl Messages {
    fn new(expires_at_ms: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            released: BTreeMap::new(),
            held: BTreeMap::new(),
            expires_at_ms,
            due_at_ms: expires_at_ms,
        }
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.released.len() + self.held.len()
    }

    /// Takes a dead letter, if it is one and nobody has it.
    fn take_dead(&mut self, entry: EntryId, options: &QueueOptions, now_ms: u64) -> Letter {
        let claim_after_ms = options.claim_after_ms();
        let (count, is_free, publication) = match (self.released.get(&entry), self.held.get(&entry))
        {
            (Some((count, publication)), _) => (*count, true, Arc::clone(publication)),
            (None, Some(held)) => {
                let is_idle = now_ms >= held.since_ms + claim_after_ms;
                (held.count, is_idle, Arc::clone(&held.publication))
            }
            (None, None) => return Letter::NotDead,
        };
        if count < options.max_deliveries {
            return Letter::NotDead;
        }
        if !is_free {
            return Letter::Held;
        }
        self.released.remove(&entry);
        let count = count + 1;
        let held = Held { count, since_ms: now_ms, publication: Arc::clone(&publication) };
        self.held.insert(entry, held);
        Letter::Taken(Fetched { delivery: DeliveryId { entry, count }, publication })
    }

    fn take(&mut self, count: usize, options: &QueueOptions, now_ms: u64) -> Batch {
        let is_idle = |held: &Held| now_ms >= held.since_ms + options.claim_after_ms();
        let idle = self.held.iter().filter(|(_, held)| is_idle(held)).map(|(entry, _)| *entry);
        for entry in idle.take(count).collect::<Vec<_>>() {
            if let Some(held) = self.held.remove(&entry) {
                self.released.insert(entry, (held.count, held.publication));
            }
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        while messages.len() < count && bytes < FETCH_BYTES_MAX {
            let (entry, count, publication) =
                if let Some((entry, (count, publication))) = self.released.pop_first() {
                    (entry, count + 1, publication)
                } else if let Some((entry, publication)) = self.waiting.pop_front() {
                    (entry, 1, publication)
                } else {
                    return Batch { messages, has_more: false };
                };
            bytes += publication.body.len();
            let held = Held { count, since_ms: now_ms, publication: Arc::clone(&publication) };
            self.held.insert(entry, held);
            messages.push(Fetched { delivery: DeliveryId { entry, count }, publication });
        }
        Batch { messages, has_more: true }
    }
}

/// How many queues one call looks at.
const LOOKS: usize = 4;
const HUNGRY_MAX: usize = 16 * 1024;
/// When a dead letter of which nothing came is named again.
const NAMED_AGAIN_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::wake;

    fn queue(name: &str) -> Queue {
        let destination: fanlight_proto::Destination = name.parse().unwrap();
        let channel = Channel::of_destination(destination.to_shared());
        let options = QueueOptions { expires_after_ms: 1000, ..QueueOptions::default() };
        Queue { destination, channel, options }
    }

    fn append(queues: &mut MemoryQueues, queue: &Queue, now_ms: u64) {
        let message = Arc::new(wake(queue.destination.clone()));
        queues.append(&queue.channel, &queue.options, message, now_ms).unwrap();
    }

    #[test]
    fn a_queue_expires_once_nobody_has_used_it_for_its_time() {
        let mut queues = MemoryQueues::default();
        let (used, unused) = (queue("/queue/used"), queue("/queue/unused"));
        append(&mut queues, &used, 0);
        append(&mut queues, &unused, 0);
        queues.fetch(&used, 1, 900);
        queues.fetch(&used, 1, 1500);
        assert!(!queues.queues.contains_key(&unused.channel));
        assert!(queues.queues.contains_key(&used.channel));
        queues.fetch(&unused, 1, 2500);
        assert!(queues.queues.is_empty() && queues.due.is_empty());
    }

    #[test]
    fn an_empty_queue_leaves_nothing_behind() {
        let mut queues = MemoryQueues::default();
        let queue = queue("/queue/a");
        for now_ms in 0..10 {
            append(&mut queues, &queue, now_ms);
            let fetched = queues.fetch(&queue, 1, now_ms);
            queues.ack(&queue, &[fetched.messages[0].delivery.entry]);
            assert!(queues.queues.is_empty() && queues.due.is_empty());
        }
    }
}
