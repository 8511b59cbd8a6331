//! The compose file: by docker-compose itself, and by what it leads to.

use std::process::Command;

use super::{Outcome, PYTHON, built_gateway};
use crate::process::{root, run as run_command};
use crate::tools;

/// Needs no engine: `config` only reads.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let arguments = ["--file", "docker-compose.yml", "config", "--quiet"];
    run_command(Command::new("docker-compose").args(arguments).current_dir(root()))?;
    let python = tools::python(PYTHON)?.join("python");
    let script = root().join("deploy/checks/compose.py");
    run_command(Command::new(python).arg(script).arg(built_gateway()?))?;
    Ok(Outcome::Passed)
}
