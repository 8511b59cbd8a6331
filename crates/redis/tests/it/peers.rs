//! Peers over memory and Redis: their contract, and nodes that die, pause and lose Redis.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{Broker, BrokerHealth, WorkerId};
use fanlight_engine::peers::{Answerer, Claim, Holder, MemoryPeers, PeerError, Peers};
use fanlight_engine::registry::Handle;
use fanlight_redis::{Lease, Reap, RedisBroker, RedisConfig, RedisPeers, RedisRegistry};
use fanlight_testkit::contract::peers::{PeerNode, PeersHarness, handle, name};
use fanlight_testkit::{Answers, Orders, RedisCluster, RedisSentinel, RedisServer, eventually};
use futures_util::FutureExt;

use crate::lease::{LEASE, leased};
use crate::nodes::{LeasedNode, RedisNode};
use crate::registry::options;

struct Memory;

impl PeersHarness for Memory {
    async fn nodes(&self) -> [PeerNode; 2] {
        let answers = Answers::new();
        let answerer = Arc::clone(&answers) as Arc<dyn Answerer>;
        let sleep = Arc::new(|time| tokio::time::sleep(time).boxed());
        let peers: Arc<dyn Peers> = Arc::new(MemoryPeers::new("a:1".into(), answerer, sleep));
        let node = || PeerNode { peers: Arc::clone(&peers), answers: Arc::clone(&answers) };
        [node(), node()]
    }
}

struct Redis {
    url: String,
    nodes: Mutex<Vec<Node>>,
    _processes: Box<dyn Any>,
}

impl Redis {
    fn over(url: String, processes: impl Any) -> Self {
        Self { url, nodes: Mutex::default(), _processes: Box::new(processes) }
    }

    fn start() -> Self {
        let server = RedisServer::start().unwrap();
        Self::over(server.url(), server)
    }

    fn sentinel() -> Self {
        let sentinel = RedisSentinel::start(1, 3).unwrap();
        Self::over(sentinel.url(), sentinel)
    }

    fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).unwrap();
        Self::over(cluster.url(), cluster)
    }
}

