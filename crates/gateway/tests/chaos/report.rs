//! What is printed of a run: its figures, and of each violation the events around it, side by side.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::check::Violation;
use crate::record::{Delivery, Event, Outcome, Run, Session, Settled, What};

/// How much happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub acked: usize,
    pub refused: usize,
    pub unknown: usize,
    pub messages: usize,
    pub recovered: usize,
    pub not_recovered: usize,
    pub lost: usize,
    /// Deliveries from queues.
    pub taken: usize,
    /// Of these, those that had been delivered before.
    pub taken_again: usize,
    pub dead_letters: usize,
    /// How often a subscriber stopped reading, and how often one was closed for that.
    pub stalls: usize,
    pub slow: usize,
    pub faults: usize,
    pub sessions: usize,
    pub samples: usize,
    pub events: usize,
}

impl Figures {
    pub fn of(run: &Run) -> Self {
        let mut figures = Self {
            faults: run.faults.len(),
            sessions: run.sessions.len(),
            samples: run.samples.len(),
            events: run.events.len(),
            ..Self::default()
        };
        for send in &run.sends {
            match send.outcome {
                Outcome::Acked { .. } => figures.acked += 1,
                Outcome::Refused(_) => figures.refused += 1,
                Outcome::Unknown => figures.unknown += 1,
            }
        }
        figures.stalls = run.sessions.iter().map(|session| session.stalls).sum();
        let is_slow = |event: &&Event| event.reason.as_deref() == Some("slow_consumer");
        figures.slow = run.events.iter().filter(is_slow).count();
        for delivery in &run.deliveries {
            figures.taken += 1;
            figures.taken_again += usize::from(delivery.count > 1);
            figures.dead_letters += usize::from(delivery.original.is_some());
        }
        for heard in run.subscribers.iter().flat_map(|subscriber| &subscriber.heard) {
            match heard.what {
                What::Message { .. } => figures.messages += 1,
                What::Joined { recovered: Some(true), .. } => figures.recovered += 1,
                What::Joined { recovered: Some(false), .. } => figures.not_recovered += 1,
                What::Lost { .. } => figures.lost += 1,
                What::Joined { .. } | What::Asks { .. } | What::Left => {}
            }
        }
        figures
    }
}

/// Each violation, how often its rule is broken, and what surrounds the first of each rule.
pub fn describe(run: &Run, violations: &[Violation]) -> String {
    let mut text = String::new();
    let mut first_of_rule: BTreeMap<_, Vec<&Violation>> = BTreeMap::new();
    for violation in violations {
        first_of_rule.entry(violation.rule).or_default().push(violation);
    }
    for (rule, of_rule) in first_of_rule {
        writeln!(text, "\n{rule:?}: {} times", of_rule.len()).unwrap();
        for violation in of_rule.iter().take(SHOWN_MAX) {
            writeln!(text, "  {}: {violation}", whose(run, violation)).unwrap();
        }
        text.push_str(&around(run, of_rule[0]));
    }
    text
}

/// Everything that was recorded, for a file.
pub fn everything(run: &Run) -> String {
    let lines: Vec<_> = (0..run.destinations.len()).map(|it| lines(run, it, None)).collect();
    let mut text = String::new();
    for (destination, lines) in run.destinations.iter().zip(lines) {
        writeln!(text, "== {}", destination.name).unwrap();
        for (_, line) in lines {
            writeln!(text, "{line}").unwrap();
        }
    }
    for (destination, history) in &run.finals {
        writeln!(text, "== final history of {}", run.destinations[*destination].name).unwrap();
        for (position, content) in history {
            writeln!(text, "{position} {}.{}", content.publisher, content.number).unwrap();
        }
    }
    text.push_str("== sessions\n");
    for (_, line) in session_lines(run) {
        writeln!(text, "{line}").unwrap();
    }
    text.push_str("== samples\n");
    for sample in &run.samples {
        writeln!(text, "{sample:?}").unwrap();
    }
    text.push_str("== events\n");
    for Event { session, user, kind, reason } in &run.events {
        writeln!(text, "{session} {user} {kind} {}", reason.as_deref().unwrap_or("")).unwrap();
    }
    text
}

/// One line for each beginning and end of a session and a fault, by time.
fn session_lines(run: &Run) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut line = |at_ms: u64, what: String| lines.push((at_ms, format!("{at_ms:>7} {what}")));
    for Session { id, user, node, from_ms, to_ms, cut, .. } in &run.sessions {
        line(*from_ms, format!("{id} of {user} begins on node {node}"));
        if let Some(to_ms) = to_ms {
            let how = if *cut { "is cut" } else { "leaves" };
            line(*to_ms, format!("{id} of {user} {how} on node {node}"));
        }
    }
    for fault in &run.faults {
        line(fault.from_ms, format!("** {}", fault.what));
        line(fault.to_ms, format!("** healed {}", fault.what));
    }
    lines.sort_by_key(|(at_ms, _)| *at_ms);
    lines
}

