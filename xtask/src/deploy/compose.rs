//! The compose file, read by docker-compose itself.

use std::process::Command;

use super::Outcome;
use crate::process::{root, run as run_command};

/// Needs no engine: `config` only reads.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let arguments = ["--file", "docker-compose.yml", "config", "--quiet"];
    run_command(Command::new("docker-compose").args(arguments).current_dir(root()))?;
    Ok(Outcome::Passed)
}
