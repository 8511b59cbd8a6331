//! Which nodes there are: all of them are listed now and then, and in between only what changes.
//!
//! If each of n nodes listed all at each renewal, that would cost Redis n² in each of them. So a
//! node lists all at every (n / 64)th, which costs 64 each on average; the others tell it whose
//! lease was taken, ended or forgotten since, and which of them have run out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::{LeasedNode, NodeInfo, boot_of};
use crate::resp3::Value;

/// All nodes, as far as this one was told.
#[derive(Debug)]
pub(super) struct Members {
    /// The place of the last known change in the order of all, in Redis' words.
    known: String,
    now_ms: u64,
    /// Whoever has a lease, expired ones included.
    nodes: BTreeMap<Arc<str>, LeasedNode>,
    /// By owner, since when it is dead, or from when on it will be.
    dying: HashMap<Arc<str>, u64>,
    /// Who had a lease and is not known any more, and was not told of yet.
    missing: Vec<Arc<str>>,
    /// Counts what was told; begins anywhere, so that nodes which start together don't all list
    /// all nodes at the same time.
    turn: u32,
    /// How often all were listed.
    listings: u64,
}

/// What a renewal tells of all nodes.
#[derive(Debug)]
pub(super) struct Told {
    now_ms: u64,
    known: String,
    what: What,
}

#[derive(Debug)]
enum What {
    All {
        nodes: BTreeMap<Arc<str>, LeasedNode>,
        dying: HashMap<Arc<str>, u64>,
    },
    Changes {
        /// Of all, not only of those that have changed.
        expired: HashSet<Arc<str>>,
        changed: Vec<Change>,
    },
}

/// What an owner is by now.
#[derive(Debug)]
struct Change {
    owner: Arc<str>,
    node: Option<LeasedNode>,
    dies_at_ms: Option<u64>,
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            known: String::new(),
            now_ms: 0,
            nodes: BTreeMap::new(),
            dying: HashMap::new(),
            missing: Vec::new(),
            turn: rand::random::<u16>().into(),
            listings: 0,
        }
    }

    /// Up to where changes are known; empty where all nodes are to be listed.
    pub(super) fn known(&self) -> &str {
        let every = self.nodes.len() / LISTED_EACH + 1;
        if (self.turn as usize).is_multiple_of(every) { "" } else { &self.known }
    }

    /// Takes over what was told, and tells who had a lease and is not known any more: at most so
    /// many at a time that one call can give them up. Where a lease `begins`, whoever was dead or
    /// about to be is among them.
    pub(super) fn take_over(&mut self, told: Told, begins: bool) -> Vec<Arc<str>> {
        self.turn = self.turn.wrapping_add(1);
        (self.now_ms, self.known) = (told.now_ms, told.known);
        match told.what {
            What::All { nodes, dying } => {
                self.listings += 1;
                let former = std::mem::replace(&mut self.nodes, nodes);
                let doomed = std::mem::replace(&mut self.dying, dying);
                self.missing.extend(former.into_keys());
                self.missing.extend(doomed.into_keys().filter(|_| begins));
            }
            What::Changes { expired, changed } => self.change(&expired, changed),
        }
        let (nodes, dying) = (&self.nodes, &mut self.dying);
        self.missing.retain(|owner| !nodes.contains_key(owner) && !dying.contains_key(owner));
        let rest = self.missing.split_off(self.missing.len().min(MISSING_MAX));
        let missing = std::mem::replace(&mut self.missing, rest);
        // So that they are given up again where a lease begins before Redis tells of them.
        dying.extend(missing.iter().map(|owner| (Arc::clone(owner), u64::MAX)));
        missing
    }

    fn change(&mut self, expired: &HashSet<Arc<str>>, changed: Vec<Change>) {
        for Change { owner, node, dies_at_ms } in changed {
            if self.nodes.remove(&owner).is_some() {
                self.missing.push(Arc::clone(&owner));
            }
            self.dying.remove(&owner);
            if let Some(dies_at_ms) = dies_at_ms {
                self.dying.insert(Arc::clone(&owner), dies_at_ms);
            }
            if let Some(node) = node {
                self.nodes.insert(owner, node);
            }
        }
        for (owner, node) in &mut self.nodes {
            let is_expired = expired.contains(owner);
            node.left = (!is_expired).then(|| node.left.unwrap_or_default());
        }
    }

    /// By owner.
    pub(super) fn nodes(&self) -> &BTreeMap<Arc<str>, LeasedNode> {
        &self.nodes
    }

    /// Owners of one process.
    pub(super) fn generations<'m>(&'m self, boot: &'m str) -> impl Iterator<Item = &'m Arc<str>> {
        let first = format!("{boot}:");
        let from = (Bound::Included(first.as_str()), Bound::Unbounded);
        let owners = self.nodes.range::<str, _>(from).map(|(owner, _)| owner);
        owners.take_while(move |owner| boot_of(owner) == boot)
    }

    /// Whose lease has run out, though nobody has declared them dead.
    pub(super) fn expired(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.values().filter(|node| node.left.is_none()).map(|node| &node.owner)
    }

    /// Who is dead by now.
    pub(super) fn dead(&self) -> impl Iterator<Item = &Arc<str>> {
        self.dying.iter().filter(|(_, at_ms)| **at_ms <= self.now_ms).map(|(owner, _)| owner)
    }

    pub(super) fn listings(&self) -> u64 {
        self.listings
    }

    /// Of all nodes.
    pub(super) fn sessions(&self) -> u64 {
        self.nodes.values().map(|node| node.sessions).sum()
    }
}

