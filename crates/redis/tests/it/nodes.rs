//! Nodes over a real Redis, with times short enough for tests.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Broker, BrokerHealth, PublishError, Published, Reach};
use fanlight_redis::{RedisBroker, RedisConfig};
use fanlight_testkit::contract::Node;
use fanlight_testkit::{Inbox, eventually};
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
        let inboxes: Vec<_> = (0..workers).map(|_| Inbox::new()).collect();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let sinks = Node::sinks(&inboxes);
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
