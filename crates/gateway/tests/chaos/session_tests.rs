//! The checker catches ghosts, the absent, and beginnings and ends that were not told.

use std::collections::BTreeMap;

use crate::check::{LEASE_MS, LEASE_RENEW_MS};
use crate::check::{Rule, check_sessions};
use crate::record::{Event, Fault, Run, Sample, Session, Strikes};

const TOPIC: usize = 0;
const KILLED_MS: u64 = 20_000;
/// A lease, a turn of the reapers and the slack after that.
const GONE_MS: u64 = KILLED_MS + LEASE_MS + LEASE_RENEW_MS + 2_000;

fn session(id: &str, user: &str, node: usize, from_ms: u64, to_ms: Option<u64>) -> Session {
    let (id, user) = (id.to_owned(), user.to_owned());
    Session {
        id,
        user,
        node,
        from_ms,
        to_ms,
        cut: false,
        stalls: 0,
        is_narrow: false,
        places: vec![TOPIC],
    }
}

fn event(session: &str, user: &str, kind: &str, reason: Option<&str>) -> Event {
    let [session, user, kind] = [session, user, kind].map(str::to_owned);
    Event { session, user, kind, reason: reason.map(str::to_owned) }
}

fn sample(at_ms: u64, is_final: bool, sessions: &[(&str, &str)]) -> Sample {
    let mut members: BTreeMap<String, u64> = BTreeMap::new();
    for (user, _) in sessions {
        *members.entry((*user).to_owned()).or_default() += 1;
    }
    let registry = sessions.iter().map(|(user, id)| ((*user).to_owned(), (*id).to_owned()));
    Sample {
        at_ms,
        node: 1,
        is_final,
        leases: 3,
        registry: registry.collect(),
        members: [(TOPIC, members)].into(),
    }
}

fn fault(strikes: Strikes, from_ms: u64, to_ms: u64) -> Fault {
    let what = format!("{strikes:?}");
    Fault { from_ms, to_ms, what, loses_data: false, loses_copied: false, wipes: false, strikes }
}

/// Ann's only session ends with node 0, bob's by his leaving; cid and his other session stay.
fn good() -> Run {
    let cut = Session { cut: true, ..session("a1", "ann", 0, 1_000, Some(KILLED_MS + 10)) };
    let sessions = vec![
        cut,
        session("b1", "bob", 1, 1_000, Some(10_000)),
        session("c1", "cid", 1, 1_000, None),
        session("c2", "cid", 2, 1_000, None),
    ];
    let connected = |id, user| event(id, user, "connected", None);
    Run {
        nodes: 3,
        sessions,
        faults: vec![fault(Strikes::KilledNode(0), KILLED_MS, KILLED_MS + 2_000)],
        samples: vec![
            sample(5_000, false, &[("ann", "a1"), ("bob", "b1"), ("cid", "c1"), ("cid", "c2")]),
            sample(22_000, false, &[("ann", "a1"), ("cid", "c1"), ("cid", "c2")]),
            sample(GONE_MS + 1_000, false, &[("cid", "c1"), ("cid", "c2")]),
            sample(90_000, true, &[("cid", "c1"), ("cid", "c2")]),
        ],
        events: vec![
            connected("a1", "ann"),
            connected("b1", "bob"),
            event("b1", "bob", "disconnected", Some("client_left")),
            connected("c1", "cid"),
            event("a1", "ann", "disconnected", Some("node_lost")),
            connected("c2", "cid"),
        ],
        ..Run::default()
    }
}

