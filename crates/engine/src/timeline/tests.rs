//! Timelines against an oracle: whatever is dropped, doubled, delayed or lost, every subscriber
//! gets consecutive publications from its join on, or is told of a loss.

use std::collections::HashSet;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::history::{HistoryError, HistoryPage, HistoryQuery, HistoryRange};
use crate::publication::{ContentType, PublicationId};

const HISTORY: History = History { size: 12, ttl_ms: 60_000 };

fn destination() -> Destination {
    "/topic/a".parse().unwrap()
}

fn channel() -> Channel {
    Channel::of_destination("/topic/a".into())
}

fn publication(id: u128, position: Position, bytes: usize) -> Arc<Publication> {
    Arc::new(Publication {
        id: PublicationId(Uuid::from_u128(id)),
        destination: destination(),
        body: Bytes::from(vec![b'x'; bytes]),
        content_type: ContentType::Text,
        headers: [].into(),
        publisher: None,
        at_unix_ms: 0,
        position: Some(position),
        only_for: None,
        except: None,
        is_json: false,
    })
}

/// A history that may fail over and forget.
#[derive(Default)]
struct Log {
    /// Each epoch with the offset up to which the next one agrees with it; of the last, nothing.
    epochs: Vec<(u64, u64)>,
    kept: Vec<Arc<Publication>>,
    top: u64,
    published: u128,
}

impl Log {
    fn epoch(&self) -> u64 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    fn top(&self) -> Position {
        Position { epoch: self.epoch(), offset: self.top }
    }

    fn publish(&mut self, bytes: usize) -> Arc<Publication> {
        self.published += 1;
        self.top += 1;
        let publication = publication(self.published, self.top(), bytes);
        self.kept.push(Arc::clone(&publication));
        if self.kept.len() > HISTORY.size as usize {
            self.kept.remove(0);
        }
        publication
    }

    /// Another master goes on, without the newest `lost`.
    fn fail_over(&mut self, lost: u64) {
        let lost = lost.min(self.kept.len() as u64);
        self.kept.truncate(self.kept.len() - lost as usize);
        self.top -= lost;
        let fork = self.top;
        for (_, agreed) in &mut self.epochs {
            *agreed = fork.min(*agreed);
        }
        let next = self.epoch() + 1;
        self.epochs.push((next, u64::MAX));
    }

    /// All is gone.
    fn wipe(&mut self) {
        let next = self.epoch() + 1;
        *self =
            Self { epochs: vec![(next, u64::MAX)], published: self.published, ..Self::default() };
    }

    fn read(&self, query: &HistoryQuery) -> HistoryPage {
        let top = self.top();
        let lost = |reason| HistoryPage { publications: Vec::new(), top, lost: Some(reason) };
        let limit = query.limit as usize;
        let skip = match query.range {
            HistoryRange::Newest => self.kept.len().saturating_sub(limit),
            HistoryRange::After(after) => {
                let agreed = self.epochs.iter().find(|(epoch, _)| *epoch == after.epoch);
                let is_good = agreed.is_some_and(|(_, agreed)| after.offset <= *agreed);
                if !is_good || after.offset > self.top {
                    return lost(Lost::EpochChanged);
                }
                let behind = (self.top - after.offset) as usize;
                if behind > self.kept.len() {
                    return lost(Lost::TooOld);
                }
                self.kept.len() - behind
            }
        };
        let publications = self.kept.iter().skip(skip).take(limit).cloned().collect();
        HistoryPage { publications, top, lost: None }
    }

    /// What has this offset now, as far as it is kept.
    fn at(&self, offset: u64) -> Option<&Arc<Publication>> {
        let behind = usize::try_from(self.top.checked_sub(offset)?).ok()?;
        self.kept.len().checked_sub(behind + 1).map(|at| &self.kept[at])
    }
}

/// A subscriber, as it sees things.
#[derive(Debug)]
struct Member {
    joiner: JoinerKey,
    start: Start,
    is_live: bool,
    /// Everything up to here it has, or was told that it is lost.
    position: Option<Position>,
    /// What it got since then, and since it last was told of a loss.
    got: Vec<Arc<Publication>>,
    /// All that it got while it was live.
    seen: HashSet<PublicationId>,
}

