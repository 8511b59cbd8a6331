//! The contract of queues over memory and Redis, and what only Redis can show.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanlight_engine::broker::{Broker, MemoryBroker, PublishError};
use fanlight_engine::queue::{EntryId, Fetched, Queue, QueueError, Queues, Release};
use fanlight_redis::{Lease, NodeInfo, Reap, Reaper, RedisConfig, RedisQueues};
use fanlight_testkit::contract::Node;
use fanlight_testkit::contract::queue::{QueueHarness, QueueNode, queue};
use fanlight_testkit::{Inbox, RedisCluster, RedisSentinel, RedisServer, wall_clock};

use crate::lease::leased;
use crate::nodes::{RedisNode, config};

struct Memory;

impl QueueHarness for Memory {
    /// Two workers of one process.
    async fn nodes(&self) -> [QueueNode; 2] {
        let inboxes = [Inbox::new(), Inbox::new()];
        let broker = Arc::new(MemoryBroker::new(Node::sinks(&inboxes), wall_clock()));
        [0, 1].map(|worker| QueueNode {
            broker: Arc::clone(&broker) as Arc<dyn Broker>,
            queues: Arc::clone(&broker) as Arc<dyn Queues>,
            inbox: Arc::clone(&inboxes[usize::from(worker)]),
            worker,
        })
    }
}

/// Two nodes over the Redis processes `P`.
struct Redis<P> {
    config: RedisConfig,
    nodes: Mutex<Vec<RedisNode>>,
    server: P,
}

impl Redis<RedisServer> {
    fn start(options: &[&str]) -> Self {
        let server = RedisServer::start_with(options).unwrap();
        Self::over(&server.url(), server)
    }

    /// All keys of `/queue/a`.
    fn keys(&self) -> Vec<String> {
        let answer = self.server.command("KEYS fl:*:/queue/a").unwrap();
        answer.lines().filter(|line| line.starts_with("fl:")).map(str::to_owned).collect()
    }
}

impl Redis<RedisCluster> {
    fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).unwrap();
        Self::over(&cluster.url(), cluster)
    }
}

impl Redis<RedisSentinel> {
    fn sentinel() -> Self {
        let sentinel = RedisSentinel::start(1, 1).unwrap();
        Self::over(&sentinel.url(), sentinel)
    }
}

impl<P> Redis<P> {
    fn over(url: &str, server: P) -> Self {
        Self { config: config(url), nodes: Mutex::default(), server }
    }
}

impl<P> QueueHarness for Redis<P> {
    async fn nodes(&self) -> [QueueNode; 2] {
        let ann = RedisNode::ready(self.config.clone(), 1).await;
        let bob = RedisNode::ready(self.config.clone(), 1).await;
        let nodes = [queue_node(&ann), queue_node(&bob)];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

fn lease(node: &RedisNode) -> Arc<Lease> {
    let info = NodeInfo { name: "n".to_owned(), address: "a".to_owned(), started_unix_ms: 1 };
    Lease::start(&node.redis, info, &node.tracker, node.shutdown.clone())
}

fn queue_node(node: &RedisNode) -> QueueNode {
    let broker = Arc::clone(&node.redis);
    QueueNode {
        broker: Arc::clone(&broker) as Arc<dyn Broker>,
        queues: Arc::new(RedisQueues::new(broker, lease(node))),
        inbox: Arc::clone(&node.node.inboxes[0]),
        worker: 0,
    }
}

mod memory {
    fanlight_testkit::queue_contract!(super::Memory);
}

mod redis {
    fanlight_testkit::queue_contract!(super::Redis::start(&[]));
}

mod cluster {
    fanlight_testkit::queue_contract!(super::Redis::cluster());
}

mod sentinel {
    fanlight_testkit::queue_contract!(super::Redis::sentinel());
}

#[tokio::test]
async fn a_queue_with_nothing_in_it_takes_no_room() {
    let redis = Redis::start(&[]);
    let [ann, bob] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 100).await;
    loop {
        let fetched = bob.fetch(&queue, 30).await;
        if fetched.is_empty() {
            break;
        }
        let (refused, done) = fetched.split_at(fetched.len() / 3);
        bob.nack(&queue, refused).await;
        bob.ack(&queue, done).await;
        if fetched.len() < 3 {
            let rest = bob.fetch(&queue, 30).await;
            bob.ack(&queue, &rest).await;
        }
    }
    // Also of who holds something of it, and of dead letters.
    let held = redis.server.command("KEYS fl:*:q[xd]:*").unwrap();
    assert!(held.starts_with("*0"), "{held}");
    let left = redis.keys();
    let is_hungry = |key: &String| key.ends_with("}:qh:/queue/a");
    assert!(left.iter().all(is_hungry), "that somebody waits is forgotten by itself: {left:?}");
}

#[tokio::test]
async fn everything_is_there_after_a_restart_of_redis() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let [ann, bob] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 5).await;
    let held = ann.fetch(&queue, 3).await;
    ann.ack(&queue, &held[..1]).await;
    ann.nack(&queue, &held[1..2]).await;
    redis.server.kill();
    redis.server.launch().unwrap();
    while bob.queues.fetch(&queue, 0).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let fetched = bob.fetch(&queue, 64).await;
    let got: Vec<_> = fetched
        .iter()
        .map(|one| (String::from_utf8_lossy(&one.publication.body), one.delivery.count))
        .collect();
    assert_eq!(got, [("1".into(), 2), ("3".into(), 1), ("4".into(), 1)]);
}

