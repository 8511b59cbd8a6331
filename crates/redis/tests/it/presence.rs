//! Presence: its contract over memory and Redis, and what becomes of it when nodes or Redis die.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanlight_engine::broker::{Broker, MemoryBroker};
use fanlight_engine::presence::{MemoryPresence, Presence};
use fanlight_redis::{Lease, PresenceOptions, Reap, RedisConfig, RedisPresence};
use fanlight_testkit::contract::Node;
use fanlight_testkit::contract::presence::{
    CHANGES_MAX, PresenceHarness, PresenceNode, QUICK, place, user,
};
use fanlight_testkit::{Inbox, RedisCluster, RedisServer, RedisShards, eventually, wall_clock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lease::leased;
use crate::nodes::{LeasedNode, RedisNode};

/// One process whose workers are taken for nodes.
#[derive(Default)]
struct Memory {
    shutdown: CancellationToken,
}

impl PresenceHarness for Memory {
    async fn nodes(&self, interval: Duration) -> [PresenceNode; 2] {
        let inboxes: Vec<_> = (0..2).map(|_| Inbox::new()).collect();
        let broker = Arc::new(MemoryBroker::new(Node::sinks(&inboxes), wall_clock()));
        let changes_max = CHANGES_MAX as usize;
        let presence =
            Arc::new(MemoryPresence::new(Arc::clone(&broker), wall_clock(), changes_max, 1));
        let telling = Arc::clone(&presence);
        let shutdown = self.shutdown.clone();
        TaskTracker::new().spawn(async move {
            let start = tokio::time::Instant::now() + interval;
            let mut ticks = tokio::time::interval_at(start, interval);
            while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
                telling.publish_changes();
            }
        });
        let node = |first_worker: u16| PresenceNode {
            node: Node {
                broker: Arc::clone(&broker) as Arc<dyn Broker>,
                inboxes: vec![Arc::clone(&inboxes[usize::from(first_worker)])],
                first_worker,
            },
            presence: Arc::clone(&presence) as Arc<dyn Presence>,
        };
        [node(0), node(1)]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

mod memory {
    fanlight_testkit::presence_contract!(super::Memory::default());
}

/// Two nodes over one arrangement of Redis processes, which must live as long.
struct Redis {
    url: String,
    nodes: Mutex<Vec<Leased>>,
    _processes: Box<dyn Any>,
}

impl Redis {
    fn over(url: String, processes: impl Any) -> Self {
        Self { url, nodes: Mutex::default(), _processes: Box::new(processes) }
    }

    fn standalone() -> Self {
        let server = RedisServer::start().unwrap();
        Self::over(server.url(), server)
    }

    fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).unwrap();
        Self::over(cluster.url(), cluster)
    }

    fn shards() -> Self {
        let shards = RedisShards::start(3).unwrap();
        Self::over(shards.url(), shards)
    }
}

