//! What sessions and user sends cost: `cargo run --release -p fanlight-redis --example registry`.
//!
//! Sessions enter and leave beside 1,000, 10,000 and 100,000 others, users are looked up, and
//! 10,000 sessions of a lost node are reaped; then messages go to users, and to topics that every
//! node holds, over 1, 3 and 10 nodes. Each row tells microseconds for one operation: of Redis' CPU
//! by `INFO cpu`, of its scripts by `INFO commandstats`, which counts waiting for a CPU too, and of
//! the CPU of all nodes, which are this process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use fanlight_engine::broker::{Broker, Delivery, DeliverySink, Full, Joined, Notice, WorkerId};
use fanlight_engine::policy::{Namespace, Namespaces, PublishPermit};
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{
    Entered, Entry, Handle, Registry, SessionKind, SessionLimit, Transport, WhenFull,
};
use fanlight_proto::CloseReason;
use fanlight_redis::{
    Lease, NodeInfo, Reap, RedisBroker, RedisConfig, RedisRegistry, RegistryOptions,
};
use fanlight_testkit::{Orders, RedisServer, eventually, publication};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    println!("{:54}{:>9}{:>9}{:>9}{:>9}", "us of", "Redis", "scripts", "per call", "nodes");
    for events in [None, Some(100_000)] {
        let told = if events.is_some() { "with events" } else { "without events" };
        println!("sessions, {told}");
        sessions(events).await?;
    }
    for nodes in [1, 3, 10] {
        println!("sends, {nodes} nodes");
        sends(nodes).await?;
    }
    Ok(())
}

/// Everything about sessions, beside more and more of them.
async fn sessions(events: Option<u64>) -> anyhow::Result<()> {
    let server = RedisServer::start()?;
    let node = Node::start(&server, events).await?;
    let empty = info(&server, "memory", "used_memory")?;
    let mut present = Vec::new();
    for size in SIZES {
        let more = entries("present", present.len()..size);
        for some in more.chunks(MANY) {
            enter_at_once(&node, some).await?;
        }
        present.extend(more);

        let few = entries("few", 0..FEW);
        let cost = Cost::begin(&server)?;
        for entry in &few {
            enter_at_once(&node, std::slice::from_ref(entry)).await?;
        }
        cost.end(&format!("enter, one after the other, beside {size}"), FEW)?;
        let anew = entries("few", 0..FEW);
        let cost = Cost::begin(&server)?;
        for (entry, again) in few.into_iter().zip(&anew) {
            node.registry.leave(entry, CloseReason::ClientClosed);
            enter_at_once(&node, std::slice::from_ref(again)).await?;
        }
        cost.end(&format!("leave and enter, one after the other, beside {size}"), FEW)?;
        leave_at_once(&node, anew).await;

        let many = entries("many", 0..MANY);
        let cost = Cost::begin(&server)?;
        enter_at_once(&node, &many).await?;
        cost.end(&format!("enter, {MANY} at once, beside {size}"), MANY)?;
        let cost = Cost::begin(&server)?;
        leave_at_once(&node, many).await;
        cost.end(&format!("leave, {MANY} at once, beside {size}"), MANY)?;

        look_up(&server, &node, &present).await?;
        reap(&server, &node, events, size).await?;
    }
    let held = info(&server, "memory", "used_memory")? - empty;
    if events.is_none() {
        println!("Redis holds {:.0} bytes per session", held / present.len() as f64);
    }
    node.stop().await;
    Ok(())
}

/// The sessions of 1,000 users in one call.
async fn look_up(server: &RedisServer, node: &Node, present: &[Entry]) -> anyhow::Result<()> {
    let step = present.len() / USERS;
    let users: Vec<Arc<str>> =
        present.iter().step_by(step).filter_map(|entry| entry.user.clone()).collect();
    let cost = Cost::begin(server)?;
    for _ in 0..LOOKUPS {
        let found = node.registry.status(users.clone()).await?;
        ensure!(found.iter().all(|user| user.sessions.len() == 1), "a session is missing");
    }
    let took = cost.begun.elapsed() / LOOKUPS;
    let what = format!("status of a user, {} in a call, beside {}", users.len(), present.len());
    cost.end(&what, users.len() * LOOKUPS as usize)?;
    println!("  a call took {took:.1?}");
    Ok(())
}

