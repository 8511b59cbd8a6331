//! The destinations that are known, and which of them have work. No I/O and no clock.

use std::collections::{HashMap, VecDeque};

use fanlight_proto::{Destination, Position};

use super::step::{Known, Progress};
use crate::names::Partition;

/// The destinations that are known.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Destination, Entry>,
    /// By partition, for the polls.
    of: Vec<Vec<Destination>>,
    ready: VecDeque<Destination>,
    max: usize,
    passing_max: usize,
    passing: usize,
    behind: u64,
    /// Searches that have been completed.
    scans: u64,
}

#[derive(Debug)]
struct Entry {
    partition: Partition,
    /// Where it stands in `of`.
    index: usize,
    known: Known,
    /// The source's top when it was last read to its end.
    top: Option<Position>,
    behind: u64,
    work: Work,
    /// The searches that had been completed when it was last found.
    seen: u64,
    /// There was no room for it: it is forgotten as soon as it has nothing.
    passing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle,
    Ready,
    UnderWay {
        /// There has been news since.
        again: bool,
    },
    /// Something of it was refused: it waits for its time.
    Deferred,
}

impl Table {
    /// At most `max` destinations stay, and as many more pass through as are worked on at a time.
    pub(super) fn new(max: usize, passing_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            of: vec![Vec::new(); Partition::COUNT],
            ready: VecDeque::new(),
            max,
            passing_max,
            passing: 0,
            behind: 0,
            scans: 0,
        }
    }

    /// Whether another can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() - self.passing < self.max || self.passing < self.passing_max
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Publications that the source was seen to have and the target has not.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// Takes in what was found; false if there is no room.
    pub(super) fn found(&mut self, destination: Destination, partition: Partition) -> bool {
        if let Some(entry) = self.entries.get_mut(&destination) {
            entry.seen = self.scans;
            return true;
        }
        if !self.has_room() {
            return false;
        }
        let passing = self.entries.len() - self.passing >= self.max;
        self.passing += usize::from(passing);
        let of = &mut self.of[usize::from(partition.0)];
        let entry = Entry {
            partition,
            index: of.len(),
            known: Known::Nothing,
            top: None,
            behind: 0,
            work: Work::Ready,
            seen: self.scans,
            passing,
        };
        of.push(destination.clone());
        self.ready.push_back(destination.clone());
        self.entries.insert(destination, entry);
        true
    }

    /// There is news of a destination; false if it is not known.
    pub(super) fn mark(&mut self, destination: &Destination) -> bool {
        let Some(entry) = self.entries.get_mut(destination) else {
            return false;
        };
        match &mut entry.work {
            Work::Idle => {
                entry.work = Work::Ready;
                self.ready.push_back(destination.clone());
            }
            Work::UnderWay { again } => *again = true,
            Work::Ready | Work::Deferred => {}
        }
        true
    }

    /// A refused one may be tried again.
    pub(super) fn resume(&mut self, destination: &Destination) {
        if let Some(entry) = self.entries.get_mut(destination)
            && entry.work == Work::Deferred
        {
            entry.work = Work::Ready;
            self.ready.push_back(destination.clone());
        }
    }

    /// Whether any has work.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next that has work, which is under way then.
    pub(super) fn take_ready(&mut self) -> Option<(Destination, Known)> {
        while let Some(destination) = self.ready.pop_front() {
            if let Some(entry) = self.entries.get_mut(&destination) {
                entry.work = Work::UnderWay { again: false };
                return Some((destination, entry.known));
            }
        }
        None
    }

    /// A step has ended well.
    pub(super) fn advanced(
        &mut self,
        destination: &Destination,
        known: Known,
        top: Option<Position>,
        progress: Progress,
    ) {
        if progress == Progress::Gone {
            self.forget(destination);
            return;
        }
        self.note(destination, known, top);
        let Some(entry) = self.entries.get_mut(destination) else { return };
        let again = matches!(entry.work, Work::UnderWay { again: true });
        if progress == Progress::CaughtUp {
            entry.top = top;
        }
        if again || progress == Progress::More {
            entry.work = Work::Ready;
            self.ready.push_back(destination.clone());
        } else if entry.passing {
            self.forget(destination);
        } else {
            entry.work = Work::Idle;
        }
    }

    /// A step has failed and is to be done again.
    pub(super) fn failed(&mut self, destination: &Destination, top: Option<Position>) {
        self.note(destination, Known::Nothing, top);
        if let Some(entry) = self.entries.get_mut(destination) {
            entry.work = Work::Ready;
            self.ready.push_back(destination.clone());
        }
    }

    /// A step was refused, and is to be done again when `resume` says so.
    pub(super) fn deferred(&mut self, destination: &Destination, top: Option<Position>) {
        self.note(destination, Known::Nothing, top);
        if let Some(entry) = self.entries.get_mut(destination) {
            entry.work = Work::Deferred;
        }
    }

    fn note(&mut self, destination: &Destination, known: Known, top: Option<Position>) {
        let Some(entry) = self.entries.get_mut(destination) else { return };
        let behind = match (top, known) {
            (Some(top), Known::Position(at)) => {
                top.offset.saturating_sub(at.map_or(0, |at| at.offset))
            }
            // It is not known how much of it is there, but something was not.
            (Some(_), Known::Nothing) => entry.behind.max(1),
            (None, _) => entry.behind,
        };
        self.behind = self.behind - entry.behind + behind;
        entry.behind = behind;
        entry.known = known;
    }

    /// The target may have lost something: of each destination its position is asked for again.
    pub(super) fn doubt_all(&mut self) {
        let all: Vec<_> = self.entries.keys().cloned().collect();
        for destination in all {
            if let Some(entry) = self.entries.get_mut(&destination) {
                entry.known = Known::Nothing;
            }
            self.mark(&destination);
        }
    }

    /// A search has been completed: what neither it nor the one before has found is gone.
    pub(super) fn on_scanned(&mut self) {
        let scans = self.scans;
        self.scans += 1;
        let is_gone = |entry: &Entry| entry.work == Work::Idle && entry.seen + 1 < scans;
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_gone(entry))
            .map(|(destination, _)| destination.clone())
            .collect();
        for destination in &gone {
            self.forget(destination);
        }
    }

    /// It is not known any more; what is under way of it ends without effect here.
    pub(super) fn forget(&mut self, destination: &Destination) {
        let Some(entry) = self.entries.remove(destination) else { return };
        self.behind -= entry.behind;
        self.passing -= usize::from(entry.passing);
        let of = &mut self.of[usize::from(entry.partition.0)];
        of.swap_remove(entry.index);
        if let Some(moved) = of.get(entry.index)
            && let Some(moved) = self.entries.get_mut(moved)
        {
            moved.index = entry.index;
        }
    }

    /// A source that has nothing of this any more; not where it is being worked on.
    pub(super) fn gone(&mut self, destination: &Destination) {
        let is_idle = |entry: &Entry| entry.work == Work::Idle;
        if self.entries.get(destination).is_some_and(is_idle) {
            self.forget(destination);
        }
    }

    /// Up to `count` destinations of a partition, from an index on, each with its known top.
    pub(super) fn some_of(
        &self,
        partition: Partition,
        from: usize,
        count: usize,
    ) -> Vec<(Destination, Option<Position>)> {
        let of = self.of[usize::from(partition.0)].iter().skip(from).take(count);
        of.map(|destination| {
            let top = self.entries.get(destination).and_then(|entry| entry.top);
            (destination.clone(), top)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { epoch: 1, offset }
    }

    fn named(name: &str) -> Destination {
        format!("/topic/{name}").parse().unwrap()
    }

    fn taken(table: &mut Table) -> Vec<String> {
        std::iter::from_fn(|| table.take_ready()).map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn news_during_a_step_leads_to_another() {
        let mut table = Table::new(10, 1);
        let a = named("a");
        assert!(table.found(a.clone(), Partition(3)));
        assert_eq!(taken(&mut table), ["/topic/a"]);
        assert!(table.mark(&a) && table.mark(&a), "it is known");
        assert!(!table.has_ready(), "it is under way");
        let known = Known::Position(Some(at(5)));
        table.advanced(&a, known, Some(at(5)), Progress::CaughtUp);
        assert_eq!(table.take_ready(), Some((a.clone(), known)));
        table.advanced(&a, known, Some(at(5)), Progress::CaughtUp);
        assert!(!table.has_ready());
        assert_eq!(table.some_of(Partition(3), 0, 9), [(a, Some(at(5)))]);
    }

    #[test]
    fn what_is_behind_is_the_sum_over_all_and_goes_with_them() {
        let mut table = Table::new(10, 1);
        let (a, b) = (named("a"), named("b"));
        for destination in [&a, &b] {
            table.found(destination.clone(), Partition(0));
        }
        taken(&mut table);
        table.advanced(&a, Known::Position(Some(at(2))), Some(at(5)), Progress::More);
        table.failed(&b, Some(at(7)));
        assert_eq!(table.behind(), 3 + 1);
        taken(&mut table);
        table.advanced(&a, Known::Position(Some(at(5))), Some(at(5)), Progress::CaughtUp);
        assert_eq!(table.behind(), 1);
        table.advanced(&b, Known::Nothing, None, Progress::Gone);
        assert_eq!((table.behind(), table.len()), (0, 1));
    }

    #[test]
    fn where_the_table_is_full_destinations_pass_through_it() {
        let mut table = Table::new(1, 1);
        let (a, b, c) = (named("a"), named("b"), named("c"));
        assert!(table.found(a.clone(), Partition(0)) && table.found(b.clone(), Partition(0)));
        assert!(!table.found(c.clone(), Partition(0)), "one stays and one passes");
        taken(&mut table);
        let known = Known::Position(Some(at(1)));
        table.advanced(&b, known, Some(at(1)), Progress::CaughtUp);
        assert!(!table.mark(&b), "it is forgotten");
        assert!(table.found(c, Partition(0)));
        table.advanced(&a, known, Some(at(1)), Progress::CaughtUp);
        assert!(table.mark(&a), "it stays");
    }

    #[test]
    fn what_two_searches_do_not_find_is_forgotten_unless_it_has_work() {
        let mut table = Table::new(10, 1);
        let all = ["a", "b", "c"].map(named);
        for destination in &all {
            table.found(destination.clone(), Partition(7));
        }
        taken(&mut table);
        let known = Known::Position(Some(at(1)));
        for destination in &all[..2] {
            table.advanced(destination, known, Some(at(1)), Progress::CaughtUp);
        }
        for _ in 0..3 {
            table.on_scanned();
            table.found(all[1].clone(), Partition(7));
        }
        assert_eq!(table.len(), 2, "the first was not found, the last is under way");
        assert_eq!(table.some_of(Partition(7), 0, 9).len(), 2);
        assert!(table.mark(&all[1]) && table.mark(&all[2]) && !table.mark(&all[0]));
    }

    #[test]
    fn a_refused_destination_waits_until_it_is_resumed() {
        let mut table = Table::new(10, 1);
        let a = named("a");
        table.found(a.clone(), Partition(0));
        taken(&mut table);
        table.deferred(&a, None);
        assert!(table.mark(&a) && !table.has_ready());
        table.resume(&a);
        assert_eq!(table.take_ready(), Some((a, Known::Nothing)));
    }
}