impl Told {
    /// From the answer of `lease.lua`. Of what it holds, whatever can't be read is left out.
    pub(super) fn read(fields: &[Value]) -> Option<Self> {
        let [Value::Integer(now_ms), known, rest @ ..] = fields else { return None };
        let now_ms = now_ms.unsigned_abs();
        let what = match rest {
            [leases, dead, descriptions] => {
                let texts: HashMap<&str, &str> = pairs(descriptions).collect();
                let node = |(owner, deadline): (&str, &str)| {
                    let owner: Arc<str> = owner.into();
                    let text = texts.get(&*owner).copied().unwrap_or_default();
                    let node = leased(&owner, deadline.parse().ok()?, now_ms, text);
                    Some((owner, node))
                };
                let dying = |(owner, at): (&str, &str)| Some((owner.into(), at.parse().ok()?));
                What::All {
                    nodes: pairs(leases).filter_map(node).collect(),
                    dying: pairs(dead).filter_map(dying).collect(),
                }
            }
            [expired, changes] => {
                let change = |change: [&str; 4]| {
                    let [owner, deadline, died, text] = change;
                    let owner: Arc<str> = owner.into();
                    let deadline = deadline.parse().ok();
                    let node = deadline.map(|at| leased(&owner, at, now_ms, text));
                    Change { owner, node, dies_at_ms: died.parse().ok() }
                };
                What::Changes {
                    expired: texts(expired).map(Arc::from).collect(),
                    changed: in_fours(changes).map(change).collect(),
                }
            }
            _ => return None,
        };
        Some(Self { now_ms, known: known.as_text()?.to_owned(), what })
    }
}

fn leased(owner: &Arc<str>, deadline_ms: u64, now_ms: u64, text: &str) -> LeasedNode {
    let (info, Counts { sessions, movable, takes_sessions }) = read_node(text);
    let left_ms = deadline_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0);
    let left = left_ms.map(Duration::from_millis);
    LeasedNode { owner: Arc::clone(owner), info, sessions, movable, takes_sessions, left }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        _ => &[],
    };
    values.iter().map(|value| value.as_text().unwrap_or_default())
}

fn pairs(value: &Value) -> impl Iterator<Item = (&str, &str)> {
    let mut texts = texts(value);
    std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
}

fn in_fours(value: &Value) -> impl Iterator<Item = [&str; 4]> {
    let mut texts = texts(value);
    std::iter::from_fn(move || Some([texts.next()?, texts.next()?, texts.next()?, texts.next()?]))
}

/// What a node tells of its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub sessions: u64,
    /// How many of them could go to another node.
    pub movable: u64,
    /// Whether it takes more.
    pub takes_sessions: bool,
}

/// `started sessions/movable address name`; the name comes last, so that it may be any text. Behind
/// the counts of a node that takes no more sessions stands a comma.
pub(super) fn describe_node(info: &NodeInfo, counts: Counts) -> String {
    let NodeInfo { name, address, started_unix_ms } = info;
    let Counts { sessions, movable, takes_sessions } = counts;
    let mark = if takes_sessions { "" } else { "," };
    format!("{started_unix_ms} {sessions}/{movable}{mark} {address} {name}")
}

fn read_node(text: &str) -> (NodeInfo, Counts) {
    let mut fields = text.splitn(4, ' ');
    let mut next = || fields.next().unwrap_or_default();
    let started_unix_ms = next().parse().unwrap_or(0);
    let told = next();
    let both = told.trim_end_matches(',');
    let (sessions, movable) = both.split_once('/').unwrap_or((both, both));
    let counts = Counts {
        sessions: sessions.parse().unwrap_or(0),
        movable: movable.parse().unwrap_or(0),
        takes_sessions: both == told,
    };
    let info = NodeInfo { address: next().to_owned(), name: next().to_owned(), started_unix_ms };
    (info, counts)
}

