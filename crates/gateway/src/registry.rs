//! How this node takes part in the cluster: its registry, its lease, and the orders it gets.

pub mod api;

use std::net::SocketAddr;
use std::sync::Arc;

use fanlight_engine::broker::{Broker, DeliverySink, MemoryBroker, WorkerId};
use fanlight_engine::peers::{Answerer, MemoryPeers, Peers, Sleep};
use fanlight_engine::presence::Presence;
use fanlight_engine::queue::Queues;
use fanlight_engine::registry::{MemoryRegistry, NodeStatus, Order, Registry, Sessions};
use fanlight_engine::revocation::{MemoryRevocations, Revocations};
use fanlight_redis::{
    AppStream, Lease, NodeInfo, Reap, Reaper, RedisBroker, RedisPeers, RedisPresence, RedisQueues,
    RedisRegistry, RedisRevocations, RegistryOptions, control,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{BrokerKind, Config, ConfigError};
use crate::lifecycle::{Lifecycle, MemoryEvents, Subscriber};
use crate::presence;
use crate::worker::{Inbox, WorkerHandle};

/// What this node shares with the others.
pub struct Cluster {
    /// Carries publications.
    pub broker: Arc<dyn Broker>,
    /// Keeps the queues.
    pub queues: Arc<dyn Queues>,
    /// Knows the sessions of all nodes.
    pub registry: Arc<dyn Registry>,
    /// Keeps who is where.
    pub presence: Arc<dyn Presence>,
    /// Knows which tokens are revoked.
    pub revocations: Arc<dyn Revocations>,
    /// Brings requests to the nodes that have their sessions.
    pub peers: Arc<dyn Peers>,
    own: Own,
    /// Who delivers events to webhooks, if there are any to deliver to.
    lifecycle: Option<Lifecycle>,
}

/// What is behind these.
enum Own {
    Alone(Arc<MemoryRegistry>),
    Redis { broker: Arc<RedisBroker>, registry: Arc<RedisRegistry>, lease: Arc<Lease> },
}

impl Cluster {
    /// Joins the cluster that `config` names; without Redis it is this node alone. `answerer`
    /// answers what the other nodes ask.
    pub fn join(
        config: &Config,
        handles: Vec<WorkerHandle>,
        answerer: Arc<dyn Answerer>,
        address: SocketAddr,
        clock: Clock,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut sinks: Vec<_> = handles
            .iter()
            .map(|handle| Arc::new(handle.clone()) as Arc<dyn DeliverySink>)
            .collect();
        let sessions: Arc<dyn Sessions> = Arc::new(WorkerSessions(handles));
        let info = NodeInfo {
            name: config.node_name(),
            address: address.to_string(),
            started_unix_ms: clock.now().unix_ms,
        };
        if config.broker.kind == BrokerKind::Memory {
            let broker = Arc::new(MemoryBroker::new(sinks, Arc::new(move || clock.now().unix_ms)));
            let options = config.presence_options();
            let presence = presence::start_alone(&broker, options, clock, tracker, shutdown);
            return Ok(Self::alone(config, &broker, presence, sessions, info, answerer, clock));
        }
        let limit = config.session_limit();
        let max_revocations = config.limits.revocations as usize;
        let redis_config = config.redis_config().map_err(ConfigError::from)?;
        let (sink, mut inbox) = control();
        let peer_inbox = inbox.peers().expect("nobody has taken it before");
        let revoked = inbox.revoked();
        let control_worker = WorkerId(sinks.len() as u16);
        sinks.push(sink);
        let broker = RedisBroker::start(redis_config, sinks, tracker.clone(), shutdown.clone());
        let lease = Lease::start(&broker, info, tracker, shutdown.clone());
        let options = RegistryOptions {
            limit,
            events: config.events.enabled.then_some(config.events.max_length),
            queue: RegistryOptions::QUEUE,
        };
        let registry = RedisRegistry::start(
            &broker,
            &lease,
            options,
            sessions,
            (inbox, control_worker),
            tracker,
            shutdown,
        );
        let told = (max_revocations, revoked);
        let revocations = RedisRevocations::start(&broker, &lease, told, tracker, shutdown);
        let peers = RedisPeers::start(&broker, &lease, answerer, peer_inbox, tracker, shutdown);
        let options = config.presence_options();
        let presence = RedisPresence::start(&broker, &lease, options, tracker, shutdown.clone());
        let presence = Arc::new(presence);
        let queues = Arc::new(RedisQueues::new(Arc::clone(&broker), Arc::clone(&lease)));
        let held: Vec<Arc<dyn Reap>> =
            vec![Arc::clone(&registry) as _, Arc::clone(&presence) as _, Arc::clone(&queues) as _];
        Reaper::start(&lease, held, tracker, shutdown.clone());
        let shared = Arc::clone(&registry) as Arc<dyn Registry>;
        let own = Own::Redis { broker: Arc::clone(&broker), registry, lease };
        let lifecycle = None;
        Ok(Self { broker, queues, registry: shared, presence, revocations, peers, own, lifecycle })
    }

    fn alone(
        config: &Config,
        broker: &Arc<MemoryBroker>,
        presence: Arc<dyn Presence>,
        sessions: Arc<dyn Sessions>,
        info: NodeInfo,
        answerer: Arc<dyn Answerer>,
        clock: Clock,
    ) -> Self {
        let node = alone(info);
        let sleep: Sleep = Arc::new(|time| tokio::time::sleep(time).boxed());
        let peers = Arc::new(MemoryPeers::new(Arc::clone(&node.id), answerer, sleep));
        let memory = Arc::new(MemoryRegistry::new(node, config.session_limit(), sessions));
        let (max, now) = (config.limits.revocations as usize, Arc::new(move || clock.now()));
        Self {
            broker: Arc::clone(broker) as _,
            queues: Arc::clone(broker) as _,
            registry: Arc::clone(&memory) as _,
            presence,
            revocations: Arc::new(MemoryRevocations::new(max, now)),
            peers,
            own: Own::Alone(memory),
            lifecycle: None,
        }
    }

    /// Begins to deliver events to webhooks.
    pub fn deliver_events(
        &mut self,
        config: &Config,
        clock: Clock,
        subscribers: &[Arc<Subscriber>],
    ) {
        if subscribers.is_empty() {
            return;
        }
        self.lifecycle = Some(match &self.own {
            Own::Redis { broker, .. } => {
                Lifecycle::over_redis(broker, config.cluster.lease.0, subscribers)
            }
            Own::Alone(registry) => {
                let own = registry.nodes();
                let node = own.first().map(|node| Arc::clone(&node.id)).unwrap_or_default();
                let max = usize::try_from(config.events.max_length).unwrap_or(usize::MAX);
                let events = MemoryEvents::new(node, clock, subscribers, max);
                registry.tell(Arc::clone(&events) as _);
                Lifecycle::alone(&events)
            }
        });
    }

    /// What this node is known by to the others, where there can be some.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        match &self.own {
            Own::Redis { lease, .. } => Some(Arc::clone(lease)),
            Own::Alone(_) => None,
        }
    }

    /// A stream that backends consume, of about this many entries; none without Redis.
    pub fn app_stream(&self, name: &str, max_length: u64) -> Option<AppStream> {
        match &self.own {
            Own::Redis { broker, .. } => Some(AppStream::new(Arc::clone(broker), name, max_length)),
            Own::Alone(_) => None,
        }
    }

    /// Leaves it, once the last session has ended: writes what waits and gives up the lease, so
    /// that nobody waits for its end.
    pub async fn leave(&self) {
        if let Own::Redis { registry, .. } = &self.own {
            tokio::join!(registry.flush(), self.presence.settle(), self.peers.settle());
        }
        if let Some(lifecycle) = &self.lifecycle {
            lifecycle.finish().await;
        }
        if let Own::Redis { lease, .. } = &self.own {
            lease.release().await;
        }
    }
}

/// A node without others.
fn alone(info: NodeInfo) -> NodeStatus {
    NodeStatus {
        id: uuid::Uuid::now_v7().simple().to_string().into(),
        name: info.name,
        address: info.address,
        started_unix_ms: info.started_unix_ms,
        sessions: 0,
        lease_left_ms: 0,
        is_self: true,
    }
}

/// The sessions of all workers.
struct WorkerSessions(Vec<WorkerHandle>);

impl Sessions for WorkerSessions {
    fn order(&self, order: Order) -> BoxFuture<'static, ()> {
        let workers: Vec<_> = match order.handle {
            Some(handle) => self.0.get(usize::from(handle.worker.0)).cloned().into_iter().collect(),
            None => self.0.clone(),
        };
        async move {
            for worker in workers {
                worker.send(Inbox::Order(Box::new(order.clone()))).await;
            }
        }
        .boxed()
    }
}
