//! Delivering events to one webhook: each until it is taken, those of a session in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::{Event, Subscriber};
use crate::clock::Clock;
use crate::repeated::Repeated;
use crate::webhook::{CallOptions, WebhookError};

/// Delivers, and tells how far behind it is.
pub(super) struct Delivery {
    subscriber: Arc<Subscriber>,
    clock: Clock,
    /// Of each part that is delivered by itself: since when its oldest event waits, and how many
    /// wait behind what is under way.
    parts: Mutex<BTreeMap<u8, Part>>,
    /// Events can wait, but not those who ask the same webhook something: half of its requests are
    /// for these.
    turns: Semaphore,
    failures: Repeated,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    oldest_unix_ms: Option<u64>,
    waiting: u64,
}

impl Delivery {
    pub(super) fn new(subscriber: &Arc<Subscriber>) -> Arc<Self> {
        let own = Self {
            subscriber: Arc::clone(subscriber),
            clock: Clock::start(),
            parts: Mutex::default(),
            turns: Semaphore::new((subscriber.webhook.concurrency() / 2).max(1)),
            failures: Repeated::new(),
        };
        for result in ["delivered", "refused", "lost"] {
            own.count(result, 0);
        }
        own.gauge("fanlight_webhook_events_waiting").set(0);
        own.gauge("fanlight_webhook_event_age_seconds").set(0);
        Arc::new(own)
    }

    pub(super) fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Delivers all of `events` that are wanted. Those of different sessions go at the same time.
    pub(super) async fn deliver(&self, part: u8, events: &[Event]) {
        self.note(part, |part| part.oldest_unix_ms = events.first().map(|one| one.at_unix_ms));
        let mut lanes: HashMap<&str, Vec<&Event>> = HashMap::new();
        for event in events {
            let about = &event.about;
            if self.subscriber.wants(event.kind, about.destination.as_deref()) {
                let of = about.session.as_deref().or(about.destination.as_deref());
                lanes.entry(of.unwrap_or_default()).or_default().push(event);
            }
        }
        join_all(lanes.into_values().map(|lane| self.deliver_in_order(lane))).await;
        self.note(part, |part| part.oldest_unix_ms = None);
    }

    async fn deliver_in_order(&self, lane: Vec<&Event>) {
        for event in lane {
            self.deliver_one(event).await;
        }
    }

    /// Until it is taken, or refused for what it is.
    async fn deliver_one(&self, event: &Event) {
        let mut pause = PAUSE_MIN;
        loop {
            let options = CallOptions {
                id: Some(event.id.clone()),
                at_unix_ms: Some(event.at_unix_ms),
                ..CallOptions::default()
            };
            let turn = self.turns.acquire().await;
            let call = self.subscriber.webhook.call(event.kind.as_str(), &event.about, options);
            let Err(error) = call.await else { return self.count("delivered", 1) };
            drop(turn);
            if is_final(&error) {
                let webhook = self.subscriber.webhook.name();
                tracing::warn!(webhook, id = event.id, %error, "an event was refused; it is dropped");
                return self.count("refused", 1);
            }
            if let Some(suppressed) = self.failures.happened(Instant::now()) {
                let webhook = self.subscriber.webhook.name();
                tracing::warn!(webhook, %error, suppressed, "an event was not taken; it waits");
            }
            let jitter = rand::random_range(0.5..1.0);
            sleep(error.retry_after().unwrap_or(pause).max(pause).mul_f64(jitter)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// That so many were dropped before they could be delivered.
    pub(super) fn lose(&self, events: u64) {
        if events > 0 {
            self.count("lost", events);
            let webhook = self.subscriber.webhook.name();
            let room = "events.max_length";
            tracing::warn!(webhook, events, "events were lost: more than {room} had waited");
        }
    }

    pub(super) fn waiting(&self, part: u8, waiting: u64) {
        self.note(part, |part| part.waiting = waiting);
    }

    /// Part is somebody else's from now on.
    pub(super) fn forget(&self, part: u8) {
        self.parts().remove(&part);
    }

    /// Tells how far behind it is, each second.
    pub(super) async fn report(&self) {
        loop {
            let parts: Vec<_> = self.parts().values().copied().collect();
            let waiting: u64 = parts.iter().map(|part| part.waiting).sum();
            let oldest_ms = parts.iter().filter_map(|part| part.oldest_unix_ms).min();
            let now_ms = self.clock.now().unix_ms;
            let age_ms = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
            self.gauge("fanlight_webhook_events_waiting").set(waiting as f64);
            self.gauge("fanlight_webhook_event_age_seconds").set(age_ms as f64 / 1000.0);
            sleep(REPORT_EVERY).await;
        }
    }

    fn note(&self, part: u8, note: impl FnOnce(&mut Part)) {
        note(self.parts().entry(part).or_default());
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<u8, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &'static str, events: u64) {
        let webhook = self.subscriber.webhook.name().to_owned();
        metrics::counter!(
            "fanlight_webhook_events_total", "webhook" => webhook, "result" => result
        )
        .increment(events);
    }

    fn gauge(&self, name: &'static str) -> metrics::Gauge {
        metrics::gauge!(name, "webhook" => self.subscriber.webhook.name().to_owned())
    }
}

/// Whether the same event would fare no better another time. What a wrong secret, path or rate is
/// answered by can be put right.
fn is_final(error: &WebhookError) -> bool {
    match error {
        WebhookError::Status(status) => {
            (400..500).contains(status) && !matches!(*status, 401 | 403 | 404 | 408 | 429)
        }
        WebhookError::Unwritable(_) => true,
        _ => false,
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);
const REPORT_EVERY: Duration = Duration::from_secs(1);
