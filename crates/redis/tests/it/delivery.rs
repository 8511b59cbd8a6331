//! What Redis adds to the contract: names, logins, hostile messages, full inboxes, shutdown.

use fanlight_engine::broker::{BrokerHealth, Joined, PublishError, Reach};
use fanlight_testkit::{RedisServer, eventually};

use crate::nodes::{RedisNode, config, reach};

#[tokio::test]
async fn two_clusters_with_different_prefixes_share_a_redis_unheard() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let mut other = config(&server.url());
    other.prefix = "other:".to_owned();
    let bob = RedisNode::ready(other, 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    assert_eq!(bob.node.subscribe(0, "/topic/a").await, Joined::Live);
    ann.node.accepted("/topic/a", "ann's").await;
    bob.node.accepted("/topic/a", "bob's").await;
    for (node, body) in [(&ann, "ann's"), (&bob, "bob's")] {
        eventually("it arrived", || node.node.inboxes[0].count() == 1).await;
        assert_eq!(node.node.inboxes[0].bodies("/topic/a"), [body]);
    }
}

#[tokio::test]
async fn a_password_is_used_and_a_wrong_one_is_said_to_be_wrong_without_showing_it() {
    let server = RedisServer::start_with(&["--requirepass", "s3cret"]).unwrap();
    let url = |login: &str| format!("redis://{login}{}/2", server.address());
    let ann = RedisNode::ready(config(&url(":s3cret@")), 1).await;
    ann.node.accepted("/topic/a", "x").await;
    let bob = RedisNode::start(config(&url("default:hunter2@")), 1);
    bob.unhealthy("check the user and password").await;
    assert!(!format!("{:?}", bob.redis).contains("hunter2"));
    let carol = RedisNode::start(config(&url("")), 1);
    carol.unhealthy("NOAUTH").await;
}

#[tokio::test]
async fn what_a_server_repeats_of_a_command_is_not_shown() {
    let options = ["--requirepass", "s3cret", "--rename-command", "HELLO", ""];
    let server = RedisServer::start_with(&options).unwrap();
    let ann = RedisNode::start(config(&format!("redis://:s3cret@{}", server.address())), 1);
    ann.unhealthy("it refused HELLO: ERR unknown command").await;
    let BrokerHealth::Unhealthy(text) = ann.redis_health() else { panic!("it is unhealthy") };
    assert!(!text.contains("s3cret") && !text.contains("args"), "{text}");

    let server = RedisServer::start_with(&["--rename-command", "PUBLISH", ""]).unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    ann.unhealthy("it refused a command: ERR unknown command").await;
    let BrokerHealth::Unhealthy(text) = ann.redis_health() else { panic!("it is unhealthy") };
    assert!(!text.contains("fl:") && !text.contains("args"), "{text}");
}

#[tokio::test]
async fn a_user_that_may_not_publish_is_said_to_need_the_permission() {
    let server = RedisServer::start().unwrap();
    server.command("ACL SETUSER ann on >pw ~* &* +@all -publish").unwrap();
    let url = format!("redis://ann:pw@{}", server.address());
    let ann = RedisNode::start(config(&url), 1);
    ann.unhealthy("it refused a command: NOPERM").await;
    ann.unhealthy("allow this user").await;
    assert_eq!(reach(ann.node.publish("/topic/a", "x").await), Ok(Reach::ThisNode));
}

#[tokio::test]
async fn a_user_that_may_not_subscribe_is_said_to_need_the_permission() {
    let server = RedisServer::start().unwrap();
    server.command("ACL SETUSER ann on >pw ~* resetchannels &other:* +@all").unwrap();
    let url = format!("redis://ann:pw@{}", server.address());
    let ann = RedisNode::start(config(&url), 1);
    ann.unhealthy("it refused SUBSCRIBE: NOPERM").await;
}

