//! The checker passes a good run and catches each kind of bad one.

use fanlight_proto::Position;

use crate::check::{Rule, check};
use crate::record::{
    Content, Destination, Fault, Heard, Outcome, Run, Send, Strikes, Subscriber, What,
};

const KEPT: usize = 0;
const OPEN: usize = 1;
const ANNS: usize = 2;

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

fn content(destination: usize, number: u64) -> Content {
    Content { publisher: 0, number, destination }
}

fn acked(destination: usize, number: u64, position: Option<Position>) -> Send {
    Send {
        content: content(destination, number),
        connection: 1,
        sent_at_ms: number * 10,
        ended_at_ms: number * 10 + 5,
        outcome: Outcome::Acked { position, degraded: false },
        repeated: false,
    }
}

fn heard(destination: usize, what: What) -> Heard {
    Heard { at_ms: 1000, destination, what }
}

fn message(destination: usize, number: u64, position: Option<Position>) -> Heard {
    heard(destination, What::Message { position, content: Some(content(destination, number)) })
}

fn asks(destination: usize, since: Option<Position>) -> Heard {
    heard(destination, What::Asks { node: 0, since })
}

fn joined(destination: usize, position: Option<Position>, recovered: Option<bool>) -> Heard {
    heard(destination, What::Joined { position, recovered, reason: None })
}

fn refused_recovery(position: Position, reason: &str) -> Heard {
    let reason = Some(reason.to_owned());
    let (position, recovered) = (Some(position), Some(false));
    heard(KEPT, What::Joined { position, recovered, reason })
}

fn failover() -> Fault {
    Fault {
        from_ms: 500,
        to_ms: 900,
        what: "failover".to_owned(),
        loses_data: true,
        loses_copied: true,
        wipes: false,
        strikes: Strikes::Redis,
    }
}

/// Sends 1 to 6 to `/topic/kept` and 11 to 16 to `/topic/open`; one subscriber that leaves and
/// comes back between 3 and 4, and one that stays.
fn good() -> Run {
    let destination = |name: &str, history, owner: Option<&str>| Destination {
        name: name.to_owned(),
        history,
        owner: owner.map(str::to_owned),
        queue: None,
    };
    let position = |number| Some(at(7, number));
    let mut run = Run {
        destinations: vec![
            destination("/topic/kept", true, None),
            destination("/topic/open", false, None),
            destination("/user/queue/kept of ann", true, Some("ann")),
        ],
        ..Run::default()
    };
    run.sends.extend((1..=6).map(|number| acked(KEPT, number, position(number))));
    run.sends.extend((11..=16).map(|number| acked(OPEN, number, None)));
    let mut returning = vec![asks(KEPT, None), joined(KEPT, Some(at(7, 0)), None)];
    returning.extend((1..=3).map(|number| message(KEPT, number, position(number))));
    returning.push(heard(KEPT, What::Left));
    returning.push(asks(KEPT, position(3)));
    returning.extend((4..=5).map(|number| message(KEPT, number, position(number))));
    returning.push(joined(KEPT, position(5), Some(true)));
    returning.push(message(KEPT, 6, position(6)));
    let mut staying = vec![asks(OPEN, None), joined(OPEN, None, None)];
    staying.extend((11..=16).map(|number| message(OPEN, number, None)));
    run.subscribers = [("returning", "bob", returning), ("staying", "cid", staying)]
        .map(|(name, user, heard)| Subscriber { name: name.into(), user: user.into(), heard })
        .into();
    let history = (1..=6).map(|number| (at(7, number), content(KEPT, number)));
    run.finals.insert(KEPT, history.collect());
    run
}

