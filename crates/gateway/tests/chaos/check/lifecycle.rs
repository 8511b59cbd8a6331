//! The lifecycle events: each session's beginning, then its end, whatever became of its node.

use std::collections::BTreeMap;

use super::slow::SLOW;
use super::standing::RECONNECT_MS;
use super::{Rule, Violation};
use crate::record::{Event, Fault, Run, Session, Strikes};

pub(super) fn check(run: &Run, out: &mut Vec<Violation>) {
    if !run.samples.iter().any(|sample| sample.is_final) {
        // A run that was broken off: the events of its end are not there.
        return;
    }
    let mut told: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in &run.events {
        told.entry(&event.session).or_default().push(event);
    }
    let known: BTreeMap<_, _> =
        run.sessions.iter().map(|session| (session.id.as_str(), session)).collect();
    for (id, events) in &told {
        of_session(id, events, known.get(id).copied(), run, out);
    }
    for session in &run.sessions {
        if !told.contains_key(session.id.as_str()) && !may_be_untold(run, session) {
            let text = format!(
                "nothing was told of session {} of {} on node {}, from {} to {:?}",
                session.id, session.user, session.node, session.from_ms, session.to_ms
            );
            out.push(violation(Rule::BeginNotTold, session.from_ms, text));
        }
    }
}

/// Both are written with what they tell of, in one step; so whatever Redis loses, an end has its
/// beginning, and who is not there any more is told to have ended.
fn of_session(
    id: &str,
    events: &[&Event],
    session: Option<&Session>,
    run: &Run,
    out: &mut Vec<Violation>,
) {
    let at_ms = session.and_then(|session| session.to_ms).unwrap_or(END_MS);
    let user = &events[0].user;
    let mut found = |rule, text: &str| {
        let said: Vec<_> = events.iter().map(|it| (it.kind.as_str(), &it.reason)).collect();
        let text = format!("session {id} of {user}: {text}; told were {said:?}");
        out.push(violation(rule, at_ms, text));
    };
    if events[0].kind != "connected" {
        found(Rule::EventOrder, "its end was told before its beginning");
    }
    let last = events[events.len() - 1];
    let lives = session.is_some_and(|session| session.to_ms.is_none());
    match (lives, last.kind.as_str()) {
        (true, "connected") => {}
        (true, _) => found(Rule::EventOrder, "it lives, and its end is the last that was told"),
        (false, "disconnected") => {
            let killed = session.is_some_and(|session| was_killed(run, session));
            // Who does not read notices late that it was closed before.
            let reason = last.reason.as_deref();
            let was_closed = reason == Some(SLOW) && session.is_some_and(|it| it.is_narrow);
            if killed && !was_closed && reason != Some("node_lost") {
                found(Rule::EndNotTold, "its node was killed, and another reason is told");
            }
        }
        (false, _) => found(Rule::EndNotTold, "it has ended, and that was not told"),
    }
    if let Some(session) = session
        && events.iter().any(|event| event.user != session.user)
    {
        found(Rule::EventOrder, "it is told of another user");
    }
}

/// Whether its connection ended because its node was killed.
fn was_killed(run: &Run, session: &Session) -> bool {
    let Some(ended_ms) = session.to_ms.filter(|_| session.cut) else { return false };
    run.faults.iter().any(|fault| {
        fault.strikes == Strikes::KilledNode(session.node)
            && session.from_ms < fault.from_ms
            && (fault.from_ms..fault.from_ms + NOTICE_MS).contains(&ended_ms)
    })
}

/// Whether Redis may have lost all that it knew of a session, or its node may have been killed
/// before it could say anything.
fn may_be_untold(run: &Run, session: &Session) -> bool {
    let Some(ended_ms) = session.to_ms else { return false };
    let lost = run.faults.iter().filter(|fault| fault.loses_data).any(|fault| {
        let until_ms = fault.to_ms + RECONNECT_MS;
        let is_newest = session.from_ms + LAG_MS >= fault.from_ms && session.from_ms <= until_ms;
        fault.wipes && session.from_ms <= until_ms || is_newest
    });
    let kept_from_telling = |fault: &&Fault| {
        let strikes = match fault.strikes {
            Strikes::Redis => true,
            Strikes::Node(node) | Strikes::KilledNode(node) => node == session.node,
            Strikes::Nobody => false,
        };
        strikes && fault.from_ms <= ended_ms && fault.to_ms + RECONNECT_MS >= session.from_ms
    };
    let killed = |fault: &Fault| {
        fault.strikes == Strikes::KilledNode(session.node)
            && fault.from_ms + NOTICE_MS >= session.from_ms
    };
    let hindered: Vec<_> = run.faults.iter().filter(kept_from_telling).collect();
    // The kill itself is one of them; it does not excuse what was told long before.
    let untold = hindered.iter().any(|fault| {
        let is_kill = fault.strikes == Strikes::KilledNode(session.node);
        !is_kill || fault.to_ms <= session.from_ms
    });
    lost || untold && run.faults.iter().any(killed)
}

fn violation(rule: Rule, at_ms: u64, text: String) -> Violation {
    Violation { rule, destination: None, subscriber: None, at_ms, text }
}

/// How soon a client notices that its node is killed, at most.
const NOTICE_MS: u64 = 1_000;
/// How far replicas may be behind their master when that is lost.
const LAG_MS: u64 = 1_000;
/// Of what no client knows when it was.
const END_MS: u64 = u64::MAX;
