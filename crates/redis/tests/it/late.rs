//! Calls of the registry and of presence that their node has given up and that Redis gets all the
//! same, later.

use std::time::{Duration, Instant};

use fanlight_engine::registry::{Entered, Entry, Registry};
use fanlight_proto::CloseReason;
use fanlight_redis::RedisConfig;
use fanlight_testkit::contract::presence::{QUICK, place};
use fanlight_testkit::{FaultProxy, RedisServer, eventually};

use crate::events::Log;
use crate::lease::leased;
use crate::presence::Leased;
use crate::registry::{Node, reenters};

/// A Redis, and the proxy through which one node reaches it.
async fn behind_proxy() -> (RedisServer, FaultProxy, String) {
    let server = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let url = format!("redis://{}", proxy.address());
    (server, proxy, url)
}

/// So long that no lease ends during the test.
fn long_leased(url: &str) -> RedisConfig {
    RedisConfig { lease: Duration::from_secs(60), ..leased(url) }
}

/// How many command connections Redis has.
fn connections(server: &RedisServer) -> usize {
    server.command("CLIENT LIST").unwrap().matches("name=fanlight-pub-").count()
}

/// Delivers what was stalled, and waits until Redis has done it and seen the connection's end.
async fn deliver(server: &RedisServer, proxy: &FaultProxy, left: usize) {
    assert_eq!(connections(server), left + 1, "the stalled connection is there");
    proxy.unstall();
    eventually("what was stalled is done", || connections(server) == left).await;
}

#[tokio::test]
async fn an_entry_that_arrives_after_its_session_left_is_not_made() {
    let (server, proxy, url) = behind_proxy().await;
    let ann = Node::start(long_leased(&url));
    let bob = Node::start(long_leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let entry = ann.contract.session("ann");
    let nobody = Entry { user: None, ..ann.contract.session("") };
    proxy.stall();
    ann.registry.enter(nobody.clone()).await;
    assert_eq!(ann.registry.enter(entry.clone()).await, Entered::Later);
    bob.contract.has("ann", &[&entry]).await;
    ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    ann.registry.leave(nobody.clone(), CloseReason::ClientClosed);
    bob.contract.has("ann", &[]).await;
    log.until(|events| events.len() >= 4).await;
    deliver(&server, &proxy, 2).await;
    let status = bob.registry.status(vec!["ann".into()]).await.unwrap();
    assert_eq!(status[0].sessions, [], "it is a ghost");
    while log.read().await {}
    assert_eq!(log.of(entry.session), ["connected ann", "disconnected ann client_closed"]);
    assert_eq!(log.of(nobody.session), ["connected", "disconnected client_closed"]);
    assert_eq!(ann.lease.fenced(), 0, "that was of the same generation");
}

#[tokio::test]
async fn an_entry_of_the_former_generation_takes_nothing_from_the_next() {
    let (server, proxy, url) = behind_proxy().await;
    let ann = Node::start(long_leased(&url));
    let bob = Node::start(long_leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let entry = ann.contract.session("ann");
    proxy.stall();
    assert_eq!(ann.registry.enter(entry.clone()).await, Entered::Later);
    bob.contract.has("ann", &[&entry]).await;
    ann.lease.fence();
    reenters(&ann, std::slice::from_ref(&entry)).await;
    let second = ann.lease.owner();
    let stands_under_second = || async {
        let status = bob.registry.status(vec!["ann".into()]).await.unwrap();
        status[0].sessions.len() == 1 && status[0].sessions[0].node == second
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !stands_under_second().await {
        assert!(Instant::now() < deadline, "it is not entered again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    deliver(&server, &proxy, 2).await;
    assert!(stands_under_second().await, "the reapers of the first would remove it");
}

#[tokio::test]
async fn what_a_dead_node_said_last_is_not_heard_once_it_was_reaped() {
    let (server, proxy, url) = behind_proxy().await;
    // It does not give up by itself.
    let response_timeout = Duration::from_secs(30);
    let ann = Node::start(RedisConfig { response_timeout, ..leased(&url) });
    let bob = Node::start(leased(&server.url()));
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let before = ann.contract.entered("u").await;
    let last = Entry { user: before.user.clone(), ..ann.contract.session("") };
    let dead = ann.lease.owner();
    proxy.stall();
    let entering = ann.registry.enter(last.clone());
    eventually("it is long on its way", || !ann.lease.is_held()).await;
    drop(entering);
    drop(ann);
    log.until(|events| events.iter().any(|event| event.kind == "disconnected")).await;
    eventually("it is forgotten", || {
        !server.command("KEYS fl:*:x:*").unwrap().contains(&*dead)
            && !server.command("KEYS fl:*").unwrap().contains("}:dead:")
    })
    .await;
    deliver(&server, &proxy, 1).await;
    let keys = server.command("KEYS fl:*").unwrap();
    assert!(!keys.contains("}:u:u") && !keys.contains("}:x:"), "nobody would remove it: {keys}");
}

#[tokio::test]
async fn a_join_that_arrives_after_its_member_left_makes_no_ghost() {
    let (server, proxy, url) = behind_proxy().await;
    let ann = Leased::ready(long_leased(&url), QUICK).await;
    let bob = Leased::ready(long_leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    proxy.stall();
    ann.node.enter(&room, "zoe");
    bob.node.sees(&room, &[("zoe", 1)]).await;
    ann.node.exit(&room, "zoe");
    bob.node.counts(&room, 0).await;
    deliver(&server, &proxy, 2).await;
    assert_eq!(bob.node.count(&room).await, Some(0), "it is a ghost");
    let keys = server.command("KEYS fl:*").unwrap();
    assert!(!keys.contains("}:presence:"), "{keys}");
    assert_eq!(ann.lease.fenced(), 0, "that was of the same generation");
}
