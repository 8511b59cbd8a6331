//! Logs and metrics of the process.

pub mod emf;
mod table;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;

use anyhow::Context;
use fanlight_engine::metric::{Kind, Metric, Section, Unit};
use metrics::{Label, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tracing_subscriber::EnvFilter;

use crate::config::{BrokerKind, Log, LogFormat};

pub use table::METRICS;

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
    pub fn install(broker: BrokerKind) -> anyhow::Result<Self> {
        let redis = if broker == BrokerKind::Redis { fanlight_redis::METRICS } else { &[] };
        let metrics = Self::of(METRICS.iter().chain(redis))?;
        gauge!("fanlight_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        Ok(metrics)
    }

    /// Installs the recorder of a relay, which has none of a node's metrics.
    pub fn install_for_relay() -> anyhow::Result<Self> {
        let is_its = |section: &&Section| matches!(section.name, "redis" | "relay");
        Self::of(fanlight_redis::METRICS.iter().filter(is_its))
    }

    fn of(sections: impl Iterator<Item = &'static Section>) -> anyhow::Result<Self> {
        let fanout = Matcher::Full("fanlight_fanout_seconds".into());
        let relayed = Matcher::Full("fanlight_relay_lag_seconds".into());
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?
            .set_buckets_for_metric(fanout, FANOUT_BUCKETS)?
            .set_buckets_for_metric(relayed, RELAY_LAG_BUCKETS)?
            .install_recorder()
            .context("the metrics recorder could not be installed")?;
        let process = Collector::default();
        process.describe();
        sections.for_each(introduce);
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

/// Describes metrics, and begins at zero those whose labels are known: what is absent until
/// something goes wrong can be neither shown nor trusted to be there.
fn introduce(section: &Section) {
    for metric in section.metrics {
        let Metric { name, help, .. } = *metric;
        let unit = match metric.unit() {
            Unit::Count | Unit::Ratio => metrics::Unit::Count,
            Unit::Seconds => metrics::Unit::Seconds,
            Unit::Bytes => metrics::Unit::Bytes,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
        for series in metric.series() {
            let labels: Vec<_> = series.iter().map(Label::from).collect();
            match metric.kind {
                Kind::Counter => counter!(name, labels).absolute(0),
                Kind::Gauge => gauge!(name, labels).set(0),
                Kind::Histogram => {}
            }
        }
    }
}

const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// What waited for a cell to come back has a lag of minutes.
const RELAY_LAG_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// To a few subscribers it takes microseconds.
const FANOUT_BUCKETS: &[f64] =
    &[0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];