/// What the checker finds, each rule once.
fn broken(run: &Run) -> Vec<Rule> {
    let mut rules: Vec<_> = check_sessions(run).into_iter().map(|it| it.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// With ann in the third sample, some time after her node was killed.
fn with_ghost(after_ms: u64) -> Run {
    let mut run = good();
    let sessions = [("ann", "a1"), ("cid", "c1"), ("cid", "c2")];
    run.samples[2] = sample(KILLED_MS + after_ms, false, &sessions);
    run
}

#[test]
fn a_good_run_passes() {
    assert_eq!(check_sessions(&good()), []);
}

#[test]
fn who_stands_there_after_the_lease_and_a_turn_of_the_reapers_is_a_ghost() {
    assert_eq!(broken(&with_ghost(LEASE_MS + LEASE_RENEW_MS)), []);
    let late = LEASE_MS + LEASE_RENEW_MS + 2_500;
    assert_eq!(broken(&with_ghost(late)), [Rule::Ghost, Rule::GhostMember]);
}

#[test]
fn who_came_back_is_no_ghost_but_the_former_session_is_one() {
    let mut run = with_ghost(9_000);
    run.sessions.push(session("a2", "ann", 2, KILLED_MS + 500, Some(40_000)));
    run.events.push(event("a2", "ann", "connected", None));
    run.events.push(event("a2", "ann", "disconnected", Some("client_left")));
    assert_eq!(broken(&run), [Rule::Ghost]);
    run.samples[2].registry[0].1 = "a2".to_owned();
    assert_eq!(broken(&run), []);
}

#[test]
fn who_left_a_healthy_node_is_a_ghost_too() {
    let mut run = good();
    run.samples[2] = sample(19_000, false, &[("ann", "a1"), ("bob", "b1")]);
    assert_eq!(broken(&run), [Rule::Ghost, Rule::GhostMember]);
}

#[test]
fn a_member_that_no_client_ever_was_is_caught() {
    let mut run = good();
    run.samples[0].members.get_mut(&TOPIC).unwrap().insert("eve".to_owned(), 1);
    assert_eq!(broken(&run), [Rule::GhostMember]);
}

#[test]
fn ghosts_are_excused_while_redis_is_away_and_a_while_after() {
    for (strikes, expected) in [
        (Strikes::Redis, vec![]),
        (Strikes::Nobody, vec![Rule::Ghost, Rule::GhostMember]),
        (Strikes::Node(1), vec![Rule::Ghost, Rule::GhostMember]),
    ] {
        let mut run = with_ghost(9_000);
        run.faults.push(fault(strikes, KILLED_MS + 1_000, KILLED_MS + 5_000));
        assert_eq!(broken(&run), expected, "{strikes:?}");
    }
    let mut run = with_ghost(18_000);
    run.faults.push(fault(Strikes::Redis, KILLED_MS + 1_000, KILLED_MS + 5_000));
    assert_eq!(broken(&run), [Rule::Ghost, Rule::GhostMember]);
}

#[test]
fn ghosts_are_excused_where_no_node_could_reap_them() {
    let mut run = with_ghost(9_000);
    run.faults.push(fault(Strikes::Node(1), KILLED_MS + 1_000, KILLED_MS + 5_000));
    run.faults.push(fault(Strikes::Node(2), KILLED_MS + 1_000, KILLED_MS + 5_000));
    assert_eq!(broken(&run), []);
}

#[test]
fn who_left_a_node_that_is_cut_off_stays_until_that_is_back() {
    let mut run = good();
    run.samples[2] = sample(19_000, false, &[("ann", "a1"), ("bob", "b1")]);
    run.faults.push(fault(Strikes::Node(1), 9_000, 12_000));
    assert_eq!(broken(&run), []);
}

#[test]
fn at_the_end_the_registry_has_exactly_those_who_live() {
    let mut run = good();
    run.samples[3].registry.push(("ann".to_owned(), "of no client".to_owned()));
    assert_eq!(broken(&run), [Rule::Ghost]);
    let mut run = good();
    run.samples[3].registry.pop();
    assert_eq!(broken(&run), [Rule::Absent]);
}

#[test]
fn at_the_end_presence_has_exactly_the_sessions_that_live() {
    for (sessions, rule) in [(1, Rule::AbsentMember), (3, Rule::GhostMember)] {
        let mut run = good();
        run.samples[3].members.get_mut(&TOPIC).unwrap().insert("cid".to_owned(), sessions);
        assert_eq!(broken(&run), [rule]);
    }
    let mut run = good();
    run.samples[3].members.get_mut(&TOPIC).unwrap().clear();
    assert_eq!(broken(&run), [Rule::AbsentMember]);
}

#[test]
fn at_the_end_there_is_a_lease_for_each_node() {
    let mut run = good();
    run.samples[3].leases = 4;
    assert_eq!(broken(&run), [Rule::Leases]);
}

#[test]
fn an_end_before_its_beginning_is_caught() {
    let mut run = good();
    run.events.swap(1, 2);
    assert_eq!(broken(&run), [Rule::EventOrder, Rule::EndNotTold]);
    run.events.remove(2);
    assert_eq!(broken(&run), [Rule::EventOrder]);
}

#[test]
fn an_end_that_is_not_told_is_caught() {
    for at in [2, 4] {
        let mut run = good();
        run.events.remove(at);
        assert_eq!(broken(&run), [Rule::EndNotTold]);
    }
    // Also of a session of which no client knows.
    let mut run = good();
    run.events.push(event("x1", "ann", "connected", None));
    assert_eq!(broken(&run), [Rule::EndNotTold]);
}

#[test]
fn events_may_be_told_again_as_long_as_the_last_says_what_is_so() {
    let mut run = good();
    run.events.push(event("b1", "bob", "connected", None));
    run.events.push(event("b1", "bob", "disconnected", Some("client_left")));
    // Its node was away for longer than its lease.
    run.events.push(event("c1", "cid", "disconnected", Some("node_lost")));
    run.events.push(event("c1", "cid", "connected", None));
    assert_eq!(broken(&run), []);
    run.events.pop();
    assert_eq!(broken(&run), [Rule::EventOrder]);
}

#[test]
fn who_went_with_its_node_is_told_to_have_been_lost() {
    let mut run = good();
    run.events[4].reason = Some("client_left".to_owned());
    assert_eq!(broken(&run), [Rule::EndNotTold]);
    // It left by itself in that moment.
    run.sessions[0].cut = false;
    assert_eq!(broken(&run), []);
}

#[test]
fn an_event_of_another_user_is_caught() {
    let mut run = good();
    run.events[0].user = "bob".to_owned();
    assert_eq!(broken(&run), [Rule::EventOrder]);
}

#[test]
fn a_session_that_is_not_told_at_all_needs_a_reason() {
    let untold = |session: &str| {
        let mut run = good();
        run.events.retain(|event| event.session != session);
        run
    };
    for id in ["a1", "b1", "c1"] {
        assert_eq!(broken(&untold(id)), [Rule::BeginNotTold], "{id}");
    }
    // Redis lost all it had; who lives is entered again.
    let wipe = Fault { loses_data: true, wipes: true, ..fault(Strikes::Redis, 30_000, 31_000) };
    for (id, expected) in [("a1", vec![]), ("b1", vec![]), ("c1", vec![Rule::BeginNotTold])] {
        let mut run = untold(id);
        run.faults.push(wipe.clone());
        assert_eq!(broken(&run), expected, "{id}");
    }
    // A replica lacks only the newest.
    for (from_ms, expected) in [(30_000, vec![Rule::BeginNotTold]), (1_500, vec![])] {
        let mut run = untold("b1");
        let failover = fault(Strikes::Redis, from_ms, from_ms + 1_000);
        run.faults.push(Fault { loses_data: true, loses_copied: true, ..failover });
        assert_eq!(broken(&run), expected, "{from_ms}");
    }
}

#[test]
fn a_session_is_untold_where_its_node_was_killed_before_it_could_tell() {
    let mut run = good();
    run.events.retain(|event| event.session != "a1");
    run.faults.push(fault(Strikes::Redis, 15_000, KILLED_MS + 1_000));
    assert_eq!(broken(&run), []);
    run.faults[1].strikes = Strikes::Node(1);
    assert_eq!(broken(&run), [Rule::BeginNotTold]);
}
