//! When a history is removed, what was taken from it before is given to nobody any more.

use std::sync::Arc;

use fanlight_proto::{Destination, Position};

use super::{Timelines, weight};
use crate::history::{HistoryPage, Lost};
use crate::publication::Publication;

impl Timelines {
    /// The history of `destination` was removed up to `top`. Who is live goes on; who was still to
    /// be given some of it is told that it is lost.
    pub fn remove_history(&mut self, destination: &Destination, top: Position) {
        let Some(&index) = self.keys.get(destination) else { return };
        let timeline = &mut self.all[index];
        timeline.removed_up_to = timeline.removed_up_to.max(top.offset);
        let last = timeline.last;
        if let Some(busy) = &mut timeline.busy {
            busy.kept.restart(last.filter(|_| busy.joining > 0));
            busy.held.retain(|held| !is_up_to(&held.publication, top.offset));
            busy.held_bytes = busy.held.iter().map(|held| weight(&held.publication)).sum();
        }
        if last.is_some_and(|last| last.offset < top.offset) {
            // Some of it was missed, and can't be had any more.
            self.want(index, true);
        }
        self.wake_waiting(index, true);
    }

    /// A page without what was removed while it was read.
    pub(super) fn without_removed(
        &self,
        timeline: usize,
        asked: Option<Position>,
        mut page: HistoryPage,
    ) -> HistoryPage {
        let up_to = self.all[timeline].removed_up_to;
        let before = page.publications.len();
        page.publications.retain(|publication| !is_up_to(publication, up_to));
        if page.publications.len() < before && asked.is_some() {
            // What is left does not follow what was asked for.
            page.publications.clear();
            page.lost = Some(Lost::TooOld);
        }
        page
    }
}

fn is_up_to(publication: &Arc<Publication>, offset: u64) -> bool {
    publication.position.is_some_and(|position| position.offset <= offset)
}

#[cfg(test)]
mod tests {
    use super::super::{Event, JoinerKey, LastGive, Start};
    use super::*;
    use crate::broker::Channel;
    use crate::history::{History, removal};
    use crate::time::Now;

    const NOW: Now = Now { mono_ms: 0, unix_ms: 0 };
    const KEPT: History = History { size: 10, ttl_ms: 1000 };

    fn destination() -> Destination {
        "/topic/a".parse().unwrap()
    }

    fn at(offset: u64) -> Position {
        Position { epoch: 7, offset }
    }

    /// A publication like any other, for timelines.
    fn publication(offset: u64) -> Arc<Publication> {
        Arc::new(removal(destination(), Some(at(offset))))
    }

    fn page(offsets: impl Iterator<Item = u64>, top: u64) -> HistoryPage {
        HistoryPage { publications: offsets.map(publication).collect(), top: at(top), lost: None }
    }

    fn join(timelines: &mut Timelines, start: Start) -> JoinerKey {
        let channel = Channel::of_destination("/topic/a".into());
        timelines.join(&channel, &destination(), KEPT, start, false, NOW)
    }

    /// How many publications were given, and what whoever became live was told.
    fn told(timelines: &mut Timelines) -> (usize, Vec<Option<Result<(), Lost>>>) {
        let (mut given, mut live) = (0, Vec::new());
        while let Some(event) = timelines.next_event() {
            match event {
                Event::Give { publications, .. } => given += publications.len(),
                Event::Live { recovered, .. } => live.push(recovered.outcome),
                other => panic!("{other:?}"),
            }
        }
        (given, live)
    }

    #[test]
    fn what_a_read_has_found_before_the_removal_is_not_given() {
        for (start, outcome) in [
            (Start::After(at(1)), Err(Lost::TooOld)),
            (Start::After(at(3)), Ok(())),
            (Start::Newest(5), Ok(())),
        ] {
            let mut timelines = Timelines::new();
            join(&mut timelines, start);
            let (key, _) = timelines.next_read().unwrap();
            timelines.remove_history(&destination(), at(3));
            let first = if start == Start::After(at(3)) { 4 } else { 2 };
            timelines.on_read(key, Ok(page(first..=3, 3)), NOW);
            assert_eq!(told(&mut timelines), (0, vec![Some(outcome)]), "{start:?}");
        }
    }

    #[test]
    fn who_is_being_given_what_is_removed_is_told_that_it_is_lost() {
        let mut timelines = Timelines::with_last_give(LastGive { bytes: 0, publications: 0 });
        let joiner = join(&mut timelines, Start::After(at(1)));
        let (key, _) = timelines.next_read().unwrap();
        timelines.on_read(key, Ok(page(2..=3, 3)), NOW);
        assert_eq!(told(&mut timelines), (2, vec![]));
        timelines.withdraw(joiner);
        timelines.remove_history(&destination(), at(3));
        timelines.given(joiner);
        assert_eq!(told(&mut timelines), (0, vec![Some(Err(Lost::TooOld))]));
    }
}
