//! The checker passes good runs of queues and catches each kind of bad one.

use crate::cast::ACK_TIMEOUT_MS;
use crate::check::{Rule, check, check_queues};
use crate::record::{
    Consumer, Content, Delivery, Destination, Fault, Outcome, QueueRules, Run, Send, Session,
    Settled, Strikes,
};

const JOBS: usize = 0;
const DEAD: usize = 1;
const TAKEN: usize = 2;
const ANN: usize = 0;
const BOB: usize = 1;
const UNA: usize = 2;
const TOM: usize = 3;

fn content(number: u64) -> Content {
    Content { publisher: 0, number, destination: JOBS }
}

fn acked_send(content: Content) -> Send {
    let at_ms = content.number * 1_000;
    Send {
        content,
        connection: 1,
        sent_at_ms: at_ms,
        ended_at_ms: at_ms + 5,
        outcome: Outcome::Acked { position: None, degraded: false },
        repeated: false,
    }
}

/// A delivery of the message `number` to a consumer, so long after it was sent; acknowledged 100
/// ms later.
fn delivery(number: u64, consumer: usize, after_ms: u64, count: u64) -> Delivery {
    let got_at_ms = number * 1_000 + after_ms;
    Delivery {
        consumer,
        node: consumer,
        destination: JOBS,
        content: Some(content(number)),
        count,
        original: None,
        got_at_ms,
        settled: acked(got_at_ms + 100),
        left_at_ms: None,
    }
}

fn acked(asked_at_ms: u64) -> Settled {
    Settled::Acked { asked_at_ms, confirmed_at_ms: Some(asked_at_ms + 5) }
}

fn fault(from_ms: u64, to_ms: u64, strikes: Strikes) -> Fault {
    let what = format!("{strikes:?}");
    Fault { from_ms, to_ms, what, loses_data: false, loses_copied: false, wipes: false, strikes }
}

fn failover(from_ms: u64, to_ms: u64) -> Fault {
    Fault { loses_data: true, loses_copied: true, ..fault(from_ms, to_ms, Strikes::Redis) }
}

/// 1 is acknowledged by ann; 2 is refused by her and acknowledged by bob; 3 is lost with ann's
/// connection and acknowledged by bob; 4 is a dead letter after five deliveries; 5 is taken.
fn good() -> Run {
    let rules = |dead_letter| QueueRules { ack_timeout_ms: ACK_TIMEOUT_MS, dead_letter };
    let queue = |name: &str, dead_letter| Destination {
        name: name.to_owned(),
        history: false,
        owner: None,
        queue: Some(rules(dead_letter)),
    };
    let consumer = |name: &str, destination, is_auto| Consumer {
        name: name.to_owned(),
        user: name.to_owned(),
        destination,
        is_auto,
    };
    let taken = Content { destination: TAKEN, ..content(5) };
    let mut run = Run {
        destinations: vec![
            queue("/queue/jobs", Some(DEAD)),
            queue("/queue/dead", None),
            queue("/queue/taken", Some(DEAD)),
        ],
        consumers: vec![
            consumer("ann", JOBS, false),
            consumer("bob", JOBS, false),
            consumer("una", DEAD, false),
            consumer("tom", TAKEN, true),
        ],
        ..Run::default()
    };
    run.sends.extend((1..=4).map(|number| acked_send(content(number))));
    run.sends.push(acked_send(taken));
    run.deliveries.push(delivery(1, ANN, 10, 1));
    let refused = Settled::Nacked { asked_at_ms: 2_100 };
    run.deliveries.push(Delivery { settled: refused, ..delivery(2, ANN, 10, 1) });
    run.deliveries.push(delivery(2, BOB, 110, 2));
    let left =
        Delivery { settled: Settled::Held, left_at_ms: Some(3_200), ..delivery(3, ANN, 10, 1) };
    run.deliveries.push(left);
    run.deliveries.push(delivery(3, BOB, 210, 2));
    for count in 1..=5 {
        let at_ms = 4_000 + 100 * count;
        let refused = Settled::Nacked { asked_at_ms: at_ms + 50 };
        run.deliveries.push(Delivery { settled: refused, ..delivery(4, ANN, 100 * count, count) });
    }
    run.deliveries.push(Delivery {
        destination: DEAD,
        original: Some("/queue/jobs".to_owned()),
        ..delivery(4, UNA, 700, 1)
    });
    run.deliveries.push(Delivery {
        destination: TAKEN,
        content: Some(taken),
        settled: Settled::Taken,
        ..delivery(5, TOM, 10, 1)
    });
    run
}

