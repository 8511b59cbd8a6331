//! Logs and metrics of the process.

use std::io::IsTerminal;

use anyhow::Context;
use metrics::{Unit, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log on standard error. Payloads and tokens are never logged.
pub fn init_log(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level)
        .with_context(|| format!("log.level: {:?} is not a filter such as \"info\"", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Pretty => builder.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log could not be started: {error}"))
}

/// The metrics of this process, in Prometheus' text format.
#[derive(Clone)]
pub struct Metrics {
    prometheus: PrometheusHandle,
    process: Collector,
}

impl Metrics {
    /// Installs the recorder; once per process.
    pub fn install() -> anyhow::Result<Self> {
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?
            .install_recorder()
            .context("the metrics recorder could not be installed")?;
        let process = Collector::default();
        process.describe();
        describe();
        gauge!("fanlight_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        Ok(Self { prometheus, process })
    }

    /// The current values.
    pub fn render(&self) -> String {
        self.process.collect();
        self.prometheus.render()
    }

    /// Folds what histograms have gathered; to be called every few seconds.
    pub fn upkeep(&self) {
        self.prometheus.run_upkeep();
    }
}

fn describe() {
    let count = Unit::Count;
    describe_gauge!("fanlight_build_info", "The version that runs; always 1.");
    describe_gauge!("fanlight_connections", count, "Open connections.");
    describe_gauge!("fanlight_subscriptions", count, "Subscriptions of open sessions.");
    describe_gauge!("fanlight_draining", count, "1 while this node drains.");
    describe_gauge!("fanlight_ready", count, "1 while this node wants new connections.");
    describe_counter!("fanlight_connections_opened_total", count, "Connections upgraded.");
    describe_counter!(
        "fanlight_handshakes_total",
        count,
        "Handshakes, by result and version of HTTP."
    );
    describe_counter!("fanlight_accept_errors_total", count, "Connections that accept() refused.");
    describe_counter!(
        "fanlight_http_connections_refused_total",
        count,
        "Connections dropped for limits.http_connections or limits.connections_per_ip."
    );
    describe_counter!(
        "fanlight_deliveries_dropped_total",
        count,
        "Deliveries from the broker that a worker's full inbox had no room for."
    );
    describe_counter!("fanlight_panics_total", count, "Faults of our own that were contained.");
    describe_counter!("fanlight_closes_total", count, "Connections ended, by reason.");
    describe_counter!("fanlight_messages_received_total", count, "Messages from clients.");
    describe_counter!("fanlight_messages_sent_total", count, "Answers to clients.");
    describe_counter!("fanlight_received_bytes_total", Unit::Bytes, "Bytes from clients.");
    describe_counter!("fanlight_publishes_total", count, "Publications handed to the broker.");
    describe_counter!(
        "fanlight_publications_received_total",
        count,
        "Publications from the broker, once per worker."
    );
    describe_counter!("fanlight_deliveries_total", count, "Publications written to a subscriber.");
    describe_queues();
    describe_counter!(
        "fanlight_recoveries_total",
        count,
        "Subscriptions that wanted more than what comes, by result."
    );
    describe_counter!("fanlight_gaps_total", count, "Times that publications were missing.");
    describe_counter!("fanlight_gaps_healed_total", count, "Gaps that the history filled.");
    describe_counter!("fanlight_gaps_lost_total", count, "Losses told to live subscribers.");
    describe_counter!(
        "fanlight_outbox_dropped_frames_total",
        count,
        "Frames dropped when a slow consumer was closed."
    );
}

fn describe_queues() {
    let count = Unit::Count;
    describe_gauge!("fanlight_queue_consumers", count, "Subscriptions that consume queues.");
    describe_counter!("fanlight_queue_deliveries_total", count, "Messages given to consumers.");
    describe_counter!(
        "fanlight_queue_redeliveries_total",
        count,
        "Of these, those that had been delivered before."
    );
    describe_counter!("fanlight_queue_acks_total", count, "Messages acknowledged.");
    describe_counter!("fanlight_queue_nacks_total", count, "Messages given back by consumers.");
    describe_counter!(
        "fanlight_queue_ack_timeouts_total",
        count,
        "Messages that were not acknowledged in time."
    );
    describe_counter!(
        "fanlight_queue_acks_ignored_total",
        count,
        "ACKs and NACKs of what their subscription did not hold."
    );
    describe_counter!(
        "fanlight_queue_dead_letters_total",
        count,
        "Messages delivered too often, by what became of them."
    );
}

const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[cfg(test)]
mod tests {
    #[test]
    fn every_described_metric_is_documented() {
        let documented = include_str!("../../../docs/metrics.md");
        let sources = [
            include_str!("telemetry.rs"),
            include_str!("../../redis/src/meters.rs"),
            include_str!("../../redis/src/lease.rs"),
            include_str!("../../redis/src/reaper.rs"),
            include_str!("../../redis/src/registry.rs"),
        ];
        let described = sources.iter().flat_map(|source| source.split('"')).filter(|part| {
            part.strip_prefix("fanlight_")
                .is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        });
        let missing: Vec<_> =
            described.filter(|name| !documented.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    }
}
