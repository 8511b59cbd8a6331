//! The events of a node that is alone: they wait in this process, and are gone with it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanlight_engine::registry::{EventSink, Lifecycle as Told, Occurrence};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::Delivery;
use super::hand::Hand;
use super::{About, Event, Stamp, Subscriber, own_id};
use crate::clock::Clock;
use crate::config::EventKind;

/// Takes events from the registry and keeps them until they are delivered.
pub struct MemoryEvents {
    stamp: Stamp,
    made: AtomicU64,
    deliveries: Vec<Arc<Waiting>>,
    hasher: foldhash::fast::FixedState,
}

/// What waits for one webhook.
struct Waiting {
    delivery: Arc<Delivery>,
    lanes: Vec<Lane>,
    /// Of each lane.
    max: usize,
}

/// Those of some sessions, in order.
#[derive(Default)]
struct Lane {
    events: Mutex<VecDeque<Event>>,
    added: Notify,
}

impl MemoryEvents {
    /// For these webhooks; each of some lanes keeps `max` events.
    pub fn new(
        node: Arc<str>,
        clock: Clock,
        subscribers: &[Arc<Subscriber>],
        max: usize,
    ) -> Arc<Self> {
        let waiting = |subscriber| {
            let lanes = (0..LANES).map(|_| Lane::default()).collect();
            Arc::new(Waiting { delivery: Delivery::new(subscriber), lanes, max })
        };
        Arc::new(Self {
            stamp: Stamp { node, clock },
            made: AtomicU64::new(0),
            deliveries: subscribers.iter().map(waiting).collect(),
            hasher: foldhash::fast::FixedState::default(),
        })
    }

    pub(super) fn start(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        for waiting in &self.deliveries {
            for part in 0..LANES {
                let (waiting, stop) = (Arc::clone(waiting), stop.clone());
                tracker.spawn(async move { waiting.deliver_all(part, &stop).await });
            }
            let (delivery, stop) = (Arc::clone(&waiting.delivery), stop.clone());
            tracker.spawn(async move { stop.run_until_cancelled(delivery.report()).await });
        }
    }
}

impl EventSink for MemoryEvents {
    fn tell(&self, told: Told) {
        let kind = kind_of(told.occurrence);
        let about = About {
            session: told.session.map(|session| session.to_string()),
            user: told.user.as_deref().map(Into::into),
            destination: told.destination.as_ref().map(|channel| channel.as_str().to_owned()),
            reason: told.reason.map(|reason| reason.code().to_owned()),
            owner: self.stamp.node.to_string(),
        };
        let event = Event {
            id: own_id(&self.stamp.node, self.made.fetch_add(1, Ordering::Relaxed)),
            kind,
            at_unix_ms: self.stamp.clock.now().unix_ms,
            about,
        };
        let lane = (self.hasher.hash_one(event.lane()) % u64::from(LANES)) as usize;
        for waiting in &self.deliveries {
            if waiting.delivery.wants(&event) {
                waiting.add(lane, event.clone());
            }
        }
    }
}

impl Waiting {
    fn add(&self, lane: usize, event: Event) {
        let Lane { events, added } = &self.lanes[lane];
        let mut events = lock(events);
        let lost = if events.len() >= self.max { events.pop_front() } else { None };
        events.push_back(event);
        self.delivery.waiting(lane as u8, events.len() as u64);
        drop(events);
        self.delivery.lose(u64::from(lost.is_some()));
        added.notify_one();
    }

    /// Until it is told to stop, and nothing waits.
    async fn deliver_all(&self, part: u8, stop: &CancellationToken) {
        let Lane { events, added } = &self.lanes[usize::from(part)];
        let mut hand = Hand::new(&self.delivery, part);
        loop {
            let (some, left): (Vec<_>, _) = {
                let mut events = lock(events);
                let count = events.len().min(hand.room());
                (events.drain(..count).collect(), events.len())
            };
            self.delivery.waiting(part, left as u64);
            hand.take(some);
            if stop.is_cancelled() && hand.is_empty() {
                return;
            }
            let has_room = hand.room() > 0;
            tokio::select! {
                () = hand.settled() => drop(hand.told()),
                () = added.notified(), if has_room => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            }
        }
    }
}

fn lock(events: &Mutex<VecDeque<Event>>) -> MutexGuard<'_, VecDeque<Event>> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind_of(occurrence: Occurrence) -> EventKind {
    match occurrence {
        Occurrence::Connected => EventKind::Connected,
        Occurrence::Disconnected => EventKind::Disconnected,
        Occurrence::Subscribed => EventKind::Subscribed,
        Occurrence::Unsubscribed => EventKind::Unsubscribed,
        Occurrence::Occupied => EventKind::Occupied,
        Occurrence::Vacated => EventKind::Vacated,
    }
}

const LANES: u8 = 8;
