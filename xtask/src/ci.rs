//! `cargo xtask ci`: every check, each timed, and a summary at the end.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::{cargo, run as run_command, succeeds};
use crate::{counts, requirements, test, tidy};

/// One check: its name and what runs it.
type Step = (&'static str, fn() -> anyhow::Result<()>);

const STEPS: [Step; 7] = [
    ("tools", tools),
    ("format", format),
    ("clippy", clippy),
    ("docs", docs),
    ("tidy", tidy::run),
    ("test", || test::run(&[])),
    ("counts", counts::check),
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
        outcomes.push((name, started.elapsed(), outcome.is_ok()));
    }
    summarise(&outcomes)
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

fn summarise(outcomes: &[(&str, Duration, bool)]) -> anyhow::Result<()> {
    println!("\n── summary");
    for (name, elapsed, passed) in outcomes {
        let verdict = if *passed { "ok" } else { "FAILED" };
        println!("{name:<8} {:>7.1} s  {verdict}", elapsed.as_secs_f64());
    }
    let failed = outcomes.iter().filter(|(_, _, passed)| !passed).count();
    if failed > 0 {
        bail!("{failed} of {} steps failed", outcomes.len());
    }
    println!("all {} steps passed", outcomes.len());
    Ok(())
}
