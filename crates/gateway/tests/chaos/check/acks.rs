//! Acknowledgements and refusals mean what they say, and epochs end only with data.

use std::collections::{HashMap, HashSet};

use fanlight_proto::Position;

use super::standing::RECONNECT_MS;
use super::{Known, Rule, Violation};
use crate::record::{Outcome, Run, Send, What};

pub(super) fn check(run: &Run, destination: usize, known: &Known, out: &mut Vec<Violation>) {
    refusals(run, destination, known, out);
    if !run.destinations[destination].history {
        return;
    }
    let violation = |rule, at_ms, text| {
        let destination = Some(destination);
        Violation { rule, destination, subscriber: None, at_ms, text }
    };
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        if let Outcome::Acked { position: None, .. } = send.outcome {
            let text = format!("{:?} was acknowledged without a position", send.content);
            out.push(violation(Rule::AckWithoutPosition, send.ended_at_ms, text));
        }
        if let Some(position) = send.position()
            && let Some(why) = gone_from_replicas(run, known, send, position)
                .or_else(|| gone_without_reason(run, known, position))
        {
            let text = format!("{:?} was acknowledged as {position}, but {why}", send.content);
            out.push(violation(Rule::FalseAck, send.ended_at_ms, text));
        }
    }
    acked_twice(run, destination, out);
    // What was delivered was in the history too; that nobody was told so changes nothing.
    let acked: HashSet<_> = run.sends.iter().filter_map(Send::position).collect();
    for (position, content) in known.all().filter(|(position, _)| !acked.contains(position)) {
        if let Some(why) = gone_without_reason(run, known, position) {
            let text = format!("{content:?} was delivered as {position}, but {why}");
            out.push(violation(Rule::HoleInHistory, u64::MAX, text));
        }
    }
    let epochs: HashSet<_> = known.all().map(|(position, _)| position.epoch).collect();
    if epochs.len() > 1 && !run.may_lose_data() {
        let text = format!("{} epochs, though Redis lost nothing", epochs.len());
        out.push(violation(Rule::NeedlessEpoch, u64::MAX, text));
    }
}

/// Why a position that replicas had before it was acknowledged should be in the final history,
/// which is known only from its first position on.
fn gone_from_replicas(run: &Run, known: &Known, send: &Send, position: Position) -> Option<String> {
    let (first, last) = known.ends()?;
    let is_covered = first.offset <= position.offset;
    let is_lost = !may_be_lost(run, send) && is_covered && known.place(position).is_none();
    is_lost.then(|| format!("the final history, {first} to {last}, has it not; replicas had it"))
}

/// Offsets go on from epoch to epoch where nothing that was acknowledged is lost: each is
/// acknowledged once.
fn acked_twice(run: &Run, destination: usize, out: &mut Vec<Violation>) {
    let mut sends: HashMap<u64, &Send> = HashMap::new();
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        let Some(position) = send.position().filter(|_| !may_be_lost(run, send)) else { continue };
        let first = sends.entry(position.offset).or_insert(send);
        if first.content != send.content {
            let text =
                format!("{:?} and {:?} have one offset, {position}", first.content, send.content);
            out.push(Violation {
                rule: Rule::FalseAck,
                destination: Some(destination),
                subscriber: None,
                at_ms: send.ended_at_ms,
                text,
            });
        }
    }
}

/// Whether a fault may have lost the publication though it was acknowledged.
fn may_be_lost(run: &Run, send: &Send) -> bool {
    run.faults.iter().filter(|fault| fault.loses_copied).any(|fault| {
        let is_near = fault.from_ms <= send.ended_at_ms + LAG_MS
            && fault.to_ms + RECONNECT_MS >= send.sent_at_ms;
        is_near || fault.wipes && send.sent_at_ms <= fault.to_ms
    })
}

/// Why a position that was there should still be in the final history, where it is not.
fn gone_without_reason(run: &Run, known: &Known, position: Position) -> Option<String> {
    if known.place(position).is_some() {
        return None;
    }
    let Some((first, last)) = known.ends() else {
        return Some("the final history is empty".to_owned());
    };
    if last.epoch == position.epoch {
        return Some(format!(
            "the final history, {first} to {last}, has it not, in the same epoch"
        ));
    }
    if !run.may_lose_data() {
        return Some(format!("the final history, {first} to {last}, has it not; no data was lost"));
    }
    let later = Position { offset: known.last_offset(position.epoch)?, ..position };
    let kept = (position.offset + 1..=later.offset)
        .map(|offset| Position { offset, ..position })
        .find(|later| known.place(*later).is_some())?;
    Some(format!("{kept}, which came after it, outlived it"))
}

/// What was refused was never published.
fn refusals(run: &Run, destination: usize, known: &Known, out: &mut Vec<Violation>) {
    let mut refused = HashMap::new();
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        if let Outcome::Refused(code) = &send.outcome {
            refused.insert(send.content, code);
        }
    }
    for (index, subscriber) in run.subscribers.iter().enumerate() {
        for heard in subscriber.heard.iter().filter(|heard| heard.destination == destination) {
            if let What::Message { content: Some(content), .. } = heard.what
                && let Some(code) = refused.remove(&content)
            {
                let text = format!("{content:?} was refused as {code}, and yet was delivered");
                let rule = Rule::RefusedYetPublished;
                let (subscriber, at_ms) = (Some(index), heard.at_ms);
                let destination = Some(destination);
                out.push(Violation { rule, destination, subscriber, at_ms, text });
            }
        }
    }
    for (position, content) in known.all() {
        if let Some(code) = refused.remove(&content) {
            let text = format!("{content:?} was refused as {code}, and yet is at {position}");
            let rule = Rule::RefusedYetPublished;
            let destination = Some(destination);
            out.push(Violation { rule, destination, subscriber: None, at_ms: u64::MAX, text });
        }
    }
}

/// How far replicas may be behind their master when that is lost.
const LAG_MS: u64 = 1_000;
