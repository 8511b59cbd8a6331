//! When timelines are looked at, and when failed reads are made again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::{Destination, Position};
use uuid::Uuid;

use super::super::{Event, Offered, Start, Timelines};
use super::checks_per_tick;
use crate::broker::Channel;
use crate::history::{History, HistoryError, HistoryPage, HistoryQuery, HistoryRange};
use crate::publication::{ContentType, Publication, PublicationId};
use crate::time::Now;

const HISTORY: History = History { size: 12, ttl_ms: 60_000 };
const TOP: Position = Position { epoch: 1, offset: 7 };

/// Timelines that stand at [`TOP`], and a history that has no more.
struct World {
    timelines: Timelines,
    now: Now,
    /// When each was last read, whatever came of it.
    read_at_ms: HashMap<Destination, Vec<u64>>,
}

impl World {
    fn new(count: usize) -> Self {
        let now = Now { mono_ms: 0, unix_ms: 0 };
        let mut world = Self { timelines: Timelines::new(), now, read_at_ms: HashMap::new() };
        for n in 0..count {
            let (channel, name) = (channel(n), name(n));
            world.timelines.join(&channel, &name, HISTORY, Start::Now, false, now);
            world.answer(|query| {
                // At first each asks where it stands.
                assert_eq!((query.range, query.limit), (HistoryRange::Newest, 0));
                true
            });
        }
        while world.timelines.next_event().is_some() {}
        world
    }

    /// Answers every read, or has it fail; the number of reads.
    fn answer(&mut self, mut succeeds: impl FnMut(&HistoryQuery) -> bool) -> usize {
        let mut reads = 0;
        while let Some((key, query)) = self.timelines.next_read() {
            reads += 1;
            let page = HistoryPage { publications: Vec::new(), top: TOP, lost: None };
            let result = if succeeds(&query) { Ok(page) } else { Err(HistoryError::Unavailable) };
            self.read_at_ms.entry(query.destination).or_default().push(self.now.mono_ms);
            self.timelines.on_read(key, result, self.now);
        }
        reads
    }

    fn tick(&mut self) {
        self.now.mono_ms += 100;
        self.timelines.on_tick(self.now);
    }

    /// The times between two reads of one timeline.
    fn intervals(&self) -> impl Iterator<Item = u64> {
        self.read_at_ms.values().flat_map(|times| times.windows(2).map(|two| two[1] - two[0]))
    }
}

fn name(n: usize) -> Destination {
    format!("/topic/{n}").parse().unwrap()
}

fn channel(n: usize) -> Channel {
    Channel::of_destination(name(n).to_shared())
}

fn publication(to: usize, offset: u64) -> Arc<Publication> {
    Arc::new(Publication {
        id: PublicationId(Uuid::from_u128(u128::from(offset))),
        destination: name(to),
        body: Bytes::from_static(b"x"),
        content_type: ContentType::Text,
        headers: [].into(),
        publisher: None,
        at_unix_ms: 0,
        position: Some(Position { offset, ..TOP }),
        only_for: None,
        except: None,
        is_json: false,
    })
}

#[test]
fn every_timeline_is_looked_at_in_its_time_and_not_too_many_at_once() {
    // So many, with all of them begun at once, that a fixed number a second would fall behind.
    for count in [100, 30_000] {
        let mut world = World::new(count);
        while world.now.mono_ms < 100_000 {
            world.tick();
            let reads = world.answer(|query| query.range == HistoryRange::After(TOP));
            assert!(reads <= checks_per_tick(count));
        }
        assert!(world.intervals().all(|ms| (25_000..=41_000).contains(&ms)));
        assert!(world.read_at_ms.values().all(|times| times.len() >= 3));
    }
}

#[test]
fn after_a_pause_all_are_looked_at_within_ten_seconds() {
    let mut world = World::new(10_000);
    world.now.mono_ms += 600_000;
    for _ in 0..100 {
        world.tick();
        world.answer(|_| true);
    }
    assert!(world.read_at_ms.values().all(|times| times.len() == 2));
}

#[test]
fn who_misses_something_is_tried_again_at_once_however_many_others_are_due() {
    let mut world = World::new(20_000);
    // All are overdue.
    world.now.mono_ms += 60_000;
    let offered = world.timelines.offer(&channel(0), &[publication(0, 9)], || None, world.now);
    assert_eq!(offered, Offered::Taken);
    assert_eq!(world.answer(|_| false), 1);
    let mut is_healed = false;
    for _ in 0..2 {
        world.tick();
        while let Some((key, query)) = world.timelines.next_read() {
            let page = if query.destination == name(0) {
                let publications = vec![publication(0, 8), publication(0, 9)];
                HistoryPage { publications, top: Position { offset: 9, ..TOP }, lost: None }
            } else {
                HistoryPage { publications: Vec::new(), top: TOP, lost: None }
            };
            world.timelines.on_read(key, Ok(page), world.now);
            is_healed |= matches!(world.timelines.next_event(), Some(Event::Deliver { .. }));
        }
    }
    assert!(is_healed);
}

#[test]
fn timelines_that_have_gone_take_nobodys_turn() {
    const COUNT: usize = 20_000;
    let mut world = World::new(COUNT);
    for n in 1..COUNT {
        world.timelines.vacate(&name(n), |_| false);
    }
    while world.now.mono_ms < 41_000 {
        world.tick();
        world.answer(|_| true);
    }
    assert_eq!(world.read_at_ms[&name(0)].len(), 2);
}

#[test]
fn while_the_history_cannot_be_read_only_those_who_miss_something_try_again() {
    let mut world = World::new(100);
    world.timelines.offer(&channel(0), &[publication(0, 9)], || None, world.now);
    world.timelines.suspect(&channel(1));
    while world.now.mono_ms < 200_000 {
        world.tick();
        world.answer(|_| false);
    }
    for (destination, times) in &world.read_at_ms {
        let is_missing = [name(0), name(1)].contains(destination);
        let expected = if is_missing { 40..=100 } else { 5..=9 };
        assert!(expected.contains(&times.len()), "{destination}: {}", times.len());
    }
}
