//! The metrics of a relay, `fanlight_relay_*`, labelled by its name.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::passage::Skip;

/// Their handles, made once.
pub(super) struct Meters {
    pub(super) active: Gauge,
    pub(super) behind: Gauge,
    pub(super) destinations: Gauge,
    pub(super) relayed: Counter,
    pub(super) lag: Histogram,
    pub(super) lost: Counter,
    pub(super) epochs: Counter,
    pub(super) rounds: Counter,
    pub(super) scans: Counter,
    pub(super) source_failures: Counter,
    pub(super) target_failures: Counter,
    pub(super) unannounced: Counter,
    returning: Counter,
    third_cell: Counter,
    unreadable: Counter,
}

impl Meters {
    pub(super) fn new(relay: &str) -> Self {
        let relay = relay.to_owned();
        let count = |name: &'static str| counter!(name, "relay" => relay.clone());
        let skipped = |reason: &'static str| counter!("fanlight_relay_skipped_total", "relay" => relay.clone(), "reason" => reason);
        let failed = |cell: &'static str| counter!("fanlight_relay_failures_total", "relay" => relay.clone(), "cell" => cell);
        let meters = Self {
            active: gauge!("fanlight_relay_active", "relay" => relay.clone()),
            behind: gauge!("fanlight_relay_behind", "relay" => relay.clone()),
            destinations: gauge!("fanlight_relay_destinations", "relay" => relay.clone()),
            relayed: count("fanlight_relay_relayed_total"),
            lag: histogram!("fanlight_relay_lag_seconds", "relay" => relay.clone()),
            lost: count("fanlight_relay_lost_total"),
            epochs: count("fanlight_relay_epochs_total"),
            rounds: count("fanlight_relay_rounds_total"),
            scans: count("fanlight_relay_scans_total"),
            source_failures: failed("source"),
            target_failures: failed("target"),
            unannounced: count("fanlight_relay_unannounced_total"),
            returning: skipped("returning"),
            third_cell: skipped("third_cell"),
            unreadable: skipped("unreadable"),
        };
        meters.active.set(0.0);
        meters.behind.set(0.0);
        meters.destinations.set(0.0);
        meters
    }

    pub(super) fn on_skipped(&self, skip: Skip) {
        match skip {
            Skip::Returning => self.returning.increment(1),
            Skip::ThirdCell => self.third_cell.increment(1),
            Skip::Unreadable => self.unreadable.increment(1),
        }
    }
}
