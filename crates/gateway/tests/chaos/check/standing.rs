//! What registry and presence say: nobody who is gone for long, and in the end exactly who is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{LEASE_MS, LEASE_RENEW_MS, Rule, Violation};
use crate::record::{Fault, Run, Sample, Session, Strikes};

pub(super) fn check(run: &Run, out: &mut Vec<Violation>) {
    for sample in &run.samples {
        if sample.is_final {
            final_registry(run, sample, out);
            final_presence(run, sample, out);
        } else {
            ghosts_in_registry(run, sample, out);
            ghosts_in_presence(run, sample, out);
        }
    }
}

/// Sessions that their clients do not know may stand there: a client may have given up before it
/// was told. That they go is seen at the end.
fn ghosts_in_registry(run: &Run, sample: &Sample, out: &mut Vec<Violation>) {
    for (user, id) in &sample.registry {
        let known = run.sessions.iter().find(|session| session.id == *id);
        if let Some(session) = known
            && let Some(gone_ms) = gone_ms(run, session)
            && gone_ms < sample.at_ms
        {
            let ended_ms = session.to_ms.unwrap_or_default();
            let node = sample.node;
            let text = format!(
                "node {node} has session {id} of {user}, which ended on node {} at {ended_ms} and \
                 should be gone by {gone_ms}",
                session.node
            );
            out.push(violation(Rule::Ghost, sample, text));
        }
    }
}

fn ghosts_in_presence(run: &Run, sample: &Sample, out: &mut Vec<Violation>) {
    for (destination, members) in &sample.members {
        for user in members.keys() {
            let sessions = || {
                let is_of_it = |session: &&Session| {
                    session.user == *user && session.places.contains(destination)
                };
                run.sessions.iter().filter(is_of_it)
            };
            let may_be_there = sessions().any(|session| {
                session.from_ms <= sample.at_ms + ANSWER_MS
                    && gone_ms(run, session).is_none_or(|gone_ms| gone_ms >= sample.at_ms)
            });
            if !may_be_there {
                let ended_ms = sessions()
                    .filter_map(|session| session.to_ms.filter(|to_ms| *to_ms <= sample.at_ms));
                let text = format!(
                    "node {} has {user} as a member of destination {destination}; its last session \
                     there ended at {:?}",
                    sample.node,
                    ended_ms.max()
                );
                out.push(violation(Rule::GhostMember, sample, text));
            }
        }
    }
}

fn final_registry(run: &Run, sample: &Sample, out: &mut Vec<Violation>) {
    let said: BTreeSet<_> =
        sample.registry.iter().map(|(user, id)| (user.as_str(), id.as_str())).collect();
    let live: BTreeSet<_> =
        live(run).map(|session| (session.user.as_str(), session.id.as_str())).collect();
    for ghost in said.difference(&live) {
        let text = format!("at the end node {} has {ghost:?}, which is not there", sample.node);
        out.push(violation(Rule::Ghost, sample, text));
    }
    for absent in live.difference(&said) {
        let text = format!("at the end node {} lacks {absent:?}, which lives", sample.node);
        out.push(violation(Rule::Absent, sample, text));
    }
    if sample.leases != run.nodes {
        let Sample { leases, node, .. } = sample;
        let text = format!("at the end node {node} knows {leases} leases, and {} live", run.nodes);
        out.push(violation(Rule::Leases, sample, text));
    }
}

fn final_presence(run: &Run, sample: &Sample, out: &mut Vec<Violation>) {
    for (destination, said) in &sample.members {
        let mut live_there: BTreeMap<String, u64> = BTreeMap::new();
        for session in live(run).filter(|session| session.places.contains(destination)) {
            *live_there.entry(session.user.clone()).or_default() += 1;
        }
        let node = sample.node;
        for (user, sessions) in said {
            let expected = live_there.get(user).copied().unwrap_or_default();
            if *sessions > expected {
                let text = format!(
                    "at the end node {node} has {user} with {sessions} sessions at destination \
                     {destination}, where {expected} live"
                );
                out.push(violation(Rule::GhostMember, sample, text));
            }
        }
        for (user, expected) in live_there {
            let sessions = said.get(&user).copied().unwrap_or_default();
            if sessions < expected {
                let text = format!(
                    "at the end node {node} has {user} with {sessions} sessions at destination \
                     {destination}, where {expected} live"
                );
                out.push(violation(Rule::AbsentMember, sample, text));
            }
        }
    }
}

fn live(run: &Run) -> impl Iterator<Item = &Session> {
    run.sessions.iter().filter(|session| session.to_ms.is_none())
}

/// By when nothing may be left of a session that has ended: a lease and a turn of the reapers
/// later, or so long after the end of what kept its node from removing it, or all from reaping.
fn gone_ms(run: &Run, session: &Session) -> Option<u64> {
    let ended_ms = session.to_ms?;
    let mut gone_ms = ended_ms + GONE_MS;
    loop {
        let hinders =
            |fault: &&Fault| fault.from_ms <= gone_ms && fault.to_ms + RECONNECT_MS >= ended_ms;
        let until = |fault: &Fault| fault.to_ms + RECONNECT_MS + GONE_MS;
        let has_reaper = has_calm_node(run, ended_ms, gone_ms);
        let hindered_until = run.faults.iter().filter(hinders).map(|fault| match fault.strikes {
            Strikes::Redis => until(fault),
            Strikes::Node(node) if node == session.node => until(fault),
            Strikes::KilledNode(node) if node == session.node => fault.from_ms + GONE_MS,
            Strikes::Node(_) | Strikes::KilledNode(_) if !has_reaper => until(fault),
            Strikes::Node(_) | Strikes::KilledNode(_) | Strikes::Nobody => 0,
        });
        let latest_ms = hindered_until.max().unwrap_or_default();
        if latest_ms <= gone_ms {
            return Some(gone_ms);
        }
        gone_ms = latest_ms;
    }
}

/// Whether a node was there all the time that may reap: it must have been calm for a lease.
fn has_calm_node(run: &Run, from_ms: u64, to_ms: u64) -> bool {
    (0..run.nodes).any(|node| {
        !run.faults.iter().any(|fault| {
            let strikes = match fault.strikes {
                Strikes::Node(struck) | Strikes::KilledNode(struck) => struck == node,
                Strikes::Redis | Strikes::Nobody => false,
            };
            strikes && fault.from_ms <= to_ms && fault.to_ms + RECONNECT_MS + LEASE_MS >= from_ms
        })
    })
}

fn violation(rule: Rule, sample: &Sample, text: String) -> Violation {
    Violation { rule, destination: None, subscriber: None, at_ms: sample.at_ms, text }
}

/// A lease, a turn of the reapers, and what a busy machine takes.
const GONE_MS: u64 = LEASE_MS + LEASE_RENEW_MS + 2_000;
/// Reconnects are at most 5 s apart, and take a moment.
pub(super) const RECONNECT_MS: u64 = 6_000;
/// A sample is asked for at its time, and says what was so a little later.
const ANSWER_MS: u64 = 3_000;
