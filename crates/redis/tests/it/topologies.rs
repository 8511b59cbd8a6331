//! The broker contract over each arrangement of Redis processes; and what several shards add.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Mutex;

use fanlight_engine::broker::{BrokerHealth, Joined, Reach};
use fanlight_redis::RedisConfig;
use fanlight_testkit::contract::{BrokerHarness, Node};
use fanlight_testkit::{RedisCluster, RedisSentinel, RedisServer, RedisShards, eventually};

use crate::nodes::{RedisNode, config};

/// Two nodes over whatever the configuration says, and the processes that must live as long.
struct Over {
    config: RedisConfig,
    nodes: Mutex<Vec<RedisNode>>,
    _processes: Box<dyn Any>,
}

impl Over {
    fn new(config: RedisConfig, processes: impl Any) -> Self {
        Self { config, nodes: Mutex::default(), _processes: Box::new(processes) }
    }

    fn shards() -> Self {
        let shards = RedisShards::start(3).unwrap();
        Self::new(config(&shards.url()), shards)
    }

    fn sentinel() -> Self {
        let sentinel = RedisSentinel::start(1, 1).unwrap();
        Self::new(config(&sentinel.url()), sentinel)
    }

    fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).unwrap();
        Self::new(config(&cluster.url()), cluster)
    }

    fn tls() -> Self {
        let server = RedisServer::start_tls().unwrap();
        let mut config = config(&server.url());
        config.tls.as_mut().unwrap().ca_file = server.authority().map(Into::into);
        Self::new(config, server)
    }
}

impl BrokerHarness for Over {
    async fn nodes(&self, workers: u16) -> [Node; 2] {
        let ann = RedisNode::ready(self.config.clone(), workers).await;
        let bob = RedisNode::ready(self.config.clone(), workers).await;
        let nodes = [ann.node.clone(), bob.node.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod shards {
    fanlight_testkit::broker_contract!(super::Over::shards());
}

mod sentinel {
    fanlight_testkit::broker_contract!(super::Over::sentinel());
}

mod cluster {
    fanlight_testkit::broker_contract!(super::Over::cluster());
}

mod tls {
    fanlight_testkit::broker_contract!(super::Over::tls());
}

#[tokio::test]
async fn nodes_agree_on_the_shards_whatever_the_order_of_their_lists() {
    let shards = RedisShards::start(3).unwrap();
    let mut hosts: Vec<_> = shards.endpoints().iter().map(ToString::to_string).collect();
    hosts.reverse();
    let ann = RedisNode::ready(config(&shards.url()), 1).await;
    let bob = RedisNode::ready(config(&format!("redis-shards://{}", hosts.join(","))), 1).await;
    for number in 0..100 {
        let name = format!("/topic/{number}");
        assert_eq!(bob.node.subscribe(0, &name).await, Joined::Live);
        ann.node.accepted(&name, "x").await;
    }
    eventually("all arrived", || bob.node.inboxes[0].count() == 100).await;
    for index in 0..3 {
        let subscribed = shards.shard(index).call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
        let subscribed = subscribed.array().unwrap().len();
        assert!((15..=55).contains(&subscribed), "shard {index} has {subscribed} of 100");
    }
}

#[tokio::test]
async fn a_dead_shard_takes_its_own_channels_with_it_and_no_other() {
    const CHANNELS: usize = 60;
    let mut shards = RedisShards::start(3).unwrap();
    let ann = RedisNode::ready(config(&shards.url()), 1).await;
    let names: Vec<_> = (0..CHANNELS).map(|number| format!("/topic/{number}")).collect();
    for name in &names {
        assert_eq!(ann.node.subscribe(0, name).await, Joined::Live);
    }
    let of_the_dead: HashSet<_> = {
        let dead = shards.shard(1).call(&["PUBSUB", "CHANNELS", "fl:*:c:*"]).unwrap();
        let channels = dead.array().unwrap().into_iter().map(|name| name.text().unwrap());
        channels.map(|name| name.split_once(":c:").unwrap().1.to_owned()).collect()
    };
    assert!(!of_the_dead.is_empty() && of_the_dead.len() < CHANNELS);
    let address = shards.endpoints()[1];
    shards.shard_mut(1).kill();
    ann.unhealthy(&format!("Redis at {address}: ")).await;
    for name in &names {
        let reach = ann.node.publish(name, "x").await.unwrap().reach;
        assert_eq!(reach == Reach::ThisNode, of_the_dead.contains(name), "{name}");
    }
    // Its own went to this node's own subscribers.
    eventually("all deliver here", || ann.node.inboxes[0].count() == CHANNELS).await;
    shards.shard_mut(1).launch().unwrap();
    ann.healthy().await;
    eventually("its channels are suspect", || {
        ann.node.inboxes[0].notices().len() == of_the_dead.len()
    })
    .await;
    for name in &names {
        ann.node.accepted(name, "y").await;
    }
    eventually("all deliver", || ann.node.inboxes[0].count() == 2 * CHANNELS).await;
    assert_eq!(ann.redis_health(), BrokerHealth::Healthy);
}
