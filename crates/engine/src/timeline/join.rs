//! How a subscriber joins a timeline: it reads until what it has ends where the timeline stands.

use std::sync::Arc;

use fanlight_proto::{Destination, Position};

use super::{Event, Timelines, reached, weight};
use crate::broker::Channel;
use crate::history::{History, HistoryError, HistoryPage, Lost};
use crate::publication::Publication;
use crate::time::Now;

/// Names who joins, until it is live or has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JoinerKey {
    index: usize,
    serial: u64,
}

/// What a subscriber wants to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Only what comes.
    Now,
    /// The newest, at most so many.
    Newest(u32),
    /// What came after this position.
    After(Position),
    /// The same, and all of it: while the history can't be read, it waits for that, and is not live
    /// before.
    Resume(Position),
}

/// How a subscriber has become live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// It gets everything after this; `None` where the history could not be asked.
    pub position: Option<Position>,
    /// Where it wanted more than what comes: whether it was given all of that.
    pub outcome: Option<Result<(), Lost>>,
    /// How many publications it was given.
    pub count: u32,
}

/// How much may be given in the step that makes a joiner live: whether there is room for that is
/// not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastGive {
    /// Roughly, encoded.
    pub bytes: usize,
    /// How many.
    pub publications: usize,
}

/// Who joins.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) serial: u64,
    pub(super) timeline: usize,
    pub(super) progress: Progress,
    state: State,
    /// Whether it wants more than what comes.
    wants_more: bool,
    /// Whether it waits while the history can't be read.
    is_patient: bool,
    /// Whether its last page ended at the top.
    is_at_top: bool,
    lost: Option<Lost>,
    count: u32,
}

/// What a joiner has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Progress {
    /// Nothing, and it needs nothing.
    Anywhere,
    /// Nothing, and it needs the newest.
    Newest(u32),
    /// All it needs up to here.
    After(Position),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For a page.
    Reading,
    /// For [`Timelines::given`].
    Giving,
    /// For the timeline.
    Waiting,
}

/// What a joiner does next.
enum Step {
    Live,
    Give(Vec<Arc<Publication>>),
    Wait,
    Read,
}

impl Timelines {
    /// Begins to join; events say what comes of it. `is_degraded` says that the broker can't be
    /// asked: it becomes live without, unless it waits for the history.
    pub fn join(
        &mut self,
        channel: &Channel,
        destination: &Destination,
        history: History,
        start: Start,
        is_degraded: bool,
        now: Now,
    ) -> JoinerKey {
        let timeline = match self.keys.get(destination) {
            Some(&index) => index,
            None => self.begin(channel, destination, history, now),
        };
        if self.all[timeline].loose.take().is_some() {
            self.loose_count -= 1;
        }
        let begun = self.all[timeline].last;
        let busy = self.all[timeline].busy.get_or_insert_default();
        if busy.joining == 0 {
            busy.kept.restart(begun);
        }
        busy.joining += 1;
        self.next_serial += 1;
        let serial = self.next_serial;
        let index = self.joiners.insert(Joiner {
            serial,
            timeline,
            progress: match start {
                Start::Now => Progress::Anywhere,
                Start::Newest(limit) => Progress::Newest(limit),
                Start::After(position) | Start::Resume(position) => Progress::After(position),
            },
            state: State::Waiting,
            wants_more: start != Start::Now,
            is_patient: matches!(start, Start::Resume(_)),
            is_at_top: false,
            lost: None,
            count: 0,
        });
        if is_degraded {
            self.on_unreadable(index);
        } else {
            self.advance(index);
        }
        JoinerKey { index, serial }
    }

    /// What the joiner was given is on its way, and there is room for more.
    pub fn given(&mut self, joiner: JoinerKey) {
        if self.is_joiner(joiner.index, joiner.serial)
            && self.joiners[joiner.index].state == State::Giving
        {
            self.advance(joiner.index);
        }
    }

