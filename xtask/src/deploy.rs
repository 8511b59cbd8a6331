//! `cargo xtask deploy`: checks what the repository ships for running Fanlight: compose files,
//! Terraform modules, manifests, rules and dashboards. Each check is a file in `deploy/`.

mod compose;
mod grafana;
mod prometheus;

use anyhow::{Context, bail};

/// What a check found.
pub(crate) enum Outcome {
    /// All of it was run.
    Passed,
    /// It needs what this machine lacks: what, and where to get it.
    Skipped(String),
}

/// One check of shipped files.
struct Check {
    name: &'static str,
    run: fn() -> anyhow::Result<Outcome>,
}

const CHECKS: [Check; 3] = [
    Check { name: "compose", run: compose::run },
    Check { name: "prometheus", run: prometheus::run },
    Check { name: "grafana", run: grafana::run },
];

/// Runs the checks whose names contain `filter`, also after one failed, and says how each ended.
pub(crate) fn run(filter: &str) -> anyhow::Result<()> {
    let chosen: Vec<_> = CHECKS.iter().filter(|check| check.name.contains(filter)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("no check is called `{filter}`; there are {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for Check { name, run } in chosen {
        println!("\n── deploy: {name}");
        match run().with_context(|| format!("deploy: {name}")) {
            Ok(Outcome::Passed) => println!("{name}: passed"),
            Ok(Outcome::Skipped(what)) => println!("{name}: skipped: {what}"),
            Err(error) => {
                eprintln!("{name}: failed: {error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