impl Member {
    fn take(&mut self, publications: &[Arc<Publication>]) {
        for publication in publications {
            let position = publication.position.unwrap();
            if self.is_live
                && let Some(last) = self.position
            {
                assert_eq!(position.offset, last.offset + 1, "after {last} in {self:?}");
            }
            let is_new = !self.is_live || self.seen.insert(publication.id);
            assert!(is_new, "{position} came twice to {self:?}");
            self.position = Some(position);
            self.got.push(Arc::clone(publication));
        }
    }
}

/// The timelines, a history, and what is under way between them.
struct World {
    timelines: Timelines,
    log: Log,
    /// Published, not arrived.
    wire: VecDeque<Arc<Publication>>,
    reads: VecDeque<(ReadKey, HistoryQuery, Option<HistoryPage>)>,
    members: Vec<Member>,
    giving: Vec<JoinerKey>,
    now: Now,
}

impl World {
    fn new() -> Self {
        let mut log = Log::default();
        log.wipe();
        Self {
            timelines: Timelines::new(),
            log,
            wire: VecDeque::new(),
            reads: VecDeque::new(),
            members: Vec::new(),
            giving: Vec::new(),
            now: Now { mono_ms: 0, unix_ms: 1_000_000 },
        }
    }

    fn step(&mut self, what: u8, how: u8) {
        match what % 16 {
            0..=3 => {
                let publication = self.log.publish(usize::from(how) * 100);
                self.wire.push_back(publication);
            }
            4..=6 => self.arrive(usize::from(how % 4) + 1),
            // Missed on the way; or it comes once more.
            7 => drop(self.wire.pop_front()),
            8 => self.wire.extend(self.wire.front().cloned()),
            9 => match how % 8 {
                0 => self.log.wipe(),
                // Its time is over; the top stays.
                4 => self.log.kept.clear(),
                how => self.log.fail_over(u64::from(how % 4)),
            },
            10 => self.join(how),
            11 => self.leave(usize::from(how)),
            12 => self.answer(usize::from(how), how.is_multiple_of(5)),
            13 => self.serve_reads(),
            14 => self.give(usize::from(how)),
            _ if how.is_multiple_of(2) => self.timelines.suspect(&channel()),
            _ => self.pass(u64::from(how) * 100),
        }
        self.follow();
    }

    fn arrive(&mut self, count: usize) {
        let count = count.min(self.wire.len());
        let run: Vec<_> = self.wire.drain(..count).collect();
        if self.timelines.offer(&channel(), &run, || None, self.now) == Offered::Next {
            self.members.iter_mut().filter(|member| member.is_live).for_each(|one| one.take(&run));
        }
    }

    fn join(&mut self, how: u8) {
        let top = self.log.top();
        let start = match how % 6 {
            0 => Start::Now,
            1 => Start::Newest(u32::from(how / 6)),
            _ => {
                // One that somebody was told, or one of this history.
                let known: Vec<_> = self.members.iter().filter_map(|one| one.position).collect();
                let known = known.get(usize::from(how) % known.len().max(1)).copied();
                let back = u64::from(how / 8 % 16);
                let recent = Position { offset: top.offset.saturating_sub(back), ..top };
                let position = known.filter(|_| how.is_multiple_of(2)).unwrap_or(recent);
                if how.is_multiple_of(3) { Start::Resume(position) } else { Start::After(position) }
            }
        };
        let is_degraded = how == 255;
        let joiner =
            self.timelines.join(&channel(), &destination(), HISTORY, start, is_degraded, self.now);
        let position = match start {
            Start::After(position) | Start::Resume(position) => Some(position),
            _ => None,
        };
        let got = Vec::new();
        let seen = HashSet::new();
        let member = Member { joiner, start, is_live: false, position, got, seen };
        self.members.push(member);
        self.follow();
    }

    fn leave(&mut self, which: usize) {
        if self.members.is_empty() {
            return;
        }
        let member = self.members.swap_remove(which % self.members.len());
        if !member.is_live {
            self.timelines.cancel(member.joiner);
            self.giving.retain(|giving| *giving != member.joiner);
        }
        if self.members.is_empty() {
            self.timelines.vacate(&destination(), |_| false);
            assert!(self.timelines.is_empty());
        }
    }

    /// Answers one read; what it says may be older than the answer.
    fn answer(&mut self, which: usize, fails: bool) {
        if self.reads.is_empty() {
            return;
        }
        let at = which % self.reads.len();
        let Some((key, query, page)) = self.reads.remove(at) else { return };
        let page = page.unwrap_or_else(|| self.log.read(&query));
        let answer = if fails { Err(HistoryError::Unavailable) } else { Ok(page) };
        self.timelines.on_read(key, answer, self.now);
    }

