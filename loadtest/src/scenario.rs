//! Scenarios: files that say what is done to a server, and which figures that gives.

mod values;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::metric::Metric;
use crate::stamp::STAMP_BYTES;
use values::{duration, optional_duration, size, sizes};

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name, without its ending.
    #[serde(skip)]
    pub name: String,
    /// What it is for, as the report's heading.
    pub about: String,
    /// What is made anew for each round.
    #[serde(default)]
    pub anew: Anew,
    /// The servers.
    #[serde(default)]
    pub nodes: Nodes,
    /// The subscribers.
    pub connections: Connections,
    /// What is published, and who comes and goes meanwhile.
    pub load: Option<LoadPlan>,
    /// What happens to everybody at once.
    pub storm: Option<Storm>,
    /// What is varied: a figure for each.
    #[serde(default)]
    pub vary: Vary,
    /// When a run is not valid, or has failed.
    #[serde(default)]
    pub limits: Limits,
    /// What the report shows.
    pub report: Report,
}

/// What is made anew for each round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anew {
    /// Server and connections: what a fresh process is like.
    Server,
    /// Connections only.
    Connections,
    /// Neither: rounds are loads on what is connected.
    #[default]
    Load,
}

/// The servers.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// How many; more than one share a Redis.
    #[serde(default = "one")]
    pub count: usize,
    /// Whether they use Redis.
    #[serde(default)]
    pub redis: RedisKind,
    /// How many messages each destination keeps, where a server can: clients then recover.
    #[serde(default)]
    pub history: usize,
    /// Threads; 0: as many as the server takes by itself.
    #[serde(default)]
    pub workers: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { count: 1, redis: RedisKind::None, history: 0, workers: 0 }
    }
}

/// Which Redis there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisKind {
    /// None.
    #[default]
    None,
    /// One server.
    Single,
    /// A master and a replica, which a sentinel watches.
    Sentinel,
}

/// The subscribers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// How many.
    pub count: usize,
    /// How many of them dial each second. Absent: as fast as `in_flight` allows.
    pub rate: Option<f64>,
    /// How many may be dialling at once.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// The topics that they spread over; 0: one each.
    #[serde(default = "one")]
    pub rooms: usize,
    /// Whether each has a user of its own.
    #[serde(default = "yes")]
    pub users: bool,
    /// Whether each subscribes to its user's private queue instead of a topic.
    #[serde(default)]
    pub private: bool,
    /// Whether they ask who comes and goes.
    #[serde(default)]
    pub presence: bool,
    /// How many of them stop reading while there is load.
    #[serde(default)]
    pub slow: usize,
    /// How long they are left alone once all are live.
    #[serde(default = "settle", deserialize_with = "duration")]
    pub settle: Duration,
}

/// What is published.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlan {
    /// Publications per second, all publishers together.
    pub rate: Option<f64>,
    /// Deliveries per second instead; publications are as many as that takes.
    pub deliveries: Option<f64>,
    /// How many publications are due at once, at the same rate.
    #[serde(default = "one")]
    pub burst: usize,
    /// The length of a body.
    #[serde(default = "body_bytes", deserialize_with = "size")]
    pub bytes: usize,
    /// How long a round is.
    #[serde(rename = "for", deserialize_with = "duration")]
    pub length: Duration,
    /// How long the same is done before the first round, outside the figures.
    #[serde(default, deserialize_with = "duration")]
    pub warm_up: Duration,
    /// Connections that publish. A destination has one of them.
    #[serde(default = "one")]
    pub publishers: usize,
    /// Subscribers that leave and come again, each second.
    #[serde(default)]
    pub churn: f64,
    /// How long those stay away.
    #[serde(default, deserialize_with = "duration")]
    pub away: Duration,
}

/// What happens to everybody at once, while there is load.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// What.
    pub kind: StormKind,
    /// When, after the load's begin.
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    /// The most that a client waits before it dials again (full jitter; doubled by each failure).
    #[serde(deserialize_with = "duration")]
    pub backoff: Duration,
}

/// Kinds of storms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StormKind {
    /// All clients lose their connections, as behind a switch that fails; the servers live on.
    Cut,
    /// The first node is killed.
    Kill,
    /// The first node is told to drain (`fanlight` only).
    Drain,
    /// Redis' master is killed; a replica takes over (`fanlight` only).
    RedisFailover,
}

/// What is varied; each combination has its figures.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vary {
    /// Numbers of connections.
    #[serde(default)]
    pub connections: Vec<usize>,
    /// Lengths of bodies.
    #[serde(default, deserialize_with = "sizes")]
    pub bytes: Vec<usize>,
}

/// When a run is not valid, or has failed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The p99 by which publications may leave later than the schedule wants: beyond it, the
    /// tester was the bottleneck.
    #[serde(deserialize_with = "duration")]
    pub schedule_lag: Duration,
    /// The share of a core that a client process may use: beyond it, the same.
    pub client_cpu: f64,
    /// How long is waited for what is outstanding.
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    /// The longest that connecting may take.
    #[serde(deserialize_with = "duration")]
    pub connect: Duration,
    /// Within which all must be live again after a storm.
    #[serde(deserialize_with = "optional_duration")]
    pub recover: Option<Duration>,
    /// Whether deliveries may be lost, and publications refused: where the scenario breaks what
    /// they need.
    pub loss: bool,
    /// Connections of one client process at most, before another is started. 0: as many as file
    /// descriptors and ports allow.
    pub connections_per_process: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            schedule_lag: Duration::from_millis(25),
            client_cpu: 0.9,
            settle: Duration::from_secs(15),
            connect: Duration::from_secs(180),
            recover: None,
            loss: false,
            connections_per_process: 0,
        }
    }
}

