//! What a worker delivers of each destination with history: in order, each once, gaps healed.
//!
//! Per destination there is one [`Position`] up to which the worker has delivered. Publications
//! that follow it at once pass; what was delivered already is dropped; anything else is held while
//! the history is read. A subscriber that comes with a position of its own reads the history until
//! what it was given ends exactly where the timeline stands; in that moment it becomes live. So
//! nothing is missed or doubled between history and live, without any state per live subscriber.
//!
//! What happens comes out as [`Event`]s, to be carried out in order, and as reads to be made.

mod join;
mod kept;
#[cfg(test)]
mod loose_tests;
mod reads;
mod removal;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fanlight_proto::{Destination, Position};
use slab::Slab;

use crate::broker::Channel;
use crate::history::{History, HistoryPage, Lost};
use crate::publication::Publication;
use crate::time::Now;

pub use join::{JoinerKey, LastGive, Recovered, Start};
pub use reads::ReadKey;

use join::Joiner;
use kept::Kept;
use reads::{Fetch, Reads};

/// The timelines of one worker.
#[derive(Debug, Default)]
pub struct Timelines {
    keys: HashMap<Destination, usize, foldhash::quality::RandomState>,
    all: Slab<Timeline>,
    joiners: Slab<Joiner>,
    events: VecDeque<Event>,
    reads: Reads,
    /// Timelines that only patterns want, the least recently used first, roughly.
    loose: VecDeque<(usize, u64, u64)>,
    loose_count: usize,
    next_serial: u64,
    uses: u64,
    counts: Counts,
    last_give: LastGive,
}

/// What is to be done, in the order in which it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send to everyone who is live on the destination.
    Deliver {
        /// Where they come on.
        channel: Channel,
        /// All of one destination, consecutive; never empty.
        publications: Vec<Arc<Publication>>,
        /// What came before them was lost: to be told to those who were live then and were not told
        /// at once.
        lost: Option<Lost>,
    },
    /// Tell everyone who is live on the destination that something was missed.
    Lost {
        /// Where it comes on.
        channel: Channel,
        /// The destination.
        destination: Destination,
        /// Why it can't be had.
        reason: Lost,
        /// Where the timeline goes on.
        position: Position,
    },
    /// Send to this joiner alone.
    Give {
        /// Who.
        joiner: JoinerKey,
        /// Oldest first.
        publications: Vec<Arc<Publication>>,
    },
    /// Make this joiner live, now.
    Live {
        /// Who; the key is not used again.
        joiner: JoinerKey,
        /// What it is told.
        recovered: Recovered,
    },
}

/// What became of publications that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// They are next: deliver them as they are.
    Next,
    /// What is to be done is in the events.
    Taken,
}

/// Since they were last taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that something was found to be missing.
    pub gaps: u64,
    /// Of these, those that the history filled.
    pub gaps_healed: u64,
    /// Times that something was lost to live subscribers.
    pub gaps_lost: u64,
}

/// One destination. Only what is not at rest has a [`Busy`].
#[derive(Debug)]
struct Timeline {
    serial: u64,
    channel: Channel,
    destination: Destination,
    history: History,
    /// Up to where it was delivered; `None` before that is known.
    last: Option<Position>,
    fetch: Fetch,
    failures: u8,
    /// When the history is looked at next, in monotonic milliseconds.
    due_ms: u64,
    /// When it was last used, where only patterns want it.
    loose: Option<u64>,
    /// Whether it has a place in the queue of loose ones.
    is_queued: bool,
    /// Whether something is known to be missing.
    has_gap: bool,
    /// To be told with the next publication.
    lost: Option<Lost>,
    /// The offset up to which the history was removed: nobody is given any of that, although a read
    /// that was under way may have it.
    removed_up_to: u64,
    busy: Option<Box<Busy>>,
}

/// What a timeline has only while something is missing or somebody joins.
#[derive(Debug, Default)]
struct Busy {
    held: Vec<Held>,
    held_bytes: usize,
    joining: u32,
    /// What passed of late, for those who join.
    kept: Kept,
    /// Joiners that wait until the timeline has come further.
    waiting: Vec<usize>,
}

/// A publication that does not follow what was delivered.
#[derive(Debug)]
struct Held {
    publication: Arc<Publication>,
    /// Whether it came after the read under way had begun.
    is_fresh: bool,
}

