//! One round of a scenario against one server: connect, load, storm, and the figures of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock::{SECOND_NS, now_ns, sleep_until};
use crate::control::{Command, Job, Load, Phase};
use crate::fleet::{Fleet, Tally};
use crate::metric::Metric;
use crate::scenario::{Anew, Scenario, Storm, StormKind, Variant};
use crate::targets::{Server, Start, Target, fanlight};

/// What came of one round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The figures.
    pub figures: BTreeMap<Metric, f64>,
    /// What the server did wrong.
    pub failures: Vec<String>,
    /// Why the figures are not the server's: the tester was the bottleneck.
    pub invalid: Vec<String>,
}

/// A server and its clients, for as many rounds as there are.
pub struct Subject {
    /// What it is.
    pub target: Target,
    /// Its version, once it was started.
    pub version: Option<String>,
    server: Option<Server>,
    fleet: Option<Fleet>,
}

/// What all rounds of a scenario share.
pub struct Setup<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// How servers are started.
    pub start: Start<'a>,
    /// Where interval logs go.
    pub logs: PathBuf,
}

impl Subject {
    /// One that is not started yet.
    pub fn new(target: Target) -> Self {
        Self { target, version: None, server: None, fleet: None }
    }

    /// Disconnects its clients.
    pub fn disconnect(&mut self) {
        self.fleet = None;
    }

    /// Ends everything, so that the next round begins anew.
    pub fn stop(&mut self) {
        self.fleet = None;
        self.server = None;
    }

    /// Does a round.
    pub fn round(&mut self, setup: &Setup<'_>, variant: Variant, number: usize) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        match setup.scenario.anew {
            Anew::Server => self.stop(),
            Anew::Connections => self.disconnect(),
            Anew::Load => {}
        }
        if self.server.is_none() {
            let server = self.target.start(&setup.start)?;
            self.version = Some(server.version.clone());
            self.server = Some(server);
        }
        let server = self.server.as_ref().context("it was just started")?;
        let label = format!("{} {}", setup.scenario.name, self.target);
        let mut run = Run { setup, variant, server, target: &self.target, outcome: &mut outcome };
        let is_new = self.fleet.is_none();
        if is_new {
            self.fleet = Some(run.connect(&label)?);
        }
        let fleet = self.fleet.as_mut().context("it was just started")?;
        run.load(fleet, is_new)?;
        fleet.write_log(&setup.logs.join(format!(
            "{}-{}-{}x{}-{number}.hlog",
            setup.scenario.name,
            self.target.to_string().replace([':', '@'], "-"),
            variant.connections,
            variant.bytes
        )))?;
        Ok(outcome)
    }
}

/// One round as it goes.
struct Run<'a> {
    setup: &'a Setup<'a>,
    variant: Variant,
    server: &'a Server,
    target: &'a Target,
    outcome: &'a mut Outcome,
}

