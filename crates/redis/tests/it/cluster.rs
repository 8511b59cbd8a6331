//! Redis Cluster: masters that die, stop or give slots away, and nothing subscribed is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanlight_engine::broker::{BrokerHealth, Joined, Reach};
use fanlight_redis::RedisConfig;
use fanlight_testkit::{RedisCluster, RedisServer, Reply, eventually};

use crate::nodes::{RedisNode, config};

const CHANNELS: usize = 300;

fn name(number: usize) -> String {
    format!("/topic/{number}")
}

async fn subscribed(url: &str) -> [RedisNode; 2] {
    let ann = RedisNode::ready(config(url), 1).await;
    let bob = RedisNode::ready(config(url), 1).await;
    for number in 0..CHANNELS {
        assert_eq!(bob.node.subscribe(0, &name(number)).await, Joined::Live);
    }
    [ann, bob]
}

/// Publishes to each channel until it arrives.
async fn all_deliver(ann: &RedisNode, bob: &RedisNode) {
    for number in 0..CHANNELS {
        let name = name(number);
        let before = bob.node.inboxes[0].bodies(&name).len();
        eventually("it arrives", || {
            drop(ann.node.publish(&name, "y"));
            bob.node.inboxes[0].bodies(&name).len() > before
        })
        .await;
    }
}

/// How many of our channels are subscribed at a node.
fn subscribed_at(server: &RedisServer) -> usize {
    let found = server.call(&["PUBSUB", "SHARDCHANNELS", "fl:*:c:*"]);
    found.and_then(Reply::array).map_or(0, |found| found.len())
}

#[tokio::test]
async fn channels_are_spread_over_the_masters_and_leave_them_after_the_linger() {
    let cluster = RedisCluster::start(3, 0).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    let counts: Vec<_> = (0..3).map(|node| subscribed_at(cluster.node(node))).collect();
    assert_eq!(counts.iter().sum::<usize>(), CHANNELS);
    assert!(counts.iter().all(|count| *count > CHANNELS / 6), "{counts:?}");
    for number in 0..CHANNELS {
        ann.node.accepted(&name(number), "x").await;
    }
    eventually("all arrived", || bob.node.inboxes[0].count() == CHANNELS).await;
    for number in 0..CHANNELS {
        bob.node.unsubscribe(0, &name(number));
    }
    eventually("all left", || (0..3).all(|node| subscribed_at(cluster.node(node)) == 0)).await;
    assert_eq!(bob.redis_health(), BrokerHealth::Healthy);
}

#[tokio::test]
async fn one_seed_is_enough_also_if_others_are_dead() {
    let cluster = RedisCluster::start(3, 0).unwrap();
    let dead = RedisServer::stopped().unwrap();
    let url = format!("redis-cluster://{},{}", dead.address(), cluster.endpoints()[2]);
    let [ann, bob] = subscribed(&url).await;
    all_deliver(&ann, &bob).await;
}

#[tokio::test]
async fn a_killed_masters_replica_takes_over_with_all_subscriptions() {
    let mut cluster = RedisCluster::start(3, 1).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    let new = cluster.promote_by_killing(0).unwrap();
    all_deliver(&ann, &bob).await;
    ann.healthy().await;
    bob.healthy().await;
    assert!(subscribed_at(cluster.node(new)) > CHANNELS / 6);
    assert!(!bob.node.inboxes[0].notices().is_empty(), "they are suspect after the gap");
}

#[tokio::test]
async fn a_paused_masters_replica_takes_over_and_keeps_all_when_it_wakes_up() {
    let cluster = RedisCluster::start(3, 1).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    cluster.pause(0).unwrap();
    let new = cluster.wait_for_takeover(0).unwrap();
    all_deliver(&ann, &bob).await;
    cluster.resume(0).unwrap();
    cluster.wait_until_settled().unwrap();
    all_deliver(&ann, &bob).await;
    bob.healthy().await;
    eventually("nobody is left at the old one", || subscribed_at(cluster.node(0)) == 0).await;
    assert!(subscribed_at(cluster.node(new)) > CHANNELS / 6);
}

