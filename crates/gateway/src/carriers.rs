//! What a node keeps outside its workers: the broker, presence, and the lease they are held under.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Broker, DeliverySink, MemoryBroker, WallClock};
use fanlight_engine::presence::{MemoryPresence, Presence};
use fanlight_redis::{Lease, NodeInfo, PresenceOptions, Reaper, RedisBroker, RedisPresence};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{BrokerKind, Config, ConfigError};

/// What carries publications, and what keeps who is where.
pub struct Carriers {
    /// Carries publications.
    pub broker: Arc<dyn Broker>,
    /// Keeps who is where.
    pub presence: Arc<dyn Presence>,
    /// Under what this node holds things in Redis; none in memory.
    lease: Option<Arc<Lease>>,
}

impl Carriers {
    /// Starts what the configuration names; `address` is where clients connect.
    pub fn start(
        config: &Config,
        sinks: Vec<Arc<dyn DeliverySink>>,
        address: String,
        clock: Clock,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, ConfigError> {
        let options = config.presence_options();
        match config.broker.kind {
            BrokerKind::Memory => Ok(Self::memory(sinks, clock, options, tracker, shutdown)),
            BrokerKind::Redis => {
                let redis = config.redis_config()?;
                let broker = RedisBroker::start(redis, sinks, tracker.clone(), shutdown.clone());
                let info = NodeInfo {
                    name: address.clone(),
                    address,
                    started_unix_ms: clock.now().unix_ms,
                };
                let lease = Lease::start(&broker, info, tracker, shutdown.clone());
                let presence =
                    RedisPresence::start(&broker, &lease, options, tracker, shutdown.clone());
                let held = vec![Arc::new(presence.clone()) as _];
                Reaper::start(&lease, held, tracker, shutdown.clone());
                Ok(Self { broker, presence: Arc::new(presence), lease: Some(lease) })
            }
        }
    }

    fn memory(
        sinks: Vec<Arc<dyn DeliverySink>>,
        clock: Clock,
        options: PresenceOptions,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let wall: WallClock = Arc::new(move || clock.now().unix_ms);
        let broker = Arc::new(MemoryBroker::new(sinks, Arc::clone(&wall)));
        let (changes_max, seed) = (options.changes_max as usize, rand::random());
        let presence = Arc::new(MemoryPresence::new(Arc::clone(&broker), wall, changes_max, seed));
        tracker.spawn(tell(Arc::clone(&presence), options.interval, shutdown.clone()));
        Self { broker, presence, lease: None }
    }

    /// Tells the other nodes that this one is going, once its sessions have ended.
    pub async fn end(&self) {
        self.presence.settle().await;
        if let Some(lease) = &self.lease {
            let _ = tokio::time::timeout(RELEASE_TIME, lease.release()).await;
        }
    }
}

async fn tell(presence: Arc<MemoryPresence>, interval: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        presence.publish_changes();
    }
}

/// How long the end of a node waits for its lease to be given up.
const RELEASE_TIME: Duration = Duration::from_secs(1);
