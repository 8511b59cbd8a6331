//! `cargo xtask bench`: what is measured, rather than passed.

use crate::process::{cargo, run as run_command};

/// The divan benchmarks of all crates, what the cluster costs Redis, then the harness over real
/// sockets.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let mut benches = cargo(&["bench", "--workspace", "--locked", "--bench", "*"]);
    if let Some(filter) = filter {
        run_command(benches.args(["--", filter]))?;
        println!("skipped Redis' costs and the harness: a filter was given");
        return Ok(());
    }
    run_command(&mut benches)?;
    run_redis_costs()?;
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

/// What each of these costs, against `redis-server` processes of their own.
pub(crate) fn run_redis_costs() -> anyhow::Result<()> {
    for example in ["flood", "history", "registry", "presence"] {
        run_command(&mut cargo(&[
            "run",
            "--release",
            "--locked",
            "--package",
            "fanlight-redis",
            "--example",
            example,
        ]))?;
    }
    Ok(())
}
