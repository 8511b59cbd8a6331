//! What Redis adds to the contract of idempotency keys: their window, and hostile texts.

use fanlight_engine::broker::{PublishError, Published, Reach};
use fanlight_engine::history::IdempotencyKey;
use fanlight_testkit::{RedisServer, eventually, permit, publication};

use crate::nodes::{RedisNode, config, reach};

#[tokio::test]
async fn a_key_is_remembered_for_its_window_and_no_longer() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let first = ann.node.publish_once("/topic/a", "x", "key").await.unwrap();
    let keys = keys(&server);
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    let left = server.command(&format!("PTTL {key}")).unwrap();
    let left: u64 = left[1..].lines().next().unwrap().parse().unwrap();
    let window = IdempotencyKey::WINDOW_MS;
    assert!((window - 60_000..=window).contains(&left), "{left}");
    server.command(&format!("DEL {key}")).unwrap();
    let second = ann.node.publish_once("/topic/a", "x", "key").await.unwrap();
    assert_eq!(second.reach, Reach::Cluster);
    assert_ne!(second.id, first.id);
}

#[tokio::test]
async fn whatever_its_text_a_key_is_short_and_can_be_no_other_kind_of_key() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let long = "x".repeat(1 << 20);
    for text in ["", " ", "\r\n", "{0}", "fl:{111}:hm:/topic/a", "*", "\0", "ä", &long] {
        let published = ann.node.publish_once("/topic/a", "x", text).await;
        assert_eq!(reach(published), Ok(Reach::Cluster), "{:.20}", text.escape_debug());
    }
    let keys = keys(&server);
    assert_eq!(keys.len(), 9);
    assert!(keys.iter().all(|key| key.len() == "fl:{111}:once:".len() + 40), "{keys:?}");
}

#[tokio::test]
async fn a_publication_with_a_key_stays_nowhere_while_redis_is_down_as_it_can_be_repeated() {
    let server = RedisServer::stopped().unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    ann.unhealthy("refused").await;
    let key = IdempotencyKey::new("key");
    let publishing =
        ann.node.broker.publish_once(permit("/topic/a"), publication("/topic/a", "x"), key);
    assert_eq!(publishing.await, Err(PublishError::Unavailable));
}

#[tokio::test]
async fn what_redis_has_no_room_for_is_delivered_to_nobody_and_published_when_there_is() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    ann.node.subscribe(0, "/topic/a").await;
    server.command("CONFIG SET maxmemory 1").unwrap();
    for _ in 0..3 {
        let refused = once(&ann, "x").await;
        assert_eq!(refused, Err(PublishError::Unavailable));
    }
    server.command("CONFIG SET maxmemory 0").unwrap();
    assert_eq!(reach(once(&ann, "y").await), Ok(Reach::Cluster));
    eventually("it arrived", || ann.node.inboxes[0].count() > 0).await;
    assert_eq!(ann.node.inboxes[0].bodies("/topic/a"), ["y"]);
}

#[tokio::test]
async fn a_key_is_not_remembered_of_what_could_not_be_published() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    server.command("ACL SETUSER default -publish").unwrap();
    let refused = once(&ann, "x").await;
    assert_eq!(refused, Err(PublishError::Unavailable));
    assert_eq!(keys(&server), [""; 0]);
    server.command("ACL SETUSER default +publish").unwrap();
    assert_eq!(reach(once(&ann, "x").await), Ok(Reach::Cluster));
}

/// Publishes under one and the same key, where nothing is kept.
async fn once(node: &RedisNode, body: &'static str) -> Result<Published, PublishError> {
    let key = IdempotencyKey::new("key");
    node.node.broker.publish_once(permit("/topic/a"), publication("/topic/a", body), key).await
}

/// The idempotency keys that Redis has.
fn keys(server: &RedisServer) -> Vec<String> {
    let answer = server.command("KEYS fl:{111}:once:*").unwrap();
    answer.lines().filter(|line| line.starts_with("fl:")).map(str::to_owned).collect()
}
