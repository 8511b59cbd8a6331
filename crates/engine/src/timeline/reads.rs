//! Which histories are read, and when: a few at a time, again after failures, and now and then to
//! find out whether the newest publications were missed without a trace.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use fanlight_proto::{Destination, Position};

use super::join::Progress;
use super::{Timeline, Timelines, reached};
use crate::broker::Channel;
use crate::history::{HistoryError, HistoryPage, HistoryQuery, HistoryRange};
use crate::publication::Publication;
use crate::time::Now;

/// Names a read that is under way.
#[derive(Debug)]
pub struct ReadKey {
    want: Want,
    /// After which position.
    pub(super) asked: Option<Position>,
}

/// The reads of a worker: those that wait, and when to look at which timeline.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Those of joiners, then those of timelines.
    queues: [VecDeque<Want>; 2],
    /// Whose turn it is.
    turn: usize,
    under_way: usize,
    /// When to look at which timeline.
    checks: Due,
    /// When to try again: apart, so that who is known to miss something does not wait for those
    /// who probably miss nothing.
    retries: Due,
}

/// Timelines by time, with their serials. One counts only as long as it is the timeline's newest.
type Due = BinaryHeap<Reverse<(u64, usize, u64)>>;

/// Who wants a read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    Joiner { index: usize, serial: u64 },
    Timeline { index: usize, serial: u64 },
}

/// How far a timeline's own read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    Idle,
    /// In the queue.
    Wanted {
        is_check: bool,
    },
    Running {
        /// Whether to read once more after it.
        again: bool,
        /// Whether it is only the timeline's turn, and nothing is known to be missing.
        is_check: bool,
    },
    /// It failed; to be tried again when it is due.
    Failed,
}

impl Fetch {
    /// Has a read that is under way followed by another.
    pub(super) fn again(&mut self) {
        if let Self::Running { again, .. } = self {
            *again = true;
        }
    }
}

impl Timelines {
    /// The next read to be made, if one may begin now; to be answered by [`Timelines::on_read`].
    pub fn next_read(&mut self) -> Option<(ReadKey, HistoryQuery)> {
        while self.reads.under_way < READS_MAX {
            let turn = self.reads.turn;
            self.reads.turn = 1 - turn;
            let [joiners, timelines] = &mut self.reads.queues;
            let (first, second) =
                if turn == 0 { (joiners, timelines) } else { (timelines, joiners) };
            let want = first.pop_front().or_else(|| second.pop_front())?;
            if let Some(query) = self.query(want) {
                let asked = match query.range {
                    HistoryRange::After(position) => Some(position),
                    HistoryRange::Newest => None,
                };
                self.reads.under_way += 1;
                return Some((ReadKey { want, asked }, query));
            }
        }
        None
    }

    /// Takes the answer to a read.
    #[expect(clippy::needless_pass_by_value, reason = "a read is answered once")]
    pub fn on_read(&mut self, key: ReadKey, result: Result<HistoryPage, HistoryError>, now: Now) {
        let ReadKey { want, asked } = key;
        self.reads.under_way -= 1;
        match (want, result) {
            (Want::Joiner { index, serial }, result) if self.is_joiner(index, serial) => {
                let timeline = self.joiners[index].timeline;
                let result = result.map(|page| self.without_removed(timeline, asked, page));
                self.on_joiner_page(index, asked, result);
            }
            (Want::Timeline { index, serial }, result) if self.is_timeline(index, serial) => {
                match result {
                    Ok(page) => {
                        let page = self.without_removed(index, asked, page);
                        self.on_page(index, asked, &page, now);
                    }
                    Err(HistoryError::Unavailable) => self.on_failed(index, now),
                }
            }
            // Nobody waits for it any more.
            _ => {}
        }
    }

    /// Publications of this channel may have been missed.
    pub fn suspect(&mut self, channel: &Channel) {
        let destination = channel.as_str().parse::<Destination>().ok();
        if let Some(destination) = destination {
            if let Some(&index) = self.keys.get(&destination) {
                self.want(index, true);
            }
            return;
        }
        self.suspect_those(|timeline| timeline.channel == *channel);
    }

    /// Publications of any channel may have been missed.
    pub fn suspect_all(&mut self) {
        self.suspect_those(|_| true);
    }

    /// Goes by index, not by the map's order, so that a seed replays a run.
    fn suspect_those(&mut self, is_meant: impl Fn(&Timeline) -> bool) {
        let is_meant = |(_, timeline): &(usize, &Timeline)| is_meant(timeline);
        let indices: Vec<usize> =
            self.all.iter().filter(is_meant).map(|(index, _)| index).collect();
        for index in indices {
            self.want(index, true);
        }
    }

