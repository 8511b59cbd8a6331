//! `cargo xtask rollout`: the proof that a rolling restart and a scale-out lose nothing.

use crate::bench::load_tester;
use crate::process::run as run_command;
use crate::requirements;

/// Builds gateway and load tester, and runs it; `more` goes to `fanlight-loadtest rollout`.
pub(crate) fn run(more: &[String]) -> anyhow::Result<()> {
    requirements::ensure()?;
    let mut rollout = load_tester()?;
    run_command(rollout.arg("rollout").args(more))
}
