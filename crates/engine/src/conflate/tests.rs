//! One of a key in an interval, none twice, the latest at last; and what has no room.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::hub::{Hub, Target, Wire};
use crate::publication::{ContentType, PublicationId};

const INTERVAL_MS: u64 = 100;

fn by_header() -> Conflate {
    Conflate { interval_ms: INTERVAL_MS, key_header: Some("k".into()) }
}

fn publication(key: &str, value: u128) -> Arc<Publication> {
    Arc::new(Publication {
        id: PublicationId(Uuid::from_u128(value)),
        destination: "/topic/a".parse().unwrap(),
        body: Bytes::new(),
        content_type: ContentType::Unspecified,
        headers: [("k".into(), key.into())].into(),
        publisher: None,
        at_unix_ms: 0,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    })
}

fn channel() -> Channel {
    Channel::of_destination("/topic/a".into())
}

/// A key of a subscription, as only a hub makes one.
fn subscription(session: SessionKey, hub: &mut Hub) -> SubscriptionKey {
    let target = Target::Destination("/topic/a".parse().unwrap());
    hub.subscribe(session, target, channel(), Wire::Native { named: false })
}

fn values(publications: &[Arc<Publication>]) -> Vec<u128> {
    publications.iter().map(|one| one.id.0.as_u128()).collect()
}

#[test]
fn the_first_passes_at_once_and_of_the_rest_the_latest_at_the_tick() {
    let mut conflation = Conflation::new(1 << 20);
    let offer = |conflation: &mut Conflation, key, value, now_ms| {
        conflation.offer(&channel(), &publication(key, value), &by_header(), now_ms)
    };
    assert_eq!(offer(&mut conflation, "x", 1, 0), Offered::Passes);
    assert_eq!(offer(&mut conflation, "x", 2, 10), Offered::Waits);
    assert_eq!(offer(&mut conflation, "y", 3, 20), Offered::Passes);
    assert_eq!(offer(&mut conflation, "x", 4, 30), Offered::Waits);
    assert_eq!(offer(&mut conflation, "y", 5, 40), Offered::Waits);
    assert!(conflation.tick(99).is_none());
    // The window of `y` is open for another 20 ms, so it has the tick after.
    assert_eq!(values(&conflation.tick(100).unwrap().publications), [4]);
    assert_eq!(values(&conflation.tick(200).unwrap().publications), [5]);
    assert_eq!(conflation.take_counts(), Counts { replaced: 1, ..Counts::default() });
    assert!(conflation.tick(300).unwrap().publications.is_empty());
    assert_eq!((conflation.next_tick_ms(), conflation.used_bytes()), (None, 0));
    assert_eq!(offer(&mut conflation, "x", 6, 301), Offered::Passes);
}

#[test]
fn what_has_no_room_passes_unconflated_and_nothing_of_its_key_waits() {
    let room = FEED_BYTES + 2 * (WINDOW_BYTES + publication("x", 0).encoded_bytes() + 1);
    let mut conflation = Conflation::new(room + FEED_BYTES);
    for (key, expected) in [
        ("x", Offered::Passes),
        ("y", Offered::Passes),
        ("z", Offered::Unconflated),
        ("x", Offered::Waits),
    ] {
        let publication = publication(key, 1);
        assert_eq!(conflation.offer(&channel(), &publication, &by_header(), 0), expected, "{key}");
    }
    let long = Publication { body: vec![0; 4096].into(), ..(*publication("x", 9)).clone() };
    let offered = conflation.offer(&channel(), &Arc::new(long), &by_header(), 1);
    assert_eq!(offered, Offered::Unconflated);
    assert!(conflation.tick(100).unwrap().publications.is_empty());
    assert_eq!(conflation.take_counts(), Counts { replaced: 0, skipped: 0, unconflated: 2 });
}

#[test]
fn who_is_behind_goes_on_though_there_is_no_room_for_others() {
    let (key, other) = (SessionKey(1), SessionKey(2));
    let mut hub = Hub::new();
    let (own, others) = (subscription(key, &mut hub), subscription(other, &mut hub));
    let room = FEED_BYTES + WINDOW_BYTES + publication("x", 0).encoded_bytes() + 1 + BEHIND_BYTES;
    let mut conflation = Conflation::new(room + FEED_BYTES);
    conflation.offer(&channel(), &publication("x", 1), &by_header(), 0);
    let to = "/topic/a".parse().unwrap();
    // The room that opening another destination would take is for these.
    let mut sessions = (3..).map(SessionKey);
    assert!(conflation.fall_behind(&to, key, own, 0));
    while let Some(one) = sessions.next()
        && conflation.fall_behind(&to, one, subscription(one, &mut hub), 0)
    {}
    assert!(!conflation.fall_behind(&to, other, others, 0));
    assert!(conflation.fall_behind(&to, key, own, 1));
    assert_eq!(conflation.behind_of(key), [(to, own, 1)]);
}

