//! The simulated cluster: nodes, shards, and what happens when; everything from one seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clients::Returns;
use super::leases::{LEASES, LeaseTable};
use super::reaping::Turn;
use super::rules;
use super::shard::{Kind, SECOND, Shard, Time};
use crate::capacity::constants::Constants;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setting {
    pub nodes: usize,
    pub sessions: usize,
    /// The shard of each partition.
    pub shard_of: Vec<usize>,
    pub shards: usize,
    pub zones: usize,
    pub cores: f64,
    /// Within how long a client notices that its node is gone.
    pub notice: Duration,
    /// For how long the balancer still sends clients to nodes that are gone.
    pub balancer: Duration,
    /// How long a session lasts, on average.
    pub session: Duration,
    pub seed: u64,
    pub constants: Constants,
}

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Canary { node: u32 },
    Renew { node: u32 },
    Claim { node: u32 },
    Claimed { node: u32 },
    Look { node: u32, partition: u32 },
    Remove { node: u32, partition: u32 },
    Looked { node: u32 },
    Churn,
    Attempt { failures: u32 },
    Accepted { node: u32 },
    SendLane { node: u32, lane: u32 },
    LaneDone { node: u32, lane: u32 },
}

/// One node.
#[derive(Debug)]
pub struct Node {
    pub alive: bool,
    /// When its last successful renewal was begun.
    pub renewed_at: Option<Time>,
    pub troubled_at: Time,
    /// Counts its renewals, from anywhere on.
    pub renewals: usize,
    /// How many changes of leases it knows of.
    pub known_changes: usize,
    /// When it has accepted all who wait.
    pub accepting_until: Time,
    pub lanes: Vec<Lane>,
    pub turn: Option<Turn>,
}

/// What a node has and does in one of the held partitions.
#[derive(Debug, Default)]
pub struct Lane {
    /// What it has entered.
    pub sessions: u32,
    pub waiting: VecDeque<Operation>,
    pub under_way: Vec<Operation>,
    pub busy: bool,
}

/// An operation of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub since: Time,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Enter,
    /// Of one who has lost its node.
    Return,
    Leave,
}

/// The whole.
pub struct World {
    pub setting: Setting,
    pub now: Time,
    pub rng: StdRng,
    pub shards: Vec<Shard>,
    pub nodes: Vec<Node>,
    pub leases: LeaseTable,
    pub returns: Returns,
    pub gone_at: Time,
    /// When the next node looks for dead letters.
    dead_letters_at: Time,
    agenda: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let each = setting.sessions / setting.nodes;
        let lanes = rules::HELD_PARTITIONS as usize;
        let lane = |at: usize| Lane {
            sessions: (each / lanes + usize::from(at < each % lanes)) as u32,
            ..Lane::default()
        };
        let node = || Node {
            alive: true,
            renewed_at: None,
            troubled_at: 0,
            renewals: 0,
            known_changes: 0,
            accepting_until: 0,
            lanes: (0..lanes).map(lane).collect(),
            turn: None,
        };
        let mut world = Self {
            now: 0,
            rng: StdRng::seed_from_u64(setting.seed),
            shards: vec![Shard::default(); setting.shards],
            nodes: (0..setting.nodes).map(|_| node()).collect(),
            leases: LeaseTable::new(setting.nodes),
            returns: Returns::default(),
            gone_at: 0,
            dead_letters_at: 0,
            agenda: BinaryHeap::new(),
            scheduled: 0,
            setting,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() as u32 {
            self.nodes[node as usize].renewals = self.rng.random_range(0..1 << 16);
            let renews = self.rng.random_range(0..nanos(rules::LEASE_RENEW));
            self.schedule(renews, Event::Renew { node });
            let claims = renews + nanos(rules::LEASE_RENEW);
            self.schedule(claims, Event::Claim { node });
            let probes = self.rng.random_range(0..nanos(rules::CANARY_INTERVAL));
            self.schedule(probes, Event::Canary { node });
        }
        self.schedule(0, Event::Churn);
    }

