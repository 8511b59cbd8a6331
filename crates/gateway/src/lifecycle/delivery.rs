//! Delivering events to one webhook: each until it is taken, those of a session in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Not in hand yet.
    waiting: u64,
    /// In hand, behind what is being told.
    behind: u64,
}

/// An event that is in hand, and which it is there.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) number: u64,
    pub(super) event: Event,
}

/// What came of events that were to be told, each list in their order.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Told, or dropped for what they are.
    pub(super) told: Vec<Held>,
    /// Not taken, and what is behind these in the same session.
    pub(super) parked: Vec<Held>,
}

/// Why an event was not told.
#[derive(Debug)]
enum Untold {
    /// For what it is.
    Refused(WebhookError),
    /// The backend fails at it.
    Fails,
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

    /// How many events one request tells, at most.
    pub(super) fn batch(&self) -> usize {
        self.subscriber.webhook.event_batch().max(1)
    }

    /// Whether an event is for this webhook.
    pub(super) fn wants(&self, event: &Event) -> bool {
        self.subscriber.wants(event.kind, event.about.destination.as_deref())
    }

    /// Tells events, in this order: together if they are several, and where that is refused or
    /// fails, each by itself, so that only what is refused itself is dropped. With `may_park`, what
    /// fails itself is not told again here, nor what is behind it in the same session; else each is
    /// told until it is taken.
    pub(super) async fn tell_some(&self, events: Vec<Held>, may_park: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let is_alone = events.len() == 1;
        if !is_alone {
            let all: Vec<_> = events.iter().map(|held| &held.event).collect();
            if self.tell_together(&all, Some(TRIES)).await.is_ok() {
                self.count("delivered", events.len() as u64);
                return Outcome { told: events, ..outcome };
            }
        }
        let tries = may_park.then_some(if is_alone { TRIES } else { 1 });
        for held in events {
            let lane = held.event.lane();
            if outcome.parked.iter().any(|parked| parked.event.lane() == lane) {
                outcome.parked.push(held);
                continue;
            }
            match self.tell_one(&held.event, tries).await {
                Ok(()) => self.count("delivered", 1),
                Err(Untold::Refused(error)) => self.refuse(&held.event, &error),
                Err(Untold::Fails) => {
                    outcome.parked.push(held);
                    continue;
                }
            }
            outcome.told.push(held);
        }
        outcome
    }

    async fn tell_one(&self, event: &Event, tries: Option<u32>) -> Result<(), Untold> {
        match self.batch() {
            1 => {
                let Event { id, kind, at_unix_ms, about } = event;
                self.tell(kind.as_str(), about, id, *at_unix_ms, tries).await
            }
            _ => self.tell_together(&[event], tries).await,
        }
    }

    async fn tell_together(&self, events: &[&Event], tries: Option<u32>) -> Result<(), Untold> {
        let [first, ..] = events else { return Ok(()) };
        let id = format!("{}_{}", first.id, events.len());
        let fields = Together { events: events.iter().map(|event| One::of(event)).collect() };
        self.tell("events", &fields, &id, first.at_unix_ms, tries).await
    }

    /// Until it is taken, or refused for what it is; or, if `tries` are given, until the backend has
    /// failed at it so often. That it can't be reached is no try.
    async fn tell(
        &self,
        kind: &'static str,
        fields: &impl Serialize,
        id: &str,
        at_unix_ms: u64,
        tries: Option<u32>,
    ) -> Result<(), Untold> {
        let (mut pause, mut failed) = (PAUSE_MIN, 0);
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
                return Err(Untold::Refused(error));
            }
            if let Some(suppressed) = self.failures.happened(Instant::now()) {
                let webhook = self.subscriber.webhook.name();
                tracing::warn!(webhook, id, %error, suppressed, "an event was not taken; it waits");
            }
            failed += u32::from(is_answer(&error));
            if tries.is_some_and(|tries| failed >= tries) {
                return Err(Untold::Fails);
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

    /// What a part has in hand: since when the oldest of it waits, and how many wait there for others
    /// of their session.
    pub(super) fn in_hand(&self, part: u8, oldest_unix_ms: Option<u64>, behind: u64) {
        self.note(part, |part| {
            part.oldest_unix_ms = oldest_unix_ms;
            part.behind = behind;
        });
    }

    /// Part is somebody else's from now on.
    pub(super) fn forget(&self, part: u8) {
        self.parts().remove(&part);
    }

    /// Tells how far behind it is, each second.
    pub(super) async fn report(&self) {
        loop {
            let parts: Vec<_> = self.parts().values().copied().collect();
            let waiting: u64 = parts.iter().map(|part| part.waiting + part.behind).sum();
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

/// Whether the backend was asked, so that it may be what it was asked that it fails at.
fn is_answer(error: &WebhookError) -> bool {
    match error {
        WebhookError::Status(status) => !matches!(*status, 408 | 429),
        WebhookError::Timeout(_)
        | WebhookError::Broken(_)
        | WebhookError::TooLarge
        | WebhookError::Redirect(_) => true,
        _ => false,
    }
}

/// How often some events are told together before each is told by itself, or one by itself before
/// others go past it.
const TRIES: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);
const REPORT_EVERY: Duration = Duration::from_secs(1);
