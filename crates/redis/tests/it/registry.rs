//! The registry over memory and Redis: its contract, and nodes that die, pause and come back.

use std::sync::{Arc, Mutex};

use fanlight_engine::broker::{DeliverySink, WorkerId};
use fanlight_engine::registry::{MemoryRegistry, NodeStatus, Registry, SessionLimit};
use fanlight_redis::{
    Lease, NodeInfo, Reap, Reaper, RedisBroker, RedisConfig, RedisRegistry, RegistryOptions,
};
use fanlight_testkit::contract::registry::{RegistryHarness, RegistryNode};
use fanlight_testkit::{Inbox, Orders, RedisServer, eventually};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lease::leased;

struct Memory;

impl RegistryHarness for Memory {
    async fn nodes(&self, limit: SessionLimit) -> [RegistryNode; 2] {
        let orders = Orders::new();
        let node = NodeStatus {
            id: "a:1".into(),
            name: String::new(),
            address: String::new(),
            started_unix_ms: 0,
            sessions: 0,
            lease_left_ms: 0,
            is_self: true,
        };
        let sessions = Arc::clone(&orders);
        let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(node, limit, sessions));
        [WorkerId(0), WorkerId(1)].map(|worker| RegistryNode {
            registry: Arc::clone(&registry),
            orders: Arc::clone(&orders),
            worker,
        })
    }
}

struct Redis {
    server: RedisServer,
    nodes: Mutex<Vec<Node>>,
}

impl Redis {
    fn start() -> Self {
        Self { server: RedisServer::start().unwrap(), nodes: Mutex::default() }
    }
}

impl RegistryHarness for Redis {
    async fn nodes(&self, limit: SessionLimit) -> [RegistryNode; 2] {
        let options = RegistryOptions { limit, ..options() };
        let ann = Node::start_with(leased(&self.server.url()), options.clone());
        let bob = Node::start_with(leased(&self.server.url()), options);
        ann.sees(&[&ann, &bob]).await;
        bob.sees(&[&ann, &bob]).await;
        let nodes = [ann.node.clone(), bob.node.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod memory {
    fanlight_testkit::registry_contract!(super::Memory);
}

mod redis {
    fanlight_testkit::registry_contract!(super::Redis::start());
}

/// A node with a registry, on a runtime of its own, so that it can be paused.
pub(crate) struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) node: RegistryNode,
    pub(crate) registry: Arc<RedisRegistry>,
    pub(crate) broker: Arc<RedisBroker>,
    pub(crate) lease: Arc<Lease>,
    shutdown: CancellationToken,
}

/// Without a limit, with events.
pub(crate) fn options() -> RegistryOptions {
    RegistryOptions {
        limit: fanlight_testkit::contract::registry::UNLIMITED,
        events: Some(100_000),
        queue: RegistryOptions::QUEUE,
    }
}

impl Node {
    pub(crate) fn start(config: RedisConfig) -> Self {
        Self::start_with(config, options())
    }

    pub(crate) fn start_with(config: RedisConfig, options: RegistryOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (sink, inbox) = fanlight_redis::control();
        let sinks: Vec<Arc<dyn DeliverySink>> = vec![Inbox::new(), sink];
        let broker = RedisBroker::start(config, sinks, tracker.clone(), shutdown.clone());
        let info = NodeInfo { name: "n".to_owned(), address: "a".to_owned(), started_unix_ms: 1 };
        let lease = Lease::start(&broker, info, &tracker, shutdown.clone());
        let orders = Orders::new();
        let sessions = Arc::clone(&orders);
        let registry = RedisRegistry::start(
            &broker,
            &lease,
            options,
            sessions,
            (inbox, WorkerId(1)),
            &tracker,
            &shutdown,
        );
        let held = vec![Arc::clone(&registry) as Arc<dyn Reap>];
        Reaper::start(&lease, held, &tracker, shutdown.clone());
        drop(guard);
        let worker = WorkerId(0);
        let shared: Arc<dyn Registry> = Arc::clone(&registry) as _;
        let node = RegistryNode { registry: shared, orders, worker };
        Self { runtime: Some(runtime), node, registry, broker, lease, shutdown }
    }

    pub(crate) async fn sees(&self, others: &[&Self]) {
        eventually("it is held", || self.lease.is_held()).await;
        eventually("it sees the others", || {
            let nodes = self.lease.nodes();
            others.iter().all(|other| nodes.iter().any(|node| node.owner == other.lease.owner()))
        })
        .await;
    }

    /// Stops everything of this node until the answer is dropped, as SIGSTOP does.
    pub(crate) fn pause(&self) -> std::sync::mpsc::SyncSender<()> {
        let (resume, paused) = std::sync::mpsc::sync_channel::<()>(0);
        self.runtime.as_ref().unwrap().spawn(async move { paused.recv().ok() });
        resume
    }
}

impl Drop for Node {
    /// It just ends, as by `kill -9`: nothing is said to anybody.
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
