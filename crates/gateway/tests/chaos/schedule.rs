//! Which faults come when: decided by the seed alone.

use crate::record::Strikes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How Redis is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One server without persistence.
    Standalone,
    /// One server and a replica that takes over by hand, behind an address that moves.
    Replica,
    /// A master, two replicas and three Sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
    /// Two servers that know nothing of each other.
    Shards,
}

/// Where proxies stand between nodes and Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Nowhere.
    None,
    /// One for each node.
    One,
    /// For each node one for each Redis process.
    Each,
}

/// What is done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`; healed by a new process.
    KillNode { node: usize },
    /// SIGSTOP; healed by SIGCONT.
    PauseNode { node: usize },
    /// Nothing passes between a node and Redis.
    Partition { node: usize },
    /// Nothing passes between a node and one Redis that is a master; `pick` says which.
    PartitionOne { node: usize, pick: usize },
    /// Redis hears a node, but the node does not hear Redis.
    LoseAnswers { node: usize },
    /// Every connection between a node and Redis is cut once.
    Cut { node: usize },
    /// Redis closes the connections of all subscribers (`CLIENT KILL`).
    KillSubscribers,
    /// Redis closes the connections of all that send commands.
    KillCommands,
    /// SIGSTOP for a Redis that is a master; `pick` says which.
    PauseRedis { pick: usize },
    /// `kill -9` for a Redis that is a master, which comes back empty. Where there is a replica, it
    /// takes over.
    KillRedis { pick: usize },
}

/// One or two faults that may overlap, and the calm before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// From the healing of everything before it.
    pub calm_ms: u64,
    pub faults: Vec<Planned>,
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// From the round's start.
    pub after_ms: u64,
    /// For how long, before it is healed.
    pub for_ms: u64,
    pub fault: Fault,
}

/// Rounds for about `length_ms`; healing takes its own time, so a run may not come to the last.
pub fn schedule(seed: u64, links: Links, nodes: usize, length_ms: u64) -> Vec<Round> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rounds = Vec::new();
    let mut planned_ms = 0;
    while planned_ms < length_ms {
        // In a long run, now and then for so long that what dead nodes held must be gone.
        let is_long = length_ms >= LONG_RUN_MS && rng.random_ratio(1, 5);
        let calm_ms = rng.random_range(if is_long { LONG_CALM_MS } else { CALM_MS });
        let mut faults = vec![plan(&mut rng, links, nodes, 0)];
        if rng.random_ratio(1, 3) {
            let after_ms = rng.random_range(0..MOST_MS / 2);
            let second = plan(&mut rng, links, nodes, after_ms);
            if second.fault.node() != faults[0].fault.node() {
                faults.push(second);
            }
        }
        let end = |planned: &Planned| planned.after_ms + planned.for_ms;
        planned_ms += calm_ms + faults.iter().map(end).max().unwrap_or_default();
        rounds.push(Round { calm_ms, faults });
    }
    rounds
}

fn plan(rng: &mut StdRng, links: Links, nodes: usize, after_ms: u64) -> Planned {
    let fault = pick(rng, links, nodes);
    let for_ms = if fault.is_short() { 0 } else { rng.random_range(LEAST_MS..MOST_MS) };
    Planned { after_ms, for_ms, fault }
}

fn pick(rng: &mut StdRng, links: Links, nodes: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let pick = rng.random_range(0..64);
    let mut faults = vec![
        Fault::KillNode { node },
        Fault::PauseNode { node },
        Fault::KillSubscribers,
        Fault::KillCommands,
        Fault::PauseRedis { pick },
        Fault::KillRedis { pick },
    ];
    if links != Links::None {
        let between = [Fault::Partition { node }, Fault::LoseAnswers { node }, Fault::Cut { node }];
        faults.extend(between);
    }
    if links == Links::Each {
        faults.push(Fault::PartitionOne { node, pick });
    }
    faults[rng.random_range(0..faults.len())]
}

impl Topology {
    /// Where proxies can stand. Where Redis itself tells its addresses, they need addresses of
    /// their own to tell in their place. Shards are told apart by the addresses that nodes know,
    /// which must be the same for all.
    pub fn links(self, has_aliases: bool) -> Links {
        match self {
            Self::Standalone | Self::Replica => Links::One,
            Self::Sentinel | Self::Cluster if has_aliases => Links::Each,
            Self::Sentinel | Self::Cluster | Self::Shards => Links::None,
        }
    }

