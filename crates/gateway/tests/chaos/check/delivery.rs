//! What one subscriber heard of one destination: once, in order, and what is missing is told.

use std::collections::{HashMap, HashSet};

use fanlight_proto::Position;

use super::standing::RECONNECT_MS;
use super::{Known, Rule, Violation};
use crate::record::{Content, Heard, Outcome, Run, Send, What};

pub(super) fn check(
    run: &Run,
    destination: usize,
    subscriber: usize,
    known: &Known,
    out: &mut Vec<Violation>,
) {
    let heard_by = &run.subscribers[subscriber];
    let mut reader = Reader {
        run,
        destination,
        subscriber,
        known,
        out,
        since: None,
        cursor: Cursor::Open,
        highest: HashMap::new(),
        positions: HashSet::new(),
        contents: HashSet::new(),
        ever: HashSet::new(),
        joined: false,
    };
    let mut heard_any = false;
    for heard in heard_by.heard.iter().filter(|heard| heard.destination == destination) {
        heard_any = true;
        reader.hear(heard);
    }
    if heard_any {
        reader.end();
    }
}

/// Follows one subscriber through one destination.
struct Reader<'r> {
    run: &'r Run,
    destination: usize,
    subscriber: usize,
    known: &'r Known,
    out: &'r mut Vec<Violation>,
    /// The position that it last asked to go on from.
    since: Option<Position>,
    cursor: Cursor,
    /// The highest offset that it got of each epoch, as far as it was not told to begin anew.
    highest: HashMap<u64, u64>,
    positions: HashSet<Position>,
    contents: HashSet<Content>,
    /// All that it ever got.
    ever: HashSet<Content>,
    joined: bool,
}

/// What may come next.
#[derive(Clone, Copy)]
enum Cursor {
    /// Anything: the subscriber does not expect to go on from anywhere, or was told of a loss.
    Open,
    /// What follows this.
    After(Position),
}