fn whose(run: &Run, violation: &Violation) -> String {
    let Some(destination) = violation.destination else { return "sessions".to_owned() };
    let destination = &run.destinations[destination].name;
    match violation.subscriber {
        Some(subscriber) => format!("{destination}, {}", run.subscribers[subscriber].name),
        None => destination.clone(),
    }
}

/// The events of a violation's destination near it: publishers left, its subscriber right.
fn around(run: &Run, violation: &Violation) -> String {
    let lines = match violation.destination {
        Some(destination) => lines(run, destination, violation.subscriber),
        None => session_lines(run),
    };
    let end_ms = lines.last().map_or(0, |(at_ms, _)| *at_ms);
    let at_ms = violation.at_ms.min(end_ms);
    let near = at_ms.saturating_sub(NEAR_MS)..=at_ms + NEAR_MS / 4;
    let near: Vec<_> = lines.iter().filter(|(at_ms, _)| near.contains(at_ms)).collect();
    // The newest are the nearest.
    let begin = near.len().saturating_sub(LINES_MAX);
    let lines: Vec<_> = near[begin..].iter().map(|(_, line)| format!("    {line}\n")).collect();
    lines.concat()
}

/// One line for each event of a destination, by time; of one subscriber, or of all.
fn lines(run: &Run, destination: usize, subscriber: Option<usize>) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut line = |at_ms: u64, left: String, right: String| {
        lines.push((at_ms, format!("{at_ms:>7} {left:<58} | {right}")));
    };
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        let name = format!("{}.{}", send.content.publisher, send.content.number);
        let outcome = match &send.outcome {
            Outcome::Acked { position: Some(position), .. } => format!("acked {position}"),
            Outcome::Acked { degraded: true, .. } => "acked, degraded".to_owned(),
            Outcome::Acked { .. } => "acked".to_owned(),
            Outcome::Refused(code) => format!("refused {code}"),
            Outcome::Unknown => "unknown".to_owned(),
        };
        line(
            send.ended_at_ms,
            format!("{name} sent at {}: {outcome}", send.sent_at_ms),
            String::new(),
        );
    }
    for fault in &run.faults {
        line(fault.from_ms, format!("** {}", fault.what), String::new());
        line(fault.to_ms, format!("** healed {}", fault.what), String::new());
    }
    for (index, by) in run.subscribers.iter().enumerate() {
        if subscriber.is_some_and(|subscriber| subscriber != index) {
            continue;
        }
        for heard in by.heard.iter().filter(|heard| heard.destination == destination) {
            line(heard.at_ms, String::new(), format!("{}: {}", by.name, said(&heard.what)));
        }
    }
    for delivery in run.deliveries.iter().filter(|it| it.destination == destination) {
        let name = &run.consumers[delivery.consumer].name;
        for (at_ms, what) in told(delivery) {
            line(at_ms, String::new(), format!("{name}: {what}"));
        }
    }
    lines.sort_by_key(|(at_ms, _)| *at_ms);
    lines
}

/// What became of a delivery, and when.
fn told(delivery: &Delivery) -> Vec<(u64, String)> {
    let Delivery { content, count, node, .. } = delivery;
    let name = content.map(|content| format!("{}.{}", content.publisher, content.number));
    let name = name.unwrap_or("garbage".to_owned());
    let mut told = vec![(delivery.got_at_ms, format!("got {name} from node {node}, {count}."))];
    match delivery.settled {
        Settled::Held | Settled::Taken => {}
        Settled::Nacked { asked_at_ms } => told.push((asked_at_ms, format!("refuses {name}"))),
        Settled::Acked { asked_at_ms, confirmed_at_ms } => {
            told.push((asked_at_ms, format!("acknowledges {name}")));
            told.extend(confirmed_at_ms.map(|at_ms| (at_ms, format!("{name} is confirmed"))));
        }
    }
    told.extend(delivery.left_at_ms.map(|at_ms| (at_ms, format!("leaves with {name}"))));
    told
}

fn said(what: &What) -> String {
    match what {
        What::Asks { node, since: None } => format!("asks node {node}"),
        What::Asks { node, since: Some(since) } => format!("asks node {node} since {since}"),
        What::Joined { position, recovered, reason } => {
            let position = position.map_or("nowhere".to_owned(), |position| position.to_string());
            format!("joined at {position}, recovered {recovered:?}, reason {reason:?}")
        }
        What::Message { position, content } => {
            let position = position.map(|position| position.to_string()).unwrap_or_default();
            let content =
                content.map(|content| format!("{}.{}", content.publisher, content.number));
            format!("got {position} {}", content.unwrap_or("garbage".to_owned()))
        }
        What::Lost { reason, position } => format!("told of a loss: {reason}, now at {position:?}"),
        What::Left => "left".to_owned(),
    }
}

const SHOWN_MAX: usize = 10;
const NEAR_MS: u64 = 4_000;
const LINES_MAX: usize = 120;