#[tokio::test]
async fn nothing_is_accepted_or_delivered_while_redis_is_down() {
    let mut redis = Redis::start(&[]);
    let [ann, _] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    redis.server.kill();
    let published = loop {
        // The connection may break only now.
        match ann.publish(&queue, "x").await {
            Err(PublishError::Unknown) => {}
            other => break other,
        }
    };
    assert_eq!(published, Err(PublishError::Unavailable));
    assert_eq!(ann.queues.fetch(&queue, 1).await.unwrap_err(), QueueError::Unavailable);
    let ack = ann.queues.ack(&queue, &[EntryId::default()]).await;
    assert_eq!(ack, Err(QueueError::Unavailable));
}

#[tokio::test]
async fn what_others_put_into_a_queue_is_a_dead_letter() {
    let redis = Redis::start(&[]);
    let [ann, bob] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 1).await;
    let stream = redis.keys().into_iter().find(|key| key.ends_with("}:q:/queue/a")).unwrap();
    redis.server.command(&format!("XADD {stream} * e garbage")).unwrap();
    redis.server.command(&format!("XADD {stream} * other field")).unwrap();
    let fetched = bob.fetch(&queue, 5).await;
    let dead: Vec<_> = fetched.iter().map(|one| one.is_dead(&queue.options)).collect();
    assert_eq!(dead, [false, true, true]);
    bob.ack(&queue, &fetched).await;
    assert!(bob.fetch(&queue, 5).await.is_empty());
}

#[tokio::test]
async fn a_queue_that_nobody_uses_expires() {
    let redis = Redis::start(&[]);
    let [ann, _] = redis.nodes().await;
    let mut queue = queue("/queue/a", 5, 1000);
    queue.options.expires_after_ms = 100;
    ann.publish_numbers(&queue, 3).await;
    let fetched = ann.fetch(&queue, 2).await;
    ann.nack(&queue, &fetched).await;
    fanlight_testkit::eventually("nothing is left", || redis.keys().is_empty()).await;
    assert!(ann.fetch(&queue, 5).await.is_empty());
}

