//! The broker contract over memory, over Redis, and over Redis with several subscriber connections.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use fanlight_engine::broker::{Broker, MemoryBroker};
use fanlight_testkit::contract::{BrokerHarness, Node};
use fanlight_testkit::{Inbox, RedisServer, wall_clock};

use crate::nodes::{RedisNode, config};

struct Memory;

impl BrokerHarness for Memory {
    /// Two halves of the workers of one process.
    async fn nodes(&self, workers: u16) -> [Node; 2] {
        let inboxes: Vec<_> = (0..2 * workers).map(|_| Inbox::new()).collect();
        let broker: Arc<dyn Broker> =
            Arc::new(MemoryBroker::new(Node::sinks(&inboxes), wall_clock()));
        let half = |first_worker: u16| Node {
            broker: Arc::clone(&broker),
            inboxes: inboxes[usize::from(first_worker)..][..usize::from(workers)].to_vec(),
            first_worker,
        };
        [half(0), half(workers)]
    }
}

struct Redis {
    server: RedisServer,
    connections: usize,
    nodes: Mutex<Vec<RedisNode>>,
}

impl Redis {
    fn start(connections: usize) -> Self {
        Self { server: RedisServer::start().unwrap(), connections, nodes: Mutex::default() }
    }
}

impl BrokerHarness for Redis {
    async fn nodes(&self, workers: u16) -> [Node; 2] {
        let mut config = config(&self.server.url());
        config.subscriber_connections = NonZeroUsize::new(self.connections).unwrap();
        let ann = RedisNode::ready(config.clone(), workers).await;
        let bob = RedisNode::ready(config, workers).await;
        let nodes = [ann.node.clone(), bob.node.clone()];
        self.nodes.lock().unwrap().extend([ann, bob]);
        nodes
    }
}

mod memory {
    use fanlight_engine::broker::{Broker, MemoryBroker, WorkerId};
    use fanlight_testkit::contract::Node;
    use fanlight_testkit::{Inbox, channel, permit, publication, wall_clock};

    fanlight_testkit::broker_contract!(super::Memory);

    #[tokio::test]
    async fn a_full_inbox_drops_and_counts() {
        let inbox = Inbox::new();
        let broker = MemoryBroker::new(Node::sinks(std::slice::from_ref(&inbox)), wall_clock());
        broker.subscribe(WorkerId(0), &channel("/topic/a")).await;
        inbox.set_full(true);
        broker.publish(permit("/topic/a"), publication("/topic/a", "x")).await.unwrap();
        assert_eq!((broker.deliveries_dropped(), inbox.count()), (1, 0));
    }
}

mod redis {
    fanlight_testkit::broker_contract!(super::Redis::start(1));
}

mod redis_with_three_subscriber_connections {
    fanlight_testkit::broker_contract!(super::Redis::start(3));
}
