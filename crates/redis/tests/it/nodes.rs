//! Nodes over a real Redis, with times short enough for tests; some with a lease.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Broker, BrokerHealth, DeliverySink, PublishError, Published, Reach};
use fanlight_redis::{Lease, NodeInfo, Reap, Reaper, RedisBroker, RedisConfig};
use fanlight_testkit::contract::Node;
use fanlight_testkit::{Inbox, eventually};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A node over Redis; its tasks end when it is dropped.
pub(crate) struct RedisNode {
    pub(crate) node: Node,
    pub(crate) redis: Arc<RedisBroker>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// How far a publication went.
pub(crate) fn reach(result: Result<Published, PublishError>) -> Result<Reach, PublishError> {
    result.map(|published| published.reach)
}

/// The defaults with times for tests.
pub(crate) fn config(url: &str) -> RedisConfig {
    RedisConfig {
        linger: Duration::from_millis(10),
        connect_timeout: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        // A loaded machine may take its time; tests of the timeout set their own.
        join_timeout: Duration::from_secs(10),
        keepalive: Duration::from_millis(500),
        canary_interval: Duration::from_millis(200),
        reconnect_max: Duration::from_millis(100),
        ..RedisConfig::parse_url(url).unwrap()
    }
}

impl RedisNode {
    pub(crate) fn start(config: RedisConfig, workers: u16) -> Self {
        Self::with_sinks(config, workers, Vec::new())
    }

    /// Starts one with these sinks behind its workers.
    fn with_sinks(config: RedisConfig, workers: u16, others: Vec<Arc<dyn DeliverySink>>) -> Self {
        let inboxes: Vec<_> = (0..workers).map(|_| Inbox::new()).collect();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut sinks = Node::sinks(&inboxes);
        sinks.extend(others);
        let redis = RedisBroker::start(config, sinks, tracker.clone(), shutdown.clone());
        let broker = Arc::clone(&redis) as Arc<dyn Broker>;
        let node = Node { broker, inboxes, first_worker: 0 };
        Self { node, redis, tracker, shutdown }
    }

    /// Starts one and waits until it is healthy.
    pub(crate) async fn ready(config: RedisConfig, workers: u16) -> Self {
        let node = Self::start(config, workers);
        node.healthy().await;
        node
    }

    pub(crate) fn redis_health(&self) -> BrokerHealth {
        self.redis.health()
    }

    pub(crate) async fn healthy(&self) {
        eventually("healthy", || self.redis.health() == BrokerHealth::Healthy).await;
    }

    /// Waits until it is not healthy, with a text that contains `reason`.
    pub(crate) async fn unhealthy(&self, reason: &str) {
        let unhealthy = || match self.redis.health() {
            BrokerHealth::Unhealthy(text) => text.contains(reason),
            BrokerHealth::Healthy => false,
        };
        eventually(reason, unhealthy).await;
    }

    /// Publishes as soon as Redis accepts it: a short break does not show in the health.
    pub(crate) async fn accepted_again(&self, destination: &str, body: &'static str) {
        let publishing = async {
            while reach(self.node.publish(destination, body).await) != Ok(Reach::Cluster) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, publishing).await.expect("publishing never came back");
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A node with a lease, on a runtime of its own: it can be paused, and when it is dropped it just
/// ends, as by `kill -9`.
pub(crate) struct LeasedNode {
    runtime: Option<Runtime>,
    pub(crate) redis: RedisNode,
    pub(crate) lease: Arc<Lease>,
}

impl LeasedNode {
    /// Starts one, and on its runtime what `more` starts beside its lease.
    pub(crate) fn start<T>(
        name: &str,
        config: RedisConfig,
        workers: u16,
        others: Vec<Arc<dyn DeliverySink>>,
        more: impl FnOnce(&Self) -> T,
    ) -> (Self, T) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let redis = RedisNode::with_sinks(config, workers, others);
        let (name, address) = (name.to_owned(), "127.0.0.1:1".to_owned());
        let info = NodeInfo { name, address, started_unix_ms: 1 };
        let lease = Lease::start(&redis.redis, info, &redis.tracker, redis.shutdown.clone());
        let mut node = Self { runtime: None, redis, lease };
        let started = more(&node);
        drop(guard);
        node.runtime = Some(runtime);
        (node, started)
    }

    /// Lets it reap what the dead held.
    pub(crate) fn reaps(&self, held: Vec<Arc<dyn Reap>>) {
        Reaper::start(&self.lease, held, &self.redis.tracker, self.redis.shutdown.clone());
    }

    /// Stops everything of this node until the answer is dropped, as SIGSTOP does.
    pub(crate) fn pause(&self) -> std::sync::mpsc::SyncSender<()> {
        let (resume, paused) = std::sync::mpsc::sync_channel::<()>(0);
        self.runtime.as_ref().unwrap().spawn(async move { paused.recv().ok() });
        resume
    }
}

impl Drop for LeasedNode {
    fn drop(&mut self) {
        // Before the shutdown, so that nothing is said to anybody.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