/// A failover after 4 that loses 4: 5 and 6 go on in epoch 8 from offset 4.
fn failed_over() -> Run {
    let mut run = good();
    run.faults.push(failover());
    run.sends[4] = acked(KEPT, 5, Some(at(8, 4)));
    run.sends[5] = acked(KEPT, 6, Some(at(8, 5)));
    run.finals.insert(
        KEPT,
        vec![
            (at(7, 1), content(KEPT, 1)),
            (at(7, 2), content(KEPT, 2)),
            (at(7, 3), content(KEPT, 3)),
            (at(8, 4), content(KEPT, 5)),
            (at(8, 5), content(KEPT, 6)),
        ],
    );
    run.subscribers[0].heard = vec![
        asks(KEPT, None),
        joined(KEPT, Some(at(7, 0)), None),
        message(KEPT, 1, Some(at(7, 1))),
        message(KEPT, 2, Some(at(7, 2))),
        message(KEPT, 3, Some(at(7, 3))),
        message(KEPT, 4, Some(at(7, 4))),
        heard(KEPT, What::Left),
        asks(KEPT, Some(at(7, 4))),
        refused_recovery(at(8, 4), "epoch_changed"),
        message(KEPT, 6, Some(at(8, 5))),
    ];
    run
}

/// What the checker finds, each rule once.
fn broken(run: &Run) -> Vec<Rule> {
    let mut rules: Vec<_> = check(run).into_iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[track_caller]
fn catches(rule: Rule, run: &Run) {
    let found = check(run);
    assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} not in {found:?}");
}

/// Takes away what the first subscriber heard at this place.
fn without(mut run: Run, place: usize) -> Run {
    run.subscribers[0].heard.remove(place);
    run
}

#[test]
fn a_good_run_passes() {
    assert_eq!(check(&good()), []);
}

#[test]
fn a_failover_that_is_told_passes() {
    assert_eq!(check(&failed_over()), []);
}

#[test]
fn going_on_in_an_epoch_that_agrees_needs_no_notice() {
    let mut run = failed_over();
    // It had only heard up to 3, where both epochs agree.
    run.subscribers[0]
        .heard
        .splice(5.., [message(KEPT, 5, Some(at(8, 4))), message(KEPT, 6, Some(at(8, 5)))]);
    assert_eq!(check(&run), []);
}

#[test]
fn a_lost_acknowledgement_is_caught() {
    let mut run = good();
    run.sends.insert(6, acked(KEPT, 7, Some(at(7, 7))));
    assert_eq!(broken(&run), [Rule::FalseAck, Rule::NotLiveAgain]);
    // Also where the next one took its place in the end.
    let mut run = good();
    run.finals.get_mut(&KEPT).unwrap().remove(3);
    catches(Rule::FalseAck, &run);
    catches(Rule::HoleInHistory, &run);
}

#[test]
fn an_acknowledgement_lost_with_its_epoch_needs_a_reason() {
    let mut run = failed_over();
    run.faults.clear();
    catches(Rule::FalseAck, &run);
    catches(Rule::NeedlessEpoch, &run);
    catches(Rule::NeedlessLoss, &run);
}

#[test]
fn a_failover_may_lose_the_newest_but_nothing_before_it() {
    let mut run = failed_over();
    run.finals.get_mut(&KEPT).unwrap().remove(1);
    catches(Rule::FalseAck, &run);
}

#[test]
fn what_a_replica_must_have_no_failover_may_lose() {
    let copied = || {
        let mut run = failed_over();
        run.faults[0].loses_copied = false;
        run
    };
    let mut run = copied();
    // The fourth was acknowledged, and the fifth got its offset.
    assert_eq!(broken(&run), [Rule::FalseAck]);
    // Also where the final history says nothing of those offsets.
    run.finals.get_mut(&KEPT).unwrap().drain(..4);
    assert_eq!(broken(&run), [Rule::FalseAck]);
    // Without an answer it may be lost.
    let mut run = copied();
    run.sends[3].outcome = Outcome::Unknown;
    assert_eq!(broken(&run), []);
    // But not where it was acknowledged, whatever its offset is.
    run.sends[3].outcome = Outcome::Acked { position: Some(at(7, 6)), degraded: false };
    run.subscribers[0].heard.clear();
    assert_eq!(broken(&run), [Rule::FalseAck], "it is in no history");
    // A failover that another replica may have won may have lost it, if it was then.
    run.faults.push(Fault { from_ms: 20, to_ms: 30, ..failover() });
    assert_eq!(broken(&run), []);
    run.faults[1].to_ms = 25;
    run.faults[1].from_ms = 2_000;
    assert_eq!(broken(&run), [Rule::FalseAck]);
}

