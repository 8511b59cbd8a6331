//! The metrics of Redis, `fanlight_redis_*`: of one shard, labelled by `shard` and `result` only, and
//! of a Redis Cluster as a whole.

use std::sync::atomic::{AtomicU64, Ordering};

use fanlight_engine::broker::{PublishError, Published, Reach};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::redirect::Redirect;
use crate::topology::ShardId;

/// The metrics of one shard. Their handles are made once, so the recorder must be there before.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) received: Counter,
    pub(crate) rejected: Total,
    pub(crate) dropped: Total,
    pub(crate) channels: Gauge,
    pub(crate) missed: Counter,
    pub(crate) queue: Gauge,
    pub(crate) round_trip: Histogram,
    pub(crate) canary: Histogram,
    pub(crate) connected: Counter,
    pub(crate) not_connected: Counter,
    pub(crate) broken: Counter,
    accepted: Counter,
    local: Counter,
    duplicate: Counter,
    unavailable: Counter,
    unknown: Counter,
    overloaded: Counter,
    queue_full: Counter,
}

/// The metrics of a Redis Cluster as a whole.
#[derive(Debug)]
pub(crate) struct ClusterMeters {
    /// Slot maps by which some partition has another master.
    pub(crate) map_changed: Total,
    /// Slot maps that say what was known.
    pub(crate) map_same: Total,
    /// Attempts at a slot map that got none, or an outdated one.
    pub(crate) map_failed: Total,
    pub(crate) moved: Total,
    pub(crate) ask: Total,
    pub(crate) read_only: Total,
    pub(crate) try_again: Total,
    pub(crate) down: Total,
}

/// A counter that can be read back.
#[derive(Debug)]
pub(crate) struct Total {
    counter: Counter,
    value: AtomicU64,
}

impl Meters {
    pub(crate) fn new(label: &str, shard: ShardId) -> Self {
        let shard = format!("{label}{shard}");
        let published = |result: &'static str| counter!("fanlight_redis_publishes_total", "shard" => shard.clone(), "result" => result);
        let connects = |result: &'static str| counter!("fanlight_redis_connections_total", "shard" => shard.clone(), "result" => result);
        let total = |name: &'static str| Total {
            counter: counter!(name, "shard" => shard.clone()),
            value: AtomicU64::new(0),
        };
        Self {
            received: counter!("fanlight_redis_publications_received_total", "shard" => shard.clone()),
            rejected: total("fanlight_redis_envelopes_rejected_total"),
            dropped: total("fanlight_redis_deliveries_dropped_total"),
            channels: gauge!("fanlight_redis_channels", "shard" => shard.clone()),
            missed: counter!("fanlight_redis_canaries_missed_total", "shard" => shard.clone()),
            queue: gauge!("fanlight_redis_publish_queue_messages", "shard" => shard.clone()),
            round_trip: histogram!("fanlight_redis_publish_round_trip_seconds", "shard" => shard.clone()),
            canary: histogram!("fanlight_redis_canary_seconds", "shard" => shard.clone()),
            connected: connects("connected"),
            not_connected: connects("failed"),
            broken: connects("broken"),
            accepted: published("accepted"),
            local: published("this_node"),
            duplicate: published("duplicate"),
            unavailable: published("unavailable"),
            unknown: published("unknown"),
            overloaded: published("overloaded"),
            queue_full: published("queue_full"),
        }
    }

    pub(crate) fn on_published(&self, result: &Result<Published, PublishError>) {
        let counter = match result {
            Ok(Published { reach: Reach::Cluster, .. }) => &self.accepted,
            Ok(Published { reach: Reach::ThisNode, .. }) => &self.local,
            Ok(Published { reach: Reach::Duplicate, .. }) | Err(PublishError::KeyReused) => {
                &self.duplicate
            }
            Err(PublishError::Unavailable) => &self.unavailable,
            Err(PublishError::Unknown) => &self.unknown,
            Err(PublishError::Overloaded) => &self.overloaded,
            Err(PublishError::QueueFull) => &self.queue_full,
        };
        counter.increment(1);
    }
}

impl ClusterMeters {
    pub(crate) fn new() -> Self {
        let maps = |result: &'static str| Total {
            counter: counter!("fanlight_redis_slot_map_fetches_total", "result" => result),
            value: AtomicU64::new(0),
        };
        let redirected = |reason: &'static str| Total {
            counter: counter!("fanlight_redis_redirections_total", "reason" => reason),
            value: AtomicU64::new(0),
        };
        Self {
            map_changed: maps("changed"),
            map_same: maps("same"),
            map_failed: maps("failed"),
            moved: redirected("moved"),
            ask: redirected("ask"),
            read_only: redirected("read_only"),
            try_again: redirected("try_again"),
            down: redirected("down"),
        }
    }

    pub(crate) fn on_redirected(&self, redirect: &Redirect) {
        let total = match redirect {
            Redirect::Moved(_) => &self.moved,
            Redirect::Ask(_) => &self.ask,
            Redirect::ReadOnly => &self.read_only,
            Redirect::TryAgain => &self.try_again,
            Redirect::Down => &self.down,
        };
        total.add(1);
    }
}

impl Total {
    pub(crate) fn add(&self, count: u64) {
        self.counter.increment(count);
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A count as a gauge shows it.
pub(crate) fn amount(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
