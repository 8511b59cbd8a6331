//! The disaster drills, in their quick size: each cell is real, the figures say nothing.

use std::process::Command;

use super::{Outcome, built_gateway};
use crate::process::{cargo, find_program, root, run as run_command};

pub(super) fn run() -> anyhow::Result<Outcome> {
    for program in ["python3", "redis-server", "redis-cli"] {
        if find_program(program).is_none() {
            return Ok(Outcome::Skipped(format!("{program} is missing")));
        }
    }
    built_gateway()?;
    run_command(&mut cargo(&["build", "--quiet", "--locked", "--package", "fanlight-loadtest"]))?;
    let script = root().join("deploy/drills/run");
    run_command(Command::new("python3").arg(script).args(["--quick", "--debug"]))?;
    Ok(Outcome::Passed)
}