#[test]
fn a_delivery_that_left_no_trace_is_caught() {
    let mut run = good();
    run.sends.retain(|send| send.content.number != 2);
    run.finals.get_mut(&KEPT).unwrap().remove(1);
    catches(Rule::HoleInHistory, &run);
}

#[test]
fn an_acknowledgement_without_a_position_is_caught() {
    let mut run = good();
    run.sends[2] = acked(KEPT, 3, None);
    assert_eq!(broken(&run), [Rule::AckWithoutPosition]);
}

#[test]
fn what_was_refused_and_yet_published_is_caught() {
    for (place, number) in [(1, 2), (7, 12)] {
        let mut run = good();
        assert_eq!(run.sends[place].content.number, number);
        run.sends[place].outcome = Outcome::Refused("unavailable".to_owned());
        assert_eq!(broken(&run), [Rule::RefusedYetPublished]);
        run.sends[place].outcome = Outcome::Unknown;
        assert_eq!(broken(&run), []);
    }
}

#[test]
fn a_duplicate_is_caught() {
    let mut run = good();
    run.subscribers[0].heard.insert(4, message(KEPT, 2, Some(at(7, 2))));
    catches(Rule::Duplicate, &run);
    let mut run = good();
    run.subscribers[1].heard.push(message(OPEN, 16, None));
    assert_eq!(broken(&run), [Rule::Duplicate]);
}

#[test]
fn what_a_key_repeated_near_a_failover_may_come_twice_without_history() {
    let mut run = good();
    run.subscribers[1].heard.push(message(OPEN, 16, None));
    run.sends[11].repeated = true;
    assert_eq!(broken(&run), [Rule::Duplicate], "no key was lost");
    run.faults.push(failover());
    assert_eq!(broken(&run), []);
    run.sends[11].repeated = false;
    assert_eq!(broken(&run), [Rule::Duplicate], "it was sent once");
}

#[test]
fn a_duplicate_over_a_reconnect_is_caught() {
    let mut run = good();
    run.subscribers[0].heard.insert(7, message(KEPT, 3, Some(at(7, 3))));
    catches(Rule::Duplicate, &run);
}

#[test]
fn who_comes_without_a_position_may_get_again_what_it_got_elsewhere() {
    let mut run = good();
    let again = [asks(KEPT, None), joined(KEPT, Some(at(7, 4)), None)];
    run.subscribers[0].heard.extend(again);
    run.subscribers[0].heard.extend((5..=6).map(|n| message(KEPT, n, Some(at(7, n)))));
    assert_eq!(check(&run), []);
    run.subscribers[0].heard.push(message(KEPT, 5, Some(at(7, 5))));
    assert_eq!(broken(&run), [Rule::Duplicate]);
}

#[test]
fn who_is_told_to_begin_further_back_gets_again_only_what_is_behind_that() {
    let mut run = good();
    run.faults.push(Fault { loses_data: false, ..failover() });
    let again = [asks(KEPT, Some(at(7, 6))), refused_recovery(at(7, 4), "unavailable")];
    run.subscribers[0].heard.extend(again);
    run.subscribers[0].heard.extend((5..=6).map(|n| message(KEPT, n, Some(at(7, n)))));
    assert_eq!(check(&run), []);
    run.subscribers[0].heard.push(message(KEPT, 4, Some(at(7, 4))));
    assert_eq!(broken(&run), [Rule::Duplicate]);
}

