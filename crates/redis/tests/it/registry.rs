//! The registry over memory and Redis: its contract, and nodes that die, pause and come back.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use fanlight_engine::broker::WorkerId;
use fanlight_engine::registry::{
    Entered, Entry, MemoryRegistry, NodeStatus, Registry, RegistryUnavailable, SessionLimit,
    WhenFull,
};
use fanlight_proto::CloseReason;
use fanlight_redis::{
    Event, Lease, Reap, RedisBroker, RedisConfig, RedisRegistry, RegistryOptions,
};
use fanlight_testkit::contract::registry::{RegistryHarness, RegistryNode};
use fanlight_testkit::{Orders, RedisCluster, RedisServer, eventually};
use futures_util::future::join_all;

use crate::events::Log;
use crate::lease::{LEASE, leased};
use crate::nodes::{LeasedNode, RedisNode};

struct Memory;

impl RegistryHarness for Memory {
    async fn nodes(&self, limit: SessionLimit) -> [RegistryNode; 2] {
        let orders = Orders::new();
        let node = NodeStatus {
            id: "a:1".into(),
            name: String::new(),
            address: String::new(),
            started_unix_ms: 0,
            sessions: 0,
            lease_left_ms: 0,
            is_self: true,
        };
        let sessions = Arc::clone(&orders);
        let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(node, limit, sessions));
        [WorkerId(0), WorkerId(1)].map(|worker| RegistryNode {
            registry: Arc::clone(&registry),
            orders: Arc::clone(&orders),
            worker,
        })
    }
}

struct Redis {
    url: String,
    nodes: Mutex<Vec<Node>>,
    _processes: Box<dyn Any>,
}

impl Redis {
    fn start() -> Self {
        let server = RedisServer::start().unwrap();
        Self { url: server.url(), nodes: Mutex::default(), _processes: Box::new(server) }
    }

    fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).unwrap();
        Self { url: cluster.url(), nodes: Mutex::default(), _processes: Box::new(cluster) }
    }
}

