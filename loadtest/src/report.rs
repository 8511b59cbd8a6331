//! The report: a table and a plot for each scenario, with where and how they came to be.

mod plot;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::machine::{Machine, load_average};
use crate::metric::Metric;
use crate::round::Outcome;
use crate::scenario::{Scenario, Variant};

/// What was measured so far.
pub struct Report {
    machine: Machine,
    is_quick: bool,
    sections: Vec<Section>,
    versions: Vec<(String, String)>,
    notes: Vec<String>,
}

struct Section {
    scenario: Scenario,
    rows: Vec<Row>,
}

/// All rounds of one server in one variant.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The server.
    pub target: String,
    /// Subscribers.
    pub connections: usize,
    /// The length of a body.
    pub bytes: usize,
    /// What came of each round.
    pub outcomes: Vec<Outcome>,
}

/// The spread of a figure over rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine, is_quick: bool) -> Self {
        let (sections, versions, notes) = Default::default();
        Self { machine, is_quick, sections, versions, notes }
    }

    /// Something that readers must know.
    pub fn note(&mut self, note: String) {
        eprintln!("note: {note}");
        self.notes.push(note);
    }

    /// Adds a scenario's figures.
    pub fn add(&mut self, scenario: &Scenario, rows: Vec<Row>, versions: Vec<(String, String)>) {
        self.sections.push(Section { scenario: scenario.clone(), rows });
        for version in versions {
            if !self.versions.contains(&version) {
                self.versions.push(version);
            }
        }
    }

    /// Each round that failed or is not valid, and why.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for Section { scenario, rows } in &self.sections {
            for row in rows {
                for (round, outcome) in row.outcomes.iter().enumerate() {
                    let why: Vec<_> = outcome.failures.iter().chain(&outcome.invalid).collect();
                    if !why.is_empty() {
                        let why: Vec<_> = why.iter().map(|why| why.as_str()).collect();
                        wrong.push(format!(
                            "{} {} {}x{} B, round {}: {}",
                            scenario.name,
                            row.target,
                            row.connections,
                            row.bytes,
                            round + 1,
                            why.join("; ")
                        ));
                    }
                }
            }
        }
        wrong
    }

    /// Writes `report.md`, `figures.json` and a plot for each scenario.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("report.md"), self.markdown())?;
        let figures = self
            .sections
            .iter()
            .map(|Section { scenario, rows }| (scenario.name.clone(), serde_json::json!(rows)));
        let figures: serde_json::Map<String, serde_json::Value> = figures.collect();
        fs::write(folder.join("figures.json"), serde_json::to_string_pretty(&figures)?)?;
        for Section { scenario, rows } in &self.sections {
            let plot = plot::svg(&scenario.about, scenario.report.plot, &labelled(scenario, rows));
            fs::write(folder.join(format!("{}.svg", scenario.name)), plot)?;
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let Machine { hardware, commit, at, load } = &self.machine;
        let mut text = format!(
            "# Load test\n\n{at}, commit {commit}. {hardware}. Load average {load} at the beginning, \
             {} at the end.\n",
            load_average()
        );
        if self.is_quick {
            text +=
                "\n**Quick sizes**: these figures show that everything works, and nothing else.\n";
        }
        text += "\nFigures are medians over the rounds (smallest-largest), servers in turns.\n\n";
        for (target, version) in &self.versions {
            let _ = writeln!(text, "- {target}: {version}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        for section in &self.sections {
            text += &section.markdown();
        }
        let wrong = self.wrong();
        if !wrong.is_empty() {
            text += "\n## Not good\n\nRounds that failed, or in which the tester was the bottleneck; \
                     figures leave out the latter.\n\n";
            for line in wrong {
                let _ = writeln!(text, "- {line}");
            }
        }
        text
    }
}

impl Section {
    fn markdown(&self) -> String {
        let Self { scenario, rows } = self;
        let mut text = format!("\n## {}\n\n", scenario.about);
        let columns = &scenario.report.columns;
        let headings: Vec<_> = columns.iter().map(|metric| metric.heading()).collect();
        let _ = writeln!(
            text,
            "| server | connections | bytes | {} | times the first |",
            headings.join(" | ")
        );
        let _ = writeln!(text, "|---|---|---|{}---|", "---|".repeat(columns.len()));
        for row in rows {
            let cells: Vec<_> = columns.iter().map(|&metric| row.cell(metric)).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.target,
                row.connections,
                row.bytes,
                cells.join(" | "),
                self.ratio(row)
            );
        }
        let plot = scenario.report.plot.heading();
        let _ = writeln!(text, "\n![{plot}]({}.svg)", scenario.name);
        text
    }

    /// What is plotted, compared with the first server under the same load.
    fn ratio(&self, row: &Row) -> String {
        let is_like =
            |other: &&Row| (other.connections, other.bytes) == (row.connections, row.bytes);
        let metric = self.scenario.report.plot;
        let first = self.rows.iter().find(is_like).and_then(|first| first.spread(metric));
        match (row.spread(metric), first) {
            (Some(own), Some(first)) if first.median > 0.0 => {
                Metric::shown(own.median / first.median)
            }
            _ => "-".into(),
        }
    }
}

impl Row {
    /// Before the first round.
    pub fn new(target: String, variant: Variant) -> Self {
        let Variant { connections, bytes } = variant;
        Self { target, connections, bytes, outcomes: Vec::new() }
    }

    fn spread(&self, metric: Metric) -> Option<Spread> {
        let valid = self.outcomes.iter().filter(|outcome| outcome.invalid.is_empty());
        Spread::of(valid.filter_map(|outcome| outcome.figures.get(&metric).copied()))
    }

    fn cell(&self, metric: Metric) -> String {
        self.spread(metric).map_or("-".into(), Spread::shown)
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        Some(Self { min, median: values[values.len() / 2], max })
    }

    fn shown(self) -> String {
        let [min, median, max] = [self.min, self.median, self.max].map(Metric::shown);
        if min == max { median } else { format!("{median} ({min}-{max})") }
    }
}

impl Outcome {
    /// One line for who watches.
    pub fn summary(&self, scenario: &Scenario) -> String {
        let shown = scenario.report.columns.iter().filter_map(|metric| {
            let value = Metric::shown(*self.figures.get(metric)?);
            Some(format!("{} {value}", metric.heading()))
        });
        let mut parts: Vec<String> = shown.collect();
        parts.extend(self.failures.iter().map(|why| format!("FAILED: {why}")));
        parts.extend(self.invalid.iter().map(|why| format!("INVALID: {why}")));
        parts.join(", ")
    }
}

/// The bars of a plot: groups by variant, and a bar for each server.
fn labelled(scenario: &Scenario, rows: &[Row]) -> Vec<plot::Bar> {
    let bars = rows.iter().filter_map(|row| {
        let mut group = format!("{}", row.connections);
        if !scenario.vary.bytes.is_empty() {
            let _ = write!(group, " x {} B", row.bytes);
        }
        let spread = row.spread(scenario.report.plot)?;
        Some(plot::Bar { group, series: row.target.clone(), spread })
    });
    bars.collect()
}
