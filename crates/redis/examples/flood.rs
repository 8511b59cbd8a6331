//! How much one node carries through a Redis of its own: `cargo run --release --example flood`.
//!
//! Publishes 256-byte bodies to one subscribed channel, always with as many under way as given
//! (default 1000), and then at a steady rate, whose delivery times it reports.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::ensure;
use fanlight_engine::broker::{
    Broker, BrokerHealth, Delivery, DeliverySink, Full, Notice, PublishError, Published, WorkerId,
};
use fanlight_engine::policy::PublishPermit;
use fanlight_redis::{RedisBroker, RedisConfig};
use fanlight_testkit::{RedisServer, channel, eventually, permit, publication};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let window = std::env::args().nth(1).map_or(Ok(1000), |window| window.parse())?;
    let server = RedisServer::start()?;
    let sink = Arc::new(Latencies::new());
    let config = RedisConfig::parse_url(&server.url())?;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let sinks: Vec<Arc<dyn DeliverySink>> = vec![sink.clone()];
    let broker = RedisBroker::start(config, sinks, tracker.clone(), shutdown.clone());
    eventually("healthy", || broker.health() == BrokerHealth::Healthy).await;
    broker.subscribe(WorkerId(0), &channel(DESTINATION)).await;

    flood(&broker, &sink, window).await?;
    for per_second in [1_000, 10_000, 50_000] {
        pace(&broker, &sink, per_second).await?;
    }
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// As much as goes, with `window` publications under way.
async fn flood(broker: &RedisBroker, sink: &Latencies, window: usize) -> anyhow::Result<()> {
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    let mut under_way: VecDeque<BoxFuture<'static, Result<Published, PublishError>>> =
        VecDeque::new();
    sink.reset();
    for _ in 0..FLOOD {
        if under_way.len() == window
            && let Some(oldest) = under_way.pop_front()
        {
            ensure!(oldest.await.is_ok(), "a publication was refused");
        }
        under_way.push_back(publish(broker, sink.now_ns()));
    }
    for publishing in under_way {
        ensure!(publishing.await.is_ok(), "a publication was refused");
    }
    eventually("all arrived", || sink.received() == FLOOD).await;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let each = 1e6 / f64::from(u32::try_from(FLOOD)?);
    println!(
        "{window} under way: {:.0} published and received per second, {:.2} us of our CPU each",
        1e6 / (seconds * each),
        cpu * each
    );
    Ok(())
}

/// At a steady rate, whatever the answers: how long from the call to the delivery.
async fn pace(broker: &RedisBroker, sink: &Latencies, per_second: u64) -> anyhow::Result<()> {
    let publications = per_second * PACE_SECONDS;
    let (begun_ns, cpu) = (sink.now_ns(), cpu_seconds()?);
    sink.reset();
    let mut sent = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while sent < publications {
        tick.tick().await;
        let due = (sink.now_ns() - begun_ns) * per_second / 1_000_000_000;
        while sent < due.min(publications) {
            drop(publish(broker, sink.now_ns()));
            sent += 1;
        }
    }
    eventually("all arrived", || sink.received() == publications).await;
    let cpu = (cpu_seconds()? - cpu) * 1e6 / f64::from(u32::try_from(publications)?);
    let (median, high) = (sink.percentile_us(50), sink.percentile_us(99));
    println!(
        "{per_second} per second: p50 {median} us, p99 {high} us, {cpu:.2} us of our CPU each"
    );
    Ok(())
}

fn publish(
    broker: &RedisBroker,
    at_ns: u64,
) -> BoxFuture<'static, Result<Published, PublishError>> {
    static PERMIT: LazyLock<PublishPermit> = LazyLock::new(|| permit(DESTINATION));
    let mut body = vec![b'x'; 256];
    body[..8].copy_from_slice(&at_ns.to_le_bytes());
    broker.publish(PERMIT.clone(), publication(DESTINATION, body))
}

/// Counts deliveries by how long they took, in buckets of 10 us up to 1 s.
struct Latencies {
    epoch: Instant,
    buckets: Vec<AtomicU64>,
    received: AtomicU64,
}

impl Latencies {
    fn new() -> Self {
        let buckets = (0..100_000).map(|_| AtomicU64::new(0)).collect();
        Self { epoch: Instant::now(), buckets, received: AtomicU64::new(0) }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn reset(&self) {
        self.received.store(0, Ordering::Relaxed);
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn percentile_us(&self, percent: u64) -> usize {
        let rank = self.received() * percent / 100;
        let mut seen = 0;
        let found = self.buckets.iter().position(|bucket| {
            seen += bucket.load(Ordering::Relaxed);
            seen >= rank
        });
        found.unwrap_or(self.buckets.len()) * 10
    }
}

impl DeliverySink for Latencies {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        let now = self.now_ns();
        for publication in delivery.publications.iter() {
            let at = publication.body.first_chunk().map_or(now, |at| u64::from_le_bytes(*at));
            let bucket = (now.saturating_sub(at) / 10_000) as usize;
            let bucket = bucket.min(self.buckets.len() - 1);
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.received.fetch_add(delivery.publications.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn notify(&self, _notice: Notice) {}
}

/// User and system time of this process.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = fields[12].parse::<f64>()? + fields[13].parse::<f64>()?;
    Ok(ticks / 100.0)
}

const DESTINATION: &str = "/topic/flood";
const FLOOD: u64 = 1_000_000;
const PACE_SECONDS: u64 = 3;