impl Timelines {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet, for outboxes that have no room for the usual last step of a joiner.
    pub fn with_last_give(last_give: LastGive) -> Self {
        Self { last_give, ..Self::default() }
    }

    /// Takes publications that came on `channel`, all of one destination and with positions.
    ///
    /// Where the destination has no timeline, `history` says what is kept for those whose patterns
    /// match it; without that, they need no care.
    pub fn offer(
        &mut self,
        channel: &Channel,
        publications: &[Arc<Publication>],
        history: impl FnOnce() -> Option<History>,
        now: Now,
    ) -> Offered {
        let Some(first) = publications.first() else { return Offered::Next };
        let Some(&index) = self.keys.get(&first.destination) else {
            if let Some(history) = history() {
                self.begin_loose(channel, publications, history, now);
            }
            return Offered::Next;
        };
        let timeline = &mut self.all[index];
        if let Some(used) = &mut timeline.loose {
            self.uses += 1;
            *used = self.uses;
        }
        if timeline.busy.is_none() && timeline.lost.is_none() {
            let next = timeline.after_run(publications);
            if next.is_some() {
                timeline.last = next;
                return Offered::Next;
            }
        }
        let mut passed = Vec::new();
        for publication in publications {
            self.take_one(index, publication, &mut passed);
        }
        self.deliver(index, passed);
        self.wake_waiting(index, false);
        Offered::Taken
    }

    /// The next thing to do.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The destination's last subscriber by name has left; `has_patterns` says whether some
    /// pattern of its channel may still want it.
    pub fn vacate(
        &mut self,
        destination: &Destination,
        has_patterns: impl FnOnce(&Channel) -> bool,
    ) {
        let Some(&index) = self.keys.get(destination) else { return };
        if has_patterns(&self.all[index].channel) {
            self.loosen(index);
        } else {
            self.remove(index);
        }
    }

    /// The channel is no longer received: what patterns wanted of it ends.
    pub fn leave(&mut self, channel: &Channel) {
        if self.loose_count == 0 {
            return;
        }
        let of_channel = |(_, timeline): &(usize, &Timeline)| {
            timeline.loose.is_some() && timeline.channel == *channel
        };
        let ended: Vec<usize> =
            self.all.iter().filter(of_channel).map(|(index, _)| index).collect();
        for index in ended {
            self.remove(index);
        }
    }