/// The sessions of a node that is gone.
async fn reap(
    server: &RedisServer,
    node: &Node,
    events: Option<u64>,
    size: usize,
) -> anyhow::Result<()> {
    let lost = Node::start(server, events).await?;
    let owner = lost.lease.owner();
    let entries = entries("lost", 0..MANY);
    enter_at_once(&lost, &entries).await?;
    lost.lease.release().await;
    lost.stop().await;
    let cost = Cost::begin(server)?;
    while !node.registry.reap(&owner).await? {}
    let took = cost.begun.elapsed();
    cost.end(&format!("reap a session, of {MANY}, beside {size}"), MANY)?;
    println!("  all took {took:.1?}");
    let users = entries.into_iter().filter_map(|entry| entry.user).collect();
    let found = node.registry.status(users).await?;
    ensure!(found.iter().all(|user| user.sessions.is_empty()), "a session was not reaped");
    Ok(())
}

/// Messages to users, each of whom one node holds, and to topics that all nodes hold.
async fn sends(nodes: usize) -> anyhow::Result<()> {
    let server = RedisServer::start()?;
    let starting = join_all((0..nodes).map(|_| Node::start(&server, None))).await;
    let nodes: Vec<_> = starting.into_iter().collect::<anyhow::Result<_>>()?;
    let all = nodes.len();
    let places = [("a user", "/user/", "/queue/alerts", 1), ("a topic", "/topic/", "", all)];
    for (what, prefix, suffix, holders) in places {
        let names = (0..DESTINATIONS).map(|number| format!("{prefix}{number}{suffix}"));
        let permits: Vec<_> = names.map(|name| permit(&name)).collect::<anyhow::Result<_>>()?;
        for (number, permit) in permits.iter().enumerate() {
            for at in 0..holders {
                let holder = &nodes[(number + at) % all];
                let joined = holder.broker.subscribe(WorkerId(0), permit.channel()).await;
                ensure!(joined == Joined::Live, "a subscription is not live");
            }
        }
        for (window, count) in [(1, ALONE), (WINDOW, LOAD)] {
            let cost = Cost::begin(&server)?;
            send(&nodes, &permits, holders as u64, window, count).await?;
            let what = format!("send to {what}, {holders} of {all} nodes, {window} under way");
            cost.end(&what, count)?;
        }
    }
    join_all(nodes.into_iter().map(Node::stop)).await;
    Ok(())
}

/// With `window` messages under way, all from the first node, until all have arrived.
async fn send(
    nodes: &[Node],
    permits: &[PublishPermit],
    holders: u64,
    window: usize,
    count: usize,
) -> anyhow::Result<()> {
    let body = Bytes::from_static(&[b'x'; 256]);
    let arrived = || nodes.iter().map(|node| node.arrived.0.load(Ordering::Relaxed)).sum::<u64>();
    let before = arrived();
    let mut under_way = VecDeque::new();
    for (sent, permit) in permits.iter().cycle().take(count).enumerate() {
        if under_way.len() == window
            && let Some(oldest) = under_way.pop_front()
        {
            let answer: Result<_, _> = oldest.await;
            answer.context("a message was refused")?;
        }
        if sent % CATCH_UP == 0 {
            // Redis cuts off who falls behind by too much.
            let left = under_way.len() as u64;
            let due = before + (sent as u64 - left) * holders;
            eventually("all but those under way arrived", || arrived() >= due).await;
        }
        let publication = publication(permit.destination().as_str(), body.clone());
        under_way.push_back(nodes[0].broker.publish(permit.clone(), publication));
    }
    for publishing in under_way {
        publishing.await.context("a message was refused")?;
    }
    let due = before + count as u64 * holders;
    eventually("all arrived", || arrived() == due).await;
    Ok(())
}

fn permit(name: &str) -> anyhow::Result<PublishPermit> {
    let all = [Namespace::new("users", "/user/queue/**"), Namespace::new("topics", "/topic/**")];
    Ok(PublishPermit::for_backend(&Namespaces::new(&all)?, &name.parse()?)?)
}

async fn enter_at_once(node: &Node, entries: &[Entry]) -> anyhow::Result<()> {
    let entering = entries.iter().map(|entry| node.registry.enter(entry.clone()));
    for entered in join_all(entering).await {
        ensure!(entered == Entered::Now, "a session was not entered: {entered:?}");
    }
    Ok(())
}

async fn leave_at_once(node: &Node, entries: Vec<Entry>) {
    for entry in entries {
        node.registry.leave(entry, CloseReason::ClientClosed);
    }
    node.registry.flush().await;
}

/// A session of each of these users.
fn entries(prefix: &str, numbers: std::ops::Range<usize>) -> Vec<Entry> {
    let entry = |number| Entry {
        user: Some(format!("{prefix}-{number:08}").into()),
        session: SessionId(Uuid::now_v7()),
        handle: Handle { worker: WorkerId(0), slot: number as u32, serial: 1 },
        is_limited: true,
        kind: SessionKind { transport: Transport::WebSocket, is_stomp: false },
    };
    numbers.map(entry).collect()
}