impl Run<'_> {
    /// Connects everybody; the first few pay for what is there once, and count for nothing.
    fn connect(&mut self, label: &str) -> Result<Fleet> {
        let plan = &self.setup.scenario.connections;
        let limits = self.setup.scenario.limits;
        let all = self.variant.connections;
        let job = self.job();
        let mut fleet = Fleet::start(&job, all, limits.connections_per_process, label)?;
        let first = FIRST.min(all / 2);
        let give_up_ns = now_ns() + limits.connect.as_nanos() as u64;
        let connect =
            |from, to, rate| Command::Connect { from, to, start_ns: now_ns(), rate, give_up_ns };
        let tally = fleet.obey(&connect(0, first, 0.0))?;
        self.blame(&tally);
        std::thread::sleep(Duration::from_millis(500));
        let memory = self.server.memory_bytes()?;
        let cpu_ns = self.server.cpu_ns()?;
        fleet.begin_log();
        let tally = fleet.obey(&connect(first, all, plan.rate.unwrap_or_default()))?;
        let used_ns = difference(self.server.cpu_ns()?, cpu_ns);
        self.blame(&tally);
        self.judge_connecting(&tally);
        std::thread::sleep(plan.settle);
        let connected = tally.counts.connected.max(1) as f64;
        self.set(Metric::ConnectsPerSecond, connected / tally.seconds);
        self.set_if(Metric::CpuUsPerConnect, used_ns.map(|used| used / 1000.0 / connected));
        self.set_percentiles(
            &tally,
            Phase::Connect,
            &[(Metric::ConnectP50Ms, 0.5), (Metric::ConnectP99Ms, 0.99)],
        );
        self.set_percentiles(&tally, Phase::Subscribe, &[(Metric::SubscribeP99Ms, 0.99)]);
        self.set(Metric::ClientCpu, tally.client_cpu);
        let now = self.server.memory_bytes()?;
        self.set_if(Metric::MemoryMib, now.map(|bytes| bytes as f64 / f64::from(1 << 20)));
        let added = difference(now, memory);
        let count = (all - first).max(1) as f64;
        self.set_if(Metric::BytesPerConnection, added.map(|bytes| bytes / count));
        let open = self.server.file_descriptors()?;
        self.set_if(Metric::FileDescriptors, open.map(|open| open as f64));
        Ok(fleet)
    }

    fn job(&self) -> Job {
        let Scenario { connections, nodes, load, storm, .. } = self.setup.scenario;
        Job {
            process: 0,
            processes: 1,
            protocol: self.target.protocol,
            addresses: self.server.addresses(),
            source: None,
            secret: self.setup.start.secret.to_owned(),
            destinations: self.setup.scenario.destinations(self.variant),
            users: connections.users,
            private: connections.private,
            publishers: load.as_ref().map_or(0, |load| load.publishers),
            in_flight: connections.in_flight,
            presence: connections.presence,
            recover: nodes.history > 0 && self.target.recovers(),
            slow: connections.slow,
            backoff_ms: storm.map_or(0, |storm| storm.backoff.as_millis() as u64),
        }
    }

    /// Publishes, with what happens meanwhile.
    fn load(&mut self, fleet: &mut Fleet, is_new: bool) -> Result<()> {
        let scenario = self.setup.scenario;
        let Some(plan) = &scenario.load else { return Ok(()) };
        let variant = self.variant;
        let load = |length: Duration, churn| Load {
            // Once all processes have been told.
            start_ns: now_ns() + SECOND_NS / 5,
            length_ns: length.as_nanos() as u64,
            rate: scenario.publish_rate(variant),
            burst: plan.burst as u64,
            body_bytes: variant.bytes,
            churn,
            away_ns: plan.away.as_nanos() as u64,
            settle_ns: scenario.limits.settle.as_nanos() as u64,
        };
        if is_new && !plan.warm_up.is_zero() {
            let tally = fleet.obey(&Command::Load(load(plan.warm_up, 0.0)))?;
            self.blame(&tally);
        }
        fleet.begin_log();
        let cpu_ns = self.server.cpu_ns()?;
        let load = load(plan.length, plan.churn);
        let storm_ns = match scenario.storm {
            Some(storm) => load.start_ns + storm.at.as_nanos() as u64,
            None => u64::MAX,
        };
        let server = self.server;
        let tally = fleet.obey_and(&Command::Load(load), storm_ns, |fleet| {
            scenario.storm.map_or(Ok(()), |storm| make(storm, server, fleet))
        })?;
        let used_ns = difference(self.server.cpu_ns()?, cpu_ns);
        self.blame(&tally);
        self.judge_load(&tally);
        self.figures_of_load(&tally, used_ns, plan.length);
        Ok(())
    }

    fn figures_of_load(&mut self, tally: &Tally, used_ns: Option<f64>, length: Duration) {
        let delivered = tally.counts.delivered.max(1) as f64;
        self.set(Metric::DeliveriesPerSecond, delivered / length.as_secs_f64());
        if let Some(used_ns) = used_ns {
            self.set(Metric::CpuUsPerDelivery, used_ns / 1000.0 / delivered);
            self.set(Metric::DeliveriesPerCpuSecond, delivered * SECOND_NS as f64 / used_ns);
            self.set(Metric::CpuS, used_ns / SECOND_NS as f64);
            if tally.counts.connected > 0 {
                let returns = tally.counts.connected as f64;
                self.set(Metric::CpuUsPerChurn, used_ns / 1000.0 / returns);
            }
        }
        self.set_percentiles(
            tally,
            Phase::Deliver,
            &[
                (Metric::DeliverP50Ms, 0.5),
                (Metric::DeliverP99Ms, 0.99),
                (Metric::DeliverP999Ms, 0.999),
                (Metric::DeliverMaxMs, 1.0),
            ],
        );
        self.set_percentiles(
            tally,
            Phase::Publish,
            &[(Metric::PublishP50Ms, 0.5), (Metric::PublishP99Ms, 0.99)],
        );
        self.set_percentiles(tally, Phase::Lag, &[(Metric::ScheduleLagP99Ms, 0.99)]);
        // Of those who came again, where some did.
        self.set_percentiles(tally, Phase::Connect, &[(Metric::ConnectP99Ms, 0.99)]);
        self.set_percentiles(tally, Phase::Subscribe, &[(Metric::SubscribeP99Ms, 0.99)]);
        for (metric, quantile) in
            [(Metric::RecoverP50S, 0.5), (Metric::RecoverP99S, 0.99), (Metric::RecoverAllS, 1.0)]
        {
            self.set_if(
                metric,
                milliseconds(tally, Phase::Recover, quantile).map(|ms| ms / 1000.0),
            );
        }
        self.set(Metric::PresenceNotices, tally.counts.presence as f64);
        self.set(Metric::SlowClosed, tally.counts.slow_closed as f64);
        self.set(Metric::Errors, tally.counts.faults as f64);
        self.set(Metric::Lost, tally.counts.lost as f64);
        self.set(Metric::Refused, tally.counts.refused as f64);
        self.set(Metric::ClientCpu, tally.client_cpu);
    }

    /// What no server may do, under load or not.
    fn blame(&mut self, tally: &Tally) {
        let limits = self.setup.scenario.limits;
        let counts = &tally.counts;
        let failures = [
            (counts.lost, "deliveries were lost", limits.loss),
            (counts.duplicates, "deliveries came twice", false),
            (counts.reordered, "deliveries came out of order", limits.loss),
            (counts.closed, "connections were closed", false),
            (counts.faults, "requests were answered by errors", limits.loss),
            (counts.refused, "attempts to connect failed", self.setup.scenario.storm.is_some()),
            (counts.not_recovered, "positions were not recovered", limits.loss),
            (tally.recovering as u64, "connections did not come back", false),
        ];
        let failures = failures.iter().filter(|&&(count, _, allowed)| count > 0 && !allowed);
        let before = self.outcome.failures.len();
        self.outcome.failures.extend(failures.map(|(count, what, _)| format!("{count} {what}")));
        if let Some(wrong) = &tally.wrong
            && (self.outcome.failures.len() > before || wrong.contains("are live"))
        {
            self.outcome.failures.push(format!("the first trouble: {wrong}"));
        }
    }

    fn judge_connecting(&mut self, tally: &Tally) {
        self.judge_cpu(tally, "connecting");
    }

    fn judge_load(&mut self, tally: &Tally) {
        let limits = self.setup.scenario.limits;
        self.judge_cpu(tally, "the load");
        let most_ms = limits.schedule_lag.as_secs_f64() * 1000.0;
        if let Some(lag_ms) = milliseconds(tally, Phase::Lag, 0.99)
            && lag_ms > most_ms
        {
            self.outcome.invalid.push(format!(
                "publications left late: p99 {lag_ms:.1} ms, more than limits.schedule_lag"
            ));
        }
        if let (Some(recover), Some(all_ms)) =
            (limits.recover, milliseconds(tally, Phase::Recover, 1.0))
            && all_ms > recover.as_secs_f64() * 1000.0
        {
            self.outcome
                .failures
                .push(format!("it took {:.1} s until all were back", all_ms / 1e3));
        }
        if tally.counts.delivered == 0 {
            self.outcome.failures.push("nothing was delivered".into());
        }
    }

    fn judge_cpu(&mut self, tally: &Tally, what: &str) {
        let most = self.setup.scenario.limits.client_cpu;
        if tally.client_cpu > most {
            self.outcome.invalid.push(format!(
                "a client process used {:.2} of a core in {what}, more than limits.client_cpu",
                tally.client_cpu
            ));
        }
    }

    fn set(&mut self, metric: Metric, value: f64) {
        self.outcome.figures.insert(metric, value);
    }

    fn set_if(&mut self, metric: Metric, value: Option<f64>) {
        if let Some(value) = value {
            self.set(metric, value);
        }
    }

    fn set_percentiles(&mut self, tally: &Tally, phase: Phase, metrics: &[(Metric, f64)]) {
        for &(metric, quantile) in metrics {
            self.set_if(metric, milliseconds(tally, phase, quantile));
        }
    }
}