/// How many nodes each renewal lists on average, where there are more.
const LISTED_EACH: usize = 64;
/// Owners given up in one turn; the others in the next ones.
const MISSING_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: usize) -> Arc<str> {
        format!("{number}:1").into()
    }

    fn node(number: usize, left: u64) -> (Arc<str>, LeasedNode) {
        let leased = leased(&owner(number), 1000 + left, 1000, "1 7 127.0.0.1:1 n");
        (owner(number), leased)
    }

    fn all(numbers: impl IntoIterator<Item = usize>, dying: &[(usize, u64)]) -> Told {
        let nodes = numbers.into_iter().map(|number| node(number, 10)).collect();
        let dying = dying.iter().map(|(number, at)| (owner(*number), *at)).collect();
        Told { now_ms: 1000, known: "5".to_owned(), what: What::All { nodes, dying } }
    }

    fn changes(expired: &[usize], changed: Vec<Change>) -> Told {
        let expired = expired.iter().map(|number| owner(*number)).collect();
        Told { now_ms: 1000, known: "6".to_owned(), what: What::Changes { expired, changed } }
    }

    fn change(number: usize, has_lease: bool, dies_at_ms: Option<u64>) -> Change {
        let node = has_lease.then(|| node(number, 10).1);
        Change { owner: owner(number), node, dies_at_ms }
    }

    fn sorted<'o>(owners: impl Iterator<Item = &'o Arc<str>>) -> Vec<&'o str> {
        let mut owners: Vec<_> = owners.map(|owner| &**owner).collect();
        owners.sort_unstable();
        owners
    }

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let info = NodeInfo {
            name: "node 1 of 3".to_owned(),
            address: "10.0.0.1:8080".to_owned(),
            started_unix_ms: 1_700_000_000_000,
        };
        for takes_sessions in [true, false] {
            let counts = Counts { sessions: 7, movable: 5, takes_sessions };
            let text = describe_node(&info, counts);
            assert_eq!(read_node(&text), (info.clone(), counts));
        }
        assert_eq!(read_node("").1.sessions, 0);
    }

    #[test]
    fn few_nodes_are_listed_at_each_renewal_and_many_so_that_each_lists_64_on_average() {
        for (nodes, expected) in [(1, 1024), (63, 1024), (64, 512), (1000, 64)] {
            let mut members = Members::new();
            members.take_over(all(0..nodes, &[]), false);
            let listings = (0..1024).filter(|_| {
                members.take_over(changes(&[], Vec::new()), false);
                members.known().is_empty()
            });
            assert_eq!(listings.count(), expected, "{nodes}");
        }
    }

    #[test]
    fn changes_tell_who_came_died_and_was_forgotten() {
        let mut members = Members::new();
        members.take_over(all([1, 2, 3], &[(4, 900)]), false);
        assert_eq!(sorted(members.dead()), ["4:1"]);
        let changed = vec![
            change(2, false, Some(1000)),
            change(3, false, Some(2000)),
            change(4, false, None),
            change(5, true, None),
        ];
        assert!(members.take_over(changes(&[1], changed), false).is_empty());
        assert_eq!(sorted(members.nodes().keys()), ["1:1", "5:1"]);
        assert_eq!(sorted(members.expired()), ["1:1"]);
        assert_eq!(sorted(members.dead()), ["2:1"], "the third has time yet");
        assert_eq!(members.sessions(), 14);
        let later = Told { now_ms: 2000, ..changes(&[], Vec::new()) };
        members.take_over(later, false);
        assert_eq!(sorted(members.dead()), ["2:1", "3:1"]);
        assert_eq!(members.expired().count(), 0, "the first has renewed its lease");
    }

    #[test]
    fn who_had_a_lease_and_is_not_known_any_more_is_missing() {
        let mut members = Members::new();
        members.take_over(all([1, 2, 3], &[(4, 900)]), false);
        let missing = members.take_over(changes(&[], vec![change(1, false, None)]), false);
        assert_eq!(sorted(missing.iter()), ["1:1"]);
        let missing = members.take_over(all([2], &[(3, 900)]), false);
        assert_eq!(missing.len(), 0, "the dead are reaped and then forgotten");
        let missing = members.take_over(all([2], &[]), true);
        assert_eq!(sorted(missing.iter()), ["3:1"], "but a new Redis knows nothing of them");
        let missing = members.take_over(all([], &[]), true);
        assert_eq!(sorted(missing.iter()), ["2:1", "3:1"]);
    }

    #[test]
    fn of_many_that_are_missing_each_is_told_in_one_turn_or_a_later_one() {
        let mut members = Members::new();
        members.take_over(all(0..150, &[]), false);
        let mut told = Vec::new();
        for expected in [64, 64, 21, 0] {
            let missing = members.take_over(all([149], &[]), false);
            assert_eq!(missing.len(), expected);
            told.extend(missing);
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), 149);
    }

    #[test]
    fn the_generations_of_a_process_are_found_by_its_boot() {
        let mut members = Members::new();
        members.take_over(all([1, 10, 2], &[]), false);
        assert_eq!(sorted(members.generations("1")), ["1:1"]);
        assert_eq!(sorted(members.generations("3")), [""; 0]);
    }
}
