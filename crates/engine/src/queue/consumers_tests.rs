//! Who gets which message, who holds what, and what the broker is told.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::queue::{QueueOptions, wake};

const SESSION: SessionKey = SessionKey(1);

fn queue(name: &str) -> Queue {
    let destination: fanlight_proto::Destination = name.parse().unwrap();
    let channel = Channel::of_destination(destination.to_shared());
    let options = QueueOptions { prefetch: 4, ack_timeout_ms: 1000, ..QueueOptions::default() };
    Queue { destination, channel, options }
}

fn consumer(consumers: &mut Consumers, session: u32, mode: AckMode) -> ConsumerKey {
    let wire = Wire::Native { named: false };
    let new = NewConsumer { session: SessionKey(session), wire, mode, prefetch: None };
    let key = consumers.add(queue("/queue/a"), new);
    consumers.activate(key);
    key
}

fn message(number: u64) -> PublicationId {
    PublicationId(Uuid::from_u128(number.into()))
}

fn fetched(numbers: impl IntoIterator<Item = u64>) -> Vec<Fetched> {
    let fetched = |seq| {
        let publication = Publication { id: message(seq), ..wake("/queue/a".parse().unwrap()) };
        let delivery = DeliveryId { entry: EntryId { ms: 0, seq }, count: 1 };
        Fetched { delivery, publication: Arc::new(publication) }
    };
    numbers.into_iter().map(fetched).collect()
}

/// As a broker answers that has no more than these.
fn batch(fetch: &Fetch, numbers: impl IntoIterator<Item = u64>) -> Batch {
    let messages = fetched(numbers);
    let has_more = messages.len() >= fetch.count as usize;
    Batch { messages, has_more }
}

/// Answers a fetch; who got which message.
fn answer(
    consumers: &mut Consumers,
    fetch: &Fetch,
    numbers: impl IntoIterator<Item = u64>,
) -> Vec<(u32, u64)> {
    answer_while(consumers, fetch, numbers, |_| true)
}

fn answer_while(
    consumers: &mut Consumers,
    fetch: &Fetch,
    numbers: impl IntoIterator<Item = u64>,
    keeps_up: impl Fn(SessionKey) -> bool,
) -> Vec<(u32, u64)> {
    let dispatches = consumers.on_fetched(fetch, 0, Ok(batch(fetch, numbers)), keeps_up);
    dispatches.iter().map(|one| (one.session.0, one.delivery.entry.seq)).collect()
}

fn next(consumers: &mut Consumers) -> Option<Fetch> {
    consumers.next_fetch(|_| true)
}

#[test]
fn consumers_get_messages_in_turn_as_far_as_their_credit_goes() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Client);
    let second = consumer(&mut consumers, 2, AckMode::ClientIndividual);
    let fetch = next(&mut consumers).unwrap();
    assert_eq!(fetch.count, 8);
    assert_eq!(
        answer(&mut consumers, &fetch, 0..8),
        [(1, 0), (2, 1), (1, 2), (2, 3), (1, 4), (2, 5), (1, 6), (2, 7)]
    );
    assert!(next(&mut consumers).is_none(), "nobody has credit");
    consumers.ack(second, message(3));
    let fetch = next(&mut consumers).unwrap();
    assert_eq!(fetch.count, 1);
    assert_eq!(answer(&mut consumers, &fetch, [8]), [(2, 8)]);
}

#[test]
fn one_fetch_is_under_way_for_a_queue_and_a_short_one_ends_them_until_woken() {
    let mut consumers = Consumers::new();
    let channel = queue("/queue/a").channel;
    let key = consumer(&mut consumers, 1, AckMode::Client);
    let fetch = next(&mut consumers).unwrap();
    consumer(&mut consumers, 2, AckMode::Client);
    assert!(next(&mut consumers).is_none(), "one is under way");
    // The second consumer came while it was, so there is another look.
    answer(&mut consumers, &fetch, [0]);
    let fetch = next(&mut consumers).unwrap();
    answer(&mut consumers, &fetch, []);
    assert!(next(&mut consumers).is_none());
    consumers.ack(key, message(0));
    assert!(next(&mut consumers).is_none(), "there was nothing more");
    assert!(consumers.wake(&channel));
    let fetch = next(&mut consumers).unwrap();
    // What woke us now may have come too late for this fetch.
    assert!(consumers.wake(&channel));
    answer(&mut consumers, &fetch, []);
    assert!(next(&mut consumers).is_some());
    assert!(!consumers.wake(&queue("/queue/b").channel));
}

