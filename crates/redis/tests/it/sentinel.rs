//! Failover by Sentinel: the new master is found, and nobody stays with the old one.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use fanlight_engine::broker::{BrokerHealth, Joined};
use fanlight_redis::config::Credentials;
use fanlight_testkit::{FaultProxy, RedisSentinel, RedisServer, eventually};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::nodes::{RedisNode, config};

const CHANNELS: usize = 50;

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
        let arrived = || bob.node.inboxes[0].bodies(&name).len() > before;
        eventually("it arrives", || {
            drop(ann.node.publish(&name, "y"));
            arrived()
        })
        .await;
    }
}

#[tokio::test]
async fn after_the_masters_death_its_replica_carries_on_with_all_subscriptions() {
    let mut redis = RedisSentinel::start(1, 3).unwrap();
    let [ann, bob] = subscribed(&redis.url()).await;
    let old = redis.kill_master().unwrap();
    redis.wait_for_failover(old).unwrap();
    all_deliver(&ann, &bob).await;
    ann.healthy().await;
    bob.healthy().await;
    assert!(bob.node.inboxes[0].notices().len() >= CHANNELS, "they are suspect after the gap");
}

#[tokio::test]
async fn who_stayed_with_a_paused_master_is_moved_and_stays_moved_when_it_wakes_up() {
    let redis = RedisSentinel::start(1, 3).unwrap();
    let [ann, bob] = subscribed(&redis.url()).await;
    let old = redis.pause_master().unwrap();
    let new = redis.wait_for_failover(old).unwrap();
    all_deliver(&ann, &bob).await;
    redis.server(old).unwrap().resume().unwrap();
    redis.wait_until_settled().unwrap();
    all_deliver(&ann, &bob).await;
    ann.healthy().await;
    let subscribed = redis.server(new).unwrap().call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
    assert_eq!(subscribed.array().unwrap().len(), CHANNELS);
}

#[tokio::test]
async fn a_planned_failover_moves_subscribers_off_the_demoted_master_that_still_answers() {
    let redis = RedisSentinel::start(1, 1).unwrap();
    let mut patient = config(&redis.url());
    // Not the canary shall find out.
    patient.canary_interval = Duration::from_secs(3600);
    let bob = RedisNode::start(patient, 1);
    assert_eq!(bob.node.subscribe(0, "/topic/a").await, Joined::Live);
    let old = redis.master().unwrap();
    redis.sentinel(0).call(&["SENTINEL", "FAILOVER", RedisSentinel::MASTER_NAME]).unwrap();
    let new = redis.wait_for_failover(old).unwrap();
    eventually("it is subscribed at the new master", || {
        let found = redis.server(new).unwrap().call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
        found.array().unwrap().len() == 1
    })
    .await;
    eventually("it left the old one", || {
        let found = redis.server(old).unwrap().call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
        found.array().unwrap().is_empty()
    })
    .await;
}

/// Real sentinels also cut off the demoted master's clients, unless they can't reach it just then.
#[tokio::test]
async fn who_is_left_at_an_old_master_moves_when_the_sentinels_name_another() {
    let [old, new] = [RedisServer::start().unwrap(), RedisServer::start().unwrap()];
    let named = Mutex::new(old.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut patient = config(&format!("redis-sentinel://{}/any", listener.local_addr().unwrap()));
    // Not the canary shall find out.
    patient.canary_interval = Duration::from_secs(3600);
    let at = |server: &RedisServer| {
        let found = server.call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
        found.array().unwrap().len()
    };
    let moving = async {
        let bob = RedisNode::start(patient, 1);
        assert_eq!(bob.node.subscribe(0, "/topic/a").await, Joined::Live);
        assert_eq!((at(&old), at(&new)), (1, 0));
        *named.lock().unwrap() = new.address();
        eventually("it moved", || (at(&old), at(&new)) == (0, 1)).await;
    };
    tokio::select! {
        () = moving => {}
        () = answer_as_sentinel(&listener, &named) => {}
    }
}

/// Names a master to everybody who asks.
async fn answer_as_sentinel(listener: &TcpListener, named: &Mutex<SocketAddr>) {
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => asking.push(answer_one(accepted.unwrap().0, named)),
            Some(()) = asking.next() => {}
        }
    }
}

async fn answer_one(mut stream: TcpStream, named: &Mutex<SocketAddr>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let answer = if buffer[..read].windows(8).any(|word| word == b"SENTINEL") {
            let address = *named.lock().unwrap();
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.len())
        } else {
            "%1\r\n$4\r\nrole\r\n$8\r\nsentinel\r\n".to_owned()
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn one_sentinel_that_answers_is_enough() {
    let redis = RedisSentinel::start(0, 1).unwrap();
    let [dead, stopped] = [RedisServer::stopped().unwrap(), RedisServer::start().unwrap()];
    stopped.pause().unwrap();
    let hosts = redis.url().replace(
        "redis-sentinel://",
        &format!("redis-sentinel://{},{},", dead.address(), stopped.address()),
    );
    let ann = RedisNode::ready(config(&hosts), 1).await;
    ann.node.accepted("/topic/a", "x").await;
}

#[tokio::test]
async fn sentinels_have_a_login_of_their_own() {
    let redis = RedisSentinel::start(0, 1).unwrap();
    let set = ["ACL", "SETUSER", "default", "resetpass", ">s3cret"];
    redis.sentinel(0).call(&set).unwrap().ok().unwrap();
    let mut config = config(&redis.url());
    let without = RedisNode::start(config.clone(), 1);
    without.unhealthy("no sentinel says where it is: it refused HELLO: NOAUTH").await;
    let (user, password) = ("default".to_owned(), "s3cret".to_owned());
    config.sentinel_credentials = Some(Credentials { user, password });
    RedisNode::ready(config, 1).await.node.accepted("/topic/a", "x").await;
}

#[tokio::test]
async fn no_sentinel_or_an_unknown_name_is_said_clearly() {
    let redis = RedisSentinel::start(0, 1).unwrap();
    let unknown = redis.url().replace(RedisSentinel::MASTER_NAME, "other");
    let ann = RedisNode::start(config(&unknown), 1);
    ann.unhealthy("the sentinel knows no master \"other\"").await;
    let dead = RedisServer::stopped().unwrap();
    let url = format!("redis-sentinel://{}/fanlight", dead.address());
    let bob = RedisNode::start(config(&url), 1);
    bob.unhealthy("Redis master \"fanlight\": no sentinel says where it is: connection refused")
        .await;
    let plain = RedisServer::start().unwrap();
    let url = format!("redis-sentinel://{}/fanlight", plain.address());
    RedisNode::start(config(&url), 1).unhealthy("it is a master, not a sentinel").await;
}

/// The sentinels notice nothing, and the connection is well: only the canary can know.
#[tokio::test]
async fn a_subscriber_that_hears_nothing_reconnects_by_its_canary() {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let ann = RedisNode::ready(config(&format!("redis://{}", proxy.address())), 1).await;
    proxy.hold_answers(true);
    eventually("it noticed", || ann.redis_health() != BrokerHealth::Healthy).await;
    proxy.hold_answers(false);
    ann.healthy().await;
}
