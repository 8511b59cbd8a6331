//! Leases: renewals, who is taken for dead, and whether that was so.

use super::rules;
use super::shard::{Kind, Time};
use super::world::{Event, LATENCY, Node, What, World, nanos};

/// What stands in Redis of all nodes, all of it in one partition.
#[derive(Debug)]
pub struct LeaseTable {
    /// By node: when its lease ends, unless it is dead.
    pub deadlines: Vec<Option<Time>>,
    /// In the order of their deaths.
    pub dead: Vec<Dead>,
    /// How often a lease was taken, ended or forgotten.
    pub changes: usize,
    pub counts: Counts,
}

/// A dead owner.
#[derive(Debug, Clone)]
pub struct Dead {
    pub node: u32,
    pub died_at: Time,
    /// Until when which reaper has it.
    pub claim: Option<(Time, u32)>,
    /// What it still holds, by lane.
    pub left: Vec<u32>,
}

/// Of one phase.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub renewals: u64,
    pub renewals_late: u64,
    pub slowest_renewal: Time,
    /// The least that was left of a lease when it was renewed.
    pub least_left: Option<Time>,
    /// Nodes that lived and were taken for dead.
    pub false_deaths: u64,
    pub deaths: u64,
    pub last_death_at: Time,
    pub last_emptied_at: Time,
    pub last_forgotten_at: Time,
    pub forgotten: u64,
    pub sessions_removed: u64,
    pub looks: u64,
    pub looks_in_vain: u64,
}

impl LeaseTable {
    pub fn new(nodes: usize) -> Self {
        let (deadlines, dead) = (vec![None; nodes], Vec::new());
        Self { deadlines, dead, changes: 0, counts: Counts::default() }
    }

    pub fn begin_phase(&mut self) {
        self.counts = Counts::default();
    }

    /// Leases and dead owners: what a renewal lists that lists all.
    fn listed(&self) -> usize {
        self.deadlines.iter().flatten().count() + self.dead.len()
    }

    /// How many have let their lease expire, and nobody has found them dead yet.
    fn expired(&self, at: Time) -> usize {
        self.deadlines.iter().flatten().filter(|deadline| **deadline <= at).count()
    }
}

impl World {
    pub fn renew(&mut self, node: u32) {
        if !self.node(node).alive {
            return;
        }
        let redis = &self.setting.constants.redis;
        let us = redis.lease_us + self.telling_us(node);
        let ping_us = redis.ping_us;
        for lane in 0..rules::HELD_PARTITIONS {
            let partition = super::world::partition_of(lane);
            self.call(partition, Kind::Ping, ping_us);
        }
        let done = self.call(LEASES, Kind::Lease, us);
        let answered = done + LATENCY;
        self.write_lease(node, done);
        let took = answered - self.now;
        let counts = &mut self.leases.counts;
        counts.renewals += 1;
        counts.slowest_renewal = counts.slowest_renewal.max(took);
        let now = self.now;
        if took > nanos(rules::RESPONSE_TIMEOUT) {
            counts.renewals_late += 1;
            let failed_at = now + nanos(rules::RESPONSE_TIMEOUT);
            self.node_mut(node).troubled_at = failed_at;
            self.schedule(failed_at + nanos(rules::RETRY_AFTER), Event::Renew { node });
        } else {
            let changes = self.leases.changes;
            let renewed = self.node_mut(node);
            renewed.renewed_at = Some(now);
            renewed.renewals += 1;
            renewed.known_changes = changes;
            self.schedule(answered + nanos(rules::LEASE_RENEW), Event::Renew { node });
        }
    }

    /// What it takes its next renewal to tell of the other nodes.
    fn telling_us(&self, node: u32) -> f64 {
        let redis = &self.setting.constants.redis;
        let listed = self.leases.listed();
        let Node { renewals, known_changes, .. } = *self.node(node);
        let changes = self.leases.changes - known_changes;
        let takes = self.leases.deadlines[node as usize].is_none();
        let every = listed / rules::LISTED_EACH + 1;
        if takes || renewals.is_multiple_of(every) || 2 * changes > listed {
            return redis.lease_node_us * listed as f64;
        }
        redis.lease_change_us * (changes + self.leases.expired(self.now)) as f64
    }

    /// What the script does: a lease that is gone is taken anew, with everything that is held.
    fn write_lease(&mut self, node: u32, at: Time) {
        let counts = &mut self.leases.counts;
        if let Some(deadline) = self.leases.deadlines[node as usize] {
            let left = deadline.saturating_sub(at);
            counts.least_left = Some(counts.least_left.map_or(left, |least| least.min(left)));
        } else {
            self.leases.changes += 1;
            if self.node(node).renewed_at.is_some() {
                self.enter_all_again(node);
            }
        }
        self.leases.deadlines[node as usize] = Some(at + nanos(rules::LEASE));
    }

    fn enter_all_again(&mut self, node: u32) {
        for lane in 0..rules::HELD_PARTITIONS {
            let sessions = self.node(node).lanes[lane as usize].sessions;
            // It is counted again as each is entered.
            self.node_mut(node).lanes[lane as usize].sessions = 0;
            for _ in 0..sessions {
                self.push(node, lane, What::Enter);
            }
        }
    }

    /// Takes who has let its lease expire for dead: a few at a time.
    pub fn expire(&mut self, at: Time) {
        let mut expired: Vec<_> = (0..self.nodes.len())
            .filter_map(|node| Some((self.leases.deadlines[node]?, node)))
            .filter(|(deadline, _)| *deadline < at)
            .collect();
        expired.sort_unstable();
        for (_, node) in expired.into_iter().take(rules::OWNERS_MAX) {
            self.leases.deadlines[node] = None;
            self.leases.changes += 1;
            let left = self.nodes[node].lanes.iter().map(|lane| lane.sessions).collect();
            let dead = Dead { node: node as u32, died_at: at, claim: None, left };
            self.leases.dead.push(dead);
            let counts = &mut self.leases.counts;
            counts.deaths += 1;
            counts.last_death_at = at;
            counts.false_deaths += u64::from(self.nodes[node].alive);
        }
    }
}

/// The partition of all leases.
pub const LEASES: u32 = 0;
