//! What this node should have entered in Redis, and what it has: a state machine without I/O.
//!
//! Each (place, member) has the number of sessions that are wanted and the number that Redis surely
//! has; where they differ, or nothing is sure, the entry waits to be sent. An entry that is wanted
//! no more stays until Redis has forgotten it too, so while Redis is away the book holds at most
//! what sessions hold here and what they held when it went.

use std::collections::{HashMap, VecDeque};

use fanlight_engine::presence::{Member, Place};

use super::names::partition_of;
use crate::names::Partition;

/// What this node should have entered, and what it has.
#[derive(Debug)]
pub(super) struct Book {
    /// By partition.
    leaves: Vec<Leaf>,
    /// Partitions with something to send and nothing under way, each once.
    ready: VecDeque<Partition>,
    /// Under which round of the lease things are entered; answers of former ones are void.
    round: u64,
    members: usize,
}

/// The part of one partition.
#[derive(Debug, Default)]
struct Leaf {
    /// Places are named by clients, so the hash is std's seeded and collision resistant one.
    entries: HashMap<Key, Entry>,
    /// Entries to be sent, each once.
    queue: VecDeque<Key>,
    state: LeafState,
    /// How many entries were ever queued, and how many of these were answered.
    queued: u64,
    answered: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LeafState {
    #[default]
    Idle,
    /// In `ready`.
    Ready,
    /// A batch is under way, or has failed and rests.
    Busy,
}

/// One member at one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) member: Member,
}

#[derive(Debug, Default)]
struct Entry {
    wanted: u32,
    /// What Redis has; `None` while that is not known.
    has: Option<u32>,
    queued: bool,
}

/// Entries of one partition on their way.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) partition: Partition,
    pub(super) items: Vec<(Key, u32)>,
    round: u64,
}

/// Up to where a partition's queue is to be answered; see [`Book::is_answered`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    partition: Partition,
    queued: u64,
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            leaves: Partition::all().map(|_| Leaf::default()).collect(),
            ready: VecDeque::new(),
            round: 0,
            members: 0,
        }
    }

    /// One more session.
    pub(super) fn enter(&mut self, key: Key) {
        let partition = partition_of(&key.place);
        let entries = &mut self.leaf(partition).entries;
        let entry =
            entries.entry(key.clone()).or_insert(Entry { has: Some(0), ..Entry::default() });
        entry.wanted += 1;
        let is_new = entry.wanted == 1;
        self.members += usize::from(is_new);
        self.look_at(partition, key);
    }

    /// One session less.
    pub(super) fn exit(&mut self, key: Key) {
        let partition = partition_of(&key.place);
        let Some(entry) = self.leaf(partition).entries.get_mut(&key) else { return };
        if entry.wanted == 0 {
            return;
        }
        entry.wanted -= 1;
        let is_gone = entry.wanted == 0;
        self.members -= usize::from(is_gone);
        self.look_at(partition, key);
    }

    /// Everything is to be entered again, under another owner: of that Redis has nothing.
    pub(super) fn begin_round(&mut self, round: u64) {
        self.round = round;
        for partition in Partition::all() {
            let leaf = self.leaf(partition);
            let mut keys = Vec::with_capacity(leaf.entries.len());
            for (key, entry) in &mut leaf.entries {
                entry.has = Some(0);
                keys.push(key.clone());
            }
            for key in keys {
                self.look_at(partition, key);
            }
        }
    }

    /// The next entries to send; call while there is room for more calls.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        while let Some(partition) = self.ready.pop_front() {
            let round = self.round;
            let leaf = self.leaf(partition);
            let mut items = Vec::new();
            while items.len() < BATCH_ITEMS
                && let Some(key) = leaf.queue.pop_front()
            {
                let Some(entry) = leaf.entries.get_mut(&key) else {
                    leaf.answered += 1;
                    continue;
                };
                entry.queued = false;
                if entry.has == Some(entry.wanted) {
                    // It went back and forth.
                    leaf.answered += 1;
                    if entry.wanted == 0 {
                        leaf.entries.remove(&key);
                    }
                    continue;
                }
                entry.has = None;
                items.push((key, entry.wanted));
            }
            if items.is_empty() {
                leaf.state = LeafState::Idle;
                continue;
            }
            leaf.state = LeafState::Busy;
            return Some(Batch { partition, items, round });
        }
        None
    }

    /// A batch was answered. One that failed may have been carried out all the same; its partition
    /// rests until [`Book::wake`].
    pub(super) fn on_answered(&mut self, batch: Batch, is_done: bool) {
        let Batch { partition, items, round } = batch;
        let is_current = round == self.round;
        let leaf = self.leaf(partition);
        leaf.answered += items.len() as u64;
        for (key, sessions) in items {
            if let Some(entry) = self.leaf(partition).entries.get_mut(&key) {
                if is_current && is_done {
                    entry.has = Some(sessions);
                }
                self.look_at(partition, key);
            }
        }
        if is_done {
            self.wake(partition);
        }
    }

    /// A partition's batch is over, and its rest if it had one.
    pub(super) fn wake(&mut self, partition: Partition) {
        let leaf = self.leaf(partition);
        leaf.state = LeafState::Idle;
        if !leaf.queue.is_empty() {
            leaf.state = LeafState::Ready;
            self.ready.push_back(partition);
        }
    }

    /// What is queued at `place` by now.
    pub(super) fn mark(&self, place: &Place) -> Mark {
        let partition = partition_of(place);
        Mark { partition, queued: self.leaves[usize::from(partition.0)].queued }
    }

    /// Whether all that was queued when the mark was made has been tried.
    pub(super) fn is_answered(&self, mark: Mark) -> bool {
        self.leaves[usize::from(mark.partition.0)].answered >= mark.queued
    }

    /// How many members this node has entered or wants to.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// How many entries Redis does not surely have as they are.
    pub(super) fn unsure(&self) -> u64 {
        self.leaves.iter().map(|leaf| leaf.queued - leaf.answered).sum()
    }

    /// Queues an entry that Redis does not surely have as it is wanted, and forgets one that is of
    /// no use any more.
    fn look_at(&mut self, partition: Partition, key: Key) {
        let leaf = self.leaf(partition);
        let Some(entry) = leaf.entries.get_mut(&key) else { return };
        if entry.queued {
            return;
        }
        if entry.has == Some(entry.wanted) {
            if entry.wanted == 0 {
                leaf.entries.remove(&key);
            }
            return;
        }
        entry.queued = true;
        leaf.queued += 1;
        leaf.queue.push_back(key);
        if leaf.state == LeafState::Idle {
            leaf.state = LeafState::Ready;
            self.ready.push_back(partition);
        }
    }

    fn leaf(&mut self, partition: Partition) -> &mut Leaf {
        &mut self.leaves[usize::from(partition.0)]
    }
}

