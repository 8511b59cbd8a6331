//! Presence of a node that is alone: kept in memory, told at an interval.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{MemoryBroker, WallClock};
use fanlight_engine::presence::{MemoryPresence, Presence};
use fanlight_redis::PresenceOptions;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// Starts it over the node's own broker.
pub fn start_alone(
    broker: &Arc<MemoryBroker>,
    options: PresenceOptions,
    clock: Clock,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> Arc<dyn Presence> {
    let wall: WallClock = Arc::new(move || clock.now().unix_ms);
    let (changes_max, seed) = (options.changes_max as usize, rand::random());
    let presence = Arc::new(MemoryPresence::new(Arc::clone(broker), wall, changes_max, seed));
    tracker.spawn(tell(Arc::clone(&presence), options.interval, shutdown.clone()));
    presence
}

async fn tell(presence: Arc<MemoryPresence>, interval: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        presence.publish_changes();
    }
}