    /// Of what a joiner was given, some was taken back before it was sent. It goes on, and is told.
    pub fn withdraw(&mut self, joiner: JoinerKey) {
        if self.is_joiner(joiner.index, joiner.serial) {
            self.joiners[joiner.index].lost = Some(Lost::TooOld);
        }
    }

    /// The joiner has gone.
    pub fn cancel(&mut self, joiner: JoinerKey) {
        if self.is_joiner(joiner.index, joiner.serial) {
            self.end(joiner.index);
        }
    }

    pub(super) fn is_joiner(&self, index: usize, serial: u64) -> bool {
        self.joiners.get(index).is_some_and(|joiner| joiner.serial == serial)
    }

    /// Goes on with a joiner that waits for nothing.
    fn advance(&mut self, index: usize) {
        loop {
            match self.next_step(index) {
                Step::Live => return self.make_live(index),
                Step::Wait => {
                    let joiner = &mut self.joiners[index];
                    joiner.state = State::Waiting;
                    let timeline = joiner.timeline;
                    if let Some(busy) = &mut self.all[timeline].busy {
                        busy.waiting.push(index);
                    }
                    return self.want(timeline, false);
                }
                Step::Read => {
                    let joiner = &mut self.joiners[index];
                    joiner.state = State::Reading;
                    joiner.is_at_top = false;
                    return self.want_for_joiner(index);
                }
                Step::Give(publications) => {
                    let is_small = self.last_give.admits(&publications);
                    let timeline = &self.all[self.joiners[index].timeline];
                    if let Some(last) = timeline.last {
                        self.joiners[index].progress = Progress::After(last);
                    }
                    self.give(index, publications);
                    if !is_small {
                        return;
                    }
                }
            }
        }
    }

    fn next_step(&mut self, index: usize) -> Step {
        let joiner = &self.joiners[index];
        let timeline = &mut self.all[joiner.timeline];
        if let (Progress::After(position), Some(last)) = (joiner.progress, timeline.last)
            && position != last
            && let Some(rest) = timeline.busy.as_ref().and_then(|busy| busy.kept.after(position))
        {
            return Step::Give(rest);
        }
        match (joiner.progress, timeline.last) {
            (Progress::Anywhere, Some(_)) => Step::Live,
            (Progress::After(position), Some(last)) if position == last => Step::Live,
            (Progress::Anywhere, None) if joiner.lost.is_some() => Step::Live,
            (Progress::After(position), None) if joiner.is_at_top => {
                timeline.last = Some(position);
                if let Some(busy) = &mut timeline.busy {
                    busy.kept.restart(Some(position));
                }
                Step::Live
            }
            (Progress::After(_), Some(_)) if joiner.is_at_top => Step::Wait,
            (Progress::Anywhere, None) => Step::Wait,
            (Progress::After(_) | Progress::Newest(_), _) => Step::Read,
        }
    }

    fn give(&mut self, index: usize, publications: Vec<Arc<Publication>>) {
        if publications.is_empty() {
            return;
        }
        let joiner = &mut self.joiners[index];
        joiner.state = State::Giving;
        joiner.count += publications.len() as u32;
        let joiner = JoinerKey { index, serial: joiner.serial };
        self.events.push_back(Event::Give { joiner, publications });
    }

    fn make_live(&mut self, index: usize) {
        let joiner = &self.joiners[index];
        let position = self.all[joiner.timeline].last;
        if position.is_none() {
            self.want(joiner.timeline, false);
        }
        let joiner = &self.joiners[index];
        let recovered = Recovered {
            position,
            outcome: joiner.wants_more.then(|| joiner.lost.map_or(Ok(()), Err)),
            count: joiner.count,
        };
        let joiner = JoinerKey { index, serial: joiner.serial };
        self.events.push_back(Event::Live { joiner, recovered });
        self.end(index);
    }

