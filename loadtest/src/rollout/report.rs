//! The report: the verdict, what happened in each stage, and where it was.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Options;
use super::admission::{Peak, Reading, peak};
use super::crowds::Stage;
use super::publishers::Published;
use super::spread::Spread;
use super::verdict::{
    CALM_FLOOR_MS, Happening, MOST_CPU, MOST_LAG_MS, MOST_TIMES_CALM, Rules, milliseconds, too_slow,
};
use crate::control::{Counts, Phase};
use crate::machine::{Machine, load_average};

/// All that is known of a rollout.
pub struct Proof {
    /// Where and when.
    pub machine: Machine,
    /// The gateway's.
    pub version: String,
    /// The proxy's.
    pub proxy: String,
    /// What is judged by.
    pub rules: Rules,
    /// How large it was.
    pub options: Options,
    /// The stages, in order,
    pub happenings: Vec<Happening>,
    /// and what clients told of each.
    pub stages: Vec<Stage>,
    /// What was published.
    pub published: Published,
    /// What was read of each node.
    pub handshakes: Vec<Vec<Reading>>,
    /// Where sessions were once rebalancing had become calm, if it has.
    pub spread: Option<Spread>,
    /// What did not go as it must, or was first seen to be wrong.
    pub wrong: Vec<String>,
    /// The ends of the logs.
    pub said: String,
}

