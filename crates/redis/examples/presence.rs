//! What a join costs Redis as a place grows: `cargo run --release --example presence -- [MEMBERS...]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fanlight_engine::broker::Channel;
use fanlight_engine::presence::{Member, MembersQuery, Place, Presence};
use fanlight_redis::{Lease, NodeInfo, PresenceOptions, RedisBroker, RedisConfig, RedisPresence};
use fanlight_testkit::RedisServer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One node without workers.
struct Node {
    _broker: Arc<RedisBroker>,
    presence: RedisPresence,
}

/// What Redis has spent, in microseconds.
#[derive(Clone, Copy)]
struct Spent {
    cpu: f64,
    scripts: f64,
    calls: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes: Vec<u32> = std::env::args()
        .skip(1)
        .map(|size| size.parse().context(size))
        .collect::<Result<_, _>>()?;
    let sizes = if sizes.is_empty() { vec![1_000, 10_000, 100_000] } else { sizes };
    let server = RedisServer::start()?;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let nodes =
        [start(&server, &tracker, &shutdown).await?, start(&server, &tracker, &shutdown).await?];
    let destination: fanlight_proto::Destination = "/topic/arena".parse()?;
    let channel = Channel::of_destination(destination.to_shared());
    let place = Place { channel, destination };
    println!("members | a join or leave, many at once | a join alone, read back | count | page");
    println!("        | CPU µs  script µs  per call   |    CPU µs  script µs    |    µs |   µs");
    let mut members = 0;
    for size in sizes {
        let fill_from = Instant::now();
        while members < size {
            enter(&nodes, &place, members);
            members += 1;
        }
        counts(&nodes[0], &place, size).await?;
        let filled_in = fill_from.elapsed();
        quiet().await;
        let many = churn(&server, &nodes, &place, size, MANY).await?;
        let single = singles(&server, &nodes, &place, size).await?;
        let (count_us, page_us) = reads(&server, &nodes[0], &place).await?;
        println!(
            "{size:7} | {:6.1} {:10.1} {:9.1}   | {:9.1} {:10.1}    | {count_us:5.1} | {page_us:4.0}   (filled in {filled_in:.1?})",
            many.0, many.1, many.2, single.0, single.1
        );
    }
    let memory = info(&server, "memory", "used_memory:")?;
    println!("Redis holds {:.0} bytes per member", memory / f64::from(members.max(1)));
    shutdown.cancel();
    Ok(())
}

async fn start(
    server: &RedisServer,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<Node> {
    let config = RedisConfig::parse_url(&server.url())?;
    let broker = RedisBroker::start(config, Vec::new(), tracker.clone(), shutdown.clone());
    let info = NodeInfo { name: String::new(), address: String::new(), started_unix_ms: 1 };
    let lease = Lease::start(&broker, info, tracker, shutdown.clone());
    let options = PresenceOptions { interval: Duration::from_millis(500), changes_max: 100 };
    let presence = RedisPresence::start(&broker, &lease, options, tracker, shutdown.clone());
    let deadline = Instant::now() + PATIENCE;
    while !lease.is_held() {
        ensure!(Instant::now() < deadline, "no lease was to be had");
        quiet().await;
    }
    Ok(Node { _broker: broker, presence })
}

/// Joins and leaves as fast as they go: microseconds of CPU and of scripts for each, and how many
/// went in a call.
async fn churn(
    server: &RedisServer,
    nodes: &[Node; 2],
    place: &Place,
    size: u32,
    joins: u32,
) -> anyhow::Result<(f64, f64, f64)> {
    let before = Spent::of(server)?;
    for number in 0..joins {
        enter(nodes, place, size + number);
    }
    counts(&nodes[0], place, size + joins).await?;
    for number in 0..joins {
        exit(nodes, place, size + number);
    }
    counts(&nodes[0], place, size).await?;
    quiet().await;
    let after = Spent::of(server)?;
    let steps = f64::from(2 * joins);
    let calls = after.calls - before.calls;
    Ok(((after.cpu - before.cpu) / steps, (after.scripts - before.scripts) / steps, steps / calls))
}

/// Each join read back before the next: microseconds of CPU, that of reading included, and of scripts.
async fn singles(
    server: &RedisServer,
    nodes: &[Node; 2],
    place: &Place,
    size: u32,
) -> anyhow::Result<(f64, f64)> {
    let before = Spent::of(server)?;
    for number in 0..FEW {
        enter(nodes, place, size + number);
        counts(&nodes[((size + number) % 2) as usize], place, size + number + 1).await?;
    }
    let after = Spent::of(server)?;
    for number in 0..FEW {
        exit(nodes, place, size + number);
    }
    counts(&nodes[0], place, size).await?;
    quiet().await;
    let steps = f64::from(FEW);
    Ok(((after.cpu - before.cpu) / steps, (after.scripts - before.scripts) / steps))
}

/// Microseconds of Redis for a count and for a page.
async fn reads(server: &RedisServer, node: &Node, place: &Place) -> anyhow::Result<(f64, f64)> {
    let query = |limit| MembersQuery { place: place.clone(), cursor: None, limit };
    let mut costs = [0.0; 2];
    for (limit, command, cost) in [(0, "hlen", 0), (1000, "hscan", 1)] {
        let (calls, spent) = command_stats(server, command)?;
        for _ in 0..PAGES {
            node.presence.members(query(limit)).await?;
        }
        let (calls_after, spent_after) = command_stats(server, command)?;
        costs[cost] = (spent_after - spent) / (calls_after - calls);
    }
    Ok((costs[0], costs[1]))
}

fn enter(nodes: &[Node; 2], place: &Place, number: u32) {
    nodes[(number % 2) as usize].presence.enter(place, member(number));
}

fn exit(nodes: &[Node; 2], place: &Place, number: u32) {
    nodes[(number % 2) as usize].presence.exit(place, member(number));
}

fn member(number: u32) -> Member {
    Member::User(format!("user-{number:08}").into())
}

async fn counts(node: &Node, place: &Place, expected: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let query = MembersQuery { place: place.clone(), cursor: None, limit: 0 };
        let count = node.presence.members(query).await.map(|page| page.count);
        if count == Ok(expected.into()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{count:?} never became {expected}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Long enough for what is under way, and for changes to be told.
async fn quiet() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}

impl Spent {
    fn of(server: &RedisServer) -> anyhow::Result<Self> {
        let user = info(server, "cpu", "used_cpu_user:")?;
        let system = info(server, "cpu", "used_cpu_sys:")?;
        let (calls, scripts) = command_stats(server, "evalsha")?;
        Ok(Self { cpu: (user + system) * 1e6, scripts, calls })
    }
}

/// How often Redis has carried out a command, and for how many microseconds.
fn command_stats(server: &RedisServer, command: &str) -> anyhow::Result<(f64, f64)> {
    let stats = server.command("INFO commandstats")?;
    let start = format!("cmdstat_{command}:");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
    let field = |name: &str| {
        let fields = line.trim().split(',');
        let mut values = fields.filter_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        values.next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    Ok((field("calls"), field("usec")))
}

fn info(server: &RedisServer, section: &str, field: &str) -> anyhow::Result<f64> {
    let text = server.command(&format!("INFO {section}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.context("INFO has no such field")?.trim().parse().context("not a number")
}

const MANY: u32 = 10_000;
const FEW: u32 = 500;
const PAGES: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(60);
