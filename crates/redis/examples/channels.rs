//! What channels cost: `cargo run --release -p fanlight-redis --example channels`.
//!
//! A node subscribes to 100,000 channels at once, as after Redis was away, and publishes to a
//! thousand: through one server, through three that know nothing of each other, and through a
//! cluster of three, whose sharded pub/sub this crate uses. Beside that, the classic pub/sub of the
//! same cluster, which sends each publication to all of its nodes. Microseconds are of the CPU of
//! all servers together (`INFO cpu`), for one operation.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fanlight_engine::broker::{
    Broker, BrokerHealth, Delivery, DeliverySink, Full, Joined, Notice, PublishError, Published,
    WorkerId,
};
use fanlight_redis::{RedisBroker, RedisConfig};
use fanlight_testkit::{RedisCluster, RedisServer, channel, eventually, permit, publication};
use futures_util::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    println!("{:44}{:>10}{:>12}{:>10}", "", "per second", "Redis, us", "servers");
    let servers = [RedisServer::start()?, RedisServer::start()?, RedisServer::start()?];
    let one = [&servers[0]];
    measure("one server", &servers[0].url(), &one).await?;
    let urls = servers.each_ref().map(|server| server.address().to_string());
    let all: Vec<_> = servers.iter().collect();
    measure("three servers", &format!("redis-shards://{}", urls.join(",")), &all).await?;

    let cluster = RedisCluster::start(3, 0)?;
    let nodes: Vec<_> = (0..3).map(|index| cluster.node(index)).collect();
    measure("cluster, sharded", &cluster.url(), &nodes).await?;
    for (word, subscribe) in [("SPUBLISH", "SSUBSCRIBE"), ("PUBLISH", "SUBSCRIBE")] {
        bare(word, subscribe, &cluster, &nodes)?;
    }
    Ok(())
}

/// A broker of ours.
async fn measure(what: &str, url: &str, servers: &[&RedisServer]) -> anyhow::Result<()> {
    let sink = Arc::new(Arrived::default());
    let config = RedisConfig::parse_url(url)?;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let sinks: Vec<Arc<dyn DeliverySink>> = vec![sink.clone()];
    let broker = RedisBroker::start(config, sinks, tracker.clone(), shutdown.clone());
    eventually("healthy", || broker.health() == BrokerHealth::Healthy).await;

    let channels: Vec<_> = (0..STORM).map(|n| channel(&destination(n))).collect();
    let cost = Cost::begin(servers)?;
    let joins = channels.iter().map(|channel| broker.subscribe(WorkerId(0), channel));
    let joined = join_all(joins).await;
    ensure!(joined.iter().all(|joined| *joined == Joined::Live), "a channel was not joined");
    cost.end(&format!("{what}: subscribe, {STORM} at once"), STORM)?;

    let permits: Vec<_> = (0..BUSY).map(|n| permit(&destination(n))).collect();
    let cost = Cost::begin(servers)?;
    let mut under_way: VecDeque<BoxFuture<'static, Result<Published, PublishError>>> =
        VecDeque::new();
    for n in 0..PUBLICATIONS {
        if under_way.len() == WINDOW
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.await.context("a publication was refused")?;
        }
        let publication = publication(&destination(n % BUSY), vec![b'x'; BYTES]);
        under_way.push_back(broker.publish(permits[n % BUSY].clone(), publication));
    }
    for publishing in under_way {
        publishing.await.context("a publication was refused")?;
    }
    eventually("all arrived", || sink.0.load(Ordering::Relaxed) == PUBLICATIONS as u64).await;
    cost.end(&format!("{what}: publish and receive"), PUBLICATIONS)?;
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Commands alone, on one connection to each node; every channel has its subscriber on the node
/// that it is published to.
fn bare(
    publish: &str,
    subscribe: &str,
    cluster: &RedisCluster,
    servers: &[&RedisServer],
) -> anyhow::Result<()> {
    let mut batches = vec![(Vec::new(), 0); servers.len()];
    let mut subscriptions = vec![Vec::new(); servers.len()];
    for n in 0..BUSY {
        let name = format!("bare{n}");
        let at = cluster.master_of_slot(cluster.slot_of(&name)?)?;
        let (batch, publications) = &mut batches[at];
        *publications += 1;
        command(batch, &[publish, &name, &"x".repeat(BYTES)]);
        command(&mut subscriptions[at], &[subscribe, &name]);
    }
    let mut readers = Vec::new();
    for (server, subscriptions) in servers.iter().zip(&subscriptions) {
        let mut subscriber = connect(server.address())?;
        subscriber.write_all(subscriptions)?;
        readers
            .push(std::thread::spawn(move || std::io::copy(&mut subscriber, &mut std::io::sink())));
    }
    let mut publishers = Vec::new();
    for server in servers {
        publishers.push(connect(server.address())?);
    }
    let rounds = PUBLICATIONS / BUSY;
    let cost = Cost::begin(servers)?;
    for _ in 0..rounds {
        for (publisher, (batch, _)) in publishers.iter_mut().zip(&batches) {
            publisher.write_all(batch)?;
        }
        for (publisher, (_, publications)) in publishers.iter_mut().zip(&batches) {
            read_answers(publisher, *publications)?;
        }
    }
    cost.end(&format!("cluster, bare {publish}"), rounds * BUSY)
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn command(out: &mut Vec<u8>, words: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Reads so many integers.
fn read_answers(stream: &mut TcpStream, count: usize) -> anyhow::Result<()> {
    let (mut buffer, mut left) = (vec![0; 64 << 10], count);
    while left > 0 {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0 && !buffer[..read].contains(&b'-'), "a publication was refused");
        left -= buffer[..read].split(|byte| *byte == b'\n').count() - 1;
    }
    Ok(())
}

fn destination(n: usize) -> String {
    format!("/topic/channels/{n}")
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
    servers: &'s [&'s RedisServer],
    before: Vec<f64>,
    begun: Instant,
}

