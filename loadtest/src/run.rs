//! `run`: scenarios against servers, round by round in turns, and the report.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Machine;
use crate::report::{Report, Row};
use crate::round::{Outcome, Setup, Subject};
use crate::scenario::{Scenario, Variant};
use crate::targets::{SECRET, Start, Target};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Files of scenarios.
    #[arg(required = true)]
    scenarios: Vec<PathBuf>,
    /// What to load: `SERVER[:PROTOCOL][@ADDRESS]`, as in `fanlight`, `fanlight:stomp`, `spring`,
    /// `centrifugo@127.0.0.1:8000`. Without an address it is built, where needed, and started.
    #[arg(long = "target", value_delimiter = ',', default_value = "fanlight")]
    targets: Vec<Target>,
    /// Rounds; the servers take turns in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A fiftieth of the connections, seconds of load, and no limits to the tester's own part: to see
    /// that everything works.
    #[arg(long)]
    quick: bool,
    /// Where report, plots and interval logs go.
    #[arg(long, default_value = "artifacts/loadtest")]
    out: PathBuf,
    /// The secret that tokens are signed with (HS256): that of a server which runs already.
    #[arg(long, default_value = SECRET)]
    secret: String,
    /// The process of a server which runs already, for its CPU and memory.
    #[arg(long)]
    server_pid: Option<u32>,
    /// The gateway's binary; the one beside this program when absent.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Leave out, with a note, the servers whose toolchain is missing.
    #[arg(long)]
    skip_missing: bool,
    /// What the null server does wrong: see `null --help`.
    #[arg(long)]
    null_fault: Option<String>,
}

/// Runs all of them; an error if any round failed or was not valid.
pub fn run(options: &Options) -> Result<()> {
    let scenarios = options.scenarios.iter().map(|path| {
        let scenario = Scenario::read(path)?;
        Ok(if options.quick { scenario.quick() } else { scenario })
    });
    let scenarios = scenarios.collect::<Result<Vec<_>>>()?;
    ensure!(options.rounds > 0, "--rounds: at least 1");
    fs::create_dir_all(&options.out)
        .with_context(|| format!("making {}", options.out.display()))?;
    let mut report = Report::new(Machine::now(), options.quick);
    let targets = available(options, &mut report)?;
    for scenario in &scenarios {
        run_scenario(options, scenario, &targets, &mut report)?;
        // After each, so that a long session leaves something behind whatever happens.
        report.write(&options.out)?;
    }
    println!("{}", options.out.join("report.md").display());
    let wrong = report.wrong();
    if !wrong.is_empty() {
        bail!("{} rounds are not good:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    Ok(())
}

/// The targets that are there or can be built.
fn available(options: &Options, report: &mut Report) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for target in &options.targets {
        match target.prepare() {
            Ok(()) => targets.push(target.clone()),
            Err(error) if options.skip_missing => {
                report.note(format!("{target} was left out: {error:#}"));
            }
            Err(error) => return Err(error.context(format!("preparing {target}"))),
        }
    }
    Ok(targets)
}

fn run_scenario(
    options: &Options,
    scenario: &Scenario,
    targets: &[Target],
    report: &mut Report,
) -> Result<()> {
    let mut subjects = Vec::new();
    for target in targets {
        match target.refusal(scenario) {
            None => subjects.push(Subject::new(target.clone())),
            Some(why) if targets.len() > 1 => {
                report.note(format!("{target} has no {:?}: {why}", scenario.name));
            }
            Some(why) => bail!("{target} can't have {:?}: {why}", scenario.name),
        }
    }
    let setup = Setup {
        scenario,
        start: Start {
            nodes: scenario.nodes,
            presence: scenario.connections.presence,
            secret: &options.secret,
            gateway: options.gateway.as_deref(),
            server_pid: options.server_pid,
            null_fault: options.null_fault.as_deref(),
        },
        logs: options.out.clone(),
    };
    let mut rows = Vec::new();
    for variant in scenario.variants() {
        rows.extend(run_variant(options, &setup, variant, &mut subjects));
    }
    let versions = subjects
        .iter()
        .filter_map(|subject| Some((subject.target.to_string(), subject.version.clone()?)));
    report.add(scenario, rows, versions.collect());
    Ok(())
}

/// Rounds in turns: what the machine does meanwhile meets all of them alike.
fn run_variant(
    options: &Options,
    setup: &Setup<'_>,
    variant: Variant,
    subjects: &mut [Subject],
) -> Vec<Row> {
    let mut rows: Vec<Row> =
        subjects.iter().map(|subject| Row::new(subject.target.to_string(), variant)).collect();
    for round in 0..options.rounds {
        for (subject, row) in subjects.iter_mut().zip(&mut rows) {
            let what = format!(
                "{} {} {}x{} B, round {}",
                setup.scenario.name,
                subject.target,
                variant.connections,
                variant.bytes,
                round + 1
            );
            let outcome = subject.round(setup, variant, round + 1).unwrap_or_else(|error| {
                // Whatever state it is in, the next round has a new one.
                subject.stop();
                Outcome { failures: vec![format!("{error:#}")], ..Outcome::default() }
            });
            eprintln!("{what}: {}", outcome.summary(setup.scenario));
            row.outcomes.push(outcome);
        }
    }
    for subject in subjects {
        subject.disconnect();
    }
    rows
}