    /// Looks after time: ten times a second.
    pub fn on_tick(&mut self, now: Now) {
        while let Some(index) = self.next_due(|reads| &mut reads.retries, now) {
            self.look(index, now);
        }
        for _ in 0..checks_per_tick(self.all.len()) {
            let Some(index) = self.next_due(|reads| &mut reads.checks, now) else { return };
            self.look(index, now);
        }
    }

    /// Takes the next timeline whose time has come.
    fn next_due(&mut self, of: fn(&mut Reads) -> &mut Due, now: Now) -> Option<usize> {
        loop {
            let due = of(&mut self.reads);
            let Reverse((due_ms, index, serial)) =
                *due.peek().filter(|Reverse((due_ms, ..))| *due_ms <= now.mono_ms)?;
            due.pop();
            if self.is_timeline(index, serial) && self.all[index].due_ms == due_ms {
                return Some(index);
            }
        }
    }

    fn look(&mut self, index: usize, now: Now) {
        let timeline = &mut self.all[index];
        let is_check = timeline.fetch == Fetch::Idle;
        if is_check || timeline.fetch == Fetch::Failed {
            timeline.fetch = Fetch::Wanted { is_check };
            let serial = timeline.serial;
            self.reads.queues[1].push_back(Want::Timeline { index, serial });
        }
        self.schedule_check(index, now);
    }

    /// Has the timeline read what is behind its end. One whose reads fail waits for its turn,
    /// unless there is `news` of the broker.
    pub(super) fn want(&mut self, index: usize, news: bool) {
        let timeline = &mut self.all[index];
        match &mut timeline.fetch {
            Fetch::Running { again, is_check } => {
                *again |= news;
                *is_check = false;
            }
            Fetch::Failed if !news => {}
            Fetch::Wanted { is_check } => *is_check = false,
            Fetch::Idle | Fetch::Failed => {
                timeline.fetch = Fetch::Wanted { is_check: false };
                let serial = timeline.serial;
                self.reads.queues[1].push_back(Want::Timeline { index, serial });
            }
        }
    }

    pub(super) fn want_for_joiner(&mut self, index: usize) {
        let serial = self.joiners[index].serial;
        self.reads.queues[0].push_back(Want::Joiner { index, serial });
    }

    pub(super) fn schedule_check(&mut self, index: usize, now: Now) {
        let due_ms = now.mono_ms + CHECK_AFTER_MS + self.spread(CHECK_SPREAD_MS);
        let entry = self.due_at(index, due_ms);
        self.reads.checks.push(entry);
    }

    fn due_at(&mut self, index: usize, due_ms: u64) -> Reverse<(u64, usize, u64)> {
        let timeline = &mut self.all[index];
        timeline.due_ms = due_ms;
        Reverse((due_ms, index, timeline.serial))
    }