#[tokio::test]
async fn a_replica_is_refused_because_nobody_would_hear_its_publications() {
    let server = RedisServer::start_with(&["--replicaof", "127.0.0.1 1"]).unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    ann.unhealthy("it is a replica, not a master").await;
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_said_to_be_none() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ann = RedisNode::start(config(&format!("redis://{}", listener.local_addr().unwrap())), 1);
    let answer = async {
        use tokio::io::AsyncWriteExt;
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            held.push(stream);
        }
    };
    tokio::select! {
        () = answer => {}
        () = ann.unhealthy("unexpected") => {}
    }
}

#[tokio::test]
async fn hostile_messages_are_dropped_and_counted_and_nothing_else_is_lost() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    server.command("PUBLISH fl:{111}:c:/topic/a hostile").unwrap();
    server.command("PUBLISH fl:{111}:c:/topic/a \"\\x01\\xff\"").unwrap();
    ann.node.accepted("/topic/a", "good").await;
    eventually("the good one arrived", || ann.node.inboxes[0].count() == 1).await;
    assert_eq!(ann.redis.envelopes_rejected(), 2);
}

#[tokio::test]
async fn a_full_inbox_drops_and_counts() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 2).await;
    for worker in [0, 1] {
        assert_eq!(ann.node.subscribe(worker, "/topic/a").await, Joined::Live);
    }
    ann.node.inboxes[0].set_full(true);
    ann.node.accepted("/topic/a", "x").await;
    eventually("the other got it", || ann.node.inboxes[1].count() == 1).await;
    assert_eq!(ann.redis.deliveries_dropped(), 1);
    assert_eq!(ann.node.inboxes[0].count(), 0);
}

#[tokio::test]
async fn a_channel_leaves_redis_after_the_linger_and_not_before() {
    let server = RedisServer::start().unwrap();
    let mut config = config(&server.url());
    config.linger = std::time::Duration::from_millis(300);
    let ann = RedisNode::ready(config, 1).await;
    let subscribed = || {
        let answer = server.command("PUBSUB NUMSUB fl:{111}:c:/topic/a").unwrap();
        answer.contains(":1\r\n")
    };
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    ann.node.unsubscribe(0, "/topic/a");
    assert!(subscribed());
    eventually("it left", || !subscribed()).await;
}

#[tokio::test]
async fn a_queue_of_too_many_bytes_is_overloaded_and_nothing_of_the_rest_is_lost() {
    let server = RedisServer::start().unwrap();
    let mut config = config(&server.url());
    config.publish_queue_bytes = 1 << 20;
    config.response_timeout = std::time::Duration::from_secs(10);
    let ann = RedisNode::ready(config, 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    server.pause().unwrap();
    let publishing: Vec<_> =
        (0..1000).map(|_| ann.node.publish("/topic/a", vec![b'x'; 60_000])).collect();
    server.resume().unwrap();
    let mut accepted = 0;
    for publishing in publishing {
        match publishing.await {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error, PublishError::Overloaded),
        }
    }
    assert!((10..1000).contains(&accepted), "{accepted}");
    eventually("all accepted arrived", || ann.node.inboxes[0].count() == accepted).await;
}

#[tokio::test]
async fn at_shutdown_what_is_under_way_is_answered_and_all_tasks_end() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let publishing: Vec<_> = (0..500).map(|_| ann.node.publish("/topic/a", "x")).collect();
    ann.shutdown.cancel();
    for publishing in publishing {
        assert!(publishing.await.is_ok());
    }
    ann.tracker.close();
    ann.tracker.wait().await;
    assert_eq!(reach(ann.node.publish("/topic/a", "x").await), Ok(Reach::ThisNode));
}

#[tokio::test]
async fn tasks_end_at_shutdown_also_while_redis_is_down() {
    let server = RedisServer::stopped().unwrap();
    let ann = RedisNode::start(config(&server.url()), 1);
    ann.unhealthy("refused").await;
    ann.shutdown.cancel();
    ann.tracker.close();
    ann.tracker.wait().await;
}