/// What the report shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The table's columns.
    pub columns: Vec<Metric>,
    /// What is plotted.
    pub plot: Metric,
}

/// One combination of what is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Subscribers.
    pub connections: usize,
    /// The length of a body.
    pub bytes: usize,
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("the scenario {}", path.display()))
    }

    /// Reads a file's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text)
            .context("see docs/load-testing.md for what a scenario may have")?;
        name.clone_into(&mut scenario.name);
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let Connections { private, users, rooms, slow, count, .. } = self.connections;
        ensure!(!private || users, "connections.private: needs users = true");
        ensure!(!private || rooms == 1, "connections.private: leave connections.rooms out");
        ensure!(slow < count.max(1), "connections.slow: must be fewer than connections.count");
        ensure!(self.nodes.count > 0, "nodes.count: at least 1");
        ensure!(
            self.nodes.count == 1 || self.nodes.redis != RedisKind::None,
            "nodes.count: more than one need nodes.redis = \"single\" or \"sentinel\""
        );
        if let Some(load) = &self.load {
            ensure!(
                load.rate.is_some() != load.deliveries.is_some(),
                "load: give either rate or deliveries"
            );
            ensure!(load.publishers > 0, "load.publishers: at least 1");
            for bytes in self.vary.bytes.iter().chain([&load.bytes]) {
                ensure!(*bytes >= STAMP_BYTES, "load.bytes: at least {STAMP_BYTES}");
            }
        } else {
            ensure!(self.storm.is_none(), "storm: needs [load], which it is made under");
            ensure!(self.vary.bytes.is_empty(), "vary.bytes: needs [load]");
        }
        if let Some(Storm { kind, .. }) = self.storm {
            ensure!(
                !matches!(kind, StormKind::Kill | StormKind::Drain) || self.nodes.count > 1,
                "storm.kind: needs nodes.count of at least 2, for clients to go to"
            );
            ensure!(
                kind != StormKind::RedisFailover || self.nodes.redis == RedisKind::Sentinel,
                "storm.kind: needs nodes.redis = \"sentinel\""
            );
            ensure!(
                kind == StormKind::RedisFailover || self.anew != Anew::Load,
                "storm: needs anew = \"connections\" or \"server\""
            );
            ensure!(
                kind == StormKind::Cut || self.anew == Anew::Server,
                "storm.kind: needs anew = \"server\", since it leaves no node as it was"
            );
        }
        Ok(())
    }

    /// The same on a smaller scale, to see that everything works.
    pub fn quick(mut self) -> Self {
        let fewer = |count: usize| count.min(1 + count.div_ceil(50));
        self.connections.count = fewer(self.connections.count);
        self.connections.rooms = fewer(self.connections.rooms);
        self.connections.slow = fewer(self.connections.slow).min(self.connections.count / 2);
        self.connections.settle = self.connections.settle.min(Duration::from_secs(1));
        self.vary.connections = ends(&self.vary.connections).into_iter().map(fewer).collect();
        self.vary.bytes = ends(&self.vary.bytes);
        if let Some(load) = &mut self.load {
            load.length = load.length.min(Duration::from_secs(3));
            load.warm_up = load.warm_up.min(Duration::from_secs(1));
            load.deliveries = load.deliveries.map(|rate| rate / 10.0);
            load.churn /= 10.0;
        }
        if let Some(storm) = &mut self.storm {
            storm.at = storm.at.min(Duration::from_secs(1));
        }
        // Nothing is measured, so that a busy machine is no fault.
        self.limits.schedule_lag = Duration::from_secs(60);
        self.limits.client_cpu = f64::INFINITY;
        self
    }

    /// What is varied, in order.
    pub fn variants(&self) -> Vec<Variant> {
        let or_else = |values: &[usize], only: usize| match values {
            [] => vec![only],
            values => values.to_vec(),
        };
        let bytes = self.load.as_ref().map_or(0, |load| load.bytes);
        let bytes = or_else(&self.vary.bytes, bytes);
        or_else(&self.vary.connections, self.connections.count)
            .into_iter()
            .flat_map(|connections| bytes.iter().map(move |&bytes| Variant { connections, bytes }))
            .collect()
    }

    /// How many destinations there are.
    pub fn destinations(&self, variant: Variant) -> usize {
        match self.connections.rooms {
            _ if self.connections.private => variant.connections,
            0 => variant.connections,
            rooms => rooms.min(variant.connections),
        }
    }

    /// Publications per second.
    pub fn publish_rate(&self, variant: Variant) -> f64 {
        let Some(load) = &self.load else { return 0.0 };
        let each = variant.connections as f64 / self.destinations(variant) as f64;
        load.rate.or(load.deliveries.map(|deliveries| deliveries / each)).unwrap_or_default()
    }
}

/// The first and the last.
fn ends(values: &[usize]) -> Vec<usize> {
    match values {
        [first, .., last] => vec![*first, *last],
        values => values.to_vec(),
    }
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn in_flight() -> usize {
    64
}

fn body_bytes() -> usize {
    128
}

fn settle() -> Duration {
    Duration::from_secs(1)
}
