//! The checker catches holes that no fault explains, and connections that are ended for nothing.

use crate::check::{Rule, check};
use crate::record::{
    Content, Destination, Event, Fault, Heard, Outcome, Run, Sample, Send, Session, Strikes,
    Subscriber, What,
};

const OPEN: usize = 0;

fn content(number: u64) -> Content {
    Content { publisher: 0, number, destination: OPEN }
}

fn fault(from_ms: u64, to_ms: u64, strikes: Strikes) -> Fault {
    let what = format!("{strikes:?}");
    Fault { from_ms, to_ms, what, loses_data: false, loses_copied: false, wipes: false, strikes }
}

fn heard(at_ms: u64, what: What) -> Heard {
    Heard { at_ms, destination: OPEN, what }
}

fn got(number: u64, at_ms: u64) -> Heard {
    heard(at_ms, What::Message { position: None, content: Some(content(number)) })
}

fn comes(at_ms: u64) -> [Heard; 2] {
    let joined = What::Joined { position: None, recovered: None, reason: None };
    [heard(at_ms, What::Asks { node: 0, since: None }), heard(at_ms + 10, joined)]
}

/// Ten messages, one each second from 30 s on. Hal stalls and is closed as slow before the fifth,
/// comes back and gets the last three.
fn good() -> Run {
    let send = |number: u64| Send {
        content: content(number),
        connection: 1,
        sent_at_ms: 30_000 + number * 1_000,
        ended_at_ms: 30_005 + number * 1_000,
        outcome: Outcome::Acked { position: None, degraded: false },
        repeated: false,
    };
    let mut hal: Vec<Heard> = comes(30_000).into();
    hal.extend((1..=4).map(|number| got(number, 35_000)));
    hal.push(heard(35_100, What::Left));
    hal.extend(comes(37_500));
    hal.extend((8..=10).map(|number| got(number, 30_010 + number * 1_000)));
    let session = |id: &str, is_narrow, to_ms: Option<u64>| Session {
        id: id.to_owned(),
        user: "hal".to_owned(),
        node: 0,
        from_ms: 30_000,
        to_ms,
        cut: to_ms.is_some(),
        stalls: 0,
        is_narrow,
        places: vec![OPEN],
    };
    let event = |id: &str, kind: &str, reason: Option<&str>| Event {
        session: id.to_owned(),
        user: "hal".to_owned(),
        kind: kind.to_owned(),
        reason: reason.map(str::to_owned),
    };
    let last = Sample {
        at_ms: 50_000,
        is_final: true,
        leases: 1,
        registry: vec![("hal".to_owned(), "h2".to_owned())],
        ..Sample::default()
    };
    Run {
        destinations: vec![Destination {
            name: "/topic/open".to_owned(),
            history: false,
            owner: None,
            queue: None,
        }],
        sends: (1..=10).map(send).collect(),
        subscribers: vec![Subscriber { name: "hal".into(), user: "hal".into(), heard: hal }],
        nodes: 1,
        sessions: vec![session("h1", true, Some(35_100)), session("h2", true, None)],
        samples: vec![last],
        events: vec![
            event("h1", "connected", None),
            event("h1", "disconnected", Some("slow_consumer")),
            event("h2", "connected", None),
        ],
        ..Run::default()
    }
}

/// What the checker finds, each rule once.
fn broken(run: &Run) -> Vec<Rule> {
    let mut rules: Vec<_> = check(run).into_iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn who_is_closed_as_slow_may_miss_what_came_after_that() {
    assert_eq!(check(&good()), []);
}

#[test]
fn a_hole_within_a_connection_is_caught() {
    for place in [3, 9] {
        let mut run = good();
        let removed = run.subscribers[0].heard.remove(place);
        assert!(matches!(removed.what, What::Message { .. }), "{removed:?}");
        assert_eq!(broken(&run), [Rule::SilentHole]);
        // A fault explains it, also a moment after its end.
        run.faults.push(fault(20_000, 29_000, Strikes::Nobody));
        let is_near = place == 3;
        assert_eq!(broken(&run).is_empty(), is_near, "{place}");
    }
}

#[test]
fn what_was_not_acknowledged_leaves_no_hole() {
    let mut run = good();
    run.subscribers[0].heard.remove(3);
    run.sends[1].outcome = Outcome::Unknown;
    assert_eq!(broken(&run), []);
    run.sends[1].outcome = Outcome::Acked { position: None, degraded: true };
    assert_eq!(broken(&run), []);
}

#[test]
fn who_always_read_and_is_closed_as_slow_is_caught() {
    let mut run = good();
    run.sessions[0].is_narrow = false;
    assert_eq!(broken(&run), [Rule::CutWithoutReason]);
}

#[test]
fn who_notices_only_at_the_kill_of_its_node_that_it_was_closed_passes() {
    let mut run = good();
    run.faults.push(fault(35_050, 35_060, Strikes::KilledNode(0)));
    assert_eq!(broken(&run), []);
    run.sessions[0].is_narrow = false;
    assert_eq!(broken(&run), [Rule::CutWithoutReason, Rule::EndNotTold]);
}

#[test]
fn a_connection_that_is_cut_though_nothing_happened_is_caught() {
    let mut run = good();
    run.events[1].reason = Some("connection_lost".to_owned());
    assert_eq!(broken(&run), [Rule::CutWithoutReason]);
    // Its client may have left, or its node was struck, but not another.
    run.faults.push(fault(34_000, 34_500, Strikes::Node(1)));
    assert_eq!(broken(&run), [Rule::CutWithoutReason]);
    run.faults.push(fault(34_000, 34_500, Strikes::Node(0)));
    assert_eq!(broken(&run), []);
    run.faults.clear();
    run.sessions[0].cut = false;
    assert_eq!(broken(&run), []);
}
