//! Commands against a real cluster whose slots move: each is executed once, and in order.

use std::sync::Arc;

use fanlight_engine::broker::BrokerHealth;
use fanlight_testkit::{RedisCluster, eventually};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::*;
use crate::command;
use crate::meters::Total;
use crate::names::{Kind, Names};
use crate::resp3::Value;
use crate::shards::Shards;

struct Node {
    shards: Arc<Shards>,
    names: Names,
    _shutdown: DropGuard,
}

impl Node {
    async fn ready(cluster: &RedisCluster) -> Self {
        let config = RedisConfig::parse_url(&cluster.url()).unwrap();
        // A loaded machine may take its time for a move.
        let config = RedisConfig { response_timeout: Duration::from_secs(20), ..config };
        let names = Names::new(&config.prefix);
        let shutdown = CancellationToken::new();
        let environment = Environment {
            config: Arc::new(config),
            names: names.clone(),
            sinks: Arc::new([]),
            tracker: TaskTracker::new(),
            shutdown: shutdown.clone(),
        };
        let shards = Arc::new(Shards::start(&environment));
        eventually("healthy", || shards.health() == BrokerHealth::Healthy).await;
        Self { shards, names, _shutdown: shutdown.drop_guard() }
    }

    fn key(&self, partition: Partition) -> Vec<u8> {
        self.names.key(partition, Kind("test"), "list")
    }

    /// Appends to a partition's list until told to stop; returns how many, all acknowledged.
    fn push_until(&self, partition: Partition, stop: CancellationToken) -> Pushing {
        let (shards, key) = (Arc::clone(&self.shards), self.key(partition));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut pushed = 0;
                while !stop.is_cancelled() {
                    let calls: Vec<_> = (0..50_u32)
                        .map(|_| {
                            pushed += 1;
                            let text = pushed.to_string();
                            shards.call(partition, |_| words(&[b"RPUSH", &key, text.as_bytes()]))
                        })
                        .collect();
                    for call in calls {
                        let answer = call.await;
                        assert!(matches!(answer, Ok(Value::Integer(_))), "{answer:?}");
                    }
                }
                pushed
            })
        })
    }

    async fn assert_pushed_once_and_in_order(&self, partition: Partition, pushed: u32) {
        let key = self.key(partition);
        let mut list = Vec::new();
        loop {
            let (from, to) = (list.len().to_string(), (list.len() + 999).to_string());
            let range = [&b"LRANGE"[..], &key, from.as_bytes(), to.as_bytes()];
            let range = self.shards.call(partition, |_| words(&range)).await;
            let Ok(Value::Array(page)) = range else { panic!("{range:?}") };
            if page.is_empty() {
                break;
            }
            list.extend(page.iter().map(|value| value.as_text().unwrap().parse::<u32>().unwrap()));
        }
        assert!(list.iter().copied().eq(1..=pushed), "{pushed} pushed: {list:?}");
    }
}

type Pushing = std::thread::JoinHandle<u32>;

fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    command::words(words, &mut out);
    out
}