    /// How many replicas a master has.
    pub fn replicas(self) -> u32 {
        match self {
            Self::Standalone | Self::Shards => 0,
            Self::Replica | Self::Cluster => 1,
            Self::Sentinel => 2,
        }
    }

    /// Whether a replica takes over by itself from a Redis that does not answer.
    pub fn fails_over(self) -> bool {
        matches!(self, Self::Sentinel | Self::Cluster)
    }
}

impl Fault {
    /// Whether Redis may lose what it accepted.
    pub fn loses_data(self, topology: Topology) -> bool {
        match self {
            Self::KillRedis { .. } => true,
            Self::PauseRedis { .. } => topology.fails_over(),
            _ => false,
        }
    }

    /// Whether Redis may lose also what `copies` replicas have. A master that is only paused goes
    /// on for a moment when it wakes, and then replicas may still follow it that are not the one
    /// which has taken over. Of a dead one's replicas the most advanced takes over.
    pub fn loses_copied(self, topology: Topology, copies: u32) -> bool {
        let lives_on = matches!(self, Self::PauseRedis { .. });
        let outlives = lives_on && copies < topology.replicas();
        self.wipes(topology) || self.loses_data(topology) && (copies == 0 || outlives)
    }

    /// Whether Redis may lose all that it accepted.
    pub fn wipes(self, topology: Topology) -> bool {
        let is_copied = !matches!(topology, Topology::Standalone | Topology::Shards);
        matches!(self, Self::KillRedis { .. }) && !is_copied
    }

    /// Whom it keeps from speaking to Redis.
    pub fn strikes(self) -> Strikes {
        match self {
            Self::KillNode { node } => Strikes::KilledNode(node),
            Self::PauseNode { node }
            | Self::Partition { node }
            | Self::PartitionOne { node, .. }
            | Self::LoseAnswers { node }
            | Self::Cut { node } => Strikes::Node(node),
            Self::KillSubscribers => Strikes::Nobody,
            Self::KillCommands | Self::PauseRedis { .. } | Self::KillRedis { .. } => Strikes::Redis,
        }
    }

    /// Whether it is over as soon as it is done.
    fn is_short(self) -> bool {
        matches!(self, Self::Cut { .. } | Self::KillSubscribers | Self::KillCommands)
    }

    /// The node that it strikes; none where it strikes Redis. Two faults at a time have different
    /// ones.
    pub fn node(self) -> Option<usize> {
        match self {
            Self::KillNode { node }
            | Self::PauseNode { node }
            | Self::Partition { node }
            | Self::PartitionOne { node, .. }
            | Self::LoseAnswers { node }
            | Self::Cut { node } => Some(node),
            Self::KillSubscribers
            | Self::KillCommands
            | Self::PauseRedis { .. }
            | Self::KillRedis { .. } => None,
        }
    }
}

/// Between two rounds, from the healing of all faults of the first.
const CALM_MS: std::ops::Range<u64> = 1_000..3_000;
const LONG_CALM_MS: std::ops::Range<u64> = 12_000..16_000;
const LONG_RUN_MS: u64 = 60_000;
const LEAST_MS: u64 = 300;
/// Longer than Redis' command timeout, the canary's patience and the takeover by a replica.
const MOST_MS: u64 = 4_500;

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    const TEN_MINUTES_MS: u64 = 600_000;

    #[test]
    fn a_seed_decides_everything() {
        let plan = |seed| schedule(seed, Links::One, 3, TEN_MINUTES_MS);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn ten_minutes_have_every_kind_of_fault_and_two_at_a_time() {
        for (links, kinds) in [(Links::One, 9), (Links::None, 6), (Links::Each, 10)] {
            let rounds = schedule(1, links, 3, TEN_MINUTES_MS);
            let mut seen = Vec::new();
            for planned in rounds.iter().flat_map(|round| &round.faults) {
                if !seen.contains(&discriminant(&planned.fault)) {
                    seen.push(discriminant(&planned.fault));
                }
            }
            assert_eq!(seen.len(), kinds, "{links:?}");
            assert!(rounds.iter().any(|round| round.faults.len() == 2), "{links:?}");
        }
    }

    #[test]
    fn two_faults_at_a_time_have_different_victims() {
        for round in schedule(1, Links::One, 3, TEN_MINUTES_MS) {
            if let [a, b] = round.faults[..] {
                assert_ne!(a.fault.node(), b.fault.node());
            }
        }
    }
}
