//! Reapers: each living node claims some of the dead, and removes what they hold, in batches.

use std::collections::VecDeque;

use super::leases::LEASES;
use super::rules;
use super::shard::Kind;
use super::world::{Event, LATENCY, World, nanos};

/// A turn of one reaper.
#[derive(Debug)]
pub struct Turn {
    /// Those that it has claimed, and whether they died so long ago that they may be forgotten.
    owners: VecDeque<(u32, bool)>,
    /// Of [`rules::REAPED`].
    held: usize,
    next: u32,
    under_way: usize,
}

impl World {
    pub fn claim(&mut self, node: u32) {
        if !self.node(node).alive {
            return;
        }
        if !self.node(node).is_calm(self.now) {
            self.after(rules::LEASE_RENEW, Event::Claim { node });
            return;
        }
        let redis = &self.setting.constants.redis;
        let us = redis.reap_claim_us + redis.reap_claim_dead_us * self.leases.dead.len() as f64;
        let done = self.call(LEASES, Kind::Claim, us);
        self.expire(done);
        let lease = nanos(rules::LEASE);
        let mut owners = VecDeque::new();
        for dead in self.leases.dead.iter_mut().filter(|dead| dead.died_at <= done) {
            if owners.len() >= rules::OWNERS_MAX {
                break;
            }
            if dead.claim.is_none_or(|(until, reaper)| reaper == node || until <= done) {
                dead.claim = Some((done + lease, node));
                owners.push_back((dead.node, done - dead.died_at >= lease));
            }
        }
        self.node_mut(node).turn = Some(Turn { owners, held: 0, next: 0, under_way: 0 });
        self.schedule(done + LATENCY, Event::Claimed { node });
    }

    /// Starts what of the turn may be under way next; ends it when there is nothing more.
    pub fn go_on(&mut self, node: u32) {
        let Some(mut turn) = self.node_mut(node).turn.take() else { return };
        let Some(&(owner, may_forget)) = turn.owners.front() else {
            self.after(rules::LEASE_RENEW, Event::Claim { node });
            return;
        };
        if turn.held == rules::REAPED.len() {
            turn.owners.pop_front();
            (turn.held, turn.next) = (0, 0);
            if may_forget {
                self.forget(owner);
            }
            self.node_mut(node).turn = Some(turn);
            return self.go_on(node);
        }
        let (partitions, at_once) = rules::REAPED[turn.held];
        let until = partitions.min(turn.next + at_once as u32);
        turn.under_way = (until - turn.next) as usize;
        for partition in turn.next..until {
            self.schedule(self.now, Event::Look { node, partition });
        }
        turn.next = until;
        self.node_mut(node).turn = Some(turn);
    }

    fn forget(&mut self, owner: u32) {
        let us = self.setting.constants.redis.reap_call_us;
        let done = self.call(LEASES, Kind::Claim, us);
        self.leases.dead.retain(|dead| dead.node != owner);
        self.leases.changes += 1;
        self.leases.counts.forgotten += 1;
        self.leases.counts.last_forgotten_at = done;
    }

    /// What the turn reaps now: whose, and of what kind.
    fn reaped(&self, node: u32) -> Option<(u32, usize)> {
        let turn = self.node(node).turn.as_ref()?;
        Some((turn.owners.front()?.0, turn.held))
    }

    pub fn look(&mut self, node: u32, partition: u32) {
        let Some((owner, held)) = self.reaped(node) else { return };
        let us = self.setting.constants.redis.reap_call_us;
        let in_redis = if held == 0 { super::world::partition_of(partition) } else { partition };
        let mut done = self.now;
        for _ in 0..rules::LOOKS[held] {
            done = self.call(in_redis, Kind::Reap, us);
        }
        let left = held == 0 && self.left(owner, partition).is_some_and(|left| *left > 0);
        self.leases.counts.looks += 1;
        self.leases.counts.looks_in_vain += u64::from(!left);
        let next = if left { Event::Remove { node, partition } } else { Event::Looked { node } };
        self.schedule(done + LATENCY, next);
    }

    pub fn remove(&mut self, node: u32, partition: u32) {
        let Some((owner, _)) = self.reaped(node) else { return };
        let Some(left) = self.left(owner, partition) else {
            return self.schedule(self.now, Event::Looked { node });
        };
        let batch = (*left).min(rules::BATCH as u32);
        *left -= batch;
        let redis = &self.setting.constants.redis;
        let us = redis.reap_call_us + redis.reap_session_us * f64::from(batch);
        let done = self.call(super::world::partition_of(partition), Kind::Reap, us);
        self.leases.counts.sessions_removed += u64::from(batch);
        self.leases.counts.last_emptied_at = self.leases.counts.last_emptied_at.max(done);
        self.schedule(done + LATENCY, Event::Look { node, partition });
    }

    fn left(&mut self, owner: u32, lane: u32) -> Option<&mut u32> {
        let dead = self.leases.dead.iter_mut().find(|dead| dead.node == owner)?;
        dead.left.get_mut(lane as usize)
    }

    pub fn looked(&mut self, node: u32) {
        let Some(turn) = self.node_mut(node).turn.as_mut() else { return };
        turn.under_way -= 1;
        if turn.under_way > 0 {
            return;
        }
        if turn.next == rules::REAPED[turn.held].0 {
            (turn.held, turn.next) = (turn.held + 1, 0);
        }
        self.go_on(node);
    }
}
