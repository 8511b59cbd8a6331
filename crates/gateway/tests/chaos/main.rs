//! Faults against real processes: what clients saw is recorded and judged (design §5).
//!
//! `cargo xtask chaos` runs this for long; a short run belongs to the normal tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking where something is missing")]

mod cast;
mod check;
mod check_tests;
mod connection;
mod consumer;
mod nodes;
mod publisher;
mod queue_tests;
mod record;
mod recorder;
mod report;
mod run;
mod schedule;
mod session_tests;
mod slow_tests;
mod stores;
mod subscriber;
mod system;
mod watcher;
mod wire;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use report::Figures;
use run::Options;
use schedule::{Fault, Links, Topology};
use system::System;
use tokio::time::{Instant, sleep};

/// Runs and judges; panics with all that is known where the contract is broken.
async fn judge(options: Options) -> Figures {
    println!("{options:?}");
    let run = run::run(&options).await;
    let run = run.unwrap_or_else(|error| panic!("{options:?} did not get through: {error:#}"));
    let figures = Figures::of(&run);
    println!("{figures:?}");
    let record = options.directory.join("record.txt");
    fs::write(&record, report::everything(&run)).unwrap();
    let violations = check::check(&run);
    assert!(
        violations.is_empty(),
        "seed {} on {:?} broke the contract {} times; logs and record are in {}\n{}",
        options.seed,
        options.topology,
        violations.len(),
        options.directory.display(),
        report::describe(&run, &violations),
    );
    // A run in which nothing happened proves nothing.
    assert!(figures.acked > 100 && figures.messages > 100, "{figures:?}");
    assert_eq!(figures.faults > 0, !options.is_quiet, "{figures:?}");
    assert!(figures.recovered > 0, "{figures:?}");
    assert!(figures.taken > 20 && figures.taken_again > 0, "{figures:?}");
    assert!(figures.samples > 5 && figures.events > 10, "{figures:?}");
    figures
}

fn options(topology: Topology, seed: u64, length: Duration) -> Options {
    let name = format!("chaos-{topology:?}-{seed}").to_lowercase();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (is_quiet, min_replicas_ack) = (false, 0);
    Options { topology, nodes: 3, seed, length, is_quiet, min_replicas_ack, directory }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_three_nodes_and_one_redis_keep_the_contract_through_faults() {
    judge(options(Topology::Standalone, SHORT_SEED, SHORT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fault_nothing_is_missed_and_only_those_who_stop_reading_are_closed() {
    let mut options = options(Topology::Standalone, SHORT_SEED + 1, QUIET);
    options.is_quiet = true;
    let figures = judge(options).await;
    assert!(figures.slow > 0 && figures.stalls > figures.slow, "{figures:?}");
    assert!(figures.dead_letters > 0, "{figures:?}");
    assert_eq!((figures.refused, figures.unknown), (0, 0), "{figures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_must_have_is_not_lost_when_it_takes_over() {
    let mut options = options(Topology::Replica, SHORT_SEED, REPLICATED);
    options.min_replicas_ack = 1;
    judge(options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_from_a_cluster_finds_no_way_past_its_proxies() {
    let mut options = options(Topology::Cluster, 0, Duration::ZERO);
    options.nodes = 2;
    fs::create_dir_all(&options.directory).unwrap();
    let system = System::start(&options).await.unwrap();
    if system.links != Links::Each {
        return;
    }
    let cure = system.begin(Fault::Partition { node: 0 }).await.unwrap();
    let deadline = Instant::now() + CUT_OFF_MAX;
    while system.nodes.is_ready(0).await.unwrap() {
        assert!(Instant::now() < deadline, "it reaches Redis all the same");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(system.nodes.is_ready(1).await.unwrap(), "the other is not cut off");
    system.heal(cure).await.unwrap();
    system.nodes.wait_until_ready().await.unwrap();
}

#[test]
fn the_short_run_kills_and_pauses_nodes_and_redis_and_cuts_them_apart() {
    let rounds = schedule::schedule(SHORT_SEED, Links::One, 3, SHORT.as_millis() as u64);
    let faults: Vec<_> = rounds.iter().flat_map(|round| &round.faults).map(|it| it.fault).collect();
    let has = |is_it: fn(&Fault) -> bool| assert!(faults.iter().any(is_it), "{faults:?}");
    has(|fault| matches!(fault, Fault::KillNode { .. }));
    has(|fault| matches!(fault, Fault::PauseNode { .. }));
    has(|fault| matches!(fault, Fault::KillRedis { .. }));
    has(|fault| matches!(fault, Fault::Partition { .. }));
    has(|fault| matches!(fault, Fault::LoseAnswers { .. }));
}

/// `cargo xtask chaos`; its options come by the environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for minutes: cargo xtask chaos"]
async fn nightly() {
    let text = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let number = |name: &str| text(name).parse::<u64>().unwrap();
    let topology = match &*text("FANLIGHT_CHAOS_TOPOLOGY") {
        "standalone" => Topology::Standalone,
        "replica" => Topology::Replica,
        "sentinel" => Topology::Sentinel,
        "cluster" => Topology::Cluster,
        "shards" => Topology::Shards,
        other => panic!("no topology is called {other}"),
    };
    let length = Duration::from_secs(number("FANLIGHT_CHAOS_SECONDS"));
    let mut options = options(topology, number("FANLIGHT_CHAOS_SEED"), length);
    options.nodes = number("FANLIGHT_CHAOS_NODES") as usize;
    options.min_replicas_ack = number("FANLIGHT_CHAOS_MIN_REPLICAS_ACK") as u32;
    judge(options).await;
}

const CUT_OFF_MAX: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(18);
const QUIET: Duration = Duration::from_secs(10);
const REPLICATED: Duration = Duration::from_secs(14);
/// Its faults are of many kinds.
const SHORT_SEED: u64 = 110;
