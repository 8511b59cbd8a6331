//! Who does not keep up: it catches up or is closed for that, and is never left with holes.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::standing::RECONNECT_MS;
use super::{Rule, Violation};
use crate::record::{Content, Heard, Outcome, Run, Send, Session, Strikes, What};

/// Of a topic without history: where there was no fault, a connection got all that came before
/// the last that it got. With history, offsets tell.
pub(super) fn holes(run: &Run, destination: usize, subscriber: usize, out: &mut Vec<Violation>) {
    if run.destinations[destination].history {
        return;
    }
    let acked: Vec<&Send> = run.sends.iter().filter(|send| is_owed(send, destination)).collect();
    let of_content: HashMap<Content, &Send> = acked.iter().map(|it| (it.content, *it)).collect();
    let heard = run.subscribers[subscriber].heard.iter();
    let heard: Vec<_> = heard.filter(|heard| heard.destination == destination).collect();
    for visit in heard.split(|heard| matches!(heard.what, What::Asks { .. })) {
        let Some(joined) = visit.iter().find(|it| matches!(it.what, What::Joined { .. })) else {
            continue;
        };
        let (got, newest) = read(visit, &of_content);
        for send in acked.iter().filter(|send| send.sent_at_ms > joined.at_ms) {
            let key = (send.content.publisher, send.connection);
            let Some((later, later_ms)) = newest.get(&key) else { continue };
            let is_before = send.content.number < later.number;
            if is_before && !got.contains(&send.content) && is_calm(run, send.sent_at_ms, *later_ms)
            {
                let text = format!("{later:?} came, and {:?} never did", send.content);
                out.push(Violation {
                    rule: Rule::SilentHole,
                    destination: Some(destination),
                    subscriber: Some(subscriber),
                    at_ms: *later_ms,
                    text,
                });
            }
        }
    }
}

/// What a connection got, and the newest of it from each connection of a publisher, with its time.
#[expect(clippy::type_complexity, reason = "two results of one walk")]
fn read(
    visit: &[&Heard],
    sends: &HashMap<Content, &Send>,
) -> (HashSet<Content>, BTreeMap<(usize, u64), (Content, u64)>) {
    let mut got = HashSet::new();
    let mut newest: BTreeMap<(usize, u64), (Content, u64)> = BTreeMap::new();
    for heard in visit {
        let What::Message { content: Some(content), .. } = heard.what else { continue };
        got.insert(content);
        if let Some(send) = sends.get(&content) {
            let newest = newest
                .entry((content.publisher, send.connection))
                .or_insert((content, heard.at_ms));
            if newest.0.number < content.number {
                *newest = (content, heard.at_ms);
            }
        }
    }
    (got, newest)
}

fn is_owed(send: &Send, destination: usize) -> bool {
    let is_whole = matches!(send.outcome, Outcome::Acked { degraded: false, .. });
    // What is repeated under its key may have come before what was sent before it.
    is_whole && !send.repeated && send.content.destination == destination
}

/// Why connections ended, as the lifecycle events tell it.
pub(super) fn ends(run: &Run, out: &mut Vec<Violation>) {
    let reasons: HashMap<&str, &str> = run
        .events
        .iter()
        .filter(|event| event.kind == "disconnected")
        .filter_map(|event| Some((event.session.as_str(), event.reason.as_deref()?)))
        .collect();
    for session in &run.sessions {
        let Some(reason) = reasons.get(session.id.as_str()) else { continue };
        let Some(ended_ms) = session.to_ms else { continue };
        let text = match *reason {
            SLOW if session.is_narrow => continue,
            SLOW => "it was closed as slow, and it always read",
            _ if session.cut && !was_struck(run, session, ended_ms) => "nothing had happened",
            _ => continue,
        };
        let Session { id, user, node, .. } = session;
        let text = format!("session {id} of {user} on node {node} ended by {reason}: {text}");
        let (rule, at_ms) = (Rule::CutWithoutReason, ended_ms);
        out.push(Violation { rule, destination: None, subscriber: None, at_ms, text });
    }
}

/// Whether a fault near its end was its node's or Redis'.
fn was_struck(run: &Run, session: &Session, ended_ms: u64) -> bool {
    run.faults.iter().any(|fault| {
        let strikes = match fault.strikes {
            Strikes::Redis => true,
            Strikes::Node(node) | Strikes::KilledNode(node) => node == session.node,
            Strikes::Nobody => false,
        };
        strikes && fault.from_ms <= ended_ms && ended_ms <= fault.to_ms + RECONNECT_MS
    })
}

/// Whether no fault at all was near.
fn is_calm(run: &Run, from_ms: u64, to_ms: u64) -> bool {
    !run.faults.iter().any(|fault| fault.from_ms <= to_ms && fault.to_ms + RECONNECT_MS >= from_ms)
}

/// The reason that is told of a session that did not keep up.
pub(super) const SLOW: &str = "slow_consumer";
