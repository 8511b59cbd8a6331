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

use anyhow::{Context, bail};

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
        let names: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("no check is called `{filter}`; there are {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for Check { name, run } in chosen {
        println!("\n── deploy: {name}");
        let started = Instant::now();
        match run().with_context(|| format!("deploy: {name}")) {
            Ok(Outcome::Passed) => println!("{name}: passed in {:.0?}", started.elapsed()),
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