impl<'s> Cost<'s> {
    fn begin(servers: &'s [&'s RedisServer]) -> anyhow::Result<Self> {
        Ok(Self { servers, before: cpu_us(servers)?, begun: Instant::now() })
    }

    fn end(self, what: &str, count: usize) -> anyhow::Result<()> {
        let (elapsed, count) = (self.begun.elapsed(), count as f64);
        let each: Vec<_> = cpu_us(self.servers)?
            .iter()
            .zip(self.before)
            .map(|(after, before)| after - before)
            .collect();
        let (sum, most) = (each.iter().sum::<f64>(), each.iter().fold(0.0_f64, |a, b| a.max(*b)));
        let per_second = count / elapsed.as_secs_f64();
        println!("{what:44}{per_second:>10.0}{:>12.2}{:>10}", sum / count, self.servers.len());
        if elapsed < SECOND {
            println!("{:44}{:>10}", "", format!("in {elapsed:.0?}"));
        }
        let of_busiest = count / (most / 1e6);
        println!("{:44}{of_busiest:>10.0} a second take one core of the busiest server", "");
        Ok(())
    }
}

/// Of the main thread of each.
fn cpu_us(servers: &[&RedisServer]) -> anyhow::Result<Vec<f64>> {
    let field = |text: &str, field: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value =
            value.with_context(|| format!("{field} is missing; is this Redis 7 or later?"))?;
        value.trim().parse::<f64>().context("not a number")
    };
    let spent = |server: &&RedisServer| {
        let text = server.command("INFO cpu")?;
        let user = field(&text, "used_cpu_user_main_thread")?;
        Ok((user + field(&text, "used_cpu_sys_main_thread")?) * 1e6)
    };
    servers.iter().map(spent).collect()
}

const STORM: usize = 100_000;
const BUSY: usize = 1_000;
const PUBLICATIONS: usize = 500_000;
const WINDOW: usize = 1_000;
const BYTES: usize = 256;
const SECOND: Duration = Duration::from_secs(1);