/// What happens to a destination with two keys and three subscribers.
#[derive(Debug, Clone, Copy)]
enum Step {
    Publish { key: usize },
    Pass { ms: u64 },
    Block { who: usize },
    Unblock { who: usize },
    Leave { who: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize).prop_map(|key| Step::Publish { key }),
        3 => (1..150_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..3_usize).prop_map(|who| Step::Block { who }),
        1 => (0..3_usize).prop_map(|who| Step::Unblock { who }),
        1 => (0..3_usize).prop_map(|who| Step::Leave { who }),
    ]
}

struct Subscriber {
    session: SessionKey,
    subscription: SubscriptionKey,
    is_blocked: bool,
    /// By key, when it got which.
    got: HashMap<Box<str>, Vec<(u64, u128)>>,
}

impl Subscriber {
    fn get(&mut self, now_ms: u64, publication: &Publication) {
        let (_, key) = &publication.headers[0];
        self.got.entry(key.clone()).or_default().push((now_ms, publication.id.0.as_u128()));
    }
}

/// What a worker does with what passes.
fn pass(
    conflation: &mut Conflation,
    subscribers: &mut [Subscriber],
    publications: &[Arc<Publication>],
    before: u64,
    now_ms: u64,
) {
    if publications.is_empty() {
        return;
    }
    let destination: Destination = "/topic/a".parse().unwrap();
    for one in subscribers {
        if conflation.is_behind(&destination, one.session, one.subscription) {
            continue;
        }
        if one.is_blocked {
            let noted = conflation.fall_behind(&destination, one.session, one.subscription, before);
            assert!(noted);
            continue;
        }
        for publication in publications {
            one.get(now_ms, publication);
        }
    }
}

fn tick(conflation: &mut Conflation, subscribers: &mut [Subscriber], now_ms: u64) {
    while let Some(tick) = conflation.tick(now_ms) {
        pass(conflation, subscribers, &tick.publications, tick.passed_before, now_ms);
        for (session, subscription, passed) in tick.behind {
            let one = subscribers.iter_mut().find(|one| one.session == session).unwrap();
            if !one.is_blocked {
                for (_, publication) in conflation.missed(&tick.destination, passed) {
                    one.get(now_ms, &publication);
                }
                conflation.catch_up(&tick.destination, subscription);
            }
        }
    }
}

proptest! {
    #[test]
    fn each_gets_one_of_a_key_in_an_interval_none_twice_and_the_latest_at_last(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let (mut hub, mut conflation) = (Hub::new(), Conflation::new(1 << 20));
        let mut subscribers: Vec<_> = (0..3)
            .map(|who| {
                let session = SessionKey(who);
                let subscription = subscription(session, &mut hub);
                Subscriber { session, subscription, is_blocked: false, got: HashMap::new() }
            })
            .collect();
        let (mut now_ms, mut value, mut latest) = (0_u64, 0, HashMap::new());
        // Who has left once has no claim to anything of before.
        let mut stays = [true; 3];
        for step in steps {
            match step {
                Step::Publish { key } => {
                    value += 1;
                    let key = ["x", "y"][key];
                    latest.insert(Box::<str>::from(key), value);
                    let (one, before) = (publication(key, value), conflation.passed(&"/topic/a".parse().unwrap()));
                    if conflation.offer(&channel(), &one, &by_header(), now_ms) == Offered::Passes {
                        pass(&mut conflation, &mut subscribers, &[one], before, now_ms);
                    }
                }
                Step::Pass { ms } => {
                    for _ in 0..ms {
                        now_ms += 1;
                        tick(&mut conflation, &mut subscribers, now_ms);
                    }
                }
                Step::Block { who } => subscribers[who].is_blocked = true,
                Step::Unblock { who } => subscribers[who].is_blocked = false,
                Step::Leave { who } => {
                    conflation.forget(subscribers[who].session);
                    stays[who] = false;
                }
            }
        }
        for one in &mut subscribers {
            one.is_blocked = false;
        }
        for _ in 0..4 * INTERVAL_MS {
            now_ms += 1;
            tick(&mut conflation, &mut subscribers, now_ms);
        }
        for (one, stays) in subscribers.iter().zip(stays) {
            for got in one.got.values() {
                for pair in got.windows(2) {
                    prop_assert!(pair[0].1 < pair[1].1, "twice or out of order: {got:?}");
                    prop_assert!(pair[1].0 >= pair[0].0 + INTERVAL_MS, "too soon: {got:?}");
                }
            }
            if stays {
                let last: HashMap<_, _> = one.got.iter()
                    .map(|(key, got)| (key.clone(), got.last().unwrap().1)).collect();
                prop_assert_eq!(&last, &latest);
            }
        }
        prop_assert_eq!((conflation.used_bytes(), conflation.next_tick_ms()), (0, None));
    }
}
