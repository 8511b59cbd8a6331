//! Queues: fetching for this worker's consumers, and telling the broker what became of it.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Channel, WorkerId};
use fanlight_engine::hub::SessionKey;
use fanlight_engine::queue::{Batch, Consumers, Dispatch, Fetch, QueueError, Settlement};
use fanlight_engine::session::Done;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use metrics::{Counter, Gauge, counter, gauge};
use slab::Slab;
use tokio::time::{Instant, sleep, timeout};

use super::slot::Slot;
use super::{Worker, WorkerShared};
use crate::dead_letters;

/// What this worker has to do with queues.
pub(super) struct QueueSide {
    pub(super) consumers: Consumers,
    /// At most one fetch for each queue, and what is settled or moved until it is done.
    pub(super) work: FuturesUnordered<BoxFuture<'static, QueueDone>>,
    meters: Meters,
}

/// Something that waited for the broker.
pub(super) enum QueueDone {
    Fetched {
        fetch: Fetch,
        asked_ms: u64,
        result: Result<Batch, QueueError>,
    },
    /// Nothing follows from it.
    Settled,
}

struct Meters {
    deliveries: Counter,
    redeliveries: Counter,
    acks: Counter,
    nacks: Counter,
    timeouts: Counter,
    ignored: Counter,
    consumers: Gauge,
}

impl QueueSide {
    pub(super) fn new(worker: WorkerId) -> Self {
        let meters = Meters {
            deliveries: counter!("fanlight_queue_deliveries_total"),
            redeliveries: counter!("fanlight_queue_redeliveries_total"),
            acks: counter!("fanlight_queue_acks_total"),
            nacks: counter!("fanlight_queue_nacks_total"),
            timeouts: counter!("fanlight_queue_ack_timeouts_total"),
            ignored: counter!("fanlight_queue_acks_ignored_total"),
            consumers: gauge!("fanlight_queue_consumers", "worker" => worker.0.to_string()),
        };
        Self { consumers: Consumers::new(), work: FuturesUnordered::new(), meters }
    }

    /// Hands what was counted to the metrics.
    pub(super) fn report(&mut self) {
        let counts = self.consumers.take_counts();
        for (counter, count) in [
            (&self.meters.deliveries, counts.deliveries),
            (&self.meters.redeliveries, counts.redeliveries),
            (&self.meters.acks, counts.acks),
            (&self.meters.nacks, counts.nacks),
            (&self.meters.timeouts, counts.timeouts),
            (&self.meters.ignored, counts.ignored),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
        self.meters.consumers.set(self.consumers.len() as f64);
    }
}

impl Worker {
    /// Ends a tick, once what it gathered is written: the broker is told what was acknowledged and
    /// given back, and asked for as much as there is credit for.
    pub(super) fn tend_queues(&mut self) {
        self.queues.consumers.on_written();
        while let Some(settlement) = self.queues.consumers.next_settlement() {
            let settled = settle(&self.shared, settlement);
            self.queues.work.push(settled.map(|_| QueueDone::Settled).boxed());
        }
        while let Some(fetch) = self.queues.consumers.next_fetch(keeping_up(&self.slots)) {
            let asked_ms = self.shared.clock.now().mono_ms;
            let fetched = self.shared.queues.fetch(&fetch.queue, fetch.count);
            let done = fetched.map(move |result| QueueDone::Fetched { fetch, asked_ms, result });
            self.queues.work.push(done.boxed());
        }
    }

    pub(super) fn on_queue_done(&mut self, done: QueueDone) {
        let QueueDone::Fetched { fetch, asked_ms, result } = done else { return };
        let mut dead = Vec::new();
        let alive = result.map(|Batch { messages, has_more }| {
            let (letters, messages) =
                messages.into_iter().partition(|one| one.is_dead(&fetch.queue.options));
            dead = letters;
            Batch { messages, has_more }
        });
        let keeps_up = keeping_up(&self.slots);
        let consumers = &mut self.queues.consumers;
        let dispatches = consumers.on_fetched(&fetch, asked_ms, alive, keeps_up);
        for dispatch in dispatches {
            self.guarded(dispatch.session, |worker| worker.dispatch(&dispatch));
        }
        if !dead.is_empty() {
            let buried =
                dead_letters::bury(Arc::clone(&self.shared), Arc::clone(&fetch.queue), dead);
            self.queues.work.push(buried.map(|()| QueueDone::Settled).boxed());
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch) {
        let key = dispatch.session;
        let traced = self.traces.deliver(std::slice::from_ref(&dispatch.publication));
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let mut payload = Vec::new();
        let text = dispatch.write(&mut payload);
        let chunk = self.encoder.frame(text, &payload, slot.framing);
        self.stage.push(key, slot, chunk);
        self.stats.deliveries += 1;
        if let Some(traced) = traced {
            self.delivered(traced, &dispatch.publication.destination, 1);
        }
    }

    /// Settles queues now, for a session that waits until the broker has it.
    pub(super) fn settle_for(&mut self, key: SessionKey, channels: &[Channel]) -> Option<Done> {
        let mut settled = Vec::new();
        for channel in channels {
            while let Some(settlement) = self.queues.consumers.settlement_of(channel) {
                settled.push(settle(&self.shared, settlement));
            }
        }
        let all = join_all(settled).map(|results| results.into_iter().collect());
        self.start(key, all.boxed(), Done::Settled)
    }

    /// Gives back what the last sessions held, and waits a moment until the broker has it.
    pub(super) async fn end_queues(&mut self) {
        let _ = timeout(END_TIME, async {
            loop {
                self.tend_queues();
                match self.queues.work.next().await {
                    Some(done) => self.on_queue_done(done),
                    None => return,
                }
            }
        })
        .await;
    }
}

/// Tells of a session whether its socket takes what it is sent.
fn keeping_up(slots: &Slab<Slot>) -> impl Fn(SessionKey) -> bool {
    |session| slots.get(session.0 as usize).is_some_and(|slot| slot.outbox.is_none())
}

/// Tells the broker what was acknowledged and given back; tries until what is not told would be
/// delivered again anyway. The first try is made at once, so that it is made in order.
fn settle(
    shared: &Arc<WorkerShared>,
    settlement: Settlement,
) -> BoxFuture<'static, Result<(), QueueError>> {
    let shared = Arc::clone(shared);
    let tell = move |Settlement { queue, acks, releases }: &Settlement| {
        let acked = shared.queues.ack(queue, acks);
        let released = shared.queues.release(queue, releases);
        async move { acked.await.and(released.await) }
    };
    let deadline = Instant::now() + Duration::from_millis(settlement.queue.options.ack_timeout_ms);
    let mut told = tell(&settlement);
    async move {
        let mut wait = RETRY_MIN;
        loop {
            let result = told.await;
            if result.is_ok() || Instant::now() + wait > deadline {
                return result;
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
            told = tell(&settlement);
        }
    }
    .boxed()
}

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long the end of a worker waits for its queues.
const END_TIME: Duration = Duration::from_secs(2);
