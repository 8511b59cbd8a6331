//! `cargo xtask deploy`: checks what the repository ships for running Fanlight: compose files,
//! Terraform modules, manifests, rules and dashboards. Each check is a file in `deploy/`.

mod compose;
mod derived;
mod dockerfile;
mod drills;
mod grafana;
mod image;
mod kubernetes;
mod prometheus;
mod sbom;
mod terraform;

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;

pub(crate) use self::sbom::write as write_sbom;
use crate::process::{cargo, root, run as run_command};

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

const CHECKS: [Check; 8] = [
    Check { name: "compose", run: compose::run },
    Check { name: "drills", run: drills::run },
    Check { name: "grafana", run: grafana::run },
    Check { name: "image", run: image::run },
    Check { name: "kubernetes", run: kubernetes::run },
    Check { name: "prometheus", run: prometheus::run },
    Check { name: "sbom", run: sbom::run },
    Check { name: "terraform", run: terraform::run },
];

/// The Python packages that several checks use.
const PYTHON: &str = "deploy/checks/deploy-checks.txt";

/// The gateway as the tests have built it: nothing is left to do after them.
fn built_gateway() -> anyhow::Result<PathBuf> {
    run_command(&mut cargo(&["build", "--quiet", "--locked", "--package", "fanlight"]))?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("debug/fanlight"))
}

/// Runs the checks whose names contain `filter`, also after one failed, and says how each ended.
pub(crate) fn run(filter: &str) -> anyhow::Result<()> {
    let chosen: Vec<_> = CHECKS.iter().filter(|check| check.name.contains(filter)).collect();
    if chosen.is_empty() {
        bail!(
            "no check is called `{filter}`; there are {}",
            names(&CHECKS.iter().collect::<Vec<_>>())
        );
    }
    let failed = failing(&chosen);
    if !failed.is_empty() {
        bail!("checks failed: {}", names(&failed));
    }
    Ok(())
}

/// Runs all checks, those that fail once more, and returns which then passed.
pub(crate) fn run_and_try_again() -> anyhow::Result<Vec<String>> {
    let first = failing(&CHECKS.iter().collect::<Vec<_>>());
    let second = failing(&first);
    if !second.is_empty() {
        bail!("checks failed: {}", names(&second));
    }
    Ok(first.iter().map(|check| format!("deploy {}", check.name)).collect())
}

/// Runs the checks, and returns those that failed.
fn failing<'a>(checks: &[&'a Check]) -> Vec<&'a Check> {
    let mut failed = Vec::new();
    for &check in checks {
        println!("\n── deploy: {}", check.name);
        let started = Instant::now();
        match (check.run)() {
            Ok(Outcome::Passed) => println!("{}: passed in {:.0?}", check.name, started.elapsed()),
            Ok(Outcome::Skipped(what)) => println!("{}: skipped: {what}", check.name),
            Err(error) => {
                eprintln!("{}: failed: {error:#}", check.name);
                failed.push(check);
            }
        }
    }
    failed
}

fn names(checks: &[&Check]) -> String {
    checks.iter().map(|check| check.name).collect::<Vec<_>>().join(", ")
}
