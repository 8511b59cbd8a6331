//! Leases: who counts as living, who is fenced, and when the dead are reaped and forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanlight_engine::broker::PublishError;
use fanlight_redis::{Lease, Reap, RedisConfig};
use fanlight_testkit::{RedisCluster, RedisServer, eventually};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::nodes::{LeasedNode, config};

/// Times short enough for tests, and long enough for a busy machine.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

pub(crate) fn leased(url: &str) -> RedisConfig {
    RedisConfig { lease: LEASE, lease_renew: LEASE / 5, ..config(url) }
}

/// Counts how often each dead owner was given to it.
#[derive(Default)]
struct Recorder(Mutex<HashMap<String, usize>>);

impl Recorder {
    fn times(&self, owner: &str) -> usize {
        self.0.lock().unwrap().get(owner).copied().unwrap_or(0)
    }
}

impl Reap for Recorder {
    fn reap(&self, dead_owner: &str) -> BoxFuture<'static, Result<bool, PublishError>> {
        *self.0.lock().unwrap().entry(dead_owner.to_owned()).or_default() += 1;
        std::future::ready(Ok(true)).boxed()
    }
}

/// A node with a lease and a reaper.
struct Leased {
    own: LeasedNode,
    lease: Arc<Lease>,
    reaped: Arc<Recorder>,
}

impl Leased {
    fn start(name: &str, config: RedisConfig) -> Self {
        let reaped = Arc::new(Recorder::default());
        let held = vec![Arc::clone(&reaped) as Arc<dyn Reap>];
        let (own, ()) = LeasedNode::start(name, config, 1, Vec::new(), |own| own.reaps(held));
        Self { lease: Arc::clone(&own.lease), own, reaped }
    }

    async fn held(&self) {
        eventually("the lease is held", || self.lease.is_held()).await;
    }

    fn sees(&self, other: &Self) -> bool {
        let owner = other.lease.owner();
        self.lease.nodes().iter().any(|node| node.owner == owner && node.left.is_some())
    }
}

#[tokio::test]
async fn nodes_see_each_other_while_they_live() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::start("ann 1", leased(&server.url()));
    let bob = Leased::start("bob", leased(&server.url()));
    ann.lease.set_sessions(7);
    ann.lease.set_movable(5);
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    eventually("the sessions are told", || {
        let nodes = bob.lease.nodes();
        let mut named = nodes.iter().filter(|node| node.info.name == "ann 1");
        named.any(|node| (node.sessions, node.movable) == (7, 5))
    })
    .await;
    assert!(bob.lease.is_live(&ann.lease.owner()));
    assert_ne!(ann.lease.boot(), bob.lease.boot());
}

#[tokio::test]
async fn a_paused_node_is_reaped_and_goes_on_under_its_next_generation_when_it_wakes() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::start("ann", leased(&server.url()));
    let bob = Leased::start("bob", leased(&server.url()));
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    let first = ann.lease.owner();
    let mut changed = ann.lease.changed();
    let paused = ann.own.pause();
    eventually("it is reaped", || bob.reaped.times(&first) > 0).await;
    eventually("it is dead", || !bob.lease.is_live(&first)).await;
    assert!(!ann.lease.is_held(), "a node that overslept must not trust its lease");
    drop(paused);
    changed.changed().await.unwrap();
    let second = ann.lease.owner();
    assert_eq!(&*second, format!("{}:2", ann.lease.boot()));
    eventually("it lives again", || bob.sees(&ann) && bob.lease.is_live(&second)).await;
    assert!(!bob.lease.is_live(&first));
    assert_eq!((ann.lease.fenced(), bob.lease.fenced()), (1, 0));
    let before = bob.reaped.times(&first) + ann.reaped.times(&first);
    eventually("what the first wrote before it knew is looked for once more", || {
        bob.reaped.times(&first) + ann.reaped.times(&first) > before
    })
    .await;
    assert_eq!(bob.reaped.times(&second) + ann.reaped.times(&second), 0);
}