#[test]
fn who_is_told_to_begin_in_an_epoch_that_ended_gets_again_what_has_replaced_it() {
    let mut run = failed_over();
    let heard = &mut run.subscribers[0].heard;
    // It got 8:5, and then comes to a node that is still in epoch 7.
    heard.push(asks(KEPT, Some(at(8, 5))));
    heard.push(refused_recovery(at(7, 4), "unavailable"));
    heard.push(self::heard(
        KEPT,
        What::Lost { reason: "epoch_changed".into(), position: Some(at(7, 3)) },
    ));
    heard.extend(
        [(5, at(8, 4)), (6, at(8, 5))].map(|(n, position)| message(KEPT, n, Some(position))),
    );
    assert_eq!(check(&run), []);
    for (number, position) in [(6, at(8, 5)), (3, at(7, 3))] {
        let mut run = run.clone();
        run.subscribers[0].heard.push(message(KEPT, number, Some(position)));
        assert_eq!(broken(&run), [Rule::Duplicate]);
    }
}

#[test]
fn a_publication_at_two_positions_is_caught() {
    let mut run = good();
    run.finals.get_mut(&KEPT).unwrap().push((at(7, 7), content(KEPT, 6)));
    catches(Rule::PublishedTwice, &run);
}

#[test]
fn what_a_key_repeated_after_a_loss_may_be_published_again() {
    let mut run = failed_over();
    // The fourth was lost; its publisher had no answer and sent it again.
    run.sends[3].repeated = true;
    run.sends[3].outcome = Outcome::Acked { position: Some(at(8, 6)), degraded: false };
    run.sends[3].ended_at_ms = 70;
    run.sends[3].connection = 2;
    run.finals.get_mut(&KEPT).unwrap().push((at(8, 6), content(KEPT, 4)));
    run.subscribers[0].heard.push(message(KEPT, 4, Some(at(8, 6))));
    assert_eq!(broken(&run), []);
    run.sends[3].repeated = false;
    assert_eq!(broken(&run), [Rule::PublishedTwice]);
}

#[test]
fn a_reorder_is_caught() {
    let mut run = good();
    run.subscribers[0].heard.swap(2, 3);
    catches(Rule::Reordered, &run);
    let mut run = good();
    run.subscribers[1].heard.swap(4, 5);
    assert_eq!(broken(&run), [Rule::PublisherOrder]);
}

#[test]
fn a_publisher_reordered_in_history_is_caught() {
    let mut run = good();
    for (place, offset) in [(2, 4), (3, 3)] {
        run.sends[place].outcome =
            Outcome::Acked { position: Some(at(7, offset)), degraded: false };
    }
    catches(Rule::PublisherOrder, &run);
}

#[test]
fn what_had_no_answer_may_come_late_and_what_was_acknowledged_may_not() {
    let mut run = good();
    run.subscribers[1].heard.swap(4, 5);
    run.sends[8].outcome = Outcome::Unknown;
    assert_eq!(broken(&run), []);
    // Also over another connection.
    for send in &mut run.sends[9..] {
        send.connection = 2;
    }
    run.sends[8].outcome = Outcome::Acked { position: None, degraded: false };
    assert_eq!(broken(&run), [Rule::PublisherOrder]);
}

#[test]
fn a_silent_gap_is_caught() {
    assert_eq!(broken(&without(good(), 3)), [Rule::SilentGap]);
}

#[test]
fn a_gap_that_is_told_is_none_but_needs_a_reason() {
    let mut run = without(good(), 3);
    let lost = What::Lost { reason: "unavailable".to_owned(), position: None };
    run.subscribers[0].heard.insert(3, heard(KEPT, lost));
    assert_eq!(broken(&run), [Rule::NeedlessLoss]);
    run.faults.push(Fault { loses_data: false, ..failover() });
    assert_eq!(broken(&run), []);
}

