//! `cargo xtask bench`: what is measured, rather than passed.

use std::path::PathBuf;
use std::process::Command;

use cargo_metadata::MetadataCommand;

use crate::process::{cargo, find_program, root, run as run_command};

/// The divan benchmarks of all crates, what the cluster costs Redis, then ours over real sockets:
/// a delivery beside the bare `send`, and idle connections.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let mut benches = cargo(&["bench", "--workspace", "--locked", "--bench", "*"]);
    if let Some(filter) = filter {
        run_command(benches.args(["--", filter]))?;
        println!("skipped Redis' costs and the load tester: a filter was given");
        return Ok(());
    }
    run_command(&mut benches)?;
    run_redis_costs()?;
    let mut floor = load_tester()?;
    run_command(floor.arg("floor"))?;
    let mut idle = load_tester()?;
    idle.args(["run", "loadtest/scenarios/idle.toml", "--rounds", "1", "--target", OURS]);
    run_command(&mut idle)
}

/// Fanlight and the peers whose toolchains are here, in one session: a report with all tables and
/// plots in `artifacts/loadtest`. `quick`: at sizes that show whether it works, and nothing else.
pub(crate) fn run_peers(quick: bool) -> anyhow::Result<()> {
    for (peer, program) in [("Spring", "mvn"), ("Socket.IO", "npm"), ("Centrifugo", "go")] {
        if find_program(program).is_none() {
            println!("there is no {program}: {peer} is left out, unless it was built before");
        }
    }
    let mut peers = load_tester()?;
    peers.arg("run").args(PEER_SCENARIOS.map(|name| format!("loadtest/scenarios/{name}.toml")));
    peers.args(["--target", PEERS, "--skip-missing"]);
    peers.args(["--rounds", if quick { "1" } else { "3" }]);
    if quick {
        peers.arg("--quick");
    }
    run_command(&mut peers)
}

/// Release builds of the gateway and of the load tester, which finds it beside itself.
pub(crate) fn load_tester() -> anyhow::Result<Command> {
    let packages = ["--package", "fanlight", "--package", "fanlight-loadtest"];
    run_command(cargo(&["build", "--release", "--locked"]).args(packages))?;
    let mut tester = Command::new(target_folder()?.join("release/fanlight-loadtest"));
    tester.current_dir(root());
    Ok(tester)
}

fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec()?;
    Ok(metadata.target_directory.into())
}

/// The protocols of ours.
const OURS: &str = "fanlight,fanlight:stomp,fanlight:sockjs,fanlight:events";

/// Fanlight first: what the report compares with.
const PEERS: &str = "fanlight,fanlight:stomp,centrifugo,spring,socketio";

/// What all servers can do, the least invasive first.
const PEER_SCENARIOS: [&str; 9] = [
    "idle",
    "connect",
    "fanout",
    "fanout-bursts",
    "rooms",
    "user-sends",
    "cross-node",
    "storm-cut",
    "storm-kill",
];

/// What each of these costs, against `redis-server` processes of their own.
pub(crate) fn run_redis_costs() -> anyhow::Result<()> {
    for example in ["flood", "channels", "history", "registry", "presence"] {
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
