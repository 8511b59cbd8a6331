//! `cargo xtask bench` and `fuzz`: what is measured or searched, rather than passed.

use crate::process::{cargo, run};

/// The divan benchmarks of all crates, then the harness over real sockets.
pub(crate) fn benches(filter: Option<&str>) -> anyhow::Result<()> {
    let mut benches = cargo(&["bench", "--workspace", "--locked", "--bench", "*"]);
    if let Some(filter) = filter {
        run(benches.args(["--", filter]))?;
        println!("skipped the idle and fan-out harness: a filter was given");
        return Ok(());
    }
    run(&mut benches)?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "fanlight"]))?;
    for scenario in ["idle", "fanout"] {
        run(&mut cargo(&[
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

/// The bolero targets are ordinary tests with `fuzz` in their names; here each gets more time.
pub(crate) fn fuzz(seconds: u64, filter: Option<&str>) -> anyhow::Result<()> {
    let milliseconds = (seconds * 1000).to_string();
    run(cargo(&["test", "--workspace", "--locked", filter.unwrap_or("fuzz")])
        .env("BOLERO_RANDOM_TEST_TIME_MS", milliseconds))
}