/// Makes the storm.
fn make(storm: Storm, server: &Server, fleet: &mut Fleet) -> Result<()> {
    let node = server.nodes.first().context("there is a node")?;
    let at_ns = now_ns() + STORM_NOTICE_NS;
    match storm.kind {
        StormKind::Cut => fleet.tell(&Command::Storm { at_ns: now_ns(), cut: true }),
        StormKind::Kill | StormKind::Drain => {
            // Clients must know before, or they would take it for a fault.
            fleet.tell(&Command::Storm { at_ns, cut: false })?;
            sleep_until(at_ns);
            if storm.kind == StormKind::Kill { node.kill() } else { fanlight::drain(node) }
        }
        StormKind::RedisFailover => {
            server.redis.as_ref().context("there is no Redis")?.kill_master()
        }
    }
}

fn milliseconds(tally: &Tally, phase: Phase, quantile: f64) -> Option<f64> {
    let histogram = tally.histograms.get(&phase)?;
    Some(histogram.value_at_quantile(quantile) as f64 / 1000.0)
}

fn difference(after: Option<u64>, before: Option<u64>) -> Option<f64> {
    Some(after? as f64 - before? as f64)
}

/// Connections that count for nothing.
const FIRST: usize = 8;
const STORM_NOTICE_NS: u64 = SECOND_NS / 20;
