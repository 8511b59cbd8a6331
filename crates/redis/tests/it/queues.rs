//! The contract of queues over memory and Redis, and what only Redis can show.

use std::sync::{Arc, Mutex};

use fanlight_engine::broker::{Broker, MemoryBroker, PublishError};
use fanlight_engine::queue::{EntryId, QueueError, Queues};
use fanlight_testkit::contract::Node;
use fanlight_testkit::contract::queue::{QueueHarness, QueueNode, queue};
use fanlight_testkit::{Inbox, RedisServer, wall_clock};

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

struct Redis {
    server: RedisServer,
    nodes: Mutex<Vec<RedisNode>>,
}

impl Redis {
    fn start(options: &[&str]) -> Self {
        Self { server: RedisServer::start_with(options).unwrap(), nodes: Mutex::default() }
    }

    fn keys(&self) -> Vec<String> {
        let answer = self.server.command("KEYS *").unwrap();
        answer.lines().filter(|line| line.starts_with("fl:")).map(str::to_owned).collect()
    }
}

impl QueueHarness for Redis {
    async fn nodes(&self) -> [QueueNode; 2] {
        let ann = RedisNode::ready(config(&self.server.url()), 1).await;
        let bob = RedisNode::ready(config(&self.server.url()), 1).await;
        let nodes = [queue_node(&ann), queue_node(&bob)];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

fn queue_node(node: &RedisNode) -> QueueNode {
    QueueNode {
        broker: Arc::clone(&node.redis) as Arc<dyn Broker>,
        queues: Arc::clone(&node.redis) as Arc<dyn Queues>,
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
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
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
    let left = || redis.server.command("DBSIZE").unwrap();
    fanlight_testkit::eventually("nothing is left", || left().starts_with(":0")).await;
    assert!(ann.fetch(&queue, 5).await.is_empty());
}