/// The deliveries of a message, by their place.
fn places(run: &Run, number: u64) -> Vec<usize> {
    let is_of_it = |delivery: &Delivery| delivery.content.is_some_and(|it| it.number == number);
    (0..run.deliveries.len()).filter(|at| is_of_it(&run.deliveries[*at])).collect()
}

/// What the checker finds, each rule once.
fn broken(run: &Run) -> Vec<Rule> {
    let mut rules: Vec<_> = check_queues(run).into_iter().map(|it| it.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn a_good_run_passes() {
    assert_eq!(check(&good()), []);
}

#[test]
fn what_was_acknowledged_and_never_delivered_is_caught() {
    let mut run = good();
    run.deliveries.remove(0);
    assert_eq!(broken(&run), [Rule::LostFromQueue]);
    // Without an answer, or with a refusal, nothing is owed.
    for outcome in [Outcome::Unknown, Outcome::Refused("unavailable".to_owned())] {
        run.sends[0].outcome = outcome;
        assert_eq!(broken(&run), []);
    }
}

#[test]
fn what_was_delivered_and_not_acknowledged_must_come_again() {
    for number in [2, 3] {
        let mut run = good();
        let last = places(&run, number)[1];
        run.deliveries.remove(last);
        assert_eq!(broken(&run), [Rule::LostFromQueue], "{number}");
    }
}

#[test]
fn a_dead_letter_that_never_arrives_is_caught() {
    let mut run = good();
    let letter = *places(&run, 4).last().unwrap();
    run.deliveries.remove(letter);
    assert_eq!(broken(&run), [Rule::LostFromQueue]);
}

#[test]
fn an_acknowledgement_that_came_too_late_does_not_count() {
    let mut run = good();
    run.deliveries[0].settled = acked(1_010 + ACK_TIMEOUT_MS);
    let last = places(&run, 3)[1];
    let at = run.deliveries[last].got_at_ms;
    run.deliveries.push(Delivery { settled: Settled::Held, ..delivery(1, BOB, ACK_TIMEOUT_MS, 2) });
    assert_eq!(broken(&run), [Rule::LostFromQueue]);
    // But it may come again after that, and is then acknowledged by another.
    run.deliveries.last_mut().unwrap().settled = acked(at + ACK_TIMEOUT_MS);
    assert_eq!(broken(&run), []);
}

#[test]
fn a_failover_may_lose_what_was_just_sent_unless_a_replica_had_it() {
    let mut run = good();
    run.deliveries.remove(0);
    run.faults.push(failover(1_500, 4_000));
    assert_eq!(broken(&run), []);
    run.faults[0].loses_copied = false;
    assert_eq!(broken(&run), [Rule::LostFromQueue]);
    run.faults = vec![failover(10_000, 12_000)];
    assert_eq!(broken(&run), [Rule::LostFromQueue], "it was sent long before");
    run.faults[0].wipes = true;
    assert_eq!(broken(&run), [], "all of Redis' data is lost");
}

#[test]
fn what_an_auto_consumer_does_not_read_to_its_end_may_be_lost() {
    let mut run = good();
    run.deliveries.pop();
    assert_eq!(broken(&run), [Rule::LostFromQueue]);
    run.sessions.push(Session {
        id: "a".to_owned(),
        user: "tom".to_owned(),
        node: 0,
        from_ms: 0,
        to_ms: Some(5_100),
        cut: true,
        stalls: 0,
        is_narrow: false,
        places: Vec::new(),
    });
    assert_eq!(broken(&run), []);
    run.sessions[0].to_ms = Some(4_900);
    assert_eq!(broken(&run), [Rule::LostFromQueue], "it had ended before");
    run.sessions[0].user = "ann".to_owned();
    run.sessions[0].to_ms = Some(5_100);
    assert_eq!(broken(&run), [Rule::LostFromQueue], "it is another's");
}

#[test]
fn what_was_acknowledged_and_comes_again_is_caught() {
    let mut run = good();
    run.deliveries.push(delivery(1, BOB, 500, 2));
    assert_eq!(broken(&run), [Rule::AckedYetDelivered]);
    // What was not confirmed may come again, and what Redis may have forgotten too.
    let unconfirmed = Settled::Acked { asked_at_ms: 1_110, confirmed_at_ms: None };
    run.deliveries[0].settled = unconfirmed;
    assert_eq!(broken(&run), []);
    run.deliveries[0].settled = acked(1_110);
    run.faults.push(failover(1_300, 4_000));
    assert_eq!(broken(&run), []);
}

#[test]
fn what_was_acknowledged_and_becomes_a_dead_letter_is_caught() {
    let mut run = good();
    run.deliveries.push(Delivery {
        destination: DEAD,
        original: Some("/queue/jobs".to_owned()),
        ..delivery(1, UNA, 700, 1)
    });
    assert_eq!(broken(&run), [Rule::AckedYetDelivered]);
}

#[test]
fn a_fault_of_another_node_excuses_nothing() {
    let mut run = good();
    run.deliveries.push(delivery(1, BOB, 500, 2));
    run.faults.push(fault(900, 1_200, Strikes::Node(BOB)));
    assert_eq!(broken(&run), [Rule::AckedYetDelivered]);
    run.faults[0].strikes = Strikes::Node(ANN);
    assert_eq!(broken(&run), []);
}

#[test]
fn a_redelivery_that_does_not_say_so_is_caught() {
    let mut run = good();
    let second = places(&run, 3)[1];
    run.deliveries[second].count = 1;
    assert_eq!(broken(&run), [Rule::RedeliveryNotMarked]);
    run.faults.push(failover(3_100, 3_150));
    assert_eq!(broken(&run), [], "Redis may have forgotten the first");
    run.faults.clear();
    // It says so, but not how often.
    run.deliveries[second].count = 0;
    assert_eq!(broken(&run), [Rule::RedeliveryNotMarked]);
}

#[test]
fn two_who_have_a_message_at_once_are_caught() {
    let mut run = good();
    // Bob gets it while ann, who is connected, still has it.
    let [first, second] = places(&run, 3)[..] else { panic!("two deliveries") };
    run.deliveries[first].left_at_ms = Some(8_000);
    assert_eq!(broken(&run), [Rule::HeldByTwo]);
    run.deliveries[first].left_at_ms = None;
    assert_eq!(broken(&run), [Rule::HeldByTwo]);
    // After the ack timeout he may.
    run.deliveries[second] = delivery(3, BOB, 10 + ACK_TIMEOUT_MS, 2);
    assert_eq!(broken(&run), []);
    // Before she refuses it he may not.
    let mut run = good();
    let first = places(&run, 2)[0];
    run.deliveries[first].settled = Settled::Nacked { asked_at_ms: 2_500 };
    assert_eq!(broken(&run), [Rule::HeldByTwo]);
}

#[test]
fn an_earlier_delivery_that_comes_late_is_no_second_holder() {
    let mut run = good();
    // Ann's node was paused with it; bob has it meanwhile.
    let [first, second] = places(&run, 3)[..] else { panic!("two deliveries") };
    run.deliveries[second].settled = acked(3_900);
    run.deliveries[first].got_at_ms = 3_300;
    run.deliveries[first].left_at_ms = Some(3_400);
    assert_eq!(broken(&run), []);
}

#[test]
fn what_was_never_sent_or_was_refused_is_caught() {
    let mut run = good();
    run.sends.remove(0);
    assert_eq!(broken(&run), [Rule::Misdelivered]);
    let mut run = good();
    run.deliveries[0].content = None;
    assert_eq!(broken(&run), [Rule::Misdelivered, Rule::LostFromQueue]);
    let mut run = good();
    run.sends[0].outcome = Outcome::Refused("queue_full".to_owned());
    assert_eq!(broken(&run), [Rule::RefusedYetPublished]);
}

#[test]
fn what_comes_from_another_queue_is_caught_unless_it_is_a_dead_letter() {
    let mut run = good();
    run.deliveries[0].destination = TAKEN;
    assert_eq!(broken(&run), [Rule::Misdelivered]);
    let mut run = good();
    let letter = *places(&run, 4).last().unwrap();
    run.deliveries[letter].original = Some("/queue/taken".to_owned());
    assert_eq!(broken(&run), [Rule::Misdelivered]);
}

#[test]
fn a_publication_that_went_past_the_queue_is_caught() {
    let mut run = good();
    run.sends[0].outcome = Outcome::Acked { position: None, degraded: true };
    assert_eq!(broken(&run), [Rule::FalseAck]);
}