impl RegistryHarness for Redis {
    async fn nodes(&self, limit: SessionLimit) -> [RegistryNode; 2] {
        let options = RegistryOptions { limit, ..options() };
        let ann = Node::start_with(leased(&self.url), options.clone());
        let bob = Node::start_with(leased(&self.url), options);
        ann.sees(&[&ann, &bob]).await;
        bob.sees(&[&ann, &bob]).await;
        let nodes = [ann.contract.clone(), bob.contract.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod memory {
    fanlight_testkit::registry_contract!(super::Memory);
}

mod redis {
    fanlight_testkit::registry_contract!(super::Redis::start());
}

mod redis_cluster {
    fanlight_testkit::registry_contract!(super::Redis::cluster());
}

/// A node with a registry.
pub(crate) struct Node {
    own: LeasedNode,
    pub(crate) contract: RegistryNode,
    pub(crate) registry: Arc<RedisRegistry>,
    pub(crate) broker: Arc<RedisBroker>,
    pub(crate) lease: Arc<Lease>,
}

/// Without a limit, with events.
pub(crate) fn options() -> RegistryOptions {
    RegistryOptions {
        limit: fanlight_testkit::contract::registry::UNLIMITED,
        events: Some(100_000),
        queue: RegistryOptions::QUEUE,
    }
}

impl Node {
    pub(crate) fn start(config: RedisConfig) -> Self {
        Self::start_with(config, options())
    }

    pub(crate) fn start_with(config: RedisConfig, options: RegistryOptions) -> Self {
        Self::start_as(config, options, true)
    }

    fn start_as(config: RedisConfig, options: RegistryOptions, reaps: bool) -> Self {
        let (sink, inbox) = fanlight_redis::control();
        let orders = Orders::new();
        let sessions = Arc::clone(&orders);
        let (own, registry) = LeasedNode::start("n", config, 1, vec![sink], |own| {
            let RedisNode { redis, tracker, shutdown, .. } = &own.redis;
            let control = (inbox, WorkerId(1));
            let registry = RedisRegistry::start(
                redis, &own.lease, options, sessions, control, tracker, shutdown,
            );
            if reaps {
                own.reaps(vec![Arc::clone(&registry) as Arc<dyn Reap>]);
            }
            registry
        });
        let shared: Arc<dyn Registry> = Arc::clone(&registry) as _;
        let contract = RegistryNode { registry: shared, orders, worker: WorkerId(0) };
        let (broker, lease) = (Arc::clone(&own.redis.redis), Arc::clone(&own.lease));
        Self { own, contract, registry, broker, lease }
    }

    pub(crate) async fn sees(&self, others: &[&Self]) {
        eventually("it is held", || self.lease.is_held()).await;
        eventually("it sees the others", || {
            let nodes = self.lease.nodes();
            others.iter().all(|other| nodes.iter().any(|node| node.owner == other.lease.owner()))
        })
        .await;
    }
}

/// Enters all of `entries` again once the registry of `node` asks for it, as its workers do.
pub(crate) async fn reenters(node: &Node, entries: &[Entry]) {
    eventually("everything is to be entered again", || node.registry.round() > 0).await;
    for entry in entries {
        eventually("there is room", || node.registry.reenter(entry.clone())).await;
    }
}

/// Enters a session of each user at once.
pub(crate) async fn enter_all(node: &Node, users: impl Iterator<Item = usize>) -> Vec<Entry> {
    let entries: Vec<_> =
        users.map(|user| node.contract.session(&format!("user {user}"))).collect();
    let entering = entries.iter().map(|entry| node.registry.enter(entry.clone()));
    for entered in join_all(entering).await {
        assert_ne!(entered, Entered::Full);
    }
    entries
}

/// How often each session has had this event, by its session.
fn counted(events: &[Event], kind: &str, reason: Option<&str>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let is_it = |event: &&Event| event.kind == kind && event.reason.as_deref() == reason;
    for event in events.iter().filter(is_it) {
        *counts.entry(event.session.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn text(entry: &Entry) -> String {
    entry.session.0.simple().to_string()
}

#[tokio::test]
async fn ten_thousand_sessions_are_reaped_while_half_of_their_users_reconnect() {
    const USERS: usize = 10_000;
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    let cid = Node::start(leased(&server.url()));
    bob.sees(&[&ann, &bob, &cid]).await;
    let mut log = Log::start(&bob).await;
    let lost = enter_all(&ann, 0..USERS).await;
    log.until(|events| counted(events, "connected", None).len() == USERS).await;
    drop(ann);
    let kept = enter_all(&bob, 0..USERS / 2).await;
    log.until(|events| counted(events, "disconnected", Some("node_lost")).len() == USERS).await;
    for user in [0, 1, USERS / 2 - 1] {
        cid.contract.has(&format!("user {user}"), &[&kept[user]]).await;
    }
    let users = (0..USERS).map(|user| format!("user {user}").into()).collect();
    let status = cid.registry.status(users).await.unwrap();
    for (user, status) in status.iter().enumerate() {
        let expected: Vec<_> = kept.get(user).map(|entry| entry.session).into_iter().collect();
        let found: Vec<_> = status.sessions.iter().map(|session| session.session).collect();
        assert_eq!(found, expected, "{}", status.user);
    }
    let reaped = counted(&log.events, "disconnected", Some("node_lost"));
    assert!(reaped.values().all(|times| *times == 1), "reaped twice");
    assert!(lost.iter().all(|entry| reaped.contains_key(&text(entry))));
    assert!(kept.iter().all(|entry| !reaped.contains_key(&text(entry))));
    assert_eq!(server.command("KEYS fl:*:u:*").unwrap().matches("fl:{").count(), USERS / 2);
    let index = || server.command("KEYS fl:*:x:*").unwrap();
    let owner = bob.lease.owner();
    assert!(
        index().lines().filter(|line| line.starts_with("fl:")).all(|key| key.contains(&*owner))
    );
}

#[tokio::test]
async fn a_paused_nodes_sessions_are_gone_after_its_lease_and_back_when_it_wakes() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let anns = enter_all(&ann, 0..100).await;
    let bobs = enter_all(&bob, 0..50).await;
    bob.contract.has("user 7", &[&anns[7], &bobs[7]]).await;
    let paused = ann.own.pause();
    log.until(|events| counted(events, "disconnected", Some("node_lost")).len() == 100).await;
    bob.contract.has("user 7", &[&bobs[7]]).await;
    bob.contract.has("user 70", &[]).await;
    drop(paused);
    reenters(&ann, &anns).await;
    log.until(|events| {
        let connected = counted(events, "connected", None);
        anns.iter().all(|entry| connected.get(&text(entry)) == Some(&2))
    })
    .await;
    for user in 0..100 {
        let expected: Vec<_> = anns.get(user).into_iter().chain(bobs.get(user)).collect();
        bob.contract.has(&format!("user {user}"), &expected).await;
    }
    let second = ann.lease.owner();
    assert!(second.ends_with(":2"), "{second}");
    let status = bob.registry.status(vec!["user 70".into()]).await.unwrap();
    assert_eq!(status[0].sessions[0].node, second);
    let reaped = counted(&log.events, "disconnected", Some("node_lost"));
    assert!(reaped.values().all(|times| *times == 1), "{reaped:?}");
    assert!(bobs.iter().all(|entry| !reaped.contains_key(&text(entry))));
    // And they can leave, now that they stand under another owner than at first.
    for entry in &anns {
        ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    }
    bob.contract.has("user 70", &[]).await;
}

#[tokio::test]
async fn after_redis_lost_its_data_every_session_is_entered_again() {
    let mut server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    let anns = enter_all(&ann, 0..300).await;
    let bobs = enter_all(&bob, 0..300).await;
    server.kill();
    server.launch().unwrap();
    reenters(&ann, &anns).await;
    reenters(&bob, &bobs).await;
    for user in [0, 1, 150, 299] {
        ann.contract.has(&format!("user {user}"), &[&anns[user], &bobs[user]]).await;
        bob.contract.has(&format!("user {user}"), &[&anns[user], &bobs[user]]).await;
    }
}

#[tokio::test]
async fn after_a_failover_nobody_goes_but_who_had_left_before() {
    let server = RedisServer::start_with(&["--enable-debug-command", "yes"]).unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let anns = enter_all(&ann, 0..100).await;
    log.until(|events| counted(events, "connected", None).len() == 100).await;
    // The new master has not heard of the last exits. This node has them no more.
    let (left, stayed) = anns.split_at(10);
    assert!(server.command("DEBUG CHANGE-REPL-ID").unwrap().starts_with("+OK"));
    reenters(&ann, stayed).await;
    bob.contract.has("user 10", &[&stayed[0]]).await;
    log.until(|events| counted(events, "disconnected", Some("node_lost")).len() == 10).await;
    for (user, entry) in anns.iter().enumerate() {
        let expected = if user < 10 { vec![] } else { vec![entry] };
        bob.contract.has(&format!("user {user}"), &expected).await;
    }
    let lost = counted(&log.events, "disconnected", Some("node_lost"));
    assert!(left.iter().all(|entry| lost.get(&text(entry)) == Some(&1)));
    assert_eq!(counted(&log.events, "connected", None).len(), 100);
    assert!(counted(&log.events, "connected", None).values().all(|times| *times == 1));
}

#[tokio::test]
async fn an_outage_longer_than_the_lease_removes_nobody() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let anns = enter_all(&ann, 0..100).await;
    server.pause().unwrap();
    tokio::time::sleep(LEASE * 3).await;
    server.resume().unwrap();
    eventually("the leases are held", || ann.lease.is_held() && bob.lease.is_held()).await;
    // For longer than it takes to reap who is dead.
    tokio::time::sleep(LEASE * 3).await;
    for user in [0, 50, 99] {
        bob.contract.has(&format!("user {user}"), &[&anns[user]]).await;
    }
    log.read().await;
    assert!(counted(&log.events, "disconnected", Some("node_lost")).is_empty());
    assert_eq!((ann.registry.round(), bob.registry.round()), (0, 0));
}

#[tokio::test]
async fn without_redis_sessions_enter_and_leave_later() {
    let mut server = RedisServer::stopped().unwrap();
    let ann = Node::start(leased(&server.url()));
    let [first, second] = ["first", "second"].map(|user| ann.contract.session(user));
    assert_eq!(ann.registry.enter(first.clone()).await, Entered::Later);
    assert_eq!(ann.registry.enter(second.clone()).await, Entered::Later);
    ann.registry.leave(second, CloseReason::ClientClosed);
    let unavailable = ann.registry.status(vec!["first".into()]).await;
    assert_eq!(unavailable, Err(RegistryUnavailable));
    server.launch().unwrap();
    let bob = Node::start(leased(&server.url()));
    bob.sees(&[&ann]).await;
    bob.contract.has("first", &[&first]).await;
    bob.contract.has("second", &[]).await;
}

#[tokio::test]
async fn who_leaves_while_redis_is_stopped_is_gone_when_it_goes_on() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    let entries = enter_all(&ann, 0..200).await;
    server.pause().unwrap();
    for entry in &entries[..100] {
        ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    }
    server.resume().unwrap();
    for user in [0, 99] {
        bob.contract.has(&format!("user {user}"), &[]).await;
    }
    bob.contract.has("user 100", &[&entries[100]]).await;
}

#[tokio::test]
async fn when_too_much_waits_for_redis_everything_is_entered_anew_and_nothing_stays_wrong() {
    let mut server = RedisServer::start().unwrap();
    let ann = Node::start_with(leased(&server.url()), RegistryOptions { queue: 100, ..options() });
    ann.sees(&[&ann]).await;
    let mut entries = Vec::new();
    for user in 0..20 {
        entries.extend(enter_all(&ann, user * 10..user * 10 + 10).await);
    }
    // The data survives, so that only this node knows what is wrong in it.
    server.pause().unwrap();
    eventually("the lease is not sure any more", || !ann.lease.is_held()).await;
    for entry in &entries[..180] {
        ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    }
    server.resume().unwrap();
    reenters(&ann, &entries[180..]).await;
    let bob = Node::start(leased(&server.url()));
    bob.sees(&[&ann]).await;
    eventually("what it held under its first owner is reaped", || {
        let first = format!("{}:1", ann.lease.boot());
        !server.command("KEYS fl:*:x:*").unwrap().contains(&first)
    })
    .await;
    for user in [180, 199] {
        bob.contract.has(&format!("user {user}"), &[&entries[user]]).await;
    }
    for user in [0, 100, 179] {
        bob.contract.has(&format!("user {user}"), &[]).await;
    }
    assert!(ann.lease.fenced() >= 1);
    server.kill();
}

#[tokio::test]
async fn who_is_dead_and_not_reaped_yet_keeps_nobody_out() {
    let server = RedisServer::start().unwrap();
    let limit = SessionLimit { sessions_per_user: 3, when_full: WhenFull::Reject };
    let options = RegistryOptions { limit, ..options() };
    let ann = Node::start_as(leased(&server.url()), options.clone(), false);
    let bob = Node::start_as(leased(&server.url()), options, false);
    bob.sees(&[&ann, &bob]).await;
    for _ in 0..3 {
        ann.contract.entered("u").await;
    }
    assert_eq!(bob.registry.enter(bob.contract.session("u")).await, Entered::Full);
    let dead = ann.lease.owner();
    drop(ann);
    eventually("its lease has expired", || !bob.lease.is_live(&dead)).await;
    let entry = bob.contract.entered("u").await;
    bob.contract.has("u", &[&entry]).await;
    let kept = server.command("KEYS fl:*:x:*").unwrap().matches("fl:{").count();
    assert_eq!(kept, 1, "what kept it out was removed");
}