    fn end(&mut self, index: usize) {
        let joiner = self.joiners.remove(index);
        let timeline = &mut self.all[joiner.timeline];
        if let Some(busy) = &mut timeline.busy {
            busy.joining -= 1;
            busy.waiting.retain(|&waiting| waiting != index);
            if busy.joining == 0 {
                busy.kept.restart(None);
            }
        }
        timeline.rest();
    }

    /// The joiner can't be given what it wanted: it becomes live where the timeline stands. What
    /// came meanwhile is not given, because that would come before it is told of the loss.
    fn lose_joiner(&mut self, index: usize, reason: Lost) {
        let joiner = &mut self.joiners[index];
        joiner.lost = Some(reason);
        joiner.progress = Progress::Anywhere;
        self.advance(index);
    }

    /// The history can't be read now. Who waits for it goes on with the timeline, which tries again.
    fn on_unreadable(&mut self, index: usize) {
        let joiner = &mut self.joiners[index];
        if !joiner.is_patient {
            return self.lose_joiner(index, Lost::Unavailable);
        }
        joiner.state = State::Waiting;
        joiner.is_at_top = false;
        let timeline = joiner.timeline;
        self.all[timeline].busy.get_or_insert_default().waiting.push(index);
        self.want(timeline, false);
    }

    pub(super) fn on_joiner_page(
        &mut self,
        index: usize,
        asked: Option<Position>,
        result: Result<HistoryPage, HistoryError>,
    ) {
        let page = match result {
            Ok(page) => page,
            Err(HistoryError::Unavailable) => return self.on_unreadable(index),
        };
        let timeline = self.joiners[index].timeline;
        if let Some(reason) = page.lost {
            match self.all[timeline].last {
                None => self.all[timeline].last = Some(page.top),
                Some(last) if last != page.top => self.want(timeline, false),
                Some(_) => {}
            }
            return self.lose_joiner(index, reason);
        }
        let reached = reached(asked, &page);
        let is_small = self.last_give.admits(&page.publications);
        let mut passed = Vec::new();
        let is_as_far = self.feed(timeline, asked, &page, &mut passed);
        let is_empty = page.publications.is_empty();
        self.give(index, page.publications);
        let joiner = &mut self.joiners[index];
        joiner.progress = Progress::After(reached);
        joiner.is_at_top = reached == page.top;
        let goes_on = is_empty || joiner.is_at_top && is_small;
        if is_empty && !joiner.is_at_top {
            // A broker that has more and gives nothing.
            return self.lose_joiner(index, Lost::Unavailable);
        }
        self.release_held(timeline, &mut passed);
        self.deliver(timeline, passed);
        if !is_as_far {
            self.want(timeline, false);
        }
        if goes_on {
            self.advance(index);
        }
        self.wake_waiting(timeline, false);
    }

    /// The timeline has moved, or has read all there is: goes on with those who wait for that.
    pub(super) fn wake_waiting(&mut self, timeline: usize, has_read: bool) {
        let Some(busy) = &mut self.all[timeline].busy else { return };
        for index in std::mem::take(&mut busy.waiting) {
            if has_read {
                self.joiners[index].is_at_top = false;
            }
            self.advance(index);
        }
    }

    /// The history can't be read: who waits for the timeline to come further, and no longer than
    /// that, becomes live where it stands, and is told.
    pub(super) fn give_up_waiting(&mut self, timeline: usize) {
        let Some(busy) = &mut self.all[timeline].busy else { return };
        let joiners = &self.joiners;
        let hasty = busy.waiting.extract_if(.., |index| !joiners[*index].is_patient);
        for index in hasty.collect::<Vec<_>>() {
            self.lose_joiner(index, Lost::Unavailable);
        }
    }
}

impl LastGive {
    fn admits(self, publications: &[Arc<Publication>]) -> bool {
        let bytes: usize = publications.iter().map(|one| weight(one)).sum();
        bytes <= self.bytes && publications.len() <= self.publications
    }
}

impl Default for LastGive {
    fn default() -> Self {
        Self { bytes: 32 * 1024, publications: 256 }
    }
}
