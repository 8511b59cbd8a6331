//! What waits to be done in Redis: a queue per partition, all of them bounded together.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::operation::Operation;
use crate::lease::HELD_PARTITIONS;
use crate::names::Partition;

/// The queues of one node. In each, one batch is under way at a time, so that batches form under
/// load, and what failed is done again before anything after it.
#[derive(Debug)]
pub(super) struct Lanes {
    state: Mutex<State>,
    max: usize,
    pub(super) changed: Notify,
}

#[derive(Debug)]
struct State {
    lanes: Vec<Lane>,
    waiting: usize,
    under_way: usize,
    /// Counts how often everything was dropped.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Operation>,
    busy: bool,
    /// After a failure, when to try again.
    not_before: Option<Instant>,
}

/// Some operations of one lane, on their way.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) partition: Partition,
    pub(super) operations: Vec<Operation>,
    epoch: u64,
}

/// How an operation was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Queued,
    /// There was no room, and it can be done without.
    Dropped,
    /// There was no room, so everything was dropped, this many records among it.
    Overflowed {
        records: u64,
    },
}

impl Lanes {
    pub(super) fn new(max: usize) -> Self {
        let lanes = (0..HELD_PARTITIONS).map(|_| Lane::default()).collect();
        let state = Mutex::new(State { lanes, waiting: 0, under_way: 0, epoch: 0 });
        Self { state, max, changed: Notify::new() }
    }

    pub(super) fn push(&self, operation: Operation) -> Taken {
        let mut state = self.state();
        // Records have to leave room for what matters more.
        if operation.is_record() && state.waiting >= self.max - self.max / 4 {
            return Taken::Dropped;
        }
        if state.waiting >= self.max {
            return Taken::Overflowed { records: state.clear() };
        }
        let at = lane_of(operation.partition());
        state.lanes[at].queue.push_back(operation);
        state.waiting += 1;
        drop(state);
        self.changed.notify_one();
        Taken::Queued
    }

    /// Whether there is room for what is not urgent.
    pub(super) fn has_room(&self) -> bool {
        self.state().waiting < self.max / 2
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.waiting == 0 && state.under_way == 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Takes the next batch of every lane that has something to do now.
    pub(super) fn take(&self, now: Instant) -> Vec<Batch> {
        let mut state = self.state();
        let epoch = state.epoch;
        let mut batches = Vec::new();
        for (at, lane) in state.lanes.iter_mut().enumerate() {
            let waits = lane.busy || lane.not_before.is_some_and(|at| now < at);
            if waits || lane.queue.is_empty() {
                continue;
            }
            let count = lane.queue.len().min(BATCH_MAX);
            let operations = lane.queue.drain(..count).collect();
            lane.busy = true;
            batches.push(Batch { partition: partition_of(at), operations, epoch });
        }
        let taken: usize = batches.iter().map(|batch| batch.operations.len()).sum();
        state.waiting -= taken;
        state.under_way += taken;
        batches
    }

    pub(super) fn on_done(&self, partition: Partition, count: usize) {
        let mut state = self.state();
        state.under_way -= count;
        let lane = &mut state.lanes[lane_of(partition)];
        lane.busy = false;
        lane.not_before = None;
    }

    /// Puts back what failed, unless everything was dropped meanwhile: then what undoes it may be
    /// gone too.
    pub(super) fn on_failed(&self, batch: Batch, try_at: Instant) {
        let mut state = self.state();
        let count = batch.operations.len();
        state.under_way -= count;
        let restored = state.epoch == batch.epoch;
        let lane = &mut state.lanes[lane_of(batch.partition)];
        lane.busy = false;
        lane.not_before = Some(try_at);
        if restored {
            for operation in batch.operations.into_iter().rev() {
                lane.queue.push_front(operation);
            }
            state.waiting += count;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) -> u64 {
        self.epoch += 1;
        self.waiting = 0;
        let dropped = self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..));
        dropped.filter(Operation::is_record).count() as u64
    }
}

fn lane_of(partition: Partition) -> usize {
    usize::from(partition.0) * HELD_PARTITIONS / Partition::COUNT
}

fn partition_of(lane: usize) -> Partition {
    Partition((lane * Partition::COUNT / HELD_PARTITIONS) as u8)
}

/// So many operations take Redis about a millisecond.
const BATCH_MAX: usize = 128;