impl Proof {
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.stages.iter().for_each(|stage| counts.add(&stage.counts));
        counts
    }

    fn peaks(&self) -> Vec<Peak> {
        let (rate, burst) = (f64::from(self.rules.admitted), f64::from(self.rules.burst));
        self.handshakes.iter().map(|readings| peak(readings, rate, burst)).collect()
    }

    /// What is not as it must be.
    pub fn broken(&self) -> Vec<String> {
        let counts = self.counts();
        let musts = [
            (counts.lost, "publications were lost"),
            (counts.duplicates, "came twice"),
            (counts.reordered, "came out of order"),
            (counts.not_recovered, "positions could not be gone on from"),
            (counts.faults, "answers were errors"),
        ];
        let mut broken: Vec<String> = musts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        for (number, peak) in self.peaks().iter().enumerate().filter(|(_, it)| it.beyond > 0) {
            let number = number + 1;
            broken.push(format!("node {number} admitted {} handshakes too many", peak.beyond));
        }
        broken.extend(self.spread.as_ref().and_then(Spread::lacks));
        if self.rules.judges_times {
            broken.extend(self.wrong_times());
        }
        broken.extend(self.wrong.iter().cloned());
        broken
    }

    fn wrong_times(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let calm_ms = self.p999_ms(0);
        let judged = 1..self.happenings.len().saturating_sub(1);
        for stage in judged {
            wrong.extend(too_slow(&self.happenings[stage].name, calm_ms, self.p999_ms(stage)));
        }
        for (stage, happening) in self.happenings.iter().enumerate() {
            let name = &happening.name;
            let times = self.published.times.get(stage);
            let lag_ms = times.and_then(|times| milliseconds(times, Phase::Lag, 0.99));
            if let Some(lag_ms) = lag_ms.filter(|&lag_ms| lag_ms > MOST_LAG_MS) {
                wrong.push(format!("{name}: not valid, as publications left {lag_ms:.0} ms late"));
            }
            let cpu = self.stages[stage].cpu;
            if cpu > MOST_CPU {
                wrong.push(format!("{name}: not valid, as a client process used {cpu:.2} cores"));
            }
        }
        wrong
    }

    fn p999_ms(&self, stage: usize) -> Option<f64> {
        milliseconds(&self.stages[stage].times, Phase::Deliver, 0.999)
    }

    /// Writes `report.md`, `figures.json` and, where something is wrong, the ends of the logs.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("report.md"), self.markdown())?;
        fs::write(folder.join("figures.json"), serde_json::to_string_pretty(&self.figures())?)?;
        if !self.broken().is_empty() {
            fs::write(folder.join("said.log"), &self.said)?;
        }
        Ok(())
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let Machine { hardware, commit, at, load } = &self.machine;
        let mut text = format!(
            "# Rolling restart\n\n{at}, commit {commit}. {hardware}. Load average {load} at the \
             beginning, {} at the end. {}, {}.\n",
            load_average(),
            self.version,
            self.proxy
        );
        if self.options.quick {
            text += "\n**Quick sizes**: counts are judged, times are not.\n";
        }
        text += &self.setting();
        text += &self.verdict();
        text += &self.table();
        text += &self.spread.as_ref().map_or_else(String::new, Spread::markdown);
        text += &self.admissions();
        text
    }

    fn setting(&self) -> String {
        let Options { clients, nodes, room, rate, window, admitted, .. } = &self.options;
        format!(
            "\n{clients} clients (40 % native, 20 % STOMP, 20 % events, 10 % SockJS, 10 % polls) \
             behind one proxy and {nodes} nodes, {room} on each destination with history; {rate} \
             publications per second, each repeated with its key until it is accepted. A node's \
             sessions are closed over {window}; clients come again as advised. Each \
             node admits {admitted} handshakes per second.\n"
        )
    }

    fn verdict(&self) -> String {
        let counts = self.counts();
        let broken = self.broken();
        let mut text = String::from("\n## Verdict\n\n");
        text += if broken.is_empty() { "**Good.**" } else { "**Not good.**" };
        let _ = writeln!(
            text,
            " {} publications, {} deliveries: {} lost, {} twice, {} out of order, {} positions not \
             recovered; {} attempts to publish were repeated.\n",
            self.published.counts.iter().sum::<u64>(),
            counts.delivered,
            counts.lost,
            counts.duplicates,
            counts.reordered,
            counts.not_recovered,
            self.published.repeated
        );
        for line in broken {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    fn table(&self) -> String {
        let mut text = format!(
            "\n## Stages\n\nLatency in ms, from when a publication was due to its delivery to a client \
             that was connected then. It may be {MOST_TIMES_CALM} times that of the calm, or of \
             {CALM_FLOOR_MS} ms if that was less. Away: from a connection's end to being live again. \
             Late: how late publications left the tester (p99).\n\n\
             | stage | s | p50 | p99 | p99.9 | ended (advised) | refused | away p50 | away p99 | late | \
             client CPU | connections of nodes at its end |\n|{}\n",
            "---|".repeat(12)
        );
        for (stage, happening) in self.happenings.iter().enumerate() {
            let Stage { counts, advised, times, cpu } = &self.stages[stage];
            let ms = |phase, quantile| shown(milliseconds(times, phase, quantile));
            let lag = self.published.times.get(stage);
            let connections: Vec<_> = happening
                .connections
                .iter()
                .map(|of_node| of_node.map_or("-".into(), |count| count.to_string()))
                .collect();
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {} | {} | {} ({advised}) | {} | {} | {} | {} | {cpu:.2} | {} |",
                happening.name,
                happening.seconds,
                ms(Phase::Deliver, 0.5),
                ms(Phase::Deliver, 0.99),
                ms(Phase::Deliver, 0.999),
                counts.closed,
                counts.refused,
                ms(Phase::Recover, 0.5),
                ms(Phase::Recover, 0.99),
                shown(lag.and_then(|times| milliseconds(times, Phase::Lag, 0.99))),
                connections.join(", ")
            );
        }
        text
    }

    fn admissions(&self) -> String {
        let mut text = String::from(
            "\n## Handshakes\n\nThe most that a node admitted in a second, and how many it told to come \
             later as they were too many, from `/metrics`.\n\n\
             | node | per second | beyond what it may | told to come later |\n|---|---|---|---|\n",
        );
        for (number, peak) in self.peaks().iter().enumerate() {
            let Peak { per_second, beyond, paced } = peak;
            let _ = writeln!(text, "| {} | {per_second} | {beyond} | {paced} |", number + 1);
        }
        text
    }

    fn figures(&self) -> Value {
        let stage = |(stage, happening): (usize, &Happening)| {
            let Stage { counts, advised, times, cpu } = &self.stages[stage];
            let ms = |phase: Phase| {
                let of = |quantile| milliseconds(times, phase, quantile);
                json!({ "p50": of(0.5), "p99": of(0.99), "p999": of(0.999), "max": of(1.0) })
            };
            json!({
                "name": happening.name,
                "seconds": happening.seconds,
                "connections": happening.connections,
                "counts": counts,
                "advised": advised,
                "client_cpu": cpu,
                "deliver_ms": ms(Phase::Deliver),
                "replay_ms": ms(Phase::Replay),
                "away_ms": ms(Phase::Recover),
            })
        };
        json!({
            "at": self.machine.at,
            "commit": self.machine.commit,
            "hardware": self.machine.hardware,
            "version": self.version,
            "proxy": self.proxy,
            "clients": self.options.clients,
            "published": self.published.counts.iter().sum::<u64>(),
            "repeated": self.published.repeated,
            "counts": self.counts(),
            "stages": self.happenings.iter().enumerate().map(stage).collect::<Vec<_>>(),
            "handshakes": self.peaks(),
            "spread": self.spread,
            "broken": self.broken(),
        })
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| {
        if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
    })
}
