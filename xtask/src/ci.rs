//! `cargo xtask ci`: every check, each timed, and a summary at the end.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::{cargo, run as run_command, succeeds};
use crate::{counts, requirements, test, tidy};

/// One check: its name, and what runs it and returns what is worth a word in the summary though
/// it passed.
type Step = (&'static str, fn() -> anyhow::Result<Vec<String>>);

/// How a step ended, and how long it took.
type Outcome = (&'static str, Duration, anyhow::Result<Vec<String>>);

const STEPS: [Step; 7] = [
    ("tools", || quietly(tools())),
    ("format", || quietly(format())),
    ("clippy", || quietly(clippy())),
    ("docs", || quietly(docs())),
    ("tidy", || quietly(tidy::run())),
    ("test", || test::run(&[])),
    ("counts", || quietly(counts::check())),
];

/// Runs all steps, also after one failed, so that one run shows everything that is wrong.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for (name, step) in STEPS {
        println!("\n── {name}");
        let started = Instant::now();
        let outcome = step();
        if let Err(error) = &outcome {
            eprintln!("{name} failed: {error:#}");
        }
        outcomes.push((name, started.elapsed(), outcome));
    }
    summarise(&outcomes)
}

/// The outcome of a step that has nothing to say when it passes.
fn quietly(outcome: anyhow::Result<()>) -> anyhow::Result<Vec<String>> {
    outcome.map(|()| Vec::new())
}

fn tools() -> anyhow::Result<()> {
    for component in ["fmt", "clippy"] {
        if !succeeds(&mut cargo(&[component, "--version"])) {
            bail!("`cargo {component}` is missing: `rustup component add rustfmt clippy`");
        }
    }
    requirements::ensure()
}

fn format() -> anyhow::Result<()> {
    run_command(&mut cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    run_command(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn docs() -> anyhow::Result<()> {
    run_command(
        cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Says how each step ended, and why: the end of a long log is what is read first.
fn summarise(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!("\n── summary");
    for (name, elapsed, outcome) in outcomes {
        let verdict = match outcome {
            Ok(flaky) if flaky.is_empty() => "ok".to_owned(),
            Ok(flaky) => format!("ok, but FLAKY: {}", flaky.join(", ")),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("{name:<8} {:>7.1} s  {verdict}", elapsed.as_secs_f64());
    }
    let failed = outcomes.iter().filter(|(.., outcome)| outcome.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} steps failed", outcomes.len());
    }
    println!("all {} steps passed", outcomes.len());
    Ok(())
}