/// A node with the broker, the lease and the registry of a real one, but without clients.
struct Node {
    broker: Arc<RedisBroker>,
    lease: Arc<Lease>,
    registry: Arc<RedisRegistry>,
    arrived: Arc<Arrived>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Node {
    async fn start(server: &RedisServer, events: Option<u64>) -> anyhow::Result<Self> {
        let parsed = RedisConfig::parse_url(&server.url())?;
        let config = RedisConfig { response_timeout: PATIENCE, ..parsed };
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (control, inbox) = fanlight_redis::control();
        let arrived = Arc::new(Arrived::default());
        let sinks: Vec<Arc<dyn DeliverySink>> = vec![arrived.clone(), control];
        let broker = RedisBroker::start(config, sinks, tracker.clone(), shutdown.clone());
        let info = NodeInfo { name: String::new(), address: String::new(), started_unix_ms: 1 };
        let lease = Lease::start(&broker, info, &tracker, shutdown.clone());
        // The limit of a gateway by default.
        let limit = SessionLimit { sessions_per_user: 20, when_full: WhenFull::KickOldest };
        let registry = RedisRegistry::start(
            &broker,
            &lease,
            RegistryOptions { limit, events, queue: RegistryOptions::QUEUE },
            Orders::new(),
            (inbox, WorkerId(1)),
            &tracker,
            &shutdown,
        );
        eventually("the lease is held", || lease.is_held()).await;
        Ok(Self { broker, lease, registry, arrived, tracker, shutdown })
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Counts what arrives.
#[derive(Default)]
struct Arrived(AtomicU64);

impl DeliverySink for Arrived {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        self.0.fetch_add(delivery.publications.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn notify(&self, _notice: Notice) {}
}

/// What a part of the run takes.
struct Cost<'s> {
    server: &'s RedisServer,
    before: Spent,
    begun: Instant,
}

/// Microseconds of CPU so far, and how many scripts were called.
struct Spent {
    redis: f64,
    scripts: f64,
    calls: f64,
    nodes: f64,
}

impl<'s> Cost<'s> {
    fn begin(server: &'s RedisServer) -> anyhow::Result<Self> {
        Ok(Self { server, before: Spent::of(server)?, begun: Instant::now() })
    }

    fn end(self, what: &str, count: usize) -> anyhow::Result<()> {
        let (before, after, count) = (self.before, Spent::of(self.server)?, count as f64);
        let redis = (after.redis - before.redis) / count;
        let nodes = (after.nodes - before.nodes) / count;
        let calls = after.calls - before.calls;
        let scripts = (after.scripts - before.scripts) / count;
        // Renewals of leases are among them.
        if calls * SCRIPTED_AT_MOST < count {
            println!("  {what:52}{redis:9.2}{:>9}{:>9}{nodes:9.2}", "", "");
        } else {
            println!("  {what:52}{redis:9.2}{scripts:9.2}{:9.1}{nodes:9.2}", count / calls);
        }
        Ok(())
    }
}

impl Spent {
    fn of(server: &RedisServer) -> anyhow::Result<Self> {
        let user = info(server, "cpu", "used_cpu_user_main_thread")?;
        let system = info(server, "cpu", "used_cpu_sys_main_thread")?;
        let stats = server.command("INFO commandstats")?;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
        let field = |name: &str| {
            let mut fields = line.unwrap_or_default().trim().split(',');
            let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.map_or(Ok(0.0), str::parse).context("not a number")
        };
        let redis = (user + system) * 1e6;
        Ok(Self { redis, scripts: field("usec")?, calls: field("calls")?, nodes: own_cpu_us()? })
    }
}

fn info(server: &RedisServer, section: &str, field: &str) -> anyhow::Result<f64> {
    let text = server.command(&format!("INFO {section}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.with_context(|| format!("{field} is missing; is this Redis 7 or later?"))?;
    value.trim().parse().context("not a number")
}

/// What all threads of this process have spent, in microseconds.
fn own_cpu_us() -> anyhow::Result<f64> {
    let mut sum_ns = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let on_cpu_ns = stat.split(' ').next().unwrap_or_default();
        sum_ns += on_cpu_ns.parse::<f64>()?;
    }
    Ok(sum_ns / 1e3)
}

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const FEW: usize = 500;
const MANY: usize = 10_000;
const USERS: usize = 1_000;
const LOOKUPS: u32 = 20;
const DESTINATIONS: usize = 100;
const ALONE: usize = 5_000;
const LOAD: usize = 100_000;
const WINDOW: usize = 1_000;
/// So many messages of 256 bytes are far from the 8 MB that Redis lets a subscriber lag.
const CATCH_UP: usize = 5_000;
/// Where fewer operations than one in so many call a script, it is not they who do.
const SCRIPTED_AT_MOST: f64 = 200.0;
/// Nothing is to be left out because this machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);
