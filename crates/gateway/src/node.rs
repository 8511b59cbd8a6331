//! What all parts of a running node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fanlight_engine::broker::{Broker, BrokerHealth};
use fanlight_engine::peers::{Holder, Peers};
use fanlight_engine::presence::Presence;
use fanlight_engine::registry::Registry;
use fanlight_engine::revocation::Revocations;
use fanlight_engine::session::Rules;
use fanlight_redis::Lease;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::decisions::Decisions;
use crate::drain::{Progress, Report, Trigger};
use crate::handshakes::Handshakes;
use crate::hooks::Hooks;
use crate::jwt::Authenticator;
use crate::rates::Rates;
use crate::traces::Tracer;
use crate::worker::WorkerShared;

/// A running node.
pub struct Node {
    /// Its configuration.
    pub config: Config,
    /// Checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// Asks backends about sessions.
    pub hooks: Arc<Hooks>,
    /// Counts connections against their limits.
    pub admission: Arc<Admission>,
    /// The same for connections that still speak HTTP.
    pub http_admission: Arc<Admission>,
    /// How often sessions may begin.
    pub handshakes: Arc<Handshakes>,
    /// Carries publications.
    pub broker: Arc<dyn Broker>,
    /// Knows the sessions of all nodes.
    pub registry: Arc<dyn Registry>,
    /// Knows who is where.
    pub presence: Arc<dyn Presence>,
    /// Knows which tokens are revoked.
    pub revocations: Arc<dyn Revocations>,
    /// Leads to the sessions that clients have named.
    pub peers: Arc<dyn Peers>,
    /// What it is known by to the others, where there can be some.
    pub lease: Option<Arc<Lease>>,
    /// Has messages to `/app/...` handled.
    pub app: Arc<App>,
    /// Whom a backend has let in without a session.
    pub decisions: Decisions,
    /// What those may publish who have no session.
    pub publish_rates: Rates,
    /// Who may do what, and the bounds.
    pub rules: Arc<Rules>,
    /// Makes spans, where there are traces.
    pub tracer: Option<Arc<Tracer>>,
    /// The time.
    pub clock: Clock,
    /// Whether the `--dev` page and token are served.
    pub dev: bool,
    /// Whether the conformance echo is served.
    pub conformance: bool,
    /// Its sessions are leaving: the drain's grace is over.
    pub leaving: CancellationToken,
    /// How far its drain is, if there is one.
    pub drain: Progress,
    /// When it was found ready last, in milliseconds of the monotonic clock, plus one; 0: never.
    last_ready_ms: AtomicU64,
    /// Whether anybody has asked if it is.
    is_watched: AtomicBool,
}

/// Whether a node should get new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It should.
    Ready,
    /// It drains.
    Draining,
    /// Its broker is unhealthy; the text says what, where and the remedy.
    BrokerUnhealthy(String),
    /// The other nodes don't know it yet, or not any more.
    NotLeased,
    /// It has still to read which tokens are revoked.
    RevocationsUnknown,
}

impl Node {
    /// A node that takes connections as soon as its broker is healthy, it has its lease, and it knows
    /// what is revoked.
    pub fn new(config: Config, shared: &WorkerShared) -> Self {
        let limits = &config.limits;
        let admission = |connections: u32| {
            let (connections, per_ip) = (connections as usize, limits.connections_per_ip as usize);
            Admission::new(connections, per_ip, &config.listen.trusted_proxies)
        };
        let (admission, http_admission) =
            (admission(limits.connections), admission(limits.http_connections));
        let decisions = Decisions::new(config.hooks.connect_reuse.0);
        Self {
            config,
            authenticator: Arc::clone(&shared.authenticator),
            hooks: Arc::clone(&shared.hooks),
            admission,
            http_admission,
            handshakes: Arc::clone(&shared.handshakes),
            broker: Arc::clone(&shared.broker),
            registry: Arc::clone(&shared.registry),
            presence: Arc::clone(&shared.presence),
            revocations: Arc::clone(&shared.revocations),
            peers: Arc::clone(&shared.peers),
            lease: None,
            app: Arc::clone(&shared.app),
            decisions,
            publish_rates: Rates::default(),
            rules: Arc::clone(&shared.rules),
            tracer: shared.tracer.clone(),
            clock: shared.clock,
            dev: false,
            conformance: false,
            leaving: CancellationToken::new(),
            drain: Progress::default(),
            last_ready_ms: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
        }
    }

    /// Whether it should get new connections.
    pub fn readiness(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::Draining;
        }
        match self.broker.health() {
            // Without it, nobody's session could be claimed.
            BrokerHealth::Healthy if !self.has_lease() => Readiness::NotLeased,
            BrokerHealth::Healthy if !self.revocations.known().is_complete() => {
                Readiness::RevocationsUnknown
            }
            BrokerHealth::Healthy => {
                self.last_ready_ms.store(self.clock.now().mono_ms + 1, Ordering::Relaxed);
                Readiness::Ready
            }
            BrokerHealth::Unhealthy(why) => Readiness::BrokerUnhealthy(why),
        }
    }

    /// Whether a session is one of its own, not another node's.
    pub fn holds(&self, holder: &Holder) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.owner() == holder.owner)
    }

    /// Resolves when a request is to end that waits here for another node's session, as this one
    /// leaves: at a time of its own within the drain's window, so that not all of them come to the
    /// other nodes at once.
    pub async fn parting(&self) {
        self.leaving.cancelled().await;
        let left = self.drain.window_left(self.clock.now().mono_ms);
        tokio::time::sleep(left.mul_f64(rand::random_range(0.0..1.0))).await;
    }

    /// Whether it has been ready since its start.
    pub fn has_been_ready(&self) -> bool {
        self.last_ready_ms.load(Ordering::Relaxed) > 0
    }

    /// Whether it was ready within [`Broker::readiness_patience`](crate::config::Broker), so that
    /// nobody is to replace it yet.
    pub fn was_ready_lately(&self) -> bool {
        let patience_ms = self.config.broker.readiness_patience.as_ms();
        let last_ms = self.last_ready_ms.load(Ordering::Relaxed).checked_sub(1);
        last_ms
            .is_some_and(|last_ms| self.clock.now().mono_ms.saturating_sub(last_ms) < patience_ms)
    }

    /// Somebody has asked for its readiness, and so learns of a drain.
    pub fn note_watcher(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// Whether anybody has asked for its readiness: a load balancer may be sending clients.
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Whether the other nodes know it, where there can be some.
    pub fn has_lease(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.is_held())
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.drain.is_begun()
    }

    /// Turns readiness off for good and has the node leave, unless it does already.
    pub fn begin_drain(&self, trigger: Trigger) {
        let plan = match trigger {
            Trigger::Sigterm => self.config.drain.after_sigterm(),
            Trigger::Admin | Trigger::Deregistered => self.config.drain.unhurried(),
        };
        if self.drain.begin(trigger, plan, self.clock.now().mono_ms) {
            metrics::gauge!("fanlight_draining").set(1);
            metrics::counter!("fanlight_drains_total", "trigger" => trigger.name()).increment(1);
            tracing::info!(trigger = trigger.name(), "this node is to leave");
        }
    }

    /// How far its drain is.
    pub fn drain_report(&self) -> Report {
        self.drain.report(self.admission.connections() as u64, self.clock.now().mono_ms)
    }
}