async fn joined(pushing: Pushing) -> u32 {
    tokio::task::spawn_blocking(|| pushing.join()).await.unwrap().expect("a call was refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_executed_once_and_in_order_while_their_slot_moves_to_and_fro() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let node = Node::ready(&cluster).await;
    let partition = Partition(7);
    let stop = CancellationToken::new();
    let pushing = node.push_until(partition, stop.clone());
    for _ in 0..5 {
        let from = cluster.master_of_slot(partition.slot()).unwrap();
        cluster.migrate_slot(partition.slot(), 1 - from).unwrap();
    }
    stop.cancel();
    let pushed = joined(pushing).await;
    node.assert_pushed_once_and_in_order(partition, pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_new_in_a_slot_that_is_moving_is_made_where_it_moves_to() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let node = Node::ready(&cluster).await;
    let partition = Partition(200);
    let from = cluster.master_of_slot(partition.slot()).unwrap();
    cluster.begin_migration(partition.slot(), 1 - from).unwrap();
    let stop = CancellationToken::new();
    let pushing = node.push_until(partition, stop.clone());
    eventually("it is there", || {
        let keys = cluster.node(1 - from).call(&["DBSIZE"]).unwrap();
        keys.integer().unwrap() == 1
    })
    .await;
    cluster.finish_migration(partition.slot(), 1 - from).unwrap();
    stop.cancel();
    let pushed = joined(pushing).await;
    node.assert_pushed_once_and_in_order(partition, pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_a_planned_failover() {
    let cluster = RedisCluster::start(1, 1).unwrap();
    let node = Node::ready(&cluster).await;
    let partition = Partition(0);
    let stop = CancellationToken::new();
    let pushing = node.push_until(partition, stop.clone());
    for _ in 0..2 {
        let master = cluster.master_of_slot(partition.slot()).unwrap();
        cluster.failover(master).unwrap();
    }
    stop.cancel();
    let pushed = joined(pushing).await;
    node.assert_pushed_once_and_in_order(partition, pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_is_no_redirection_is_passed_on() {
    let cluster = RedisCluster::start(1, 0).unwrap();
    let node = Node::ready(&cluster).await;
    let answer = node.shards.call(Partition(0), |_| words(&[b"NOSUCHCOMMAND"])).await;
    let Ok(Value::Error(text)) = answer else { panic!("{answer:?}") };
    assert!(text.starts_with(b"ERR unknown command"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_and_slot_maps_are_counted() {
    let mut cluster = RedisCluster::start(2, 0).unwrap();
    let node = Node::ready(&cluster).await;
    let meters = &node.shards.cluster.as_ref().unwrap().meters;
    let redirected = || [&meters.moved, &meters.ask, &meters.down].map(Total::value);
    assert_eq!((redirected(), meters.map_changed.value()), ([0, 0, 0], 1));

    // Nothing tells the node of the first move before it calls.
    let push = async |partition: Partition| {
        let key = node.key(partition);
        let answer = node.shards.call(partition, |_| words(&[b"RPUSH", &key, b"a"])).await;
        assert_eq!(answer, Ok(Value::Integer(1)));
    };
    let moved = Partition(7);
    let from = cluster.master_of_slot(moved.slot()).unwrap();
    cluster.migrate_slot(moved.slot(), 1 - from).unwrap();
    push(moved).await;
    eventually("the new map is applied", || meters.map_changed.value() == 2).await;
    assert_eq!(redirected(), [1, 0, 0]);

    let moving = Partition(200);
    let from = cluster.master_of_slot(moving.slot()).unwrap();
    cluster.begin_migration(moving.slot(), 1 - from).unwrap();
    push(moving).await;
    assert_eq!(redirected(), [1, 1, 0]);
    assert_eq!(meters.map_changed.value(), 2);
    for index in [0, 1] {
        cluster.kill(index);
    }
    eventually("nobody can be asked", || meters.map_failed.value() > 0).await;
}

/// Adds to the numbers under two keys in one step, as our scripts do.
fn add_to_both(node: &Node, partition: Partition, number: u32) -> Vec<u8> {
    let [a, b] = ["a", "b"].map(|text| node.names.key(partition, Kind("test"), text));
    let number = number.to_string();
    words(&[b"MSET", &a, number.as_bytes(), &b, number.as_bytes()])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_keys_on_both_sides_of_a_move_waits_for_its_end_in_order() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let node = Node::ready(&cluster).await;
    for (partition, half) in [(Partition(3), true), (Partition(4), false)] {
        let [a, _] = ["a", "b"].map(|text| node.names.key(partition, Kind("test"), text));
        if half {
            let set = words(&[b"SET", &a, b"0"]);
            node.shards.call(partition, |_| set).await.unwrap();
        }
        let from = cluster.master_of_slot(partition.slot()).unwrap();
        cluster.begin_migration(partition.slot(), 1 - from).unwrap();
        let calls: Vec<_> = (1..=50)
            .map(|number| node.shards.call(partition, |_| add_to_both(&node, partition, number)))
            .collect();
        let refused = if half { from } else { 1 - from };
        eventually("it was refused again and again", || {
            let stats = cluster.node(refused).call(&["INFO", "errorstats"]).unwrap();
            let stats = stats.text().unwrap();
            let line =
                stats.lines().find_map(|line| line.strip_prefix("errorstat_TRYAGAIN:count="));
            line.is_some_and(|count| count.trim().parse::<u32>().unwrap() > 60)
        })
        .await;
        cluster.finish_migration(partition.slot(), 1 - from).unwrap();
        for call in calls {
            assert_eq!(call.await, Ok(Value::Simple("OK".into())));
        }
        let get = words(&[b"GET", &a]);
        assert_eq!(node.shards.call(partition, |_| get).await, Ok(Value::Bulk("50".into())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_at_a_master_that_has_no_partition_yet() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let all = Partition::all();
    for slot in all.map(Partition::slot).filter(|slot| cluster.master_of_slot(*slot).unwrap() == 1)
    {
        cluster.migrate_slot(slot, 0).unwrap();
    }
    let node = Node::ready(&cluster).await;
    let partition = Partition(9);
    cluster.begin_migration(partition.slot(), 1).unwrap();
    let stop = CancellationToken::new();
    let pushing = node.push_until(partition, stop.clone());
    eventually("it is there", || {
        cluster.node(1).call(&["DBSIZE"]).unwrap().integer().unwrap() == 1
    })
    .await;
    cluster.finish_migration(partition.slot(), 1).unwrap();
    stop.cancel();
    let pushed = joined(pushing).await;
    node.assert_pushed_once_and_in_order(partition, pushed).await;
}
