//! Delivering events to one webhook: each until it is taken, those of a session in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::{About, Event, Subscriber};
use crate::clock::Clock;
use crate::repeated::Repeated;
use crate::webhook::{self, CallOptions, WebhookError};

/// Delivers, and tells how far behind it is.
pub(super) struct Delivery {
    subscriber: Arc<Subscriber>,
    clock: Clock,
    /// Of each part that is delivered by itself: since when its oldest event waits, and how many
    /// wait behind what is under way.
    parts: Mutex<BTreeMap<u8, Part>>,
    /// However many events wait, whoever asks the same backend has turns left.
    turns: Semaphore,
    failures: Repeated,
}

/// Several events in one request.
#[derive(Serialize)]
struct Together<'e> {
    events: Vec<One<'e>>,
}

/// One of these, as it would be by itself but for who sends it.
#[derive(Serialize)]
struct One<'e> {
    r#type: &'static str,
    id: &'e str,
    time: String,
    #[serde(flatten)]
    about: &'e About,
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
        let is_wanted =
            |event: &&Event| self.subscriber.wants(event.kind, event.about.destination.as_deref());
        let wanted: Vec<_> = events.iter().filter(is_wanted).collect();
        match self.subscriber.webhook.event_batch() {
            0 | 1 => self.deliver_each(&wanted).await,
            most => {
                for some in wanted.chunks(most) {
                    self.deliver_together(some).await;
                }
            }
        }
        self.note(part, |part| part.oldest_unix_ms = None);
    }

    async fn deliver_each(&self, events: &[&Event]) {
        let mut lanes: HashMap<&str, Vec<&Event>> = HashMap::new();
        for &event in events {
            let about = &event.about;
            let of = about.session.as_deref().or(about.destination.as_deref());
            lanes.entry(of.unwrap_or_default()).or_default().push(event);
        }
        join_all(lanes.into_values().map(|lane| self.deliver_in_order(lane))).await;
    }

    async fn deliver_in_order(&self, lane: Vec<&Event>) {
        for event in lane {
            let told = self.tell(event.kind.as_str(), &event.about, &event.id, event.at_unix_ms);
            match told.await {
                Ok(()) => self.count("delivered", 1),
                Err(error) => self.refuse(event, &error),
            }
        }
    }

    /// In one request. Where that is refused, each by itself, so that only what is refused itself
    /// is dropped.
    async fn deliver_together(&self, events: &[&Event]) {
        match (self.tell_together(events).await, events) {
            (Ok(()), events) => self.count("delivered", events.len() as u64),
            (Err(error), [event]) => self.refuse(event, &error),
            (Err(_), events) => {
                for &event in events {
                    match self.tell_together(&[event]).await {
                        Ok(()) => self.count("delivered", 1),
                        Err(error) => self.refuse(event, &error),
                    }
                }
            }
        }
    }

    async fn tell_together(&self, events: &[&Event]) -> Result<(), WebhookError> {
        let [first, ..] = events else { return Ok(()) };
        let id = format!("{}_{}", first.id, events.len());
        let fields = Together { events: events.iter().map(|event| One::of(event)).collect() };
        self.tell("events", &fields, &id, first.at_unix_ms).await
    }

    /// Until it is taken, or refused for what it is.
    async fn tell(
        &self,
        kind: &'static str,
        fields: &impl Serialize,
        id: &str,
        at_unix_ms: u64,
    ) -> Result<(), WebhookError> {
        let mut pause = PAUSE_MIN;
        loop {
            let options = CallOptions {
                id: Some(id.into()),
                at_unix_ms: Some(at_unix_ms),
                ..CallOptions::default()
            };
            let turn = self.turns.acquire().await;
            let called = self.subscriber.webhook.call(kind, fields, options).await;
            drop(turn);
            let Err(error) = called else { return Ok(()) };
            if is_final(&error) {
                return Err(error);
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

    fn refuse(&self, event: &Event, error: &WebhookError) {
        let webhook = self.subscriber.webhook.name();
        tracing::warn!(webhook, id = event.id, %error, "an event was refused; it is dropped");
        self.count("refused", 1);
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

impl<'e> One<'e> {
    fn of(event: &'e Event) -> Self {
        let Event { id, kind, at_unix_ms, about } = event;
        let time = webhook::time(*at_unix_ms);
        Self { r#type: kind.as_str(), id, time, about }
    }
}

/// Whether the same event would fare no better another time. What a wrong secret, path or rate is
/// answered by can be put right.
fn is_final(error: &WebhookError) -> bool {
    match error.status() {
        Some(status) => {
            (400..500).contains(&status) && !matches!(status, 401 | 403 | 404 | 408 | 429)
        }
        None => matches!(error, WebhookError::Unwritable(_)),
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);
const REPORT_EVERY: Duration = Duration::from_secs(1);