/// Of a queue whose keys are all there still: what a script needs is then on one side.
#[tokio::test]
async fn what_is_given_back_while_its_slot_moves_does_not_wait_for_the_move() {
    let redis = Redis::cluster();
    let [ann, bob] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 2).await;
    let fetched = bob.fetch(&queue, 2).await;
    bob.nack(&queue, &fetched[..1]).await;
    let cluster = &redis.server;
    let find = |node: usize| {
        let keys = cluster.node(node).call(&["KEYS", "fl:*:q:/queue/a"]).unwrap().array().unwrap();
        keys.into_iter().next().map(|key| (node, key.text().unwrap()))
    };
    let (from, stream) = (0..3).find_map(find).expect("somebody has the stream");
    let [hungry, dead] = [":qh:/queue/a", ":qd:"].map(|to| stream.replace(":q:/queue/a", to));
    cluster.node(from).call(&["SET", &hungry, ""]).unwrap();
    cluster.node(from).call(&["ZADD", &dead, "99999999999999", "1-1 /queue/b"]).unwrap();
    let slot = cluster.slot_of(&stream).unwrap();
    cluster.begin_migration(slot, (from + 1) % 3).unwrap();
    bob.nack(&queue, &fetched[1..]).await;
    cluster.finish_migration(slot, (from + 1) % 3).unwrap();
    let again = ann.fetch(&queue, 5).await;
    assert_eq!(again.iter().map(|one| one.delivery.count).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn a_consumer_is_its_nodes_lease_and_gives_back_also_what_it_held_under_the_former() {
    let redis = Redis::start(&[]);
    let [_, bob] = redis.nodes().await;
    let ann = RedisNode::ready(redis.config.clone(), 1).await;
    let lease = lease(&ann);
    let queues = RedisQueues::new(Arc::clone(&ann.redis), Arc::clone(&lease));
    let mut queue = queue("/queue/a", 5, 1000);
    queue.options.ack_timeout_ms = 3_600_000;
    bob.publish_numbers(&queue, 2).await;
    fanlight_testkit::eventually("ann has a lease", || lease.is_held()).await;
    let former = lease.owner();
    let fetched = queues.fetch(&queue, 2).await.unwrap().messages;
    let stream = redis.keys().into_iter().find(|key| key.ends_with("}:q:/queue/a")).unwrap();
    let consumers = redis.server.command(&format!("XINFO CONSUMERS {stream} fl")).unwrap();
    assert!(consumers.contains(&*former), "{consumers} has no {former}");
    lease.fence();
    fanlight_testkit::eventually("the next generation", || lease.owner() != former).await;
    let releases = [true, false].iter().zip(&fetched);
    let releases: Vec<_> = releases
        .map(|(&was_delivered, one)| Release { delivery: one.delivery, was_delivered })
        .collect();
    queues.release(&queue, &releases).await.unwrap();
    let counts: Vec<_> = bob.fetch(&queue, 2).await.iter().map(|one| one.delivery.count).collect();
    assert_eq!(counts, [2, 1]);
}

/// A node whose lease is short, and that reaps others.
struct Reaping {
    node: RedisNode,
    lease: Arc<Lease>,
    contract: QueueNode,
}

impl Reaping {
    async fn start(redis: &Redis<RedisServer>) -> Self {
        let node = RedisNode::ready(leased(&redis.server.url()), 1).await;
        let lease = lease(&node);
        let queues = Arc::new(RedisQueues::new(Arc::clone(&node.redis), Arc::clone(&lease)));
        let held = vec![Arc::clone(&queues) as Arc<dyn Reap>];
        Reaper::start(&lease, held, &node.tracker, node.shutdown.clone());
        fanlight_testkit::eventually("it has a lease", || lease.is_held()).await;
        let contract = QueueNode {
            broker: Arc::clone(&node.redis) as Arc<dyn Broker>,
            queues,
            inbox: Arc::clone(&node.node.inboxes[0]),
            worker: 0,
        };
        Self { node, lease, contract }
    }

    /// Fetches until all `count` have come.
    async fn fetch_all(&self, queue: &Queue, count: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while fetched.len() < count {
            assert!(Instant::now() < deadline, "{} of {count}", fetched.len());
            fetched.extend(self.contract.fetch(queue, 64).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fetched
    }
}

/// A queue that waits for an hour before it takes anything from anybody.
fn patient(name: &str) -> Queue {
    let mut queue = queue(name, 2, 1000);
    queue.options.ack_timeout_ms = 3_600_000;
    queue
}

#[tokio::test]
async fn what_a_dead_node_holds_is_released_when_its_lease_is_reaped() {
    let redis = Redis::start(&[]);
    let (ann, bob) = (Reaping::start(&redis).await, Reaping::start(&redis).await);
    let (queue, other) = (patient("/queue/a"), patient("/queue/b"));
    ann.contract.publish_numbers(&queue, 150).await;
    ann.contract.publish_numbers(&other, 1).await;
    let held = ann.fetch_all(&queue, 150).await;
    ann.contract.ack(&queue, &held[100..]).await;
    ann.fetch_all(&other, 1).await;
    bob.node.node.subscribe(0, "/queue/a").await;
    assert!(bob.contract.fetch(&queue, 1).await.is_empty());
    let dead = ann.lease.owner();
    drop(ann);
    let woken = || bob.contract.inbox.count() > 0;
    fanlight_testkit::eventually("who waits is woken", woken).await;
    let back = bob.fetch_all(&queue, 100).await;
    let expected: Vec<_> = held[..100].iter().map(|one| (one.delivery.entry, 2)).collect();
    let got: Vec<_> = back.iter().map(|one| (one.delivery.entry, one.delivery.count)).collect();
    assert_eq!(got, expected, "each once, in the order of publication");
    bob.fetch_all(&other, 1).await;
    fanlight_testkit::eventually("nothing is left of it", || {
        !redis.server.command("KEYS *").unwrap().contains(&*dead)
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_node_held_for_the_last_time_is_a_dead_letter() {
    let redis = Redis::start(&[]);
    let (ann, bob) = (Reaping::start(&redis).await, Reaping::start(&redis).await);
    let queue = patient("/queue/a");
    ann.contract.publish_numbers(&queue, 2).await;
    let first = ann.contract.fetch(&queue, 1).await;
    ann.contract.nack(&queue, &first).await;
    assert_eq!(ann.contract.fetch(&queue, 2).await.len(), 2);
    drop(ann);
    let mut dead = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while dead.is_empty() {
        assert!(Instant::now() < deadline, "no dead letter is named");
        for found in bob.contract.queues.dead().await.unwrap() {
            dead = bob.contract.queues.take_dead(&queue, &found.entries).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found: Vec<_> = dead.iter().map(|one| (one.delivery.entry, one.delivery.count)).collect();
    assert_eq!(found, [(first[0].delivery.entry, 3)]);
    assert_eq!(bob.fetch_all(&queue, 1).await[0].delivery.count, 2);
}

#[tokio::test]
async fn a_node_keeps_what_it_holds_under_the_next_generation_and_not_beyond_its_death() {
    let redis = Redis::start(&[]);
    let (ann, bob) = (Reaping::start(&redis).await, Reaping::start(&redis).await);
    let queue = patient("/queue/a");
    ann.contract.publish_numbers(&queue, 3).await;
    let held = ann.contract.fetch(&queue, 3).await;
    let former = ann.lease.owner();
    ann.lease.fence();
    fanlight_testkit::eventually("nothing is left of the former generation", || {
        let keys = redis.server.command("KEYS *").unwrap();
        let stream = redis.keys().into_iter().find(|key| key.contains("}:q:")).unwrap();
        let consumers = redis.server.command(&format!("XINFO CONSUMERS {stream} fl")).unwrap();
        ann.lease.owner() != former && !keys.contains(&*former) && !consumers.contains(&*former)
    })
    .await;
    assert!(bob.contract.fetch(&queue, 5).await.is_empty(), "ann has them");
    ann.contract.ack(&queue, &held[..1]).await;
    ann.contract.nack(&queue, &held[1..2]).await;
    let refused = bob.contract.fetch(&queue, 5).await;
    assert_eq!((refused[0].delivery.entry, refused.len()), (held[1].delivery.entry, 1));
    drop(ann);
    let last = bob.fetch_all(&queue, 1).await;
    assert_eq!((last[0].delivery.entry, last[0].delivery.count), (held[2].delivery.entry, 2));
}

#[tokio::test]
async fn without_enough_replicas_what_is_queued_is_unknown() {
    let mut redis = Redis::start(&[]);
    redis.config.min_replicas_ack = 1;
    redis.config.replica_ack_timeout = Duration::from_millis(50);
    let [ann, bob] = redis.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    assert_eq!(ann.publish(&queue, "x").await, Err(PublishError::Unknown));
    let fetched = bob.fetch(&queue, 1).await;
    assert_eq!(fetched.len(), 1, "it is there all the same");
    bob.ack(&queue, &fetched).await;
}