#[test]
fn a_fetch_that_was_cut_short_is_gone_on_with_at_once() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Client);
    let fetch = next(&mut consumers).unwrap();
    let cut = Batch { messages: fetched([0]), has_more: true };
    assert_eq!(consumers.on_fetched(&fetch, 0, Ok(cut), |_| true).len(), 1);
    assert_eq!(next(&mut consumers).unwrap().count, fetch.count - 1);
}

#[test]
fn a_fetch_that_fails_is_tried_again_at_the_next_look() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Client);
    consumers.sweep(0);
    let fetch = next(&mut consumers).unwrap();
    assert!(consumers.on_fetched(&fetch, 0, Err(QueueError::Unavailable), |_| true).is_empty());
    assert!(next(&mut consumers).is_none());
    consumers.sweep(fetch.queue.options.look_every_ms());
    assert!(next(&mut consumers).is_some());
}

#[test]
fn what_arrives_for_nobody_is_given_back_uncounted() {
    let mut consumers = Consumers::new();
    let key = consumer(&mut consumers, 1, AckMode::Client);
    let fetch = next(&mut consumers).unwrap();
    consumers.remove(key);
    assert!(answer(&mut consumers, &fetch, [0, 1]).is_empty());
    let settlement = consumers.next_settlement().unwrap();
    let was_delivered: Vec<_> = settlement.releases.iter().map(|one| one.was_delivered).collect();
    assert_eq!(was_delivered, [false, false]);
    assert!(consumers.queues.is_empty(), "nothing is left of the queue");
}

#[test]
fn an_auto_consumer_that_does_not_keep_up_is_asked_for_nothing() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Auto);
    assert!(consumers.next_fetch(|_| false).is_none());
    consumers.unhold();
    let fetch = next(&mut consumers).unwrap();
    answer(&mut consumers, &fetch, 0..4);
    assert!(consumers.next_settlement().is_none(), "it is not written yet");
    consumers.on_written();
    assert_eq!(consumers.next_settlement().unwrap().acks.len(), 4);
    assert!(next(&mut consumers).is_some());
}

#[test]
fn an_auto_consumer_that_does_not_keep_up_gets_nothing_of_what_others_asked_for() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Auto);
    consumer(&mut consumers, 2, AckMode::Auto);
    let first_only = |session: SessionKey| session.0 == 1;
    let fetch = consumers.next_fetch(first_only).unwrap();
    assert_eq!(fetch.count, 4);
    let got = answer_while(&mut consumers, &fetch, 0..4, first_only);
    assert_eq!(got, [(1, 0), (1, 1), (1, 2), (1, 3)]);
}

#[test]
fn what_was_asked_for_an_auto_consumer_that_keeps_up_no_longer_goes_to_others_or_back() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Auto);
    consumer(&mut consumers, 2, AckMode::ClientIndividual);
    let fetch = next(&mut consumers).unwrap();
    assert_eq!(fetch.count, 8);
    // Who acknowledges by itself takes what it has credit for, however slow it is.
    let got = answer_while(&mut consumers, &fetch, 0..6, |_| false);
    assert_eq!(got, [(2, 0), (2, 1), (2, 2), (2, 3)]);
    let settlement = consumers.next_settlement().unwrap();
    assert!(settlement.releases.iter().all(|one| !one.was_delivered));
    let back: Vec<_> = settlement.releases.iter().map(|one| one.delivery.entry.seq).collect();
    assert_eq!(back, [4, 5]);
    assert!(consumers.next_fetch(|_| false).is_none(), "nobody can take them now");
    // As soon as it keeps up again it is given them, without waiting to be woken.
    consumers.unhold();
    let fetch = next(&mut consumers).unwrap();
    assert_eq!(answer(&mut consumers, &fetch, [4, 5]), [(1, 4), (1, 5)]);
}