/// Above this, a script would keep others waiting for long; below, calls cost more per entry.
const BATCH_ITEMS: usize = 128;

#[cfg(test)]
mod tests {
    use fanlight_engine::broker::Channel;

    use super::*;

    fn key(user: &str) -> Key {
        let destination: fanlight_proto::Destination = "/topic/a".parse().unwrap();
        let channel = Channel::of_destination(destination.to_shared());
        Key { place: Place { channel, destination }, member: Member::User(user.into()) }
    }

    fn sent(batch: &Batch) -> Vec<(Key, u32)> {
        batch.items.clone()
    }

    /// Sends everything, each batch with this outcome.
    fn send_all(book: &mut Book) -> Vec<(Key, u32)> {
        let mut all = Vec::new();
        while let Some(batch) = book.next_batch() {
            all.extend(sent(&batch));
            book.on_answered(batch, true);
        }
        all
    }

    fn is_empty(book: &Book) -> bool {
        book.leaves.iter().all(|leaf| leaf.entries.is_empty() && leaf.queue.is_empty())
    }

    #[test]
    fn sessions_are_counted_and_sent_as_one_number() {
        let mut book = Book::new();
        for _ in 0..3 {
            book.enter(key("ann"));
        }
        assert_eq!((book.members(), book.unsure()), (1, 1));
        assert_eq!(send_all(&mut book), [(key("ann"), 3)]);
        for _ in 0..3 {
            book.exit(key("ann"));
        }
        assert_eq!(send_all(&mut book), [(key("ann"), 0)]);
        assert!(is_empty(&book));
    }

    #[test]
    fn what_goes_before_it_was_sent_leaves_no_trace() {
        let mut book = Book::new();
        book.enter(key("ann"));
        book.exit(key("ann"));
        book.exit(key("ann"));
        assert_eq!(send_all(&mut book), []);
        assert!(is_empty(&book));
        assert_eq!((book.members(), book.unsure()), (0, 0));
    }

    #[test]
    fn what_changes_while_it_is_under_way_is_sent_once_more() {
        let mut book = Book::new();
        book.enter(key("ann"));
        let batch = book.next_batch().unwrap();
        book.exit(key("ann"));
        assert!(book.next_batch().is_none(), "one batch of a partition at a time");
        book.on_answered(batch, true);
        assert_eq!(send_all(&mut book), [(key("ann"), 0)]);
        assert!(is_empty(&book));
    }

    #[test]
    fn what_failed_is_sent_again_even_if_nobody_wants_it_any_more() {
        let mut book = Book::new();
        book.enter(key("ann"));
        let batch = book.next_batch().unwrap();
        book.exit(key("ann"));
        let partition = batch.partition;
        let mark = book.mark(&key("ann").place);
        book.on_answered(batch, false);
        assert!(book.next_batch().is_none(), "a partition that failed rests");
        assert!(!book.is_answered(mark));
        book.wake(partition);
        assert_eq!(send_all(&mut book), [(key("ann"), 0)]);
        assert!(book.is_answered(mark) && is_empty(&book));
    }

    #[test]
    fn a_new_round_enters_everything_again_and_former_answers_are_void() {
        let mut book = Book::new();
        book.enter(key("ann"));
        send_all(&mut book);
        book.enter(key("bob"));
        let batch = book.next_batch().unwrap();
        book.begin_round(1);
        book.on_answered(batch, true);
        let mut all = send_all(&mut book);
        all.sort_by_key(|(key, _)| key.member.clone());
        assert_eq!(all, [(key("ann"), 1), (key("bob"), 1)]);
        book.begin_round(2);
        assert_eq!(send_all(&mut book).len(), 2);
        assert_eq!(send_all(&mut book), []);
    }

    #[test]
    fn who_left_under_a_former_owner_is_the_reapers() {
        let mut book = Book::new();
        book.enter(key("ann"));
        send_all(&mut book);
        book.exit(key("ann"));
        book.begin_round(1);
        assert_eq!(send_all(&mut book), []);
        assert!(is_empty(&book));
    }
}
