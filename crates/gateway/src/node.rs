//! What all parts of a running node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanlight_engine::broker::{Broker, BrokerHealth};
use fanlight_engine::peers::Peers;
use fanlight_engine::registry::Registry;
use fanlight_engine::session::Rules;
use fanlight_redis::Lease;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::clock::Clock;
use crate::config::Config;
use crate::jwt::Authenticator;
use crate::pacer::Pacer;
use crate::rates::Rates;
use crate::worker::WorkerShared;

/// A running node.
pub struct Node {
    /// Its configuration.
    pub config: Config,
    /// Checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// Counts connections against their limits.
    pub admission: Arc<Admission>,
    /// The same for connections that still speak HTTP.
    pub http_admission: Arc<Admission>,
    /// How fast they are admitted.
    pub pacer: Pacer,
    /// Carries publications.
    pub broker: Arc<dyn Broker>,
    /// Knows the sessions of all nodes.
    pub registry: Arc<dyn Registry>,
    /// Leads to the sessions that clients have named.
    pub peers: Arc<dyn Peers>,
    /// What it is known by to the others, where there can be some.
    pub lease: Option<Arc<Lease>>,
    /// What those may publish who have no session.
    pub publish_rates: Rates,
    /// Who may do what, and the bounds.
    pub rules: Arc<Rules>,
    /// The time.
    pub clock: Clock,
    /// Whether the `--dev` page and token are served.
    pub dev: bool,
    /// Whether the conformance echo is served.
    pub conformance: bool,
    /// Its sessions are leaving: the drain's grace is over.
    pub leaving: CancellationToken,
    draining: AtomicBool,
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
}

impl Node {
    /// A node that takes connections as soon as its broker is healthy and it has its lease.
    pub fn new(config: Config, shared: &WorkerShared) -> Self {
        let limits = &config.limits;
        let admission = |connections: u32| {
            let (connections, per_ip) = (connections as usize, limits.connections_per_ip as usize);
            Admission::new(connections, per_ip, &config.listen.trusted_proxies)
        };
        let (admission, http_admission) =
            (admission(limits.connections), admission(limits.http_connections));
        let pacer = Pacer::new(config.handshake_rate());
        Self {
            config,
            authenticator: Arc::clone(&shared.authenticator),
            admission,
            http_admission,
            pacer,
            broker: Arc::clone(&shared.broker),
            registry: Arc::clone(&shared.registry),
            peers: Arc::clone(&shared.peers),
            lease: None,
            publish_rates: Rates::default(),
            rules: Arc::clone(&shared.rules),
            clock: shared.clock,
            dev: false,
            conformance: false,
            leaving: CancellationToken::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Whether it should get new connections.
    pub fn readiness(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::Draining;
        }
        match self.broker.health() {
            // Without it, nobody's session could be claimed.
            BrokerHealth::Healthy if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) => {
                Readiness::NotLeased
            }
            BrokerHealth::Healthy => Readiness::Ready,
            BrokerHealth::Unhealthy(why) => Readiness::BrokerUnhealthy(why),
        }
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Turns readiness off for good.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}
