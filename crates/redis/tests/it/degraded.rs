//! Redis down: what is kept nowhere still reaches this node's own subscribers, and says so.

use std::time::Duration;

use fanlight_engine::broker::{Joined, PublishError, Reach};
use fanlight_redis::RedisConfig;
use fanlight_testkit::{FaultProxy, RedisServer, eventually};
use futures_util::FutureExt;

use crate::nodes::{RedisNode, config, reach};

#[tokio::test]
async fn while_redis_is_down_this_nodes_subscribers_get_what_is_not_kept_in_order() {
    let server = RedisServer::stopped().unwrap();
    let ann = RedisNode::start(config(&server.url()), 2);
    ann.unhealthy("refused").await;
    for worker in [0, 1] {
        assert_eq!(ann.node.subscribe(worker, "/topic/a").await, Joined::Degraded);
    }
    let sent: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    for body in &sent {
        assert_eq!(reach(ann.node.publish("/topic/a", body.clone()).await), Ok(Reach::ThisNode));
        assert_eq!(reach(ann.node.publish("/topic/b", "nobody's").await), Ok(Reach::ThisNode));
    }
    for inbox in &ann.node.inboxes {
        assert_eq!(inbox.bodies("/topic/a"), sent);
        assert_eq!(inbox.count(), sent.len());
    }
    ann.node.unsubscribe(0, "/topic/a");
    ann.node.publish("/topic/a", "after it left").await.unwrap();
    assert_eq!(ann.node.inboxes[0].count(), sent.len());
    assert_eq!(ann.node.inboxes[1].count(), sent.len() + 1);
}

#[tokio::test]
async fn while_redis_hangs_who_joins_what_the_node_has_already_is_told_so_too() {
    let server = RedisServer::start().unwrap();
    // So that it is silence that tells, and no lost connection.
    let config = RedisConfig { keepalive: Duration::from_secs(60), ..config(&server.url()) };
    let ann = RedisNode::ready(config, 2).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    server.pause().unwrap();
    ann.unhealthy("").await;
    for worker in [0, 1] {
        assert_eq!(ann.node.subscribe(worker, "/topic/a").await, Joined::Degraded);
    }
    server.resume().unwrap();
    ann.healthy().await;
    eventually("it is known to be live", || {
        ann.node.subscribe(1, "/topic/a").now_or_never() == Some(Joined::Live)
    })
    .await;
    ann.accepted_again("/topic/a", "x").await;
    for inbox in &ann.node.inboxes {
        eventually("it arrived", || inbox.count() > 0).await;
    }
}

#[tokio::test]
async fn what_is_kept_fails_while_redis_is_down() {
    let server = RedisServer::stopped().unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    ann.unhealthy("refused").await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Degraded);
    let refused = Err(PublishError::Unavailable);
    assert_eq!(ann.node.publish_kept("/topic/a", "x").await, refused);
    assert_eq!(ann.node.publish_once("/topic/a", "x", "key").await, refused);
    assert_eq!(ann.node.inboxes[0].count(), 0);
}

#[tokio::test]
async fn what_may_have_been_published_is_not_delivered_again() {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let ann = RedisNode::ready(config(&format!("redis://{}", proxy.address())), 1).await;
    let bob = RedisNode::ready(config(&server.url()), 1).await;
    for node in [&ann, &bob] {
        assert_eq!(node.node.subscribe(0, "/topic/a").await, Joined::Live);
    }
    proxy.hold_answers(true);
    let publishing = ann.node.publish("/topic/a", "x");
    eventually("Redis has it", || bob.node.inboxes[0].count() == 1).await;
    assert_eq!(publishing.await, Err(PublishError::Unknown));
    assert_eq!(ann.node.inboxes[0].count(), 0, "its own would come through Redis");
}

#[tokio::test]
async fn when_redis_is_back_publications_go_to_all_again() {
    let mut server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let bob = RedisNode::ready(config(&server.url()), 1).await;
    for node in [&ann, &bob] {
        assert_eq!(node.node.subscribe(0, "/topic/a").await, Joined::Live);
    }
    server.kill();
    eventually("ann is alone", || {
        let published = ann.node.publish("/topic/a", "alone").now_or_never();
        published.map(reach) == Some(Ok(Reach::ThisNode))
    })
    .await;
    ann.unhealthy("refused").await;
    bob.unhealthy("refused").await;
    assert_eq!(ann.node.inboxes[0].bodies("/topic/a"), ["alone"]);
    assert_eq!(bob.node.inboxes[0].count(), 0);
    server.launch().unwrap();
    for node in [&ann, &bob] {
        node.healthy().await;
        assert_eq!(node.node.subscribe(0, "/topic/a").await, Joined::Live);
    }
    ann.accepted_again("/topic/a", "together").await;
    eventually("it arrived", || bob.node.inboxes[0].count() == 1).await;
    assert_eq!(bob.node.inboxes[0].bodies("/topic/a"), ["together"]);
    eventually("its own too", || {
        ann.node.inboxes[0].bodies("/topic/a").last().is_some_and(|body| body == "together")
    })
    .await;
}