impl PeersHarness for Redis {
    async fn nodes(&self) -> [PeerNode; 2] {
        // The lease is long: nothing here is about its end.
        let config = || RedisConfig { lease: LEASE * 15, ..leased(&self.url) };
        let (ann, bob) = (Node::start(config()), Node::start(config()));
        hear_each_other(&[&ann, &bob]).await;
        let nodes = [ann.contract.clone(), bob.contract.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod memory {
    fanlight_testkit::peers_contract!(super::Memory);
}

mod redis {
    fanlight_testkit::peers_contract!(super::Redis::start());
}

mod redis_sentinel {
    fanlight_testkit::peers_contract!(super::Redis::sentinel());
}

mod redis_cluster {
    fanlight_testkit::peers_contract!(super::Redis::cluster());
}

/// A node with peers.
pub(crate) struct Node {
    own: LeasedNode,
    pub(crate) contract: PeerNode,
    pub(crate) broker: Arc<RedisBroker>,
    pub(crate) lease: Arc<Lease>,
}

impl Node {
    pub(crate) fn start(config: RedisConfig) -> Self {
        let (sink, mut inbox) = fanlight_redis::control();
        let peer_inbox = inbox.peers().unwrap();
        let answers = Answers::new();
        let answerer = Arc::clone(&answers) as Arc<dyn Answerer>;
        let (own, peers) = LeasedNode::start("n", config, 0, vec![sink], |own| {
            let RedisNode { redis, tracker, shutdown, .. } = &own.redis;
            let (options, orders, control) = (options(), Orders::new(), (inbox, WorkerId(0)));
            let registry = RedisRegistry::start(
                redis, &own.lease, options, orders, control, tracker, shutdown,
            );
            own.reaps(vec![registry as Arc<dyn Reap>]);
            RedisPeers::start(redis, &own.lease, answerer, peer_inbox, tracker, shutdown)
        });
        let (broker, lease) = (Arc::clone(&own.redis.redis), Arc::clone(&own.lease));
        Self { own, contract: PeerNode { peers, answers }, broker, lease }
    }

    /// Claims it once this node can, and there is nobody living who has it.
    pub(crate) async fn claims_at_last(&self, text: &str) -> (Claim, Handle) {
        let handle = handle();
        for _ in 0..ATTEMPTS {
            match self.contract.peers.claim(name(text), handle).await {
                Ok(Claim::Theirs(_)) | Err(_) => tokio::time::sleep(POLL).await,
                Ok(claim) => return (claim, handle),
            }
        }
        panic!("{text} was never to be had");
    }

    /// Waits until it finds this one under the name.
    pub(crate) async fn finds_at_last(&self, text: &str, handle: Handle) -> Holder {
        for _ in 0..ATTEMPTS {
            match self.contract.peers.holder(name(text)).await {
                Ok(Some(holder)) if holder.handle == handle => return holder,
                _ => tokio::time::sleep(POLL).await,
            }
        }
        panic!("{text} was never found");
    }

    /// Waits until who has the name is found as this owner.
    async fn finds_at_last_under(&self, owner: &str, text: &str) {
        for _ in 0..ATTEMPTS {
            match self.contract.peers.holder(name(text)).await {
                Ok(Some(holder)) if &*holder.owner == owner => return,
                _ => tokio::time::sleep(POLL).await,
            }
        }
        panic!("{text} was never found under {owner}");
    }

    /// Waits until it knows that who had the name is dead.
    async fn sees_gone_at_last(&self, text: &str) {
        for _ in 0..ATTEMPTS {
            if self.contract.peers.holder(name(text)).await == Err(PeerError::Gone) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{text} never was gone");
    }

    /// Waits until it finds anyone under the name.
    pub(crate) async fn finds_anyone(&self, text: &str) -> Holder {
        for _ in 0..ATTEMPTS {
            if let Ok(Some(holder)) = self.contract.peers.holder(name(text)).await {
                return holder;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("nobody ever had {text}");
    }

    /// Asks until there is an answer.
    pub(crate) async fn asks_at_last(&self, text: &str, request: &'static str) {
        for _ in 0..ATTEMPTS {
            if let Ok(Some(holder)) = self.contract.peers.holder(name(text)).await {
                let answer = self.contract.peers.ask(&holder, request.into(), LEASE).await;
                if answer == Ok(Bytes::from(request)) {
                    return;
                }
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{text} never answered");
    }

    fn has_lost(&self, text: &str, handle: Handle) -> bool {
        self.contract.answers.lost().contains(&(name(text), handle))
    }
}

/// Waits until each node can ask each other one.
pub(crate) async fn hear_each_other(nodes: &[&Node]) {
    for (at, node) in nodes.iter().enumerate() {
        let text = format!("hear {at}");
        let (_, handle) = node.claims_at_last(&text).await;
        for other in nodes {
            other.asks_at_last(&text, "x").await;
            let listed = || other.lease.nodes().iter().any(|seen| seen.owner == node.lease.owner());
            eventually("it is listed", listed).await;
        }
        node.contract.peers.release(name(&text), handle);
    }
}

async fn pair(url: &str) -> [Node; 2] {
    let (ann, bob) = (Node::start(leased(url)), Node::start(leased(url)));
    hear_each_other(&[&ann, &bob]).await;
    [ann, bob]
}

#[tokio::test]
async fn who_asks_a_node_that_was_killed_is_told_so_and_its_names_are_had_again_after_its_lease() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    for text in ["a", "b"] {
        ann.claims_at_last(text).await;
    }
    let holder = bob.finds_anyone("a").await;
    let owner = ann.lease.owner();
    drop(ann);
    let killed_at = Instant::now();
    let told = || bob.contract.peers.ask(&holder, "x".into(), LEASE);
    while told().await != Err(PeerError::Gone) {
        assert!(killed_at.elapsed() < LEASE * 20);
    }
    let early = bob.contract.peers.claim(name("b"), handle()).await;
    if bob.lease.is_live(&owner) {
        let is_refused = matches!(early, Ok(Claim::Theirs(_)) | Err(PeerError::Unavailable));
        assert!(is_refused, "{early:?}");
    }
    eventually("it is dead", || !bob.lease.is_live(&owner)).await;
    bob.sees_gone_at_last("a").await;
    let (claim, handle) = bob.claims_at_last("a").await;
    assert!(matches!(claim, Claim::TakenOver(_)), "{claim:?}");
    assert_eq!(bob.finds_anyone("a").await.handle, handle);
}

#[tokio::test]
async fn who_waits_for_an_answer_hears_of_the_other_nodes_death_when_it_is_known() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    ann.claims_at_last("a").await;
    let ask = |holder: &Holder| bob.contract.peers.ask(holder, "hold on".into(), LEASE * 300);
    // One that goes on as another owner is not dead.
    let (owner, living) = (ann.lease.owner(), ask(&bob.finds_anyone("a").await));
    eventually("it waits", || ann.contract.answers.held() == 1).await;
    ann.lease.fence();
    eventually("it is another", || ann.lease.owner() != owner).await;
    let is_known = || bob.lease.nodes().iter().any(|node| node.owner == ann.lease.owner());
    eventually("it is known", is_known).await;
    eventually("the former is dead", || !bob.lease.is_live(&owner)).await;
    ann.contract.answers.let_go(1);
    assert_eq!(living.await, Ok(Bytes::from_static(b"hold on")));

    bob.finds_at_last_under(&ann.lease.owner(), "a").await;
    let (owner, dying) = (ann.lease.owner(), ask(&bob.finds_anyone("a").await));
    eventually("it waits again", || ann.contract.answers.held() == 1).await;
    let paused = ann.own.pause();
    assert_eq!(dying.await, Err(PeerError::Gone));
    assert!(!bob.lease.is_live(&owner));
    drop(paused);
}

#[tokio::test]
async fn a_dead_node_that_was_forgotten_keeps_no_names() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    ann.claims_at_last("a").await;
    let owner = ann.lease.owner();
    let key = server.command("KEYS fl:*:peer:*").unwrap();
    let key = key.lines().find(|line| line.ends_with("test//a")).unwrap().to_owned();
    drop(ann);
    // Its claim outlasts what is known of it.
    server.command(&format!("PERSIST {key}")).unwrap();
    eventually("it is forgotten", || {
        let nodes = bob.lease.nodes();
        nodes.iter().all(|node| node.owner != owner) && bob.lease.is_live(&owner)
    })
    .await;
    bob.sees_gone_at_last("a").await;
    assert!(matches!(bob.claims_at_last("a").await.0, Claim::TakenOver(_)));
}

#[tokio::test]
async fn who_was_paused_past_its_lease_does_not_serve_what_another_has_claimed() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    let (lost, kept) = (ann.claims_at_last("lost").await.1, ann.claims_at_last("kept").await.1);
    let before = bob.finds_anyone("lost").await;
    let paused = ann.own.pause();
    let (claim, taken) = bob.claims_at_last("lost").await;
    assert!(matches!(claim, Claim::TakenOver(_)), "{claim:?}");
    // Its clock went on, so it knows that it can't be sure of anything.
    let asked = ann.contract.answers.asked().len();
    for text in ["lost", "kept"] {
        let holder = Holder {
            name: name(text),
            handle: if text == "lost" { lost } else { kept },
            ..before.clone()
        };
        let own = ann.contract.peers.ask(&holder, "x".into(), LEASE).await;
        assert_eq!(own, Err(PeerError::Unavailable));
    }
    let claim = ann.contract.peers.claim(name("new"), handle()).await;
    assert_eq!(claim, Err(PeerError::Unavailable));
    // The claim may go before the lease is given up, without which it would just be renewed.
    let is_given_up = || bob.lease.nodes().iter().all(|node| node.owner != before.owner);
    eventually("its lease is given up", is_given_up).await;
    // What comes from one who still believes in it.
    let asking = bob.contract.peers.ask(&before, "late".into(), LEASE * 2);
    drop(paused);
    let answer = asking.await;
    assert!(answer.is_err(), "{answer:?}");
    eventually("it is told", || ann.has_lost("lost", lost)).await;
    assert_eq!(ann.contract.answers.asked().len(), asked, "nothing was served meanwhile");
    assert_eq!(bob.finds_at_last("kept", kept).await.owner, ann.lease.owner());
    assert_ne!(ann.lease.owner(), before.owner);
    bob.asks_at_last("kept", "x").await;
    ann.asks_at_last("lost", "x").await;
    assert_eq!(ann.finds_anyone("lost").await.handle, taken);
    assert_eq!(ann.contract.answers.lost(), [(name("lost"), lost)]);
    assert!(bob.contract.answers.lost().is_empty());
    // It is another's now, and stays so.
    ann.contract.peers.release(name("lost"), lost);
    bob.asks_at_last("lost", "x").await;
}

#[tokio::test]
async fn claims_are_renewed_for_as_long_as_they_are_held() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    let mut handles = Vec::new();
    for number in 0..300 {
        handles.push(ann.claims_at_last(&number.to_string()).await.1);
    }
    let until = Instant::now() + LEASE * 6;
    while Instant::now() < until {
        for (number, handle) in handles.iter().enumerate().step_by(50) {
            bob.finds_at_last(&number.to_string(), *handle).await;
        }
        tokio::time::sleep(LEASE / 10).await;
    }
    for (number, handle) in handles.iter().enumerate() {
        bob.finds_at_last(&number.to_string(), *handle).await;
        ann.contract.peers.release(name(&number.to_string()), *handle);
    }
    eventually("nothing is left", || !server.command("KEYS fl:*:peer:*").unwrap().contains("test"))
        .await;
    assert!(ann.contract.answers.lost().is_empty());
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_gets_the_claims_again_and_asks_go_on() {
    let mut server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    let handle = ann.claims_at_last("a").await.1;
    let holder = bob.finds_anyone("a").await;
    let waiting = bob.contract.peers.ask(&holder, "hold".into(), LEASE / 2);
    eventually("it is asked", || ann.contract.answers.held() == 1).await;
    server.kill();
    assert_eq!(waiting.await, Err(PeerError::Timeout), "an ask in flight is a timeout");
    eventually("it is away", || bob.broker.health() != BrokerHealth::Healthy).await;
    let away = || bob.contract.peers.ask(&holder, "x".into(), LEASE);
    while away().await != Err(PeerError::Unavailable) {}
    assert_eq!(bob.contract.peers.holder(name("a")).await, Err(PeerError::Unavailable));
    let claim = bob.contract.peers.claim(name("b"), self::handle()).await;
    assert_eq!(claim, Err(PeerError::Unavailable));
    server.launch().unwrap();
    bob.finds_at_last("a", handle).await;
    bob.asks_at_last("a", "again").await;
    assert!(matches!(bob.claims_at_last("b").await.0, Claim::Ours(_)));
    assert!(ann.contract.answers.lost().is_empty());
}

#[tokio::test]
async fn a_release_while_redis_is_away_is_made_up_for() {
    let server = RedisServer::start().unwrap();
    let config = || RedisConfig { lease: LEASE * 15, ..leased(&server.url()) };
    let (ann, bob) = (Node::start(config()), Node::start(config()));
    hear_each_other(&[&ann, &bob]).await;
    let handle = ann.claims_at_last("a").await.1;
    server.pause().unwrap();
    ann.contract.peers.release(name("a"), handle);
    eventually("it is away", || ann.broker.health() != BrokerHealth::Healthy).await;
    server.resume().unwrap();
    for _ in 0..ATTEMPTS {
        if bob.contract.peers.holder(name("a")).await == Ok(None) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    bob.claims_at_last("a").await;
}

#[tokio::test]
async fn an_answer_that_the_asker_could_not_hear_is_sent_again() {
    let server = RedisServer::start().unwrap();
    let [ann, bob] = pair(&server.url()).await;
    ann.claims_at_last("a").await;
    let holder = bob.finds_anyone("a").await;
    let asking = bob.contract.peers.ask(&holder, "hold".into(), LEASE * 20);
    eventually("it is asked", || ann.contract.answers.held() == 1).await;
    let asking = async {
        ann.contract.answers.let_go(1);
        asking.await
    };
    for kind in ["pubsub", "normal"] {
        server.command(&format!("CLIENT KILL TYPE {kind}")).unwrap();
    }
    assert_eq!(asking.await, Ok("hold".into()));
}

const ATTEMPTS: usize = 4000;
const POLL: Duration = Duration::from_millis(5);
