//! Redis that is down, killed, stopped or cut off: no false acknowledgement, and all comes back.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::{BrokerHealth, Joined, PublishError, Reach};
use fanlight_testkit::{FaultProxy, RedisServer, eventually};

use crate::nodes::{RedisNode, config, reach};

#[tokio::test]
async fn redis_down_at_start_is_said_clearly_and_mended_by_its_start() {
    let mut server = RedisServer::stopped().unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    let expected = format!(
        "Redis at {}: connection refused; retrying; \
         check that it is running and that the configured URL is right",
        server.address()
    );
    eventually("the health says so", || {
        ann.node.broker.health() == BrokerHealth::Unhealthy(expected.clone())
    })
    .await;
    assert_eq!(reach(ann.node.publish("/topic/a", "lost").await), Ok(Reach::ThisNode));
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Degraded);
    server.launch().unwrap();
    ann.healthy().await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    ann.node.accepted("/topic/a", "found").await;
    eventually("it arrived", || ann.node.inboxes[0].count() > 0).await;
    assert_eq!(ann.node.inboxes[0].bodies("/topic/a"), ["found"]);
}

#[tokio::test]
async fn after_a_kill_everything_is_subscribed_again_and_no_acknowledgement_was_false() {
    const CHANNELS: usize = 1500;
    let mut server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let bob = RedisNode::ready(config(&server.url()), 1).await;
    let name = |number: usize| format!("/topic/{number}");
    for number in 0..CHANNELS {
        let joined = bob.node.subscribe(0, &name(number));
        if number + 1 == CHANNELS {
            assert_eq!(joined.await, Joined::Live);
        }
    }
    server.kill();
    eventually("publishing fails", || {
        let publishing = ann.node.publish("/topic/0", "lost");
        let published = futures_util::FutureExt::now_or_never(publishing);
        published.map(reach) == Some(Ok(Reach::ThisNode))
    })
    .await;
    ann.unhealthy("check that it is running").await;
    assert_eq!(bob.node.inboxes[0].count(), 0, "something was delivered that Redis never had");

    server.launch().unwrap();
    ann.healthy().await;
    bob.healthy().await;
    for number in 0..CHANNELS {
        assert_eq!(bob.node.subscribe(0, &name(number)).await, Joined::Live);
    }
    for number in 0..CHANNELS {
        ann.node.accepted(&name(number), "x").await;
    }
    eventually("all channels deliver again", || bob.node.inboxes[0].count() == CHANNELS).await;
}

#[tokio::test]
async fn what_was_accepted_while_redis_dies_again_and_again_was_delivered() {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let ann = RedisNode::ready(config(&format!("redis://{}", proxy.address())), 1).await;
    let bob = RedisNode::ready(config(&server.url()), 1).await;
    assert_eq!(bob.node.subscribe(0, "/topic/a").await, Joined::Live);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 0..20 {
        ann.accepted_again("/topic/b", "round").await;
        let publishing: Vec<_> = (0..600)
            .map(|number| {
                let body = Bytes::from(format!("{round} {number}"));
                (body.clone(), ann.node.publish("/topic/a", body))
            })
            .collect();
        for (number, (body, publishing)) in publishing.into_iter().enumerate() {
            match reach(publishing.await) {
                Ok(Reach::Cluster) => accepted.push(body),
                _ => refused += 1,
            }
            if number == 0 {
                // Others are on their way meanwhile, and still others are queued.
                proxy.cut();
            }
        }
    }
    assert!(accepted.len() >= 20 && refused > 0, "{} and {refused}", accepted.len());
    ann.accepted_again("/topic/a", "back").await;
    eventually("the last arrived", || {
        bob.node.inboxes[0].bodies("/topic/a").contains(&Bytes::from_static(b"back"))
    })
    .await;
    let delivered: HashSet<_> = bob.node.inboxes[0].bodies("/topic/a").into_iter().collect();
    let missing: Vec<_> = accepted.iter().filter(|body| !delivered.contains(*body)).collect();
    assert!(missing.is_empty(), "acknowledged, but never published: {missing:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_between_the_publish_and_its_answer_leaves_it_unknown() {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let mut patient = config(&format!("redis://{}", proxy.address()));
    patient.response_timeout = Duration::from_secs(60);
    let ann = RedisNode::ready(patient, 1).await;
    let bob = RedisNode::ready(config(&server.url()), 1).await;
    assert_eq!(bob.node.subscribe(0, "/topic/a").await, Joined::Live);
    proxy.hold_answers(true);
    let publishing = ann.node.publish("/topic/a", "x");
    eventually("it was published", || bob.node.inboxes[0].count() == 1).await;
    proxy.cut();
    assert_eq!(publishing.await, Err(PublishError::Unknown));
    proxy.hold_answers(false);
    ann.accepted_again("/topic/a", "y").await;
}

#[tokio::test]
async fn no_answer_in_time_is_unknown_and_a_join_without_confirmation_is_degraded() {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let mut config = config(&format!("redis://{}", proxy.address()));
    config.join_timeout = Duration::from_millis(100);
    config.response_timeout = Duration::from_millis(300);
    let ann = RedisNode::ready(config, 1).await;
    proxy.hold_answers(true);
    let publishing = ann.node.publish("/topic/a", "x");
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Degraded);
    assert_eq!(publishing.await, Err(PublishError::Unknown));
    proxy.hold_answers(false);
    ann.healthy().await;
    eventually("the interest became live by itself", || {
        drop(ann.node.publish("/topic/a", "y"));
        ann.node.inboxes[0].count() > 0
    })
    .await;
}

#[tokio::test]
async fn a_stopped_redis_is_unhealthy_by_its_canaries_and_recovers() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    server.pause().unwrap();
    let publishing = ann.node.publish("/topic/a", "x");
    ann.unhealthy("not overloaded or stopped").await;
    assert_eq!(publishing.await, Err(PublishError::Unknown));
    server.resume().unwrap();
    ann.healthy().await;
    let seen = ann.node.inboxes[0].count();
    eventually("deliveries flow again", || {
        drop(ann.node.publish("/topic/a", "y"));
        ann.node.inboxes[0].count() > seen
    })
    .await;
}

#[tokio::test]
async fn killed_subscriber_connections_come_back_with_all_their_channels() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let names: Vec<_> = (0..600).map(|number| format!("/topic/{number}")).collect();
    for name in &names {
        assert_eq!(ann.node.subscribe(0, name).await, Joined::Live);
    }
    for round in 1..=3 {
        let killed = server.command("CLIENT KILL TYPE pubsub").unwrap();
        assert!(killed.starts_with(":1"), "{killed}");
        let subscribed = || {
            let answer = server.command("PUBSUB CHANNELS fl:*:c:*").unwrap();
            answer.starts_with("*600\r\n")
        };
        eventually("all channels are back", subscribed).await;
        for name in &names {
            ann.node.accepted(name, "x").await;
        }
        eventually("all deliver", || ann.node.inboxes[0].count() == round * names.len()).await;
    }
}

#[tokio::test]
async fn a_join_during_a_short_break_is_live_when_it_answers() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    for number in 0..20 {
        let name = format!("/topic/{number}");
        server.command("CLIENT KILL TYPE pubsub").unwrap();
        let joined = ann.node.subscribe(0, &name).await;
        if joined == Joined::Live {
            ann.node.accepted(&name, "x").await;
            eventually("it arrived", || ann.node.inboxes[0].bodies(&name).len() == 1).await;
        }
    }
}