impl PresenceHarness for Redis {
    async fn nodes(&self, interval: Duration) -> [PresenceNode; 2] {
        let start = || Leased::ready(leased(&self.url), interval);
        let (ann, bob) = (start().await, start().await);
        let nodes = [ann.node.clone(), bob.node.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod redis {
    fanlight_testkit::presence_contract!(super::Redis::standalone());
}

mod cluster {
    fanlight_testkit::presence_contract!(super::Redis::cluster());
}

mod shards {
    fanlight_testkit::presence_contract!(super::Redis::shards());
}

/// A node over Redis with presence.
pub(crate) struct Leased {
    own: LeasedNode,
    pub(crate) lease: Arc<Lease>,
    presence: RedisPresence,
    pub(crate) node: PresenceNode,
}

impl Leased {
    fn start(config: RedisConfig, interval: Duration) -> Self {
        let options = PresenceOptions { interval, changes_max: CHANGES_MAX };
        let (own, presence) = LeasedNode::start("", config, 1, Vec::new(), |own| {
            let RedisNode { redis, tracker, shutdown, .. } = &own.redis;
            let presence =
                RedisPresence::start(redis, &own.lease, options, tracker, shutdown.clone());
            own.reaps(vec![Arc::new(presence.clone()) as _]);
            presence
        });
        let shared = Arc::new(presence.clone());
        let node = PresenceNode { node: own.redis.node.clone(), presence: shared };
        Self { lease: Arc::clone(&own.lease), own, presence, node }
    }

    pub(crate) async fn ready(config: RedisConfig, interval: Duration) -> Self {
        let node = Self::start(config, interval);
        node.own.redis.healthy().await;
        eventually("the lease is held", || node.lease.is_held()).await;
        node
    }
}

#[tokio::test]
async fn a_node_that_dies_without_a_word_takes_its_members_along_and_no_others() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::ready(leased(&server.url()), QUICK).await;
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let (room, hall) = (place("/topic/room"), place("/topic/hall"));
    bob.node.subscribe(&room).await;
    for number in 0..300 {
        ann.node.enter(&room, &format!("u{number}"));
    }
    ann.node.enter(&hall, "zoe");
    ann.node.enter(&hall, "both");
    bob.node.enter(&hall, "both");
    bob.node.counts(&room, 300).await;
    bob.node.sees(&hall, &[("both", 2), ("zoe", 1)]).await;
    drop(ann);
    // Some are back elsewhere before it is noticed.
    for number in 0..100 {
        bob.node.enter(&room, &format!("u{number}"));
    }
    bob.node.counts(&room, 100).await;
    bob.node.sees(&hall, &[("both", 1)]).await;
    let members = bob.node.named(&room).await;
    assert!(members.values().all(|sessions| *sessions == 1), "{members:?}");
    assert!((0..100).all(|number| members.contains_key(&format!("u{number}"))));
    // And it is told.
    let last = || bob.node.changes(&room).last().map(|change| change.count);
    eventually("the change is told", || last() == Some(100)).await;
}

#[tokio::test]
async fn what_a_dying_node_had_left_to_tell_is_told_by_who_reaps_it() {
    let server = RedisServer::start().unwrap();
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    bob.node.subscribe(&room).await;
    let ann = Leased::ready(leased(&server.url()), Duration::from_secs(3600)).await;
    bob.node.enter(&room, "zoe");
    bob.node.enter(&room, "yan");
    eventually("both are told", || bob.node.told(&room).len() == 2).await;
    // The last session of zoe moves to ann and leaves there, which ann has yet to tell.
    ann.node.enter(&room, "zoe");
    bob.node.sees(&room, &[("yan", 1), ("zoe", 2)]).await;
    bob.node.exit(&room, "zoe");
    bob.node.sees(&room, &[("yan", 1), ("zoe", 1)]).await;
    ann.node.exit(&room, "zoe");
    bob.node.sees(&room, &[("yan", 1)]).await;
    assert_eq!(bob.node.told(&room).len(), 2);
    drop(ann);
    eventually("the leave is told", || bob.node.told(&room) == ["yan".to_owned()].into()).await;
}

#[tokio::test]
async fn a_node_that_was_reaped_while_it_slept_enters_its_members_again() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::ready(leased(&server.url()), QUICK).await;
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    ann.node.enter(&room, "zoe");
    ann.node.enter(&room, "gone");
    bob.node.counts(&room, 2).await;
    let first = ann.lease.owner();
    let paused = ann.own.pause();
    bob.node.counts(&room, 0).await;
    // What it is told while it sleeps, it does under its old owner when it wakes, or not at all.
    ann.node.exit(&room, "gone");
    ann.node.enter(&room, "new");
    drop(paused);
    bob.node.sees(&room, &[("new", 1), ("zoe", 1)]).await;
    assert_ne!(ann.lease.owner(), first);
    ann.node.exit(&room, "zoe");
    ann.node.exit(&room, "new");
    bob.node.counts(&room, 0).await;
}

#[tokio::test]
async fn what_a_reaped_owner_still_sends_is_refused_until_it_has_its_next_generation() {
    let server = RedisServer::start().unwrap();
    let ann = Leased::ready(leased(&server.url()), QUICK).await;
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    ann.node.enter(&room, "zoe");
    bob.node.counts(&room, 1).await;
    assert_eq!(bob.presence.reap(&ann.lease.owner()).await, Ok(true));
    assert_eq!(bob.node.count(&room).await, Some(0));
    // As a node does that slept through its own death, and does not know yet.
    ann.node.enter(&room, "late");
    assert_eq!(ann.node.count(&room).await, Some(0), "its entry was sent before the count");
    ann.lease.fence();
    bob.node.sees(&room, &[("late", 1), ("zoe", 1)]).await;
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_entered_when_it_is_back_with_its_data_or_without() {
    let mut server = RedisServer::start().unwrap();
    let ann = Leased::ready(leased(&server.url()), QUICK).await;
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    bob.node.enter(&room, "bob");
    ann.node.enter(&room, "stays");
    ann.node.enter(&room, "goes");
    bob.node.counts(&room, 3).await;
    server.kill();
    eventually("ann has no lease", || !ann.lease.is_held()).await;
    assert_eq!(ann.node.count(&room).await, None, "no count is better than a wrong one");
    ann.node.exit(&room, "goes");
    ann.node.enter(&room, "comes");
    ann.node.enter(&room, "brief");
    ann.node.exit(&room, "brief");
    // It keeps nothing on disk, so all is lost.
    server.launch().unwrap();
    let expected = [("bob", 1), ("comes", 1), ("stays", 1)];
    bob.node.sees(&room, &expected).await;
    ann.node.sees(&room, &expected).await;
    ann.node.exit(&room, "stays");
    ann.node.exit(&room, "comes");
    bob.node.sees(&room, &[("bob", 1)]).await;
}

#[tokio::test]
async fn a_broken_connection_makes_no_entry_count_twice() {
    let server = RedisServer::start().unwrap();
    let proxy = fanlight_testkit::FaultProxy::start(server.address()).await.unwrap();
    let ann = Leased::ready(leased(&format!("redis://{}", proxy.address())), QUICK).await;
    let bob = Leased::ready(leased(&server.url()), QUICK).await;
    let room = place("/topic/room");
    for round in 0..20 {
        for number in 0..20 {
            ann.node.presence.enter(&room, user(&format!("u{number}")));
        }
        proxy.cut();
        for number in 0..20 {
            if (number + round) % 3 > 0 {
                ann.node.presence.exit(&room, user(&format!("u{number}")));
            }
        }
    }
    let mut expected = Vec::new();
    for number in 0..20 {
        let sessions = (0..20).filter(|round| (number + round) % 3 == 0).count();
        expected.push((format!("u{number}"), sessions as u32));
    }
    let expected: Vec<_> = expected.iter().map(|(name, sessions)| (&**name, *sessions)).collect();
    bob.node.sees(&room, &expected).await;
}
