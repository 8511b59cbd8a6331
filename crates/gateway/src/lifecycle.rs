//! Lifecycle events on their way to webhooks: in order per session, at least once.
//!
//! Over Redis they come from its streams, where they stay until their webhook has taken them;
//! a node that is alone keeps them itself, as long as it lives.

mod delivery;
mod hand;
mod memory;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::policy::Namespaces;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{Config, EventKind};
use crate::webhook::{Webhook, Webhooks};

pub use memory::MemoryEvents;

/// Who delivers events to webhooks.
pub struct Lifecycle {
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same each time that it is told.
    pub id: Box<str>,
    /// What came about.
    pub kind: EventKind,
    /// When, in Unix milliseconds.
    pub at_unix_ms: u64,
    /// The rest.
    pub about: About,
}

impl Event {
    /// What it is in order with: others of its session, or where it has none of its destination.
    fn lane(&self) -> &str {
        let About { session, destination, .. } = &self.about;
        session.as_deref().or(destination.as_deref()).unwrap_or_default()
    }
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// Whose session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whose user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of which destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The node that has or had it, as the server API calls nodes.
    pub owner: String,
}

/// What a node that is alone makes its events with.
#[derive(Clone)]
struct Stamp {
    node: Arc<str>,
    clock: Clock,
}

/// A webhook, and which events are for it.
pub struct Subscriber {
    webhook: Arc<Webhook>,
    kinds: Vec<EventKind>,
    /// The namespaces whose destinations it is told of when they are occupied and vacated.
    occupancy: Vec<String>,
    namespaces: Namespaces,
}

impl Subscriber {
    /// All that are configured, each webhook once.
    pub fn all(config: &Config, webhooks: &Webhooks, namespaces: &Namespaces) -> Vec<Arc<Self>> {
        let mut wanted: BTreeMap<&str, (Vec<EventKind>, Vec<String>)> = BTreeMap::new();
        for one in &config.events.webhooks {
            let (kinds, _) = wanted.entry(&one.webhook).or_default();
            let all = one.kinds.is_empty().then_some(EventKind::ALL);
            kinds.extend(all.unwrap_or(&one.kinds));
        }
        for namespace in &config.namespaces {
            if let Some(webhook) = &namespace.occupancy {
                wanted.entry(webhook).or_default().1.push(namespace.name.clone());
            }
        }
        let subscriber = |(name, (kinds, occupancy)): (&str, _)| {
            let webhook = webhooks.named(name)?;
            let namespaces = namespaces.clone();
            Some(Arc::new(Self { webhook, kinds, occupancy, namespaces }))
        };
        wanted.into_iter().filter_map(subscriber).collect()
    }

    /// Whether it is told this.
    fn wants(&self, kind: EventKind, destination: Option<&str>) -> bool {
        if self.kinds.contains(&kind) {
            return true;
        }
        let namespace = || {
            let destination = destination?.parse().ok()?;
            self.namespaces.name_of(&destination)
        };
        matches!(kind, EventKind::Occupied | EventKind::Vacated)
            && !self.occupancy.is_empty()
            && namespace().is_some_and(|own| self.occupancy.iter().any(|name| name == own))
    }
}

impl Lifecycle {
    /// Begins to deliver what Redis has. What another node held is taken over once that has been
    /// silent for `lease`.
    pub fn over_redis(
        broker: &fanlight_redis::RedisBroker,
        lease: Duration,
        subscribers: &[Arc<Subscriber>],
    ) -> Self {
        let own = Self { tracker: TaskTracker::new(), stop: CancellationToken::new() };
        for subscriber in subscribers {
            streams::start(broker, lease, subscriber, (&own.tracker, &own.stop));
        }
        own
    }

    /// Begins to deliver what a node that is alone tells `events`.
    pub fn alone(events: &MemoryEvents) -> Self {
        let own = Self { tracker: TaskTracker::new(), stop: CancellationToken::new() };
        events.start(&own.tracker, &own.stop);
        own
    }

    /// Delivers what can be delivered in a short time, and leaves the rest to other nodes.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        let _ = timeout(LAST_TIME, self.tracker.wait()).await;
    }
}

/// How the events of one node are told apart from another's, where it is alone.
fn own_id(boot: &str, number: u64) -> Box<str> {
    format!("evt_{boot}_{number}").into()
}

/// How long the end of the process waits for the last events.
const LAST_TIME: Duration = Duration::from_secs(3);
