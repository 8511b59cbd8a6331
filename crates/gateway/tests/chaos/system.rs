//! What is tested: Redis, the nodes, and the proxies between them.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use fanlight_testkit::{FaultProxy, alias};
use tokio::task::spawn_blocking;

use crate::cast::ACK_TIMEOUT_MS;
use crate::check::{LEASE_MS, LEASE_RENEW_MS};
use crate::nodes::{Nodes, token};
use crate::run::Options;
use crate::schedule::{Fault, Links, Topology};
use crate::stores::{Stores, Victim};

/// All processes of a run.
pub struct System {
    pub nodes: Nodes,
    pub links: Links,
    stores: Arc<Mutex<Stores>>,
    /// Those of each node.
    proxies: Vec<Vec<FaultProxy>>,
}

/// What heals a fault.
pub enum Cure {
    Nothing,
    Launch { node: usize },
    Continue { node: usize },
    Release { node: usize },
    Resume(Victim),
    Relaunch(Victim),
}

impl System {
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let Options { topology, nodes, min_replicas_ack, .. } = *options;
        let stores = spawn_blocking(move || Stores::start(topology)).await??;
        let links = topology.links(has_aliases());
        if links == Links::None && topology != Topology::Shards {
            eprintln!("no partitions: this system has no loopback address but 127.0.0.1");
        }
        let mut proxies = Vec::new();
        let mut configs = Vec::new();
        for node in 0..nodes {
            let (url, of_node) = connect(&stores, links, node as u8).await?;
            proxies.push(of_node);
            let config = CONFIG
                .replace("REDIS_URL", &url)
                .replace("MIN_REPLICAS", &min_replicas_ack.to_string())
                .replace("ACK_TIMEOUT", &format!("{ACK_TIMEOUT_MS}ms"))
                .replace("LEASE_RENEW", &format!("{LEASE_RENEW_MS}ms"))
                .replace("LEASE", &format!("{LEASE_MS}ms"));
            configs.push(config);
        }
        let nodes = Nodes::start(&options.directory, &configs).await?;
        nodes.wait_until_ready().await?;
        Ok(Self { nodes, links, stores: Arc::new(Mutex::new(stores)), proxies })
    }

    /// A token for a user.
    pub async fn token(user: &str, roles: &[&str]) -> anyhow::Result<String> {
        token(SECRET, user, roles).await
    }

    /// What to connect to without a proxy between.
    pub fn redis_url(&self) -> String {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).url()
    }

    /// Makes a fault; returns what heals it.
    pub async fn begin(&self, fault: Fault) -> anyhow::Result<Cure> {
        match fault {
            Fault::KillNode { node } => {
                self.nodes.kill(node).await?;
                return Ok(Cure::Launch { node });
            }
            Fault::PauseNode { node } => {
                self.nodes.signal(node, "STOP").await?;
                return Ok(Cure::Continue { node });
            }
            Fault::Partition { node } => self.on_links(node, |proxy| proxy.hold(true)),
            Fault::PartitionOne { node, pick } => {
                let master = self.on_stores(move |stores| stores.master(pick)).await?;
                let of_it = |proxy: &&FaultProxy| proxy.address().port() == master.port();
                let proxy = self.proxies[node].iter().find(of_it);
                proxy.context("no proxy stands before this master")?.hold(true);
            }
            Fault::LoseAnswers { node } => self.on_links(node, |proxy| proxy.hold_answers(true)),
            Fault::Cut { node } => {
                self.on_links(node, FaultProxy::cut);
                return Ok(Cure::Nothing);
            }
            Fault::KillSubscribers => {
                self.on_stores(|stores| stores.kill_clients("pubsub")).await?;
                return Ok(Cure::Nothing);
            }
            Fault::KillCommands => {
                self.on_stores(|stores| stores.kill_clients("normal")).await?;
                return Ok(Cure::Nothing);
            }
            Fault::PauseRedis { pick } => {
                let victim = self.on_stores(move |stores| stores.pause(pick)).await?;
                return Ok(Cure::Resume(victim));
            }
            Fault::KillRedis { pick } => {
                let victim = self.on_stores(move |stores| stores.kill(pick)).await?;
                self.retarget();
                return Ok(Cure::Relaunch(victim));
            }
        }
        Ok(Cure::Release { node: fault.node().context("a partition is of a node")? })
    }

    /// Heals a fault.
    pub async fn heal(&self, cure: Cure) -> anyhow::Result<()> {
        match cure {
            Cure::Nothing => Ok(()),
            Cure::Launch { node } => self.nodes.launch(node).await,
            Cure::Continue { node } => self.nodes.signal(node, "CONT").await,
            Cure::Release { node } => {
                self.on_links(node, |proxy| proxy.hold(false));
                Ok(())
            }
            Cure::Resume(victim) => {
                self.on_stores(move |stores| {
                    stores.resume(victim)?;
                    stores.settle()
                })
                .await
            }
            Cure::Relaunch(victim) => {
                self.on_stores(move |stores| {
                    stores.relaunch(victim)?;
                    stores.settle()
                })
                .await
            }
        }
    }

    /// The proxies pass on to whoever is the primary now.
    fn retarget(&self) {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Stores::Replica(..), Some(primary)) = (&*stores, stores.primary()) {
            for proxy in self.proxies.iter().flatten() {
                proxy.retarget(primary);
            }
        }
    }

    fn on_links(&self, node: usize, work: impl Fn(&FaultProxy)) {
        self.proxies[node].iter().for_each(work);
    }

    async fn on_stores<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Stores) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let stores = Arc::clone(&self.stores);
        spawn_blocking(move || work(&mut stores.lock().unwrap_or_else(PoisonError::into_inner)))
            .await?
    }
}

