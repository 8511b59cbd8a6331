//! What keeping publications costs Redis: `cargo run --release --example history`.
//!
//! Publishes 256-byte bodies over 1,000 destinations with and without history, one at a time and
//! with many under way, then reads pages; reports Redis' own CPU time for each, from `INFO cpu`.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use fanlight_engine::broker::{Broker, BrokerHealth, PublishError, Published};
use fanlight_engine::history::{History, HistoryQuery, HistoryRange, IdempotencyKey};
use fanlight_engine::policy::PublishPermit;
use fanlight_redis::{RedisBroker, RedisConfig};
use fanlight_testkit::{RedisServer, channel, eventually, permit_in, publication};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let server = RedisServer::start()?;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let config = RedisConfig::parse_url(&server.url())?;
    let broker = RedisBroker::start(config, Vec::new(), tracker.clone(), shutdown.clone());
    eventually("healthy", || broker.health() == BrokerHealth::Healthy).await;

    for (window, count) in [(1, 10_000), (128, 100_000), (1000, 100_000)] {
        for (what, history, keyed) in [
            ("plain", None, false),
            ("history", Some(HISTORY), false),
            ("key", None, true),
            ("history, key", Some(HISTORY), true),
        ] {
            let names = (0..DESTINATIONS).map(|number| format!("/topic/orders.{number}"));
            let permits: Vec<_> = names.map(|name| permit_in(&name, false, history)).collect();
            let cost = Cost::begin(&server)?;
            publish(&broker, &permits, window, count, keyed).await?;
            cost.end(&format!("publish, {what}, {window} under way"), count)?;
        }
    }
    for limit in [0, 10, 100] {
        let cost = Cost::begin(&server)?;
        read(&broker, limit).await?;
        cost.end(&format!("read {limit} publications"), READS)?;
    }
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// With `window` publications under way.
async fn publish(
    broker: &RedisBroker,
    permits: &[PublishPermit],
    window: usize,
    count: usize,
    keyed: bool,
) -> anyhow::Result<()> {
    let body = Bytes::from_static(&[b'x'; 256]);
    let mut under_way: VecDeque<BoxFuture<'static, Result<Published, PublishError>>> =
        VecDeque::new();
    for permit in permits.iter().cycle().take(count) {
        if under_way.len() == window
            && let Some(oldest) = under_way.pop_front()
        {
            ensure!(oldest.await.is_ok(), "a publication was refused");
        }
        let publication = publication(permit.destination().as_str(), body.clone());
        under_way.push_back(if keyed {
            let key = IdempotencyKey::new(publication.id.to_string());
            broker.publish_once(permit.clone(), publication, key)
        } else {
            broker.publish(permit.clone(), publication)
        });
    }
    for publishing in under_way {
        ensure!(publishing.await.is_ok(), "a publication was refused");
    }
    Ok(())
}

async fn read(broker: &RedisBroker, limit: u32) -> anyhow::Result<()> {
    for number in 0..READS {
        let name = format!("/topic/orders.{}", number % DESTINATIONS);
        let page = broker.history(HistoryQuery {
            channel: channel(&name),
            destination: name.parse()?,
            history: HISTORY,
            range: HistoryRange::Newest,
            limit,
        });
        ensure!(page.await?.publications.len() == limit as usize, "a page is too short");
    }
    Ok(())
}

/// What a part of the run takes.
struct Cost<'s> {
    server: &'s RedisServer,
    cpu_seconds: f64,
    begun: Instant,
}

impl<'s> Cost<'s> {
    fn begin(server: &'s RedisServer) -> anyhow::Result<Self> {
        Ok(Self { server, cpu_seconds: cpu_seconds(server)?, begun: Instant::now() })
    }

    fn end(self, what: &str, count: usize) -> anyhow::Result<()> {
        let each = 1e6 / f64::from(u32::try_from(count)?);
        let cpu = (cpu_seconds(self.server)? - self.cpu_seconds) * each;
        let wall = self.begun.elapsed().as_secs_f64() * each;
        println!("{what:40} {cpu:6.2} us of Redis' CPU each, {wall:6.2} us in all");
        Ok(())
    }
}

/// User and system time of Redis' main thread.
fn cpu_seconds(server: &RedisServer) -> anyhow::Result<f64> {
    let info = server.command("INFO cpu")?;
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        anyhow::Ok(value.context("Redis 7 or later is needed")?.parse::<f64>()?)
    };
    Ok(field("used_cpu_user_main_thread")? + field("used_cpu_sys_main_thread")?)
}

const HISTORY: History = History { size: 100, ttl_ms: 60_000 };
const DESTINATIONS: usize = 1000;
const READS: usize = 5000;