    fn serve_reads(&mut self) {
        for (_, query, page) in &mut self.reads {
            page.get_or_insert_with(|| self.log.read(query));
        }
    }

    fn give(&mut self, which: usize) {
        if !self.giving.is_empty() {
            let joiner = self.giving.swap_remove(which % self.giving.len());
            self.timelines.given(joiner);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.timelines.on_tick(self.now);
    }

    /// Does what the timelines want.
    fn follow(&mut self) {
        while let Some(event) = self.timelines.next_event() {
            match event {
                Event::Deliver { publications, .. } => {
                    assert!(!publications.is_empty());
                    for member in self.members.iter_mut().filter(|member| member.is_live) {
                        member.take(&publications);
                    }
                }
                Event::Lost { position, .. } => {
                    for member in self.members.iter_mut().filter(|member| member.is_live) {
                        member.position = Some(position);
                        member.got.clear();
                    }
                }
                Event::Give { joiner, publications } => {
                    assert!(!publications.is_empty());
                    let Some(member) = self.member(joiner) else { panic!("given to nobody") };
                    assert!(!member.is_live);
                    // Who turns out to have lost something may have a gap in what it was given.
                    member.take(&publications);
                    self.giving.push(joiner);
                }
                Event::Live { joiner, recovered } => {
                    self.giving.retain(|giving| *giving != joiner);
                    let Some(member) = self.member(joiner) else { panic!("nobody is live") };
                    assert!(!member.is_live);
                    member.is_live = true;
                    member.check_live(&recovered);
                }
            }
        }
        while let Some((key, query)) = self.timelines.next_read() {
            assert!(matches!(query.range, HistoryRange::Newest) || query.limit > 0);
            self.reads.push_back((key, query, None));
        }
    }

    fn member(&mut self, joiner: JoinerKey) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.joiner == joiner)
    }

    /// Lets everything arrive that is under way, and time pass until all was looked at.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.pass(1_000);
            self.arrive(self.wire.len());
            self.follow();
            for round in 0.. {
                assert!(round < 1_000, "it never comes to rest");
                if self.reads.is_empty() && self.giving.is_empty() {
                    break;
                }
                self.answer(0, false);
                self.follow();
                self.give(0);
                self.follow();
            }
        }
    }

    fn check(&self) {
        for member in &self.members {
            assert!(member.is_live, "{member:?}");
            let top = self.log.top();
            // Who became live without the history has no position before the first publication.
            let offset = member.position.map_or(top.offset, |position| position.offset);
            assert_eq!(offset, top.offset, "{member:?}");
            for got in &member.got {
                let offset = got.position.unwrap().offset;
                let now = self.log.at(offset);
                assert!(now.is_none_or(|now| now.id == got.id), "{offset} was lost: {member:?}");
            }
        }
        let timeline = self.timelines.all.iter().next().map(|(_, timeline)| timeline);
        assert!(timeline.is_none_or(|timeline| timeline.busy.is_none()), "{timeline:?}");
        assert!(self.timelines.joiners.is_empty());
    }
}

impl Member {
    fn check_live(&mut self, recovered: &Recovered) {
        let reached = (self.position, recovered.position);
        if recovered.outcome == Some(Ok(())) {
            let offsets: Vec<_> = self.got.iter().map(|got| got.position.unwrap().offset).collect();
            let first = match self.start {
                Start::After(position) | Start::Resume(position) => position.offset + 1,
                _ => offsets.first().copied().unwrap_or_default(),
            };
            let expected: Vec<_> = (first..).take(offsets.len()).collect();
            assert_eq!(offsets, expected, "{self:?}");
            assert_eq!(recovered.count as usize, offsets.len());
        }
        match (self.start, recovered.outcome) {
            (Start::After(_) | Start::Resume(_), Some(Ok(()))) => {
                let (Some(own), Some(told)) = reached else { panic!("no position: {self:?}") };
                assert_eq!(own.offset, told.offset, "{self:?}");
            }
            (Start::Newest(_), Some(Ok(()))) => {
                if let (Some(own), Some(told)) = reached {
                    assert_eq!(own.offset, told.offset, "{self:?}");
                }
            }
            (Start::Now, None) => assert_eq!(recovered.count, 0),
            (Start::After(_) | Start::Newest(_), Some(Err(_))) => self.got.clear(),
            (Start::Resume(_), Some(Err(reason))) => {
                assert_ne!(reason, Lost::Unavailable, "it waits for the history");
                self.got.clear();
            }
            (start, outcome) => panic!("{start:?} came to {outcome:?}"),
        }
        // Without a position, the first that comes is where it begins.
        self.position = recovered.position;
    }
}