#[tokio::test]
async fn among_many_nodes_most_renewals_tell_only_what_has_changed_and_nothing_is_missed() {
    const OTHERS: usize = 2000;
    let server = RedisServer::start().unwrap();
    let ann = Leased::start("ann", leased(&server.url()));
    ann.held().await;
    let keys = server.call(&["KEYS", "fl:*:leases:"]).unwrap().array().unwrap();
    let mut command = vec!["ZADD".to_owned(), keys[0].clone().text().unwrap()];
    for other in 0..OTHERS {
        command.extend(["9999999999999".to_owned(), format!("other{other}:1")]);
    }
    server.call(&command).unwrap().ok().unwrap();
    eventually("she knows them all", || ann.lease.nodes().len() == OTHERS + 1).await;
    let calls = |command: &str| {
        let stats = server.command("INFO commandstats").unwrap();
        let (_, calls) = stats.split_once(&format!("cmdstat_{command}:calls=")).unwrap();
        calls.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let (listings, renewals) = (calls("hgetall"), calls("hset"));

    let bob = Leased::start("bob", leased(&server.url()));
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    assert_eq!(bob.lease.nodes().len(), OTHERS + 2);
    let owner = bob.lease.owner();
    drop(bob);
    eventually("his lease has run out", || !ann.lease.is_live(&owner)).await;
    eventually("he is forgotten", || {
        ann.reaped.times(&owner) > 1
            && ann.lease.is_live(&owner)
            && ann.lease.nodes().len() == OTHERS + 1
    })
    .await;
    eventually("few renewals have listed all", || {
        (calls("hgetall") - listings) * 8 < calls("hset") - renewals
    })
    .await;
    assert_eq!(ann.lease.fenced(), 0);
}

#[tokio::test]
async fn a_node_that_is_gone_is_reaped_forgotten_and_left_alone() {
    let server = RedisServer::start().unwrap();
    let bob = Leased::start("bob", leased(&server.url()));
    bob.held().await;
    let gone = {
        let ann = Leased::start("ann", leased(&server.url()));
        eventually("bob sees ann", || bob.sees(&ann)).await;
        ann.lease.owner()
    };
    eventually("it is reaped", || bob.reaped.times(&gone) > 0).await;
    let known = || {
        let keys = server.command("KEYS fl:*").unwrap();
        // The order of changes says of the forgotten, too, that they are.
        let keys = keys.lines().filter(|line| line.starts_with("fl:") && !line.contains("changes"));
        let keys = keys.map(str::to_owned);
        keys.filter(|key| {
            ["ZRANGE {} 0 -1", "HGETALL {}"].iter().any(|command| {
                server.command(&command.replace("{}", key)).unwrap().contains(&*gone)
            })
        })
        .collect::<Vec<_>>()
    };
    eventually("it is forgotten", || known().is_empty()).await;
    assert_eq!(bob.lease.nodes().len(), 1);
}

#[tokio::test]
async fn a_released_lease_is_reaped_without_waiting_for_its_end() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::start("ann", RedisConfig { lease: LEASE * 60, ..leased(&server.url()) });
    let bob = Leased::start("bob", leased(&server.url()));
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    let owner = ann.lease.owner();
    ann.lease.release().await;
    assert!(!ann.lease.is_held());
    eventually("it is reaped", || bob.reaped.times(&owner) > 0).await;
    assert_eq!(ann.lease.owner(), owner, "who has left does not come back");
}

#[tokio::test]
async fn a_redis_that_lost_its_data_fences_every_node() {
    let mut server = RedisServer::start().unwrap();
    let ann = Leased::start("ann", leased(&server.url()));
    let bob = Leased::start("bob", leased(&server.url()));
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    let (mut anns, mut bobs) = (ann.lease.changed(), bob.lease.changed());
    server.kill();
    server.launch().unwrap();
    anns.changed().await.unwrap();
    bobs.changed().await.unwrap();
    assert_eq!(anns.borrow().round, 1);
    eventually("both see both again", || ann.sees(&bob) && bob.sees(&ann)).await;
    assert!(ann.lease.owner().ends_with(":2") && bob.lease.owner().ends_with(":2"));
}

#[tokio::test]
async fn a_dead_node_is_not_forgotten_by_a_redis_that_loses_its_data_twice() {
    let mut server = RedisServer::start().unwrap();
    let bob = Leased::start("bob", leased(&server.url()));
    let gone = {
        let ann = Leased::start("ann", leased(&server.url()));
        eventually("bob sees ann", || bob.sees(&ann)).await;
        ann.lease.owner()
    };
    // Each time before it can be found dead.
    for lost in 1..=2 {
        server.kill();
        server.launch().unwrap();
        let is_fenced = || bob.lease.fenced() >= lost && bob.lease.is_held();
        eventually("bob has the lease of another generation", is_fenced).await;
    }
    eventually("what it held is reaped", || bob.reaped.times(&gone) > 0).await;
}

#[tokio::test]
async fn an_outage_longer_than_the_lease_reaps_and_fences_nobody() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::start("ann", leased(&server.url()));
    let bob = Leased::start("bob", leased(&server.url()));
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    server.pause().unwrap();
    tokio::time::sleep(LEASE * 3).await;
    assert!(!ann.lease.is_held() && !bob.lease.is_held());
    server.resume().unwrap();
    ann.held().await;
    bob.held().await;
    eventually("both see both", || ann.sees(&bob) && bob.sees(&ann)).await;
    for lease in [&ann.lease, &bob.lease] {
        assert!(lease.owner().ends_with(":1"));
        assert_eq!((lease.fenced(), lease.changed().borrow().round), (0, 0));
    }
    for reaped in [&ann.reaped, &bob.reaped] {
        assert!(reaped.0.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn slots_that_move_between_known_masters_fence_nobody() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let ann = Leased::start("ann", leased(&cluster.url()));
    ann.held().await;
    let owner = ann.lease.owner();
    let key = (0..2).find_map(|node| {
        let keys = cluster.node(node).call(&["KEYS", "fl:*:leases:"]).ok()?.array().ok()?;
        keys.into_iter().next()?.text().ok()
    });
    let key = key.expect("somebody has the leases");
    let slot = cluster.slot_of(&key).unwrap();
    for _ in 0..4 {
        let to = 1 - cluster.master_of_slot(slot).unwrap();
        cluster.migrate_slot(slot, to).unwrap();
        let deadline_ms = || {
            let score = cluster.node(to).call(&["ZSCORE", &key, &owner]).unwrap().text();
            score.ok().map_or(0, |score| score.parse::<u64>().unwrap())
        };
        let before = deadline_ms();
        let lasts_ms = LEASE.as_millis() as u64;
        eventually("it was renewed there for long", || {
            ann.lease.fenced() > 0 || deadline_ms() > before + lasts_ms
        })
        .await;
        assert_eq!((ann.lease.owner(), ann.lease.fenced()), (Arc::clone(&owner), 0));
    }
}