#[test]
fn what_an_auto_consumer_was_not_sent_is_given_back() {
    let mut consumers = Consumers::new();
    let key = consumer(&mut consumers, 1, AckMode::Auto);
    let fetch = next(&mut consumers).unwrap();
    answer(&mut consumers, &fetch, [0]);
    // Writing to it failed.
    consumers.remove(key);
    consumers.on_written();
    let settlement = consumers.next_settlement().unwrap();
    assert_eq!((settlement.acks.len(), settlement.releases.len()), (0, 1));
}

#[test]
fn the_timeout_counts_from_when_the_broker_was_asked() {
    let mut consumers = Consumers::new();
    let key = consumer(&mut consumers, 1, AckMode::ClientIndividual);
    let fetch = next(&mut consumers).unwrap();
    consumers.on_fetched(&fetch, 500, Ok(batch(&fetch, [0, 1])), |_| true);
    consumers.sweep(1499);
    assert!(consumers.next_settlement().is_none());
    consumers.ack(key, message(0));
    consumers.sweep(1500);
    let settlement = consumers.next_settlement().unwrap();
    assert_eq!((settlement.acks.len(), settlement.releases.len()), (1, 1));
    assert!(settlement.releases[0].was_delivered);
    assert_eq!(consumers.take_counts().timeouts, 1);
}

#[test]
fn each_message_has_its_own_timeout_and_what_is_done_has_none() {
    let mut consumers = Consumers::new();
    let key = consumer(&mut consumers, 1, AckMode::ClientIndividual);
    let other = consumer(&mut consumers, 2, AckMode::ClientIndividual);
    let fetch = next(&mut consumers).unwrap();
    consumers.on_fetched(&fetch, 0, Ok(batch(&fetch, 0..8)), |_| true);
    consumers.ack(key, message(0));
    consumers.ack(key, message(2));
    let fetch = next(&mut consumers).unwrap();
    consumers.on_fetched(&fetch, 600, Ok(batch(&fetch, [8, 9])), |_| true);
    let late = |consumers: &mut Consumers, now_ms| -> Vec<u64> {
        consumers.sweep(now_ms);
        let settlements = std::iter::from_fn(|| consumers.next_settlement());
        let releases = settlements.flat_map(|settlement| settlement.releases);
        releases.map(|one| one.delivery.entry.seq).collect()
    };
    assert_eq!(late(&mut consumers, 999), [0; 0]);
    consumers.remove(other);
    assert_eq!(late(&mut consumers, 999), [1, 3, 5, 7]);
    assert_eq!(late(&mut consumers, 1000), [4, 6]);
    assert_eq!(late(&mut consumers, 1599), [0; 0]);
    assert_eq!(late(&mut consumers, 1600), [8, 9]);
    assert_eq!(consumers.take_counts().timeouts, 4);
    consumers.remove(key);
    assert!(consumers.queues.is_empty() && consumers.timers.is_empty());
}

#[test]
fn a_settlement_is_bounded_and_the_rest_follows() {
    let mut consumers = Consumers::new();
    let mut queue = queue("/queue/a");
    queue.options.prefetch = 600;
    let wire = Wire::Native { named: false };
    let mode = AckMode::Client;
    let key = consumers.add(queue, NewConsumer { session: SESSION, wire, mode, prefetch: None });
    consumers.activate(key);
    let mut at = 0;
    while let Some(fetch) = next(&mut consumers) {
        assert!(fetch.count <= FETCH_MAX);
        answer(&mut consumers, &fetch, at..at + u64::from(fetch.count));
        at += u64::from(fetch.count);
    }
    assert_eq!(at, 600);
    consumers.ack(key, message(599));
    let mut sizes = Vec::new();
    while let Some(settlement) = consumers.next_settlement() {
        sizes.push(settlement.acks.len());
    }
    assert_eq!(sizes, [256, 256, 88]);
}

#[test]
fn a_forgotten_session_gives_back_what_it_held() {
    let mut consumers = Consumers::new();
    consumer(&mut consumers, 1, AckMode::Client);
    let fetch = next(&mut consumers).unwrap();
    answer(&mut consumers, &fetch, [0]);
    consumers.forget(SESSION);
    assert_eq!(consumers.next_settlement().unwrap().releases.len(), 1);
    assert!(consumers.is_empty() && consumers.queues.is_empty());
}