    pub fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.agenda.push(Reverse((at, self.scheduled, event)));
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.schedule(self.now + nanos(wait), event);
    }

    /// Lets everything happen until `until`, or until `done`, which is asked once a second.
    pub fn run(&mut self, until: Time, done: impl Fn(&Self) -> bool) {
        let mut asks_at = self.now + SECOND;
        while let Some(Reverse((at, _, _))) = self.agenda.peek() {
            if *at >= until {
                break;
            }
            if *at >= asks_at {
                asks_at += SECOND;
                if done(self) {
                    return;
                }
            }
            let Some(Reverse((at, _, event))) = self.agenda.pop() else { break };
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Canary { node } => self.probe(node),
            Event::Renew { node } => self.renew(node),
            Event::Claim { node } => self.claim(node),
            Event::Claimed { node } => self.go_on(node),
            Event::Look { node, partition } => self.look(node, partition),
            Event::Remove { node, partition } => self.remove(node, partition),
            Event::Looked { node } => self.looked(node),
            Event::Churn => self.churn(),
            Event::Attempt { failures } => self.attempt(failures),
            Event::Accepted { node } => self.accepted(node),
            Event::SendLane { node, lane } => self.send_lane(node, lane),
            Event::LaneDone { node, lane } => self.lane_done(node, lane),
        }
    }

    fn probe(&mut self, node: u32) {
        if !self.node(node).alive {
            return;
        }
        let (at, redis) = (self.now + LATENCY, &self.setting.constants.redis);
        let (turn_us, look_us) = (redis.turn_us, redis.dead_look_us);
        for shard in &mut self.shards {
            shard.serve(at, Kind::Canary, redis.canary_us);
            shard.serve(at, Kind::Info, redis.info_us);
        }
        self.call(LEASES, Kind::DeadLetters, turn_us);
        if self.now >= self.dead_letters_at {
            self.dead_letters_at = self.now + nanos(rules::DEAD_LETTER_TURN);
            for partition in 0..rules::PARTITIONS {
                self.call(partition, Kind::DeadLetters, look_us);
            }
        }
        self.after(rules::CANARY_INTERVAL, Event::Canary { node });
    }

    /// Has the shard of `partition` serve a call that is sent now; when it is done there.
    pub fn call(&mut self, partition: u32, kind: Kind, us: f64) -> Time {
        let shard = self.setting.shard_of[partition as usize];
        self.shards[shard].serve(self.now + LATENCY, kind, us)
    }

    pub fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    pub fn node_mut(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    /// Nodes that are there.
    pub fn living(&self) -> usize {
        self.nodes.iter().filter(|node| node.alive).count()
    }

    pub fn begin_phase(&mut self) {
        for shard in &mut self.shards {
            shard.begin_phase(self.now);
        }
        self.leases.begin_phase();
        self.returns = Returns::default();
    }

    /// Ends nodes without a word; their clients notice.
    pub fn lose(&mut self, nodes: impl Iterator<Item = usize>) {
        self.gone_at = self.now;
        for node in nodes {
            self.nodes[node].alive = false;
            let sessions: u32 = self.nodes[node].lanes.iter().map(|lane| lane.sessions).sum();
            self.returns.away += u64::from(sessions);
            for _ in 0..sessions {
                let noticed = self.rng.random_range(0..=nanos(self.setting.notice));
                let wait = self.backoff(0);
                self.schedule(self.now + noticed + wait, Event::Attempt { failures: 0 });
            }
        }
    }
}

impl Node {
    /// Whether it may enter anything.
    pub fn holds_lease(&self, now: Time) -> bool {
        self.renewed_at.is_some_and(|at| now.saturating_sub(at) < nanos(rules::LEASE))
    }

    /// Whether it may declare others dead.
    pub fn is_calm(&self, now: Time) -> bool {
        self.holds_lease(now) && now.saturating_sub(self.troubled_at) >= nanos(rules::LEASE)
    }
}

pub fn nanos(duration: Duration) -> Time {
    duration.as_nanos() as Time
}

/// The partition of a lane of the registry.
pub fn partition_of(lane: u32) -> u32 {
    lane * rules::PARTITIONS / rules::HELD_PARTITIONS
}

/// One way between a node and Redis, in another zone.
pub const LATENCY: Time = 400_000;
