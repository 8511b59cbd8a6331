//! A client that publishes, and records what it was told of each publication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cast::{OPEN_BULK, padding_bytes};
use crate::connection::Connection;
use crate::nodes::Nodes;
use crate::record::{Content, Outcome, Send};
use crate::recorder::Recorder;
use crate::wire::{Done, Incoming, Protocol};

/// What all clients of a run are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Faults are made.
    Troubled,
    /// All is healed: nobody publishes of its own accord, nobody leaves.
    Calm,
    /// Everybody stops.
    Over,
}

pub struct Publisher {
    pub index: usize,
    pub protocol: Protocol,
    /// Whether it gives each publication a key, and repeats what has no answer.
    pub keyed: bool,
    pub user: String,
    pub token: String,
    /// Where to publish, by destination.
    pub targets: Arc<[String]>,
    pub recorder: Arc<Recorder>,
    pub rng: StdRng,
    pub phase: watch::Receiver<Phase>,
    pub connections: u64,
    pub sent: u64,
    /// What has no answer yet and will be repeated.
    pub open: Option<Pending>,
}

/// A publication under way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    content: Content,
    sent_at_ms: u64,
    attempts: u32,
}

impl Publisher {
    /// Publishes through any node, going on elsewhere when one fails, until the faults are over.
    pub async fn run(mut self, nodes: &Nodes) {
        while self.is_troubled() {
            let node = self.rng.random_range(0..nodes.count());
            let Some(address) = nodes.address(node) else { continue };
            let Ok(mut connection) = Connection::open(address, self.protocol, &self.token).await
            else {
                sleep(RETRY).await;
                continue;
            };
            self.connections += 1;
            let _opened = self.recorder.opened(&self.user, node, &connection.session);
            // A failed connection ends here; whatever was under way is recorded.
            while self.is_troubled() && self.burst(&mut connection).await.is_ok() {
                let pause = self.rng.random_range(10..100);
                sleep(Duration::from_millis(pause)).await;
            }
        }
        if let Some(pending) = self.open.take() {
            self.record(pending, Outcome::Unknown);
        }
    }

    /// Publishes to `destination` until it is acknowledged whole; the content that was.
    pub async fn insist(
        &mut self,
        nodes: &Nodes,
        destination: usize,
        deadline: Instant,
    ) -> anyhow::Result<Content> {
        loop {
            anyhow::ensure!(Instant::now() < deadline, "nothing is acknowledged any more");
            let node = self.rng.random_range(0..nodes.count());
            let Some(address) = nodes.address(node) else { continue };
            let opened = Connection::open(address, self.protocol, &self.token).await;
            let Ok(mut connection) = opened else {
                sleep(RETRY).await;
                continue;
            };
            self.connections += 1;
            let _opened = self.recorder.opened(&self.user, node, &connection.session);
            let pending = self.next(destination);
            let outcomes = self.publish(&mut connection, vec![pending]).await;
            for (pending, outcome) in outcomes {
                self.record(pending, outcome.clone());
                if matches!(outcome, Outcome::Acked { degraded: false, .. }) {
                    return Ok(pending.content);
                }
            }
            sleep(RETRY).await;
        }
    }

    async fn burst(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        let count = if self.keyed { 1 } else { self.rng.random_range(1..=MAX_BURST) };
        let mut batch = Vec::new();
        for _ in 0..count {
            // The largest a little more often, so that stalls have consequences soon.
            let destination = if self.rng.random_ratio(1, 16) {
                OPEN_BULK
            } else {
                self.rng.random_range(0..self.targets.len())
            };
            let pending = self.open.take().unwrap_or_else(|| self.next(destination));
            batch.push(pending);
        }
        let mut failed = false;
        for (mut pending, outcome) in self.publish(connection, batch).await {
            pending.attempts += 1;
            let outcome = match outcome {
                // An earlier attempt may have been published.
                Outcome::Refused(_) if pending.attempts > 1 => Outcome::Unknown,
                outcome => outcome,
            };
            failed |= outcome == Outcome::Unknown;
            if self.keyed && outcome == Outcome::Unknown {
                self.open = Some(pending);
            } else {
                self.record(pending, outcome);
            }
        }
        anyhow::ensure!(!failed, "go elsewhere");
        Ok(())
    }

    fn next(&mut self, destination: usize) -> Pending {
        self.sent += 1;
        let content = Content { publisher: self.index, number: self.sent, destination };
        Pending { content, sent_at_ms: self.recorder.now_ms(), attempts: 0 }
    }

    /// Sends all, then waits for all answers.
    async fn publish(
        &self,
        connection: &mut Connection,
        batch: Vec<Pending>,
    ) -> Vec<(Pending, Outcome)> {
        let mut waiting = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut is_up = true;
        for pending in batch {
            let content = pending.content;
            let id = content.number.to_string();
            let key = self.keyed.then_some(id.as_str());
            let target = &self.targets[content.destination];
            let padding_bytes = padding_bytes(content.destination);
            let text = self.protocol.send(target, &id, key, content, padding_bytes);
            is_up = is_up && connection.send(&text).await.is_ok();
            waiting.insert(id, pending);
        }
        let deadline = Instant::now() + ANSWER_MAX;
        while is_up && !waiting.is_empty() {
            let Ok(Ok(incoming)) = timeout_at(deadline, connection.next()).await else { break };
            for incoming in incoming {
                let (id, outcome) = match incoming {
                    Incoming::Done(Done { id, position, degraded, .. }) => {
                        (Some(id), Outcome::Acked { position, degraded })
                    }
                    Incoming::Refused { id, code } if code == "unknown" => (id, Outcome::Unknown),
                    Incoming::Refused { id, code } => (id, Outcome::Refused(code)),
                    _ => continue,
                };
                outcomes.extend(id.and_then(|id| waiting.remove(&id)).map(|sent| (sent, outcome)));
            }
        }
        outcomes.extend(waiting.into_values().map(|pending| (pending, Outcome::Unknown)));
        outcomes
    }

    fn record(&self, pending: Pending, outcome: Outcome) {
        self.recorder.send(Send {
            content: pending.content,
            connection: self.connections,
            sent_at_ms: pending.sent_at_ms,
            ended_at_ms: self.recorder.now_ms(),
            outcome,
            repeated: pending.attempts > 1,
        });
    }

    fn is_troubled(&self) -> bool {
        *self.phase.borrow() == Phase::Troubled
    }
}

const MAX_BURST: usize = 5;
const RETRY: Duration = Duration::from_millis(100);
/// Longer than a node waits for Redis.
const ANSWER_MAX: Duration = Duration::from_secs(5);