impl Reader<'_> {
    fn hear(&mut self, heard: &Heard) {
        match &heard.what {
            What::Asks { since, .. } => {
                self.since = *since;
                self.joined = false;
                if since.is_none() {
                    self.begin_anew(None);
                }
                self.cursor = since.map_or(Cursor::Open, Cursor::After);
            }
            What::Joined { position, recovered, reason } => {
                self.joined = true;
                if self.run.destinations[self.destination].history {
                    self.join(heard.at_ms, *position, *recovered, reason.as_deref());
                }
            }
            What::Message { position, content } => self.message(heard.at_ms, *position, *content),
            What::Lost { reason, position } => {
                self.excuse(heard.at_ms, Some(reason));
                if position.is_some() {
                    self.begin_anew(*position);
                }
                self.cursor = position.map_or(Cursor::Open, Cursor::After);
            }
            What::Left => self.joined = false,
        }
    }

    fn join(
        &mut self,
        at_ms: u64,
        position: Option<Position>,
        recovered: Option<bool>,
        reason: Option<&str>,
    ) {
        if self.since.is_some() && recovered == Some(true) {
            if let (Cursor::After(cursor), Some(top)) = (self.cursor, position)
                && !self.reaches(cursor, top)
            {
                let text = format!("recovered up to {top}, it says, but delivered up to {cursor}");
                self.report(Rule::FalseRecovery, at_ms, text);
                self.cursor = Cursor::After(top);
            }
            return;
        }
        if self.since.is_some() && recovered.is_none() {
            // It was told nothing, so whatever is missing is missing silently.
            return;
        }
        if recovered == Some(false) {
            self.excuse(at_ms, reason);
            self.begin_anew(position);
            if let (Some("unavailable"), Some(told)) = (reason, position) {
                // The node can't have learnt yet that this epoch has ended. What it then finds in
                // others may come again, wherever they begin.
                self.positions.retain(|got| got.epoch == told.epoch);
                self.highest.retain(|epoch, _| *epoch == told.epoch);
            }
        }
        self.cursor = position.map_or(Cursor::Open, Cursor::After);
    }

    /// It was told that it is at `position`, or it does not say where it was: what comes behind
    /// that may come again. The node may be one that hears late what it got elsewhere.
    fn begin_anew(&mut self, position: Option<Position>) {
        self.contents.clear();
        let Some(told) = position else {
            self.highest.clear();
            self.positions.clear();
            return;
        };
        // Of later epochs too: they may go on from there.
        self.positions.retain(|got| got.offset <= told.offset);
        for highest in self.highest.values_mut() {
            *highest = told.offset.min(*highest);
        }
    }

    fn message(&mut self, at_ms: u64, position: Option<Position>, content: Option<Content>) {
        let Some(content) = content else {
            self.report(Rule::Misdelivered, at_ms, "a body that nobody sent".to_owned());
            return;
        };
        self.ever.insert(content);
        self.right_place(at_ms, content);
        let history = self.run.destinations[self.destination].history;
        let Some(position) = position.filter(|_| history) else {
            if history {
                let text = format!("{content:?} came without a position");
                self.report(Rule::SilentGap, at_ms, text);
            }
            if !self.contents.insert(content) && !self.may_be_repeated(content) {
                self.report(Rule::Duplicate, at_ms, format!("{content:?} came again"));
            }
            return;
        };
        if !self.positions.insert(position) {
            self.report(Rule::Duplicate, at_ms, format!("{position} came again"));
        } else if let Some(&highest) = self.highest.get(&position.epoch)
            && highest > position.offset
        {
            let text = format!("{position} came after offset {highest}");
            self.report(Rule::Reordered, at_ms, text);
        } else if let Cursor::After(cursor) = self.cursor
            && !self.follows(cursor, position)
        {
            let text = format!("{position} came after {cursor}, and no notice between");
            self.report(Rule::SilentGap, at_ms, text);
        }
        let highest = self.highest.entry(position.epoch).or_default();
        *highest = position.offset.max(*highest);
        self.cursor = Cursor::After(position);
    }

    /// Whether its publisher sent it again with its key, and the key may be lost with the first.
    fn may_be_repeated(&self, content: Content) -> bool {
        self.run.sends.iter().any(|send| {
            let mut losing = self.run.faults.iter().filter(|fault| fault.loses_data);
            send.content == content
                && send.repeated
                && losing.any(|fault| {
                    fault.from_ms <= send.ended_at_ms + RECONNECT_MS
                        && fault.to_ms + RECONNECT_MS >= send.sent_at_ms
                })
        })
    }

    /// The content was meant for this destination, and its owner is this user.
    fn right_place(&mut self, at_ms: u64, content: Content) {
        let destination = &self.run.destinations[self.destination];
        if content.destination != self.destination {
            let to = self.run.destinations.get(content.destination);
            let name = to.map_or("nowhere", |destination| &destination.name);
            self.report(Rule::Misdelivered, at_ms, format!("{content:?} was sent to {name}"));
        }
        let user = &self.run.subscribers[self.subscriber].user;
        if let Some(owner) = destination.owner.as_ref().filter(|owner| *owner != user) {
            let text = format!("{content:?} is {owner}'s, and came to {user}");
            self.report(Rule::Misdelivered, at_ms, text);
        }
    }

    /// Whether `next` is the position right after `cursor`.
    fn follows(&self, cursor: Position, next: Position) -> bool {
        next.offset == cursor.offset + 1 && self.agree(cursor, next.epoch)
    }

    /// Whether who has all up to `cursor` has all up to `top`.
    fn reaches(&self, cursor: Position, top: Position) -> bool {
        cursor.offset == top.offset && self.agree(cursor, top.epoch)
    }

    /// Whether the history up to `cursor` is also that of `epoch`: a later epoch goes on from
    /// where it agrees with the one before, so the first of it that anybody saw tells.
    fn agree(&self, cursor: Position, epoch: u64) -> bool {
        cursor.epoch == epoch
            || self.known.first_offset(epoch).is_none_or(|first| first > cursor.offset)
    }

    /// A loss was told: that is good only where there was a reason for it.
    fn excuse(&mut self, at_ms: u64, reason: Option<&str>) {
        let good = match reason {
            Some("unavailable") => self.run.troubled_at(at_ms),
            Some("epoch_changed") => self.run.may_lose_data(),
            // Histories are larger than what a run sends.
            _ => false,
        };
        if !good {
            let reason = reason.unwrap_or("no reason");
            self.report(Rule::NeedlessLoss, at_ms, format!("told of a loss: {reason}"));
        }
    }

    /// After healing, the newest that was acknowledged has come, and all before it.
    fn end(&mut self) {
        let at_ms = u64::MAX;
        let of_it = |send: &&Send| {
            let degraded = matches!(send.outcome, Outcome::Acked { degraded: true, .. });
            send.content.destination == self.destination && send.acked() && !degraded
        };
        let newest = self.run.sends.iter().filter(of_it).max_by_key(|send| send.ended_at_ms);
        if !self.joined {
            self.report(Rule::NotLiveAgain, at_ms, "not subscribed at the end".to_owned());
            return;
        }
        let Some(newest) = newest else { return };
        if !self.ever.contains(&newest.content) {
            let text = format!("{:?}, the newest acknowledged, never came", newest.content);
            self.report(Rule::NotLiveAgain, at_ms, text);
        }
    }

    fn report(&mut self, rule: Rule, at_ms: u64, text: String) {
        let (destination, subscriber) = (self.destination, Some(self.subscriber));
        let destination = Some(destination);
        self.out.push(Violation { rule, destination, subscriber, at_ms, text });
    }
}