    /// What was counted since this was last called.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn begin(
        &mut self,
        channel: &Channel,
        destination: &Destination,
        history: History,
        now: Now,
    ) -> usize {
        self.next_serial += 1;
        let serial = self.next_serial;
        let index = self.all.insert(Timeline {
            serial,
            channel: channel.clone(),
            destination: destination.clone(),
            history,
            last: None,
            fetch: Fetch::Idle,
            failures: 0,
            due_ms: 0,
            loose: None,
            is_queued: false,
            has_gap: false,
            lost: None,
            removed_up_to: 0,
            busy: None,
        });
        self.keys.insert(destination.clone(), index);
        self.schedule_check(index, now);
        index
    }

    /// Begins a timeline that only patterns want, with what has just come.
    fn begin_loose(
        &mut self,
        channel: &Channel,
        publications: &[Arc<Publication>],
        history: History,
        now: Now,
    ) {
        let index = self.begin(channel, &publications[0].destination, history, now);
        self.all[index].last = publications.last().and_then(|last| last.position);
        self.loosen(index);
    }

    fn loosen(&mut self, index: usize) {
        self.uses += 1;
        let timeline = &mut self.all[index];
        if timeline.loose.replace(self.uses).is_none() {
            self.loose_count += 1;
        }
        if !std::mem::replace(&mut timeline.is_queued, true) {
            self.loose.push_back((index, timeline.serial, self.uses));
            if self.loose.len() > 2 * LOOSE_MAX {
                self.tidy_loose();
            }
        }
        while self.loose_count > LOOSE_MAX {
            let Some((index, serial, stamp)) = self.loose.pop_front() else { return };
            let timeline = self.all.get_mut(index);
            let Some(timeline) = timeline.filter(|timeline| timeline.serial == serial) else {
                continue;
            };
            match timeline.loose {
                None => timeline.is_queued = false,
                Some(used) if used == stamp => self.let_go(index),
                Some(used) => self.loose.push_back((index, serial, used)),
            }
        }
    }

    /// Forgets one that only patterns want. If it is just then looking for what it misses, that is
    /// lost to its subscribers, and what is held behind it is not.
    fn let_go(&mut self, index: usize) {
        let timeline = &self.all[index];
        if timeline.has_gap {
            let held = timeline.busy.as_ref().and_then(|busy| busy.held.last());
            let newest = held.and_then(|held| held.publication.position).or(timeline.last);
            if let Some(newest) = newest {
                let mut passed = Vec::new();
                self.lose(index, Lost::Unavailable, newest);
                self.release_held(index, &mut passed);
                self.deliver(index, passed);
            }
        }
        self.remove(index);
    }

    /// Ends the places of those that have gone or that somebody wants by name now: as long as there
    /// are not too many loose ones, nobody else comes across them.
    fn tidy_loose(&mut self) {
        let all = &mut self.all;
        self.loose.retain(|(index, serial, _)| match all.get_mut(*index) {
            Some(timeline) if timeline.serial == *serial => {
                timeline.is_queued = timeline.loose.is_some();
                timeline.is_queued
            }
            _ => false,
        });
    }

    fn remove(&mut self, index: usize) {
        let timeline = self.all.remove(index);
        self.keys.remove(&timeline.destination);
        self.loose_count -= usize::from(timeline.loose.is_some());
        debug_assert_eq!(timeline.joining(), 0, "who joins is subscribed");
    }

    /// Puts one publication where it belongs: behind `passed`, among those held, or nowhere.
    fn take_one(
        &mut self,
        index: usize,
        publication: &Arc<Publication>,
        passed: &mut Vec<Arc<Publication>>,
    ) {
        let timeline = &mut self.all[index];
        let Some(position) = publication.position else { return };
        match timeline.last {
            Some(last) if last.epoch == position.epoch && position.offset <= last.offset => {}
            Some(last) if last.epoch != position.epoch || position.offset != last.offset + 1 => {
                if !timeline.hold(publication) {
                    // A read that has begun may not have what was dropped.
                    timeline.fetch.again();
                }
                if !std::mem::replace(&mut timeline.has_gap, true) {
                    self.counts.gaps += 1;
                }
                self.want(index, false);
            }
            _ => {
                timeline.pass(publication);
                passed.push(Arc::clone(publication));
            }
        }
    }

    /// Delivers the held publications that follow now, and drops those that were delivered.
    fn release_held(&mut self, index: usize, passed: &mut Vec<Arc<Publication>>) {
        let Some(busy) = &mut self.all[index].busy else { return };
        let mut held = std::mem::take(&mut busy.held);
        busy.held_bytes = 0;
        held.sort_by_key(|held| held.publication.position.map(|position| position.offset));
        let timeline = &mut self.all[index];
        for Held { publication, is_fresh } in held {
            let (Some(position), Some(last)) = (publication.position, timeline.last) else {
                continue;
            };
            if last.epoch == position.epoch && position.offset == last.offset + 1 {
                timeline.pass(&publication);
                passed.push(publication);
            } else if last.epoch != position.epoch || position.offset > last.offset {
                timeline.hold_as(&publication, is_fresh);
            }
        }
    }

    /// Sends `passed` to the live ones.
    fn deliver(&mut self, index: usize, passed: Vec<Arc<Publication>>) {
        if passed.is_empty() {
            return;
        }
        let timeline = &mut self.all[index];
        let (channel, lost) = (timeline.channel.clone(), timeline.lost.take());
        self.events.push_back(Event::Deliver { channel, publications: passed, lost });
    }

    /// Delivers what a page, read after `asked`, has beyond the timeline's end. Whether the
    /// timeline is as far as the page then.
    fn feed(
        &mut self,
        index: usize,
        asked: Option<Position>,
        page: &HistoryPage,
        passed: &mut Vec<Arc<Publication>>,
    ) -> bool {
        let timeline = &mut self.all[index];
        let Some(last) = timeline.last else { return true };
        let reached = reached(asked, page);
        let is_last = |publication: &Arc<Publication>| publication.position == Some(last);
        let first = page.publications.first().and_then(|first| first.position);
        let precedes =
            |first: Position| first.epoch == last.epoch && first.offset == last.offset + 1;
        let begin = if asked == Some(last) || first.is_some_and(precedes) {
            0
        } else if let Some(at) = page.publications.iter().position(is_last) {
            at + 1
        } else {
            return last == reached || last.epoch == reached.epoch && reached.offset < last.offset;
        };
        for publication in &page.publications[begin..] {
            timeline.pass(publication);
            passed.push(Arc::clone(publication));
        }
        // The top's epoch may be newer than the newest publication.
        timeline.last = Some(reached);
        true
    }

    /// Goes on behind what was lost: before the publications that are held and lead up to `top`
    /// without a gap. They are to be released.
    fn lose(&mut self, index: usize, reason: Lost, top: Position) {
        let timeline = &mut self.all[index];
        let position = timeline.before_held(top);
        if timeline.last == Some(position) {
            // What was missing has come after all.
            return;
        }
        timeline.last = Some(position);
        timeline.lost = Some(reason);
        timeline.has_gap = false;
        if let Some(busy) = &mut timeline.busy {
            busy.kept.restart(Some(position));
        }
        self.counts.gaps_lost += 1;
        let (channel, destination) = (timeline.channel.clone(), timeline.destination.clone());
        self.events.push_back(Event::Lost { channel, destination, reason, position });
    }
}