proptest! {
    /// A broker of numbers: whatever consumers do, each message is in one place, and no `auto`
    /// consumer is sent more while it does not keep up.
    #[test]
    fn no_message_is_lost_or_held_twice(
        steps in proptest::collection::vec((0_u8..11, 0_u32..4, 0_u64..40), 1..150),
    ) {
        let mut consumers = Consumers::new();
        let mut keys: Vec<ConsumerKey> = Vec::new();
        let mut available: VecDeque<u64> = (0..40).collect();
        let mut acknowledged: Vec<u64> = Vec::new();
        let mut under_way: Option<(Fetch, Vec<u64>)> = None;
        let (mut now_ms, mut swept_ms) = (1, 0);
        let mut slow = None;
        for (step, session, number) in steps {
            match step {
                0 | 1 => {
                    let modes = [AckMode::Auto, AckMode::Client, AckMode::ClientIndividual];
                    let mode = modes[number as usize % 3];
                    keys.push(consumer(&mut consumers, session, mode));
                }
                2 if !keys.is_empty() => {
                    let at = number as usize % keys.len();
                    consumers.remove(keys.swap_remove(at));
                }
                3 | 4 if !keys.is_empty() => {
                    consumers.ack(keys[number as usize % keys.len()], message(number));
                }
                5 if !keys.is_empty() => {
                    consumers.nack(keys[number as usize % keys.len()], message(number));
                }
                6 => {
                    now_ms += 400;
                    consumers.sweep(now_ms);
                    swept_ms = now_ms;
                }
                7 => {
                    if let Some((fetch, numbers)) = under_way.take() {
                        let (keeps_up, fetched) = (|key| Some(key) != slow, batch(&fetch, numbers));
                        let sent = consumers.on_fetched(&fetch, now_ms, Ok(fetched), keeps_up);
                        prop_assert!(sent.iter().all(|one| one.needs_ack || keeps_up(one.session)));
                    }
                }
                8 => slow = Some(SessionKey(session)),
                9 => {
                    slow = None;
                    consumers.unhold();
                }
                _ => consumers.on_written(),
            }
            while let Some(settlement) = consumers.next_settlement() {
                acknowledged.extend(settlement.acks.iter().map(|entry| entry.seq));
                let back = settlement.releases.iter().map(|one| one.delivery.entry.seq);
                available.extend(back);
            }
            if under_way.is_none()
                && let Some(fetch) = consumers.next_fetch(|key| Some(key) != slow)
            {
                let count = (fetch.count as usize).min(available.len());
                under_way = Some((fetch, available.drain(..count).collect()));
            }
            let held = consumers.all.iter().flat_map(|(_, consumer)| {
                assert!(consumer.unacked.len() <= usize::from(consumer.prefetch));
                consumer.unacked.iter().map(|one| one.delivery.entry.seq)
            });
            let on_the_way = under_way.iter().flat_map(|(_, numbers)| numbers.iter().copied());
            let mut all: Vec<u64> = held.collect();
            all.extend(on_the_way.chain(available.iter().copied()));
            all.extend(&acknowledged);
            all.sort_unstable();
            prop_assert!(all.iter().copied().eq(0..40), "{:?}", all);
            for (_, consumer) in &consumers.all {
                if let Some(first) = consumer.unacked.front()
                    && consumer.mode != AckMode::Auto
                {
                    let timer_ms = consumer.timer_ms.unwrap();
                    prop_assert!(timer_ms <= first.deadline_ms && timer_ms > swept_ms);
                }
            }
            prop_assert!(consumers.timers.len() <= consumers.len() + consumers.queues.len());
        }
        for key in keys {
            consumers.remove(key);
        }
        if let Some((fetch, numbers)) = under_way {
            consumers.on_fetched(&fetch, now_ms, Ok(batch(&fetch, numbers)), |_| true);
        }
        while consumers.next_settlement().is_some() {}
        prop_assert!(consumers.is_empty() && consumers.queues.is_empty());
        prop_assert!(consumers.timers.is_empty());
    }
}