/// What a node connects to, and the proxies that stand there.
async fn connect(
    stores: &Stores,
    links: Links,
    node: u8,
) -> anyhow::Result<(String, Vec<FaultProxy>)> {
    Ok(match links {
        Links::None => (stores.url(), Vec::new()),
        Links::One => {
            let target = stores.primary().context("a proxy needs one target")?;
            let proxy = FaultProxy::start(target).await?;
            (format!("redis://{}", proxy.address()), vec![proxy])
        }
        Links::Each => {
            let mut proxies = Vec::new();
            for server in stores.servers() {
                proxies.push(FaultProxy::start_at_alias(node, server).await?);
            }
            (stores.url().replace("127.0.0.1", &alias(node).to_string()), proxies)
        }
    })
}

/// Whether there are loopback addresses besides 127.0.0.1.
fn has_aliases() -> bool {
    TcpListener::bind((alias(0), 0)).is_ok()
}

const SECRET: &str = "a secret for tests, thirty-two bytes or more";

/// Histories hold more than any run sends, so that nothing is ever too old.
const CONFIG: &str = r#"
workers = 2
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[broker]
kind = "redis"
[redis]
url = "REDIS_URL"
linger = "1s"
min_replicas_ack = MIN_REPLICAS
[cluster]
lease = "LEASE"
lease_renew = "LEASE_RENEW"
[events]
enabled = true
[stomp]
heartbeat_send = "2s"
[limits]
connections_per_ip = 0
handshakes_per_second_per_ip = 0
handshakes_per_second_per_user = 0
messages_per_second = 0
commands_per_second = 0
outbox = "96KiB"
[log]
level = "info"
[[auth.keys]]
algorithm = "HS256"
secret = "a secret for tests, thirty-two bytes or more"
[[namespaces]]
name = "kept"
match = "/topic/kept.*"
presence = true
history = { size = 20000, ttl = "1h" }
[[namespaces]]
name = "open"
match = "/topic/open.*"
presence = true
[[namespaces]]
name = "mine-kept"
match = "/user/**/kept"
history = { size = 20000, ttl = "1h" }
[[namespaces]]
name = "mine-open"
match = "/user/**/open"
[[namespaces]]
name = "dead"
match = "/queue/dead.*"
mode = "queue"
queue = { prefetch = 8, ack_timeout = "ACK_TIMEOUT", max_deliveries = 1000 }
[[namespaces]]
name = "jobs"
match = "/queue/**"
mode = "queue"
queue = { prefetch = 8, ack_timeout = "ACK_TIMEOUT", dead_letter = "/queue/dead.jobs" }
[[policy.rules]]
effect = "allow"
destination = "/queue/**"
[[policy.rules]]
effect = "allow"
destination = "/topic/*"
[[policy.rules]]
effect = "allow"
destination = "/user/queue/**"
[[policy.rules]]
effect = "allow"
actions = ["publish"]
roles = ["admin"]
destination = "/user/*/queue/**"
"#;