impl Timeline {
    /// Where the timeline stands after `publications`, if they simply follow.
    fn after_run(&self, publications: &[Arc<Publication>]) -> Option<Position> {
        let mut last = self.last?;
        for publication in publications {
            let position = publication.position?;
            if position.epoch != last.epoch || position.offset != last.offset + 1 {
                return None;
            }
            last = position;
        }
        Some(last)
    }

    /// Notes that `publication` is delivered.
    fn pass(&mut self, publication: &Arc<Publication>) {
        self.last = publication.position;
        if let Some(busy) = &mut self.busy
            && busy.joining > 0
        {
            busy.kept.push(publication);
        }
    }

    /// Holds a publication; whether there was room. Without, none is held any more: the history
    /// has them all.
    fn hold(&mut self, publication: &Arc<Publication>) -> bool {
        let busy = self.busy.get_or_insert_default();
        if busy.held.len() >= HELD_MAX || busy.held_bytes >= HELD_MAX_BYTES {
            busy.held.clear();
            busy.held_bytes = 0;
            return false;
        }
        self.hold_as(publication, true);
        true
    }

    fn hold_as(&mut self, publication: &Arc<Publication>, is_fresh: bool) {
        let busy = self.busy.get_or_insert_default();
        busy.held_bytes += weight(publication);
        busy.held.push(Held { publication: Arc::clone(publication), is_fresh });
    }

    /// The position before the held publications that lead up to `top` without a gap; without
    /// such, that is `top`. What was delivered does not count, nor what is of another epoch: that
    /// can't be vouched for.
    fn before_held(&self, top: Position) -> Position {
        let delivered = self.last.filter(|last| last.epoch == top.epoch);
        let floor = delivered.map_or(0, |last| last.offset);
        let held = self.busy.as_ref().map_or(&[][..], |busy| &busy.held);
        let positions = held.iter().filter_map(|held| held.publication.position);
        let mut offsets: Vec<u64> = positions
            .filter(|position| position.epoch == top.epoch && position.offset > floor)
            .map(|position| position.offset)
            .collect();
        offsets.sort_unstable();
        let mut before = top;
        for offset in offsets.into_iter().rev() {
            if offset == before.offset {
                before.offset -= 1;
            }
        }
        before
    }

    fn has_held(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| !busy.held.is_empty())
    }

    fn joining(&self) -> u32 {
        self.busy.as_ref().map_or(0, |busy| busy.joining)
    }

    /// Gives back what a timeline at rest does not need.
    fn rest(&mut self) {
        let is_idle = |busy: &Busy| busy.joining == 0 && busy.held.is_empty();
        self.busy.take_if(|busy| is_idle(busy));
    }
}

/// Where a page ends. At the top that is the top itself, whose epoch may be newer than the newest
/// publication.
fn reached(asked: Option<Position>, page: &HistoryPage) -> Position {
    let newest = page.publications.last().and_then(|newest| newest.position).or(asked);
    newest.filter(|newest| newest.offset != page.top.offset).unwrap_or(page.top)
}

/// What a publication takes in memory, roughly.
fn weight(publication: &Publication) -> usize {
    publication.encoded_bytes()
}

/// Publications that may wait for a gap to be filled, per destination.
const HELD_MAX: usize = 256;
const HELD_MAX_BYTES: usize = 1 << 20;
/// Timelines of a worker that only patterns want.
const LOOSE_MAX: usize = 4096;
