//! A node is added, and sessions move to it: evenly, and with nothing lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::post;
use crate::returning::{bearer, config, nodes_with};
use crate::support::{Gateway, Got, RawClient, eventually};

const TOPIC: &str = "/topic/open.a";
const CLIENTS: usize = 40;

/// Soon, where a machine is busy with other tests.
const OPTIONS: &str = r#"
[cluster]
lease = "10s"
lease_renew = "500ms"
[rebalance]
enabled = true
threshold_percent = 20
min_sessions = 5
window = "1s"
cooldown = "2s"
settle = "2s"
"#;

/// Gives each client to the node with the fewest, as a load balancer does.
#[derive(Default)]
struct Balancer(Mutex<Vec<(SocketAddr, usize)>>);

impl Balancer {
    fn add(&self, node: SocketAddr) {
        self.0.lock().unwrap().push((node, 0));
    }

    fn enter(&self) -> SocketAddr {
        let mut nodes = self.0.lock().unwrap();
        let fewest = nodes.iter_mut().min_by_key(|(_, count)| *count).unwrap();
        fewest.1 += 1;
        fewest.0
    }

    fn leave(&self, node: SocketAddr) {
        let mut nodes = self.0.lock().unwrap();
        nodes.iter_mut().find(|(own, _)| *own == node).unwrap().1 -= 1;
    }
}

/// What all clients share.
#[derive(Default)]
struct Crowd {
    balancer: Balancer,
    authorization: String,
    live: AtomicUsize,
    moved: AtomicU64,
    /// By client: the numbers that it has heard.
    heard: Vec<Mutex<Vec<u64>>>,
}

impl Crowd {
    /// A client that goes to another node when it is told to, and on from where it stands.
    async fn client(&self, at: usize) {
        let mut since = None;
        loop {
            let node = self.balancer.enter();
            self.serve(at, node, &mut since).await;
            self.balancer.leave(node);
            self.live.fetch_sub(1, Ordering::Relaxed);
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn serve(&self, at: usize, node: SocketAddr, since: &mut Option<Value>) {
        let headers = [
            ("Authorization", &*self.authorization),
            ("Sec-WebSocket-Protocol", "fanlight.v1.json"),
        ];
        let mut client = RawClient::connect(node, "/ws", &headers).await.begun_native().await;
        let subscribe = json!({ "type": "subscribe", "to": TOPIC, "id": 1, "since": since });
        client.send(&subscribe.to_string()).await;
        loop {
            let text = match client.next().await {
                Got::Text(text) => text,
                Got::Ping(_) => continue,
                other => panic!("it was not told to go, and got {other:?}"),
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["type"].as_str().unwrap() {
                "ok" => {
                    assert!(since.is_none() || message["recovered"] == true, "{message}");
                    self.live.fetch_add(1, Ordering::Relaxed);
                }
                "message" => self.heard[at].lock().unwrap().push(message["data"].as_u64().unwrap()),
                "reconnect" => {
                    assert_eq!(message["reason"], "rebalanced");
                    assert!(message["after_ms"].as_u64().unwrap() > 0);
                    return assert_eq!(client.close_code().await, 4412);
                }
                other => panic!("{other}: {message}"),
            }
            if !message["offset"].is_null() {
                *since = Some(json!({ "epoch": message["epoch"], "offset": message["offset"] }));
            }
        }
    }
}

async fn sessions(nodes: &[&Gateway]) -> Vec<u64> {
    let mut counts = Vec::new();
    for node in nodes {
        counts.push(node.metric("fanlight_sessions").await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_move_to_a_node_that_is_added_until_all_have_about_as_many_and_nothing_is_lost() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis, OPTIONS);
    let [a, b] = nodes_with(&config).await;
    let crowd = Arc::new(Crowd {
        authorization: bearer("ann").await,
        heard: (0..CLIENTS).map(|_| Mutex::default()).collect(),
        ..Crowd::default()
    });
    crowd.balancer.add(a.public);
    crowd.balancer.add(b.public);
    let mut clients = JoinSet::new();
    for at in 0..CLIENTS {
        let crowd = Arc::clone(&crowd);
        clients.spawn(async move { crowd.client(at).await });
    }
    let all_are_live = async || crowd.live.load(Ordering::Relaxed) == CLIENTS;
    eventually("all have subscribed", all_are_live).await;

    let publisher = bearer("pub").await;
    let lines = [("Authorization", &*publisher)];
    let (mut count, mut c) = (0, None::<Gateway>);
    let is_even = async |c: &Gateway| {
        let counts = sessions(&[&a, &b, c]).await;
        counts.iter().sum::<u64>() == CLIENTS as u64 && counts.iter().all(|count| *count <= 16)
    };
    let begun = std::time::Instant::now();
    while match &c {
        Some(c) => !is_even(c).await,
        None => true,
    } {
        assert!(begun.elapsed() < crate::support::PATIENCE * 2, "they never came to be even");
        for _ in 0..5 {
            let send = json!({ "to": TOPIC, "data": count }).to_string();
            let response = post(a.public, "/publish", &lines, &send).await;
            assert_eq!(response.status, 200, "{response:?}");
            count += 1;
        }
        if c.is_none() {
            let [added] = nodes_with(&config).await;
            crowd.balancer.add(added.public);
            c = Some(added);
        }
    }
    let c = c.unwrap();

    let everything: Vec<u64> = (0..count).collect();
    eventually("everybody has heard everything", async || {
        crowd.heard.iter().all(|heard| heard.lock().unwrap().len() as u64 >= count)
    })
    .await;
    for heard in &crowd.heard {
        assert_eq!(*heard.lock().unwrap(), everything);
    }
    let mut given = 0;
    for (node, is_new) in [(&a, false), (&b, false), (&c, true)] {
        let own = node.metric("fanlight_rebalanced_sessions_total").await;
        assert!(own <= 6 && (own == 0 || !is_new), "no node goes below the mean: {own}");
        given += own;
    }
    assert_eq!(given, crowd.moved.load(Ordering::Relaxed));
    assert!(given >= 8, "{given} sessions make none of them even");
    assert!(clients.try_join_next().is_none(), "a client has failed");
}
