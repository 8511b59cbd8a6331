//! `cargo xtask chaos`: the checker of `crates/gateway/tests/chaos`, for minutes rather than seconds.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};

use crate::process::{cargo, run as run_command};
use crate::requirements;

#[derive(Args)]
pub(crate) struct Options {
    /// For how long faults are made.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How Redis is set up.
    #[arg(long, default_value = "standalone")]
    topology: Topology,
    /// Gateway processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    nodes: u64,
    /// Decides which faults come when. Absent: another one each time; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many replicas must have what is acknowledged; with as many as there are, no failover
    /// may lose it.
    #[arg(long, default_value_t = 0)]
    min_replicas_ack: u32,
}

/// How Redis is set up.
#[derive(Clone, Copy, ValueEnum)]
enum Topology {
    /// One server without persistence.
    Standalone,
    /// A server and a replica that takes over, behind an address that moves.
    Replica,
    /// A master, two replicas and three Sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
    /// Two servers that know nothing of each other.
    Shards,
}

/// Runs it; on a failure the test says where logs and record are.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    requirements::ensure()?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let name =
        options.topology.to_possible_value().expect("no topology is hidden from the command");
    let topology = name.get_name();
    println!("seed {seed}");
    let test = ["test", "--locked", "--package", "fanlight", "--test", "chaos", "--"];
    run_command(
        cargo(&test)
            .args(["--ignored", "--exact", "nightly", "--nocapture"])
            .env("FANLIGHT_CHAOS_TOPOLOGY", topology)
            .env("FANLIGHT_CHAOS_SECONDS", (options.minutes * 60).to_string())
            .env("FANLIGHT_CHAOS_NODES", options.nodes.to_string())
            .env("FANLIGHT_CHAOS_MIN_REPLICAS_ACK", options.min_replicas_ack.to_string())
            .env("FANLIGHT_CHAOS_SEED", seed.to_string()),
    )
}
