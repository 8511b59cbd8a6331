//! Asks nodes who is there, during the run and at its end, and reads the lifecycle events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use fanlight_redis::{Events, RedisBroker, RedisConfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::nodes::Nodes;
use crate::record::{Event, Sample};
use crate::recorder::Recorder;
use crate::wire::{Incoming, Protocol};

/// What to ask for.
pub struct Watcher {
    pub token: String,
    pub users: Vec<String>,
    /// Destinations with presence, by their place in the run.
    pub places: Vec<(usize, String)>,
    pub recorder: Arc<Recorder>,
}

impl Watcher {
    /// What a node says; an error where it does not answer soon.
    pub async fn sample(&self, nodes: &Nodes, node: usize) -> anyhow::Result<Sample> {
        timeout(SAMPLE_MAX, self.try_sample(nodes, node)).await?
    }

    async fn try_sample(&self, nodes: &Nodes, node: usize) -> anyhow::Result<Sample> {
        let at_ms = self.recorder.now_ms();
        let cluster: Value = serde_json::from_str(&nodes.ask(node, "/cluster", None).await?)?;
        let leases = cluster["nodes"].as_array().context("no nodes")?.iter();
        let leases = leases.filter(|it| it["lease_left_ms"].as_u64() > Some(0)).count();
        let asked = json!({ "users": self.users }).to_string();
        let status = nodes.ask(node, "/users/status", Some(&asked)).await?;
        let status: Value = serde_json::from_str(&status)?;
        let mut registry = Vec::new();
        for user in status["users"].as_array().context("no users")? {
            let name = user["user"].as_str().context("no user")?;
            for session in user["sessions"].as_array().context("no sessions")? {
                let id = session["session"].as_str().context("no session")?.replace('-', "");
                registry.push((name.to_owned(), id));
            }
        }
        let members = self.members(nodes, node).await?;
        Ok(Sample { at_ms, node, is_final: false, leases, registry, members })
    }

    async fn members(
        &self,
        nodes: &Nodes,
        node: usize,
    ) -> anyhow::Result<BTreeMap<usize, BTreeMap<String, u64>>> {
        let address = nodes.address(node).context("it is not there")?;
        let mut connection = Connection::open(address, Protocol::Native, &self.token).await?;
        let mut all = BTreeMap::new();
        for (destination, name) in &self.places {
            let mut members = BTreeMap::new();
            let mut cursor: Option<String> = None;
            loop {
                connection.send(&Protocol::presence(name, cursor.as_deref())).await?;
                let (users, next) = page(&mut connection).await?;
                members.extend(users);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            all.insert(*destination, members);
        }
        Ok(all)
    }
}

async fn page(connection: &mut Connection) -> anyhow::Result<(Vec<(String, u64)>, Option<String>)> {
    loop {
        for incoming in connection.next().await? {
            match incoming {
                Incoming::Members { users, cursor } => return Ok((users, cursor)),
                Incoming::Refused { code, .. } => bail!("presence is refused: {code}"),
                _ => {}
            }
        }
    }
}

/// Reads the lifecycle events as a consumer would.
pub struct EventLog {
    events: Events,
    shutdown: CancellationToken,
    _broker: Arc<RedisBroker>,
}

impl EventLog {
    /// A new consumer, which begins with the oldest.
    pub async fn start(redis_url: &str) -> anyhow::Result<Self> {
        let shutdown = CancellationToken::new();
        let config = RedisConfig::parse_url(redis_url)?;
        let broker = RedisBroker::start(config, Vec::new(), TaskTracker::new(), shutdown.clone());
        let log = Self { events: Events::new(&broker), shutdown, _broker: broker };
        let deadline = Instant::now() + START_MAX;
        while let Err(error) = log.events.create_group(GROUP).await {
            if Instant::now() > deadline {
                return Err(error).context("no group of events");
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(log)
    }

    /// All new ones.
    pub async fn read(&self) -> anyhow::Result<Vec<Event>> {
        let mut all = Vec::new();
        loop {
            let some = self.events.read(GROUP, "checker", 256).await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some.into_iter().filter_map(|event| {
                Some(Event {
                    session: event.session?,
                    user: event.user.unwrap_or_default(),
                    kind: event.kind,
                    reason: event.reason,
                })
            }));
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

const GROUP: &str = "chaos";
const SAMPLE_MAX: Duration = Duration::from_secs(3);
const START_MAX: Duration = Duration::from_secs(20);