#[test]
fn a_gap_after_joining_is_caught() {
    assert_eq!(broken(&without(good(), 2)), [Rule::SilentGap]);
}

#[test]
fn a_false_recovery_is_caught() {
    assert_eq!(broken(&without(good(), 8)), [Rule::FalseRecovery]);
}

#[test]
fn a_recovery_that_says_nothing_is_no_excuse() {
    let mut run = good();
    run.subscribers[0].heard.splice(7..=9, [joined(KEPT, Some(at(7, 5)), None)]);
    assert_eq!(broken(&run), [Rule::SilentGap]);
}

#[test]
fn a_needless_loss_is_caught() {
    let mut run = good();
    run.subscribers[0].heard.splice(7..=9, [refused_recovery(at(7, 5), "position_too_old")]);
    assert_eq!(broken(&run), [Rule::NeedlessLoss]);
}

#[test]
fn a_reissued_offset_is_caught() {
    let mut run = good();
    run.faults.push(failover());
    // The epoch stayed, and the fifth got the fourth's offset.
    run.sends[4] = acked(KEPT, 5, Some(at(7, 4)));
    catches(Rule::PositionWithTwoContents, &run);
}

#[test]
fn an_epoch_that_reissued_offsets_unnoticed_is_caught() {
    let mut run = failed_over();
    // It had heard epoch 7's fourth, and goes on with epoch 8's fifth as if they were one history.
    let untold = [joined(KEPT, Some(at(8, 4)), Some(true)), message(KEPT, 6, Some(at(8, 5)))];
    run.subscribers[0].heard.splice(8.., untold);
    catches(Rule::FalseRecovery, &run);
    // And the same over a connection that stays.
    run.subscribers[0].heard.splice(6.., [message(KEPT, 6, Some(at(8, 5)))]);
    assert_eq!(broken(&run), [Rule::SilentGap]);
}

#[test]
fn a_new_epoch_that_counts_from_the_start_unnoticed_is_caught() {
    let mut run = good();
    run.faults.push(failover());
    run.sends[5] = acked(KEPT, 6, Some(at(8, 1)));
    run.finals.insert(KEPT, vec![(at(8, 1), content(KEPT, 6))]);
    let place = run.subscribers[0].heard.len() - 1;
    run.subscribers[0].heard[place] = message(KEPT, 6, Some(at(8, 1)));
    assert_eq!(broken(&run), [Rule::SilentGap]);
}

#[test]
fn what_comes_to_another_user_is_caught() {
    let mut run = good();
    run.sends.push(acked(ANNS, 21, Some(at(9, 1))));
    run.finals.insert(ANNS, vec![(at(9, 1), content(ANNS, 21))]);
    let heard =
        [asks(ANNS, None), joined(ANNS, Some(at(9, 0)), None), message(ANNS, 21, Some(at(9, 1)))];
    run.subscribers[0].heard.extend(heard);
    assert_eq!(broken(&run), [Rule::Misdelivered]);
    run.subscribers[0].user = "ann".to_owned();
    assert_eq!(broken(&run), []);
}

#[test]
fn what_comes_at_another_destination_or_was_never_sent_is_caught() {
    for content in [Some(content(KEPT, 6)), None] {
        let mut run = good();
        let what = What::Message { position: None, content };
        run.subscribers[1].heard.insert(2, heard(OPEN, what));
        assert_eq!(broken(&run), [Rule::Misdelivered]);
    }
}

#[test]
fn a_subscriber_that_hears_nothing_any_more_is_caught() {
    let last = good().subscribers[0].heard.len() - 1;
    assert_eq!(broken(&without(good(), last)), [Rule::NotLiveAgain]);
    let mut run = good();
    run.subscribers[1].heard.pop();
    assert_eq!(broken(&run), [Rule::NotLiveAgain]);
    let mut run = good();
    run.subscribers[1].heard.push(heard(OPEN, What::Left));
    assert_eq!(broken(&run), [Rule::NotLiveAgain]);
}