const CASES: u32 = 2_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]
    #[test]
    fn every_subscriber_gets_all_from_its_join_on_or_is_told(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..150),
    ) {
        let mut world = World::new();
        for (what, how) in steps {
            world.step(what, how);
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_gap_of_what_only_patterns_want_is_filled_too() {
    let mut world = World::new();
    let patterns = || Some(HISTORY);
    let all: Vec<_> = (0..5).map(|_| world.log.publish(1)).collect();
    let offer = |world: &mut World, at: usize| {
        world.timelines.offer(&channel(), &all[at..=at], patterns, world.now)
    };
    assert_eq!(offer(&mut world, 0), Offered::Next);
    assert_eq!(offer(&mut world, 3), Offered::Taken);
    assert_eq!(world.timelines.next_event(), None);
    world.follow();
    let (key, query, _) = world.reads.pop_front().unwrap();
    world.timelines.on_read(key, Ok(world.log.read(&query)), world.now);
    let Some(Event::Deliver { publications, .. }) = world.timelines.next_event() else { panic!() };
    assert_eq!(publications, all[1..5]);
    assert_eq!(world.timelines.take_counts(), Counts { gaps: 1, gaps_healed: 1, gaps_lost: 0 });
    assert_eq!(offer(&mut world, 4), Offered::Taken);
    assert_eq!(world.timelines.next_event(), None);
}

#[test]
fn who_can_not_be_given_what_it_missed_is_given_nothing_before_it_is_told() {
    for is_known in [false, true] {
        let mut world = World::new();
        if is_known {
            world.join(0);
            world.settle();
        }
        // A position of another history.
        let since = Position { epoch: 99, offset: 5 };
        let joiner = world.timelines.join(
            &channel(),
            &destination(),
            HISTORY,
            Start::After(since),
            false,
            world.now,
        );
        let (key, query) = world.timelines.next_read().unwrap();
        let all: Vec<_> = (0..3).map(|_| world.log.publish(1)).collect();
        world.timelines.offer(&channel(), &all, || None, world.now);
        let page = world.log.read(&query);
        world.timelines.on_read(key, Ok(page), world.now);
        let mut is_live = false;
        while let Some(event) = world.timelines.next_event() {
            match event {
                Event::Give { joiner: to, publications } if to == joiner => {
                    assert_eq!(publications, [], "before it was told");
                }
                Event::Live { joiner: live, recovered } => {
                    assert_eq!((live, recovered.position), (joiner, all[2].position));
                    assert_eq!(recovered.outcome, Some(Err(Lost::EpochChanged)));
                    is_live = true;
                }
                _ => {}
            }
        }
        assert!(is_live);
    }
}

#[test]
fn a_timeline_at_rest_is_small() {
    assert!(size_of::<Timeline>() <= 176, "{}", size_of::<Timeline>());
}

#[test]
fn what_is_held_is_bounded_and_nothing_is_lost_by_that() {
    let mut world = World::new();
    world.join(0);
    world.answer(0, false);
    world.follow();
    assert!(world.members[0].is_live);
    let all: Vec<_> = (0..=2 * HELD_MAX as u64 + 9).map(|_| world.log.publish(1)).collect();
    world.log.kept.clone_from(&all);
    // The first is missed, and the read of it waits.
    for one in &all[1..] {
        assert_eq!(
            world.timelines.offer(&channel(), std::slice::from_ref(one), || None, world.now),
            Offered::Taken
        );
        let held = &world.timelines.all[0].busy.as_ref().unwrap().held;
        assert!(held.len() <= HELD_MAX);
    }
    world.settle();
    world.check();
    let expected: Vec<_> = all.iter().map(|one| one.id).collect();
    let got: Vec<_> = world.members[0].got.iter().map(|one| one.id).collect();
    assert_eq!(got, expected);
    let counts = world.timelines.take_counts();
    assert_eq!((counts.gaps, counts.gaps_healed, counts.gaps_lost), (1, 1, 0));
}

#[test]
fn who_is_ahead_of_its_timeline_waits_no_longer_than_for_a_read_that_fails() {
    let mut timelines = Timelines::new();
    let now = Now { mono_ms: 0, unix_ms: 0 };
    let at = |offset| Position { epoch: 1, offset };
    let page = |publications, top| HistoryPage { publications, top, lost: None };
    timelines.join(&channel(), &destination(), HISTORY, Start::Now, false, now);
    let (key, _) = timelines.next_read().unwrap();
    timelines.on_read(key, Ok(page(Vec::new(), at(5))), now);
    while timelines.next_event().is_some() {}
    // It comes from another node, which was further.
    timelines.join(&channel(), &destination(), HISTORY, Start::After(at(8)), false, now);
    let (key, _) = timelines.next_read().unwrap();
    timelines.on_read(key, Ok(page(vec![publication(9, at(9), 1)], at(9))), now);
    let Some(Event::Give { .. }) = timelines.next_event() else { panic!() };
    assert_eq!(timelines.next_event(), None);
    let (key, query) = timelines.next_read().unwrap();
    assert_eq!(query.range, HistoryRange::After(at(5)));
    timelines.on_read(key, Err(HistoryError::Unavailable), now);
    let Some(Event::Live { recovered, .. }) = timelines.next_event() else { panic!() };
    let outcome = Some(Err(Lost::Unavailable));
    assert_eq!(recovered, Recovered { position: Some(at(5)), outcome, count: 1 });
    // The timeline goes on to look for what it lacks.
    timelines.on_tick(Now { mono_ms: 1_000, unix_ms: 1_000 });
    let (_, query) = timelines.next_read().unwrap();
    assert_eq!(query.range, HistoryRange::After(at(5)));
}

#[test]
fn who_resumes_waits_until_the_history_can_be_read_and_misses_nothing() {
    let at = |offset| Position { epoch: 1, offset };
    let mut now = Now { mono_ms: 0, unix_ms: 0 };
    for is_degraded in [true, false] {
        let mut timelines = Timelines::new();
        timelines.join(&channel(), &destination(), HISTORY, Start::Resume(at(5)), is_degraded, now);
        let mut fails = 0;
        let mut read = |timelines: &mut Timelines, now: Now, is_up: bool| {
            let Some((key, query)) = timelines.next_read() else { return };
            let publications = match query.range {
                HistoryRange::After(after) => {
                    (after.offset + 1..=7).map(|n| publication(n.into(), at(n), 1)).collect()
                }
                HistoryRange::Newest => Vec::new(),
            };
            let page = HistoryPage { publications, top: at(7), lost: None };
            fails += u32::from(!is_up);
            timelines.on_read(
                key,
                if is_up { Ok(page) } else { Err(HistoryError::Unavailable) },
                now,
            );
        };
        for _ in 0..600 {
            now.mono_ms += 100;
            timelines.on_tick(now);
            read(&mut timelines, now, false);
            assert_eq!(timelines.next_event(), None);
        }
        timelines.suspect_all();
        let mut events = Vec::new();
        for _ in 0..4 {
            read(&mut timelines, now, true);
            events.extend(std::iter::from_fn(|| timelines.next_event()));
        }
        assert!((10..100).contains(&fails), "{fails} tries in a minute");
        let Some(Event::Give { publications, .. }) = events.first() else { panic!("{events:?}") };
        assert_eq!(publications.len(), 2);
        let Some(Event::Live { recovered, .. }) = events.last() else { panic!("{events:?}") };
        let told = Recovered { position: Some(at(7)), outcome: Some(Ok(())), count: 2 };
        assert_eq!(*recovered, told);
    }
}

/// A world with one live member, where what is published at first arrives.
fn live_after(published: u64) -> World {
    let mut world = World::new();
    world.join(0);
    world.answer(0, false);
    world.follow();
    for _ in 0..published {
        let one = world.log.publish(1);
        world.wire.push_back(one);
    }
    world.arrive(published as usize);
    assert!(world.members[0].is_live);
    world
}

/// What is delivered, and up to where something is told to be lost, in order.
fn told(world: &mut World) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(event) = world.timelines.next_event() {
        match event {
            Event::Deliver { publications, lost, .. } => {
                let offsets = publications.iter().map(|one| one.position.unwrap().to_string());
                let lost = lost.map_or("", |_| "behind it: ");
                told.push(format!("{lost}{}", offsets.collect::<Vec<_>>().join(" ")));
            }
            Event::Lost { position, .. } => told.push(format!("lost up to {position}")),
            other => panic!("{other:?}"),
        }
    }
    told
}

/// A page that says what was missed is not kept any more.
fn too_old(top: Position) -> HistoryPage {
    HistoryPage { publications: Vec::new(), top, lost: Some(Lost::TooOld) }
}

#[test]
fn what_is_held_behind_a_loss_is_delivered_once_that_is_told() {
    // Of epoch 1, where 2 was the last: what arrives meanwhile, up to where the history goes.
    for (arrived, top, expected) in [
        (&[18, 19, 20][..], 20, &["lost up to 1:17", "behind it: 1:18 1:19 1:20"][..]),
        (&[19, 18, 20, 19], 20, &["lost up to 1:17", "behind it: 1:18 1:19 1:20"]),
        (&[16, 17, 19, 20], 20, &["lost up to 1:18", "behind it: 1:19 1:20"]),
        (&[19, 20, 21], 19, &["lost up to 1:18", "behind it: 1:19 1:20 1:21"]),
        (&[20, 21], 19, &["lost up to 1:19", "behind it: 1:20 1:21"]),
        (&[18, 19], 20, &["lost up to 1:20"]),
        (&[], 20, &["lost up to 1:20"]),
    ] {
        let mut world = live_after(2);
        world.timelines.suspect(&channel());
        let (key, _) = world.timelines.next_read().unwrap();
        for &offset in arrived {
            let one = publication(offset.into(), Position { epoch: 1, offset }, 1);
            world.timelines.offer(&channel(), &[one], || None, world.now);
        }
        world.timelines.on_read(key, Ok(too_old(Position { epoch: 1, offset: top })), world.now);
        assert_eq!(told(&mut world), expected, "{arrived:?} up to {top}");
        assert_eq!(world.timelines.take_counts().gaps_lost, 1);
    }
}

#[test]
fn behind_a_failover_only_what_the_new_epoch_has_is_delivered() {
    let mut world = live_after(5);
    let abandoned = world.log.publish(1);
    let abandoned = [abandoned, world.log.publish(1)];
    world.log.fail_over(4);
    let new: Vec<_> = (0..3).map(|_| world.log.publish(1)).collect();
    // Of the old epoch only what does not follow at once, as that would be delivered.
    world.timelines.offer(&channel(), &abandoned[1..], || None, world.now);
    world.timelines.offer(&channel(), &new[1..], || None, world.now);
    let (key, query) = world.timelines.next_read().unwrap();
    world.timelines.on_read(key, Ok(world.log.read(&query)), world.now);
    assert_eq!(told(&mut world), ["lost up to 2:4", "behind it: 2:5 2:6"]);
}

#[test]
fn a_loss_is_not_told_where_what_was_missing_has_come_after_all() {
    let arrive = |world: &mut World, offset: u64| {
        let one = publication(offset.into(), Position { epoch: 1, offset }, 1);
        world.timelines.offer(&channel(), &[one], || None, world.now);
    };
    let top = Position { epoch: 1, offset: 5 };
    // The question is asked behind what has come.
    for (arrived, expected) in [
        (&[4, 5, 3][..], &["1:3", "1:4 1:5"][..]),
        // What is still held though it has come again is not delivered again.
        (&[4, 5, 3, 4], &["1:3", "1:4", "1:5"]),
    ] {
        let mut world = live_after(2);
        for &offset in arrived {
            arrive(&mut world, offset);
        }
        let (key, _) = world.timelines.next_read().unwrap();
        world.timelines.on_read(key, Ok(too_old(top)), world.now);
        assert_eq!(told(&mut world), expected);
        let counts = world.timelines.take_counts();
        assert_eq!((counts.gaps, counts.gaps_healed, counts.gaps_lost), (1, 1, 0));
    }
    // It comes while the question is under way: the answer says nothing of where it stands.
    let mut world = live_after(2);
    arrive(&mut world, 5);
    let (key, _) = world.timelines.next_read().unwrap();
    arrive(&mut world, 3);
    world.timelines.on_read(key, Ok(too_old(top)), world.now);
    assert_eq!(told(&mut world), ["1:3"]);
    let (key, query) = world.timelines.next_read().unwrap();
    assert_eq!(query.range, HistoryRange::After(Position { epoch: 1, offset: 3 }));
    world.timelines.on_read(key, Ok(too_old(top)), world.now);
    assert_eq!(told(&mut world), ["lost up to 1:4", "behind it: 1:5"]);
}
