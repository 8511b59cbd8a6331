//! `cargo xtask bench`: what is measured, rather than passed.

use crate::process::{cargo, run as run_command};

/// The divan benchmarks of all crates, then the harness over real sockets.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let mut benches = cargo(&["bench", "--workspace", "--locked", "--bench", "*"]);
    if let Some(filter) = filter {
        run_command(benches.args(["--", filter]))?;
        println!("skipped the idle and fan-out harness: a filter was given");
        return Ok(());
    }
    run_command(&mut benches)?;
    run_command(&mut cargo(&["build", "--release", "--locked", "--package", "fanlight"]))?;
    for scenario in ["idle", "fanout"] {
        run_command(&mut cargo(&[
            "run",
            "--release",
            "--locked",
            "--package",
            "fanlight-loadtest",
            "--",
            scenario,
        ]))?;
    }
    Ok(())
}
