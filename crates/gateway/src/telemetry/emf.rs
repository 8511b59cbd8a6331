//! Metrics for Amazon CloudWatch: a line of Embedded Metric Format on standard output now and then.
//!
//! What it says is read from what `/metrics` would answer, so that the two never differ.

use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::Metrics;
use crate::clock::Clock;
use crate::config::Telemetry;

/// Writes the lines.
pub struct Emf {
    service: String,
    every: Duration,
    metrics: Metrics,
    clock: Clock,
}

/// What the metrics say at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Reading {
    connections: f64,
    sessions: f64,
    subscriptions: f64,
    connections_used: f64,
    deliveries: f64,
    /// How many samples were no longer than so many seconds.
    lag: Vec<(f64, f64)>,
}

impl Emf {
    /// What writes as `options` say.
    pub fn new(options: &Telemetry, metrics: Metrics, clock: Clock) -> Self {
        let (service, every) = (options.service.clone(), options.emf_interval.0);
        Self { service, every, metrics, clock }
    }

    /// Writes for as long as it is polled; the first line comes after the first interval.
    pub async fn run(self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut before = Reading::of(&self.metrics.render());
        loop {
            ticks.tick().await;
            let now = Reading::of(&self.metrics.render());
            let mut line = line(&self.service, self.clock.now().unix_ms, &before, &now);
            line.push('\n');
            // In one piece, so that no other line comes in between. Nobody has to listen.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
            before = now;
        }
    }
}

impl Reading {
    fn of(text: &str) -> Self {
        let sum = |name: &str| samples(text, name).map(|(_, value)| value).sum();
        let used = samples(text, "fanlight_limit_used_ratio")
            .find(|(labels, _)| labels.contains("limit=\"connections\""));
        let lag =
            samples(text, "fanlight_delivery_lag_seconds_bucket").filter_map(|(labels, n)| {
                let (_, bound) = labels.split_once("le=\"")?;
                Some((bound.split('"').next()?.parse().ok()?, n))
            });
        Self {
            connections: sum("fanlight_connections"),
            sessions: sum("fanlight_sessions"),
            subscriptions: sum("fanlight_subscriptions"),
            connections_used: used.map_or(0.0, |(_, ratio)| ratio * 100.0),
            deliveries: sum("fanlight_deliveries_total"),
            lag: lag.collect(),
        }
    }

    /// In milliseconds, what 99 of 100 samples since `before` did not exceed, as far as the buckets
    /// tell; `None` where there was none.
    fn lag_p99_ms(&self, before: &Self) -> Option<f64> {
        let earlier = |at: usize| before.lag.get(at).map_or(0.0, |&(_, count)| count);
        let counts = self.lag.iter().enumerate();
        let since: Vec<_> =
            counts.map(|(at, &(bound, count))| (bound, count - earlier(at))).collect();
        let total = since.last().map(|&(_, count)| count).filter(|&count| count > 0.0)?;
        let wanted = total * 0.99;
        let at = since.iter().position(|&(_, count)| count >= wanted)?;
        let (low, below) = if at == 0 { (0.0, 0.0) } else { since[at - 1] };
        let (high, up_to) = since[at];
        // Beyond the last bound nothing more is known.
        let seconds = if high.is_finite() {
            low + (high - low) * (wanted - below) / (up_to - below)
        } else {
            low
        };
        Some(seconds * 1000.0)
    }
}

/// The samples of one metric in Prometheus' text format: labels and value.
fn samples<'t>(text: &'t str, name: &str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        Some((labels, value.parse().ok()?))
    })
}

/// One line: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
fn line(service: &str, unix_ms: u64, before: &Reading, now: &Reading) -> String {
    let values = [
        ("Connections", "Count", Some(now.connections)),
        ("Sessions", "Count", Some(now.sessions)),
        ("Subscriptions", "Count", Some(now.subscriptions)),
        ("ConnectionsUsed", "Percent", Some(now.connections_used)),
        ("Deliveries", "Count", Some(now.deliveries - before.deliveries)),
        ("DeliveryLagP99", "Milliseconds", now.lag_p99_ms(before)),
    ];
    let known = values.iter().filter_map(|&(name, unit, value)| Some((name, unit, value?)));
    let metrics: Vec<_> =
        known.clone().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit })).collect();
    let mut root = Map::new();
    let directive =
        json!({ "Namespace": "Fanlight", "Dimensions": [["Service"]], "Metrics": metrics });
    root.insert("_aws".into(), json!({ "Timestamp": unix_ms, "CloudWatchMetrics": [directive] }));
    root.insert("Service".into(), service.into());
    root.extend(known.map(|(name, _, value)| (name.into(), json!(value))));
    Value::Object(root).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_declares_exactly_the_metrics_that_it_has() {
        let before = Reading { deliveries: 5.0, ..Reading::default() };
        let now = Reading { connections: 3.0, deliveries: 12.0, ..Reading::default() };
        let line: Value = serde_json::from_str(&line("edge", 1_700_000_000_123, &before, &now))
            .expect("it is JSON");
        assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_123_u64);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "Fanlight");
        assert_eq!(directive["Dimensions"], json!([["Service"]]));
        assert_eq!(line["Service"], "edge");
        assert_eq!((&line["Connections"], &line["Deliveries"]), (&json!(3.0), &json!(7.0)));
        let declared = directive["Metrics"].as_array().expect("it is a list");
        assert_eq!(declared.len(), 5, "no lag without a delivery");
        for metric in declared {
            assert!(line[metric["Name"].as_str().expect("it is a text")].is_number(), "{metric}");
        }
    }

    #[test]
    fn what_the_metrics_say_is_summed_over_their_labels() {
        let text = "# TYPE fanlight_connections gauge\n\
            fanlight_connections{worker=\"0\",transport=\"sse\"} 2\n\
            fanlight_connections{worker=\"1\",transport=\"sse\"} 3\n\
            fanlight_connections_opened_total 9\n\
            fanlight_limit_used_ratio{limit=\"http_connections\"} 0.5\n\
            fanlight_limit_used_ratio{limit=\"connections\"} 0.25\n\
            fanlight_delivery_lag_seconds_bucket{le=\"0.001\"} 4\n\
            fanlight_delivery_lag_seconds_bucket{le=\"+Inf\"} 5\n";
        let reading = Reading::of(text);
        assert_eq!((reading.connections, reading.connections_used), (5.0, 25.0));
        assert_eq!(reading.lag, [(0.001, 4.0), (f64::INFINITY, 5.0)]);
    }

    #[test]
    fn the_lag_is_of_what_came_since_the_last_line() {
        let reading = |lag: &[(f64, f64)]| Reading { lag: lag.to_vec(), ..Reading::default() };
        let before = reading(&[(0.001, 100.0), (0.1, 100.0), (f64::INFINITY, 100.0)]);
        assert_eq!(before.lag_p99_ms(&before), None);
        let now = reading(&[(0.001, 100.0), (0.1, 200.0), (f64::INFINITY, 200.0)]);
        let p99 = now.lag_p99_ms(&before).expect("there were some");
        assert!((p99 - 99.01).abs() < 0.001, "{p99}");
        let late = reading(&[(0.001, 100.0), (0.1, 100.0), (f64::INFINITY, 101.0)]);
        let p99 = late.lag_p99_ms(&before).expect("there was one");
        assert!((p99 - 100.0).abs() < 0.001, "no more is known than the last bound: {p99}");
    }
}