#[tokio::test]
async fn a_planned_failover_refuses_no_publication_and_keeps_their_order() {
    let cluster = RedisCluster::start(3, 1).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    let flow = Flow::start(ann);
    for master in 0..3 {
        cluster.failover(master).unwrap();
    }
    let ann = flow.stop().await;
    all_deliver(&ann, &bob).await;
    ann.healthy().await;
    assert_in_order(&bob);
}

#[tokio::test]
async fn slots_migrate_while_publishing_and_no_subscription_is_lost() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    let flow = Flow::start(ann);
    for number in 0..12 {
        let channel = name(number);
        let slot = slot_of(&cluster, &channel);
        let from = cluster.master_of_slot(slot).unwrap();
        cluster.migrate_slot(slot, 1 - from).unwrap();
    }
    let ann = flow.stop().await;
    all_deliver(&ann, &bob).await;
    ann.healthy().await;
    bob.healthy().await;
    let subscribed: usize = (0..2).map(|node| subscribed_at(cluster.node(node))).sum();
    assert_eq!(subscribed, CHANNELS);
    assert_in_order(&bob);
    assert!(!bob.node.inboxes[0].notices().is_empty(), "they are suspect after the gap");
}

#[tokio::test]
async fn positions_have_no_gap_in_their_epoch_while_their_slot_moves_to_and_fro() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    // A loaded machine may take its time for a move.
    let response_timeout = Duration::from_secs(20);
    let ann = RedisConfig { response_timeout, ..config(&cluster.url()) };
    let ann = RedisNode::ready(ann, 1).await;
    assert_eq!(ann.node.subscribe(0, &name(0)).await, Joined::Live);
    let slot = slot_of(&cluster, &name(0));
    let accepted = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&accepted);
    let migrating = std::thread::spawn(move || {
        for moves in 1..=4 {
            let from = cluster.master_of_slot(slot).unwrap();
            cluster.migrate_slot(slot, 1 - from).unwrap();
            let before = seen.load(Ordering::Relaxed);
            let begun = Instant::now();
            while seen.load(Ordering::Relaxed) < before + 50 {
                assert!(begun.elapsed() < Duration::from_secs(20), "stuck after move {moves}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        cluster
    });
    let mut positions = Vec::new();
    while !migrating.is_finished() {
        let publishing: Vec<_> = (0..20).map(|_| ann.node.publish_kept(&name(0), "x")).collect();
        for publishing in publishing {
            let published = publishing.await.expect("it waits while its keys are on both sides");
            positions.push(published.position.unwrap());
        }
        accepted.store(positions.len(), Ordering::Relaxed);
    }
    let _cluster = migrating.join().unwrap();
    let epochs = positions.chunk_by(|one, next| one.epoch == next.epoch).count();
    assert!((4..=5).contains(&epochs), "another master is another epoch, but there are {epochs}");
    let offsets = positions.iter().map(|position| position.offset);
    assert!(offsets.eq(1..=positions.len() as u64), "{positions:?}");
}

#[tokio::test]
async fn a_master_without_slots_is_left_and_a_new_one_is_found() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let [ann, bob] = subscribed(&cluster.url()).await;
    let ids: Vec<_> = (0..2)
        .map(|node| cluster.node(node).call(&["CLUSTER", "MYID"]).unwrap().text().unwrap())
        .collect();
    for slot in 0..8192_u16 {
        let slot = slot.to_string();
        for node in [1, 0] {
            let words = ["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]];
            cluster.node(node).call(&words).unwrap().ok().unwrap();
        }
    }
    all_deliver(&ann, &bob).await;
    eventually("all are at the other one", || subscribed_at(cluster.node(1)) == CHANNELS).await;
    eventually("no connection is left", || {
        let clients = cluster.node(0).call(&["CLIENT", "LIST"]).unwrap().text().unwrap();
        !clients.contains("fanlight-sub") && !clients.contains("fanlight-pub")
    })
    .await;
    bob.healthy().await;
    let slot = slot_of(&cluster, &name(0));
    cluster.migrate_slot(slot, 0).unwrap();
    all_deliver(&ann, &bob).await;
    eventually("it is at the first again", || subscribed_at(cluster.node(0)) > 0).await;
}

#[tokio::test]
async fn slots_without_a_master_are_said_and_refuse_and_come_back() {
    let cluster = RedisCluster::start(1, 0).unwrap();
    let ann = RedisNode::ready(config(&cluster.url()), 1).await;
    assert_eq!(ann.node.subscribe(0, &name(0)).await, Joined::Live);
    let slot = slot_of(&cluster, &name(0)).to_string();
    cluster.node(0).call(&["CLUSTER", "DELSLOTS", &slot]).unwrap().ok().unwrap();
    ann.unhealthy("1 of 256 partitions have no master").await;
    assert_eq!(ann.node.publish(&name(0), "x").await.unwrap().reach, Reach::ThisNode);
    cluster.node(0).call(&["CLUSTER", "ADDSLOTS", &slot]).unwrap().ok().unwrap();
    ann.healthy().await;
    let before = ann.node.inboxes[0].count();
    eventually("it delivers again", || {
        drop(ann.node.publish(&name(0), "y"));
        ann.node.inboxes[0].count() > before
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_is_down_at_the_start_is_said_clearly_and_found_later() {
    let mut cluster = RedisCluster::start(1, 0).unwrap();
    cluster.kill(0);
    let ann = RedisNode::start(config(&cluster.url()), 1);
    ann.unhealthy("connection refused; retrying; check that it is running").await;
    let joining = ann.node.subscribe(0, &name(0));
    assert_eq!(ann.node.publish(&name(0), "x").await.unwrap().reach, Reach::ThisNode);
    cluster.launch(0).unwrap();
    assert_eq!(joining.await, Joined::Live);
    ann.healthy().await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_said_to_be_none() {
    let server = RedisServer::start().unwrap();
    let url = server.url().replace("redis:", "redis-cluster:");
    let ann = RedisNode::start(config(&url), 1);
    ann.unhealthy("cluster").await;
}

/// The slot of a channel that is subscribed; what is in braces in its name there decides.
fn slot_of(cluster: &RedisCluster, destination: &str) -> u16 {
    let wire = (0..cluster.endpoints().len()).find_map(|node| {
        let server = cluster.node(node);
        let found = server.call(&["PUBSUB", "SHARDCHANNELS", "fl:*:c:*"]).ok()?.array().ok()?;
        let mut found = found.into_iter().filter_map(|name| name.text().ok());
        found.find(|name| name.ends_with(&format!(":c:{destination}")))
    });
    cluster.slot_of(wire.expect("it is subscribed")).unwrap()
}

/// Publishes increasing numbers to all channels until it is stopped; nothing may be refused.
struct Flow {
    stopped: Arc<AtomicBool>,
    running: std::thread::JoinHandle<RedisNode>,
}

impl Flow {
    fn start(ann: RedisNode) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let refused = Arc::new(Mutex::new(Vec::new()));
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let publishing: Vec<_> = (0..CHANNELS)
                        .map(|channel| ann.node.publish(&name(channel), format!("{number}")))
                        .collect();
                    for publishing in publishing {
                        let result = publishing.await.map(|published| published.reach);
                        if result != Ok(Reach::Cluster) {
                            refused.lock().unwrap().push(result);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            let refused = refused.lock().unwrap();
            assert!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused[0]);
            drop(refused);
            ann
        });
        Self { stopped, running }
    }

    async fn stop(self) -> RedisNode {
        self.stopped.store(true, Ordering::Relaxed);
        let running = tokio::task::spawn_blocking(|| self.running.join());
        running.await.unwrap().expect("publishing failed")
    }
}

/// Nothing overtook anything.
fn assert_in_order(bob: &RedisNode) {
    for channel in 0..CHANNELS {
        let bodies = bob.node.inboxes[0].bodies(&name(channel));
        let text = |body: &bytes::Bytes| std::str::from_utf8(body).unwrap().parse::<u64>().ok();
        let numbers: Vec<_> = bodies.iter().filter_map(text).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{}: {numbers:?}", name(channel));
    }
}
