//! Clients that lose their node and come back, others that come and go, and the registry.

use std::time::Duration;

use rand::Rng;

use super::rules;
use super::shard::{Kind, Time, nanos_of};
use super::world::{Event, LATENCY, Operation, What, World, nanos, partition_of};

/// Of those who lost their node, in one phase.
#[derive(Debug, Clone, Default)]
pub struct Returns {
    /// How many there are.
    pub away: u64,
    /// When each was back: connected and entered, since its node was gone; in milliseconds.
    pub back_ms: Vec<u32>,
    pub failed_attempts: u64,
    /// How long each entry of the phase took, in microseconds.
    pub entry_us: Vec<u32>,
    /// Calls of the registry whose answer came too late.
    pub late_calls: u64,
    pub calls: u64,
    pub operations: u64,
    /// The most that waited on one node.
    pub most_waiting: usize,
    pub overflowed: u64,
}

impl World {
    /// A wait with full jitter, as the client's backoff has it.
    pub fn backoff(&mut self, failures: u32) -> Time {
        let (first, longest) = rules::BACKOFF;
        let bound = first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        self.rng.random_range(0..=nanos(bound.min(longest)))
    }

    /// One who is away connects, to whatever node the balancer thinks is there.
    pub fn attempt(&mut self, failures: u32) {
        let still_sent = self.now < self.gone_at + nanos(self.setting.balancer);
        let node = loop {
            let node = self.rng.random_range(0..self.nodes.len());
            if self.nodes[node].alive || still_sent {
                break node;
            }
        };
        let service = nanos_of(self.setting.constants.gateway.connect_us / self.setting.cores);
        let now = self.now;
        let target = &mut self.nodes[node];
        if target.alive {
            let done = target.accepting_until.max(now) + service;
            // It is accepted also when its client does not wait any more.
            target.accepting_until = done;
            if done - now <= nanos(rules::CONNECT_TIMEOUT) {
                return self.schedule(done, Event::Accepted { node: node as u32 });
            }
        }
        self.returns.failed_attempts += 1;
        let failures = failures + 1;
        let wait = self.backoff(failures);
        let again = now + nanos(rules::CONNECT_TIMEOUT) + wait;
        self.schedule(again, Event::Attempt { failures });
    }

    pub fn accepted(&mut self, node: u32) {
        if !self.node(node).alive {
            return self.schedule(self.now, Event::Attempt { failures: 0 });
        }
        let lane = self.any_lane();
        self.push(node, lane, What::Return);
    }

    /// Somebody connects somewhere, and somebody else leaves.
    pub fn churn(&mut self) {
        let every = nanos(self.setting.session) / self.setting.sessions.max(1) as Time;
        let wait = self.rng.random_range(0..=2 * every.max(1));
        self.after(Duration::from_nanos(wait), Event::Churn);
        for what in [What::Enter, What::Leave] {
            let node = self.rng.random_range(0..self.nodes.len() as u32);
            let lane = self.any_lane();
            if self.node(node).alive {
                self.push(node, lane, what);
            }
        }
    }

    fn any_lane(&mut self) -> u32 {
        self.rng.random_range(0..rules::HELD_PARTITIONS)
    }

    pub fn push(&mut self, node: u32, lane: u32, what: What) {
        let operation = Operation { since: self.now, what };
        let lanes = &mut self.node_mut(node).lanes;
        lanes[lane as usize].waiting.push_back(operation);
        let is_busy = lanes[lane as usize].busy;
        if what == What::Return {
            let waiting = lanes.iter().map(|lane| lane.waiting.len()).sum();
            self.returns.most_waiting = self.returns.most_waiting.max(waiting);
            self.returns.overflowed += u64::from(waiting > rules::REGISTRY_QUEUE);
        }
        if !is_busy {
            self.send_lane(node, lane);
        }
    }

    /// Sends what waits in a lane, as much as one call takes; one call is under way at a time.
    pub fn send_lane(&mut self, node: u32, lane: u32) {
        let now = self.now;
        let sender = self.node_mut(node);
        let may_send = sender.holds_lease(now);
        let queue = &mut sender.lanes[lane as usize];
        if queue.waiting.is_empty() {
            queue.busy = false;
            return;
        }
        queue.busy = true;
        if !may_send {
            return self.after(RETRY_AFTER, Event::SendLane { node, lane });
        }
        let count = queue.waiting.len().min(rules::BATCH);
        queue.under_way = queue.waiting.drain(..count).collect();
        let redis = &self.setting.constants.redis;
        let us = redis.registry_call_us + redis.registry_operation_us * count as f64;
        let answered = self.call(partition_of(lane), Kind::Registry, us) + LATENCY;
        self.returns.calls += 1;
        self.returns.operations += count as u64;
        if answered - now <= nanos(rules::RESPONSE_TIMEOUT) {
            return self.schedule(answered, Event::LaneDone { node, lane });
        }
        // It is done all the same, but not known to be: so it is sent again.
        self.returns.late_calls += 1;
        let queue = &mut self.node_mut(node).lanes[lane as usize];
        while let Some(operation) = queue.under_way.pop() {
            queue.waiting.push_front(operation);
        }
        self.after(rules::RESPONSE_TIMEOUT + RETRY_AFTER, Event::SendLane { node, lane });
    }

    pub fn lane_done(&mut self, node: u32, lane: u32) {
        if !self.node(node).alive {
            return;
        }
        let (now, gone_at) = (self.now, self.gone_at);
        let queue = &mut self.nodes[node as usize].lanes[lane as usize];
        for operation in queue.under_way.drain(..) {
            match operation.what {
                What::Leave => queue.sessions = queue.sessions.saturating_sub(1),
                What::Enter => queue.sessions += 1,
                What::Return => {
                    queue.sessions += 1;
                    self.returns.back_ms.push(((now - gone_at) / 1_000_000) as u32);
                }
            }
            self.returns.entry_us.push(((now - operation.since) / 1000) as u32);
        }
        self.send_lane(node, lane);
    }
}

/// How soon what can't be sent, or failed, is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
