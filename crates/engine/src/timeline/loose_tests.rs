//! Timelines that only patterns want: they are bounded, and nothing of them stays behind.

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::history::HistoryError;
use crate::publication::{ContentType, PublicationId};

const HISTORY: History = History { size: 12, ttl_ms: 60_000 };
const NOW: Now = Now { mono_ms: 0, unix_ms: 0 };

fn channel() -> Channel {
    Channel::of_namespace("n")
}

fn name(n: usize) -> Destination {
    format!("/topic/{n}").parse().unwrap()
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
        position: Some(Position { epoch: 1, offset }),
        only_for: None,
        except: None,
        is_json: false,
    })
}

fn come(timelines: &mut Timelines, to: usize, offset: u64) -> Offered {
    timelines.offer(&channel(), &[publication(to, offset)], || Some(HISTORY), NOW)
}

#[test]
fn timelines_of_patterns_alone_are_bounded_and_the_least_used_go() {
    let mut timelines = Timelines::new();
    for n in 0..LOOSE_MAX {
        assert_eq!(come(&mut timelines, n, 1), Offered::Next);
    }
    assert_eq!(come(&mut timelines, 0, 2), Offered::Next);
    assert_eq!(come(&mut timelines, LOOSE_MAX, 1), Offered::Next);
    assert_eq!((timelines.len(), timelines.loose_count), (LOOSE_MAX, LOOSE_MAX));
    // The first was used of late, so it is there and knows where it stands; the second went.
    assert_eq!(come(&mut timelines, 0, 3), Offered::Next);
    assert_eq!(timelines.len(), LOOSE_MAX);
    assert!(!timelines.keys.contains_key(&name(1)));
    timelines.leave(&channel());
    assert!(timelines.is_empty());
}

#[test]
fn what_has_gone_takes_no_place_among_the_loose() {
    let mut timelines = Timelines::new();
    // Patterns come and go; so do subscribers by name, whom a pattern outlives.
    for round in 0..200 {
        for n in 100 * round..100 * (round + 1) {
            come(&mut timelines, n, 1);
            if n % 2 == 0 {
                timelines.join(&channel(), &name(n), HISTORY, Start::Now, false, NOW);
                timelines.vacate(&name(n), |_| n % 4 == 0);
            }
        }
        timelines.leave(&channel());
        assert!(timelines.loose.len() <= 2 * LOOSE_MAX);
    }
    assert_eq!((timelines.len(), timelines.loose_count), (0, 0));
    // The places are kept by those that are there.
    for n in 0..LOOSE_MAX + 10 {
        come(&mut timelines, n, 1);
        assert!(timelines.loose.len() <= 2 * LOOSE_MAX);
    }
    assert_eq!((timelines.len(), timelines.loose_count), (LOOSE_MAX, LOOSE_MAX));
    assert!(timelines.keys.contains_key(&name(LOOSE_MAX + 9)));
    assert!(!timelines.keys.contains_key(&name(9)));
}

#[test]
fn who_must_go_while_it_misses_something_is_told_and_given_what_is_held() {
    let mut timelines = Timelines::new();
    assert_eq!(come(&mut timelines, 0, 1), Offered::Next);
    assert_eq!(come(&mut timelines, 0, 5), Offered::Taken);
    assert_eq!(come(&mut timelines, 0, 6), Offered::Taken);
    assert_eq!(timelines.next_event(), None);
    let (key, _) = timelines.next_read().unwrap();
    // Used of late, it is the last of all to go.
    for n in 1..=2 * LOOSE_MAX {
        come(&mut timelines, n, 1);
    }
    assert!(!timelines.keys.contains_key(&name(0)));
    let Some(Event::Lost { destination, reason, position, .. }) = timelines.next_event() else {
        panic!()
    };
    assert_eq!((destination, reason, position.offset), (name(0), Lost::Unavailable, 4));
    let Some(Event::Deliver { publications, lost, .. }) = timelines.next_event() else { panic!() };
    assert_eq!(publications, [publication(0, 5), publication(0, 6)]);
    assert_eq!(lost, Some(Lost::Unavailable));
    assert_eq!(timelines.next_event(), None);
    // Nobody waits for the answer any more.
    timelines.on_read(key, Err(HistoryError::Unavailable), NOW);
    assert_eq!(come(&mut timelines, 0, 9), Offered::Next);
}