    /// Something below `range` that differs from call to call.
    fn spread(&mut self, range: u64) -> u64 {
        self.uses += 1;
        (self.uses.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % range
    }

    pub(super) fn is_timeline(&self, index: usize, serial: u64) -> bool {
        self.all.get(index).is_some_and(|timeline| timeline.serial == serial)
    }

    fn query(&mut self, want: Want) -> Option<HistoryQuery> {
        let (index, range, limit) = match want {
            Want::Joiner { index, serial } if self.is_joiner(index, serial) => {
                let joiner = &self.joiners[index];
                let (range, limit) = joiner.progress.wanted()?;
                (joiner.timeline, range, limit)
            }
            Want::Timeline { index, serial } if self.is_timeline(index, serial) => {
                let timeline = &mut self.all[index];
                let Fetch::Wanted { is_check } = timeline.fetch else { return None };
                timeline.fetch = Fetch::Running { again: false, is_check };
                if let Some(busy) = &mut timeline.busy {
                    busy.held.iter_mut().for_each(|held| held.is_fresh = false);
                }
                match timeline.last {
                    Some(last) => (index, HistoryRange::After(last), PAGE),
                    None => (index, HistoryRange::Newest, 0),
                }
            }
            _ => return None,
        };
        let timeline = &self.all[index];
        Some(HistoryQuery {
            channel: timeline.channel.clone(),
            destination: timeline.destination.clone(),
            history: timeline.history,
            range,
            limit,
        })
    }

    /// A timeline's own read has an answer.
    fn on_page(&mut self, index: usize, asked: Option<Position>, page: &HistoryPage, now: Now) {
        let timeline = &mut self.all[index];
        let Fetch::Running { mut again, is_check } = timeline.fetch else { return };
        timeline.fetch = Fetch::Idle;
        timeline.failures = 0;
        let before = timeline.last;
        let mut passed: Vec<Arc<Publication>> = Vec::new();
        let mut is_as_far = true;
        match (page.lost, asked) {
            // Of where it stands now, this says nothing.
            (Some(_), asked) if asked != before => (again, is_as_far) = (true, false),
            (Some(reason), _) => self.lose(index, reason, page.top),
            (None, None) => {
                timeline.last.get_or_insert(page.top);
            }
            (None, asked) => is_as_far = self.feed(index, asked, page, &mut passed),
        }
        let is_at_top = match page.lost {
            Some(_) => is_as_far,
            None => asked.is_none() || reached(asked, page) == page.top,
        };
        self.count_found(index, &passed, is_check, now);
        self.release_held(index, &mut passed);
        let timeline = &mut self.all[index];
        if is_at_top && let Some(busy) = &mut timeline.busy {
            // What came before the read began and is not in the history is nobody's.
            busy.held.retain(|held| held.is_fresh);
        }
        let is_done = is_at_top && is_as_far && !timeline.has_held();
        if is_done && std::mem::take(&mut timeline.has_gap) {
            self.counts.gaps_healed += 1;
        }
        let has_moved = timeline.last != before;
        timeline.rest();
        self.deliver(index, passed);
        self.wake_waiting(index, true);
        if again || !is_done {
            if has_moved || again {
                self.want(index, false);
            } else {
                self.retry_later(index, now);
            }
        }
    }

    /// Counts what a read found where nothing was known to be missing. What is very new may just
    /// have overtaken its own delivery.
    fn count_found(&mut self, index: usize, found: &[Arc<Publication>], is_check: bool, now: Now) {
        let is_old = |found: &Arc<Publication>| found.at_unix_ms + OVERTAKING_MS < now.unix_ms;
        if !self.all[index].has_gap && found.first().is_some_and(|first| !is_check || is_old(first))
        {
            self.counts.gaps += 1;
            self.counts.gaps_healed += 1;
        }
    }

    fn on_failed(&mut self, index: usize, now: Now) {
        let timeline = &mut self.all[index];
        match timeline.fetch {
            // Nothing is known to be missing: so it keeps its turn, and an outage does not have
            // all that are at rest tried again and again.
            Fetch::Running { is_check: true, again: false } if timeline.last.is_some() => {
                timeline.fetch = Fetch::Idle;
            }
            _ => self.retry_later(index, now),
        }
        self.give_up_waiting(index);
    }

    fn retry_later(&mut self, index: usize, now: Now) {
        let timeline = &mut self.all[index];
        timeline.fetch = Fetch::Failed;
        let wait_ms = (RETRY_FIRST_MS << timeline.failures.min(10)).min(RETRY_MAX_MS);
        timeline.failures = timeline.failures.saturating_add(1);
        let due_ms = now.mono_ms + wait_ms / 2 + self.spread(wait_ms);
        let entry = self.due_at(index, due_ms);
        self.reads.retries.push(entry);
    }
}

impl Progress {
    /// What is to be read next.
    fn wanted(&self) -> Option<(HistoryRange, u32)> {
        match *self {
            Self::Anywhere => None,
            Self::Newest(limit) => Some((HistoryRange::Newest, limit)),
            Self::After(position) => Some((HistoryRange::After(position), PAGE)),
        }
    }
}

/// Publications per read: what one joining session may make the worker hold.
pub(super) const PAGE: u32 = 64;
/// Reads of a worker that are under way at the same time.
const READS_MAX: usize = 64;
/// A silent timeline is looked at this often.
const CHECK_AFTER_MS: u64 = 25_000;
const CHECK_SPREAD_MS: u64 = 15_000;
/// Timelines looked at in a tick. Every one has its turn within 10 s of its time, also where all
/// of them come at once.
pub(super) fn checks_per_tick(timelines: usize) -> usize {
    CHECKS_PER_TICK.max(timelines / CHECK_TICKS)
}

const CHECKS_PER_TICK: usize = 20;
const CHECK_TICKS: usize = 100;
const RETRY_FIRST_MS: u64 = 100;
const RETRY_MAX_MS: u64 = 5_000;
/// A publication that is older than this and was not delivered was missed.
const OVERTAKING_MS: u64 = 1_000;

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
