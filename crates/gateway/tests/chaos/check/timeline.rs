//! What all observers together know of a destination's history.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use fanlight_proto::Position;

use super::{Rule, Violation};
use crate::record::{Content, Run, What};

/// Every position of one destination that anybody has seen, and the history as it is at the end.
#[derive(Debug, Default)]
pub struct Known {
    /// By (epoch, offset).
    contents: BTreeMap<(u64, u64), Content>,
    /// The place of each position in the final history.
    places: HashMap<Position, usize>,
    /// The first and the last position of the final history.
    ends: Option<(Position, Position)>,
}

impl Known {
    /// Gathers what acknowledgements, messages and the final history say of a destination, and
    /// notes where they contradict each other.
    pub fn gather(run: &Run, destination: usize, out: &mut Vec<Violation>) -> Self {
        let mut known = Self::default();
        for send in run.sends.iter().filter(|send| send.content.destination == destination) {
            if let Some(position) = send.position() {
                let at_ms = send.ended_at_ms;
                known.learn(
                    position,
                    send.content,
                    Seen { destination, subscriber: None, at_ms },
                    out,
                );
            }
        }
        for (subscriber, heard_by) in run.subscribers.iter().enumerate() {
            let of_it = heard_by.heard.iter().filter(|heard| heard.destination == destination);
            for heard in of_it {
                if let What::Message { position: Some(position), content: Some(content) } =
                    heard.what
                {
                    let seen =
                        Seen { destination, subscriber: Some(subscriber), at_ms: heard.at_ms };
                    known.learn(position, content, seen, out);
                }
            }
        }
        known.learn_final(run, destination, out);
        known.once_each(run, destination, out);
        known
    }

    /// Nothing was published twice; but what a publisher repeated under its key, after the first
    /// was lost with its epoch, is published again.
    fn once_each(&self, run: &Run, destination: usize, out: &mut Vec<Violation>) {
        let repeated: HashSet<_> =
            run.sends.iter().filter(|send| send.repeated).map(|send| send.content).collect();
        let mut published: HashMap<Content, Position> = HashMap::new();
        for (position, content) in self.all() {
            let Some(earlier) = published.insert(content, position) else { continue };
            let both_kept = self.place(earlier).is_some() && self.place(position).is_some();
            let lost = run.may_lose_data() && earlier.epoch != position.epoch && !both_kept;
            if !(lost && repeated.contains(&content)) {
                let text = format!("{content:?} is at {earlier} and at {position}");
                let seen = Seen { destination, subscriber: None, at_ms: u64::MAX };
                out.push(seen.violation(Rule::PublishedTwice, text));
            }
        }
    }

    /// The place of a position in the final history.
    pub fn place(&self, position: Position) -> Option<usize> {
        self.places.get(&position).copied()
    }

    /// The first and the last position of the final history.
    pub fn ends(&self) -> Option<(Position, Position)> {
        self.ends
    }

    /// Everything that was ever seen.
    pub fn all(&self) -> impl Iterator<Item = (Position, Content)> {
        self.contents
            .iter()
            .map(|(&(epoch, offset), &content)| (Position { epoch, offset }, content))
    }

    /// The lowest offset that anybody saw in an epoch.
    pub fn first_offset(&self, epoch: u64) -> Option<u64> {
        self.contents.range((epoch, 0)..=(epoch, u64::MAX)).next().map(|(&(_, offset), _)| offset)
    }

    /// The highest offset that anybody saw in an epoch.
    pub fn last_offset(&self, epoch: u64) -> Option<u64> {
        self.contents
            .range((epoch, 0)..=(epoch, u64::MAX))
            .next_back()
            .map(|(&(_, offset), _)| offset)
    }

    fn learn(
        &mut self,
        position: Position,
        content: Content,
        seen: Seen,
        out: &mut Vec<Violation>,
    ) {
        match self.contents.entry((position.epoch, position.offset)) {
            Entry::Vacant(vacant) => {
                vacant.insert(content);
            }
            Entry::Occupied(other) if *other.get() != content => {
                let text = format!("{position} is both {:?} and {content:?}", other.get());
                out.push(seen.violation(Rule::PositionWithTwoContents, text));
            }
            Entry::Occupied(_) => {}
        }
    }

    fn learn_final(&mut self, run: &Run, destination: usize, out: &mut Vec<Violation>) {
        let Some(history) = run.finals.get(&destination) else { return };
        let at_ms = u64::MAX;
        let seen = Seen { destination, subscriber: None, at_ms };
        for (place, &(position, content)) in history.iter().enumerate() {
            self.learn(position, content, seen, out);
            self.places.insert(position, place);
        }
        for pair in history.windows(2) {
            let (a, b) = (pair[0].0, pair[1].0);
            if b.offset != a.offset + 1 {
                let text = format!("the final history has {a} and then {b}");
                out.push(seen.violation(Rule::HoleInHistory, text));
            }
        }
        self.ends = history.first().zip(history.last()).map(|(first, last)| (first.0, last.0));
    }
}

/// Who saw something, and when.
#[derive(Debug, Clone, Copy)]
struct Seen {
    destination: usize,
    subscriber: Option<usize>,
    at_ms: u64,
}

impl Seen {
    fn violation(self, rule: Rule, text: String) -> Violation {
        let Self { destination, subscriber, at_ms } = self;
        let destination = Some(destination);
        Violation { rule, destination, subscriber, at_ms, text }
    }
}
