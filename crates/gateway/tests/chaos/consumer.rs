//! A client that consumes a queue: it acknowledges, refuses, forgets and dies, and records it all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::connection::Connection;
use crate::nodes::Nodes;
use crate::publisher::Phase;
use crate::record::{Content, Delivery, Settled};
use crate::recorder::Recorder;
use crate::wire::{Incoming, Mark, Protocol};

pub struct Consumer {
    pub index: usize,
    pub protocol: Protocol,
    pub mode: Mode,
    pub is_restless: bool,
    pub user: String,
    pub token: String,
    /// The queue, by its place in the run.
    pub destination: usize,
    pub name: String,
    pub recorder: Arc<Recorder>,
    pub rng: StdRng,
    pub phase: watch::Receiver<Phase>,
}

/// How it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Auto,
    Client,
    Individual,
}

/// One connection of it.
struct Visit {
    connection: Connection,
    node: usize,
    /// In the order of delivery.
    held: Vec<Held>,
    /// By the id of the request: the deliveries that it acknowledges.
    asked: HashMap<String, Vec<usize>>,
    requests: u64,
}

/// A message that it has and has said nothing of.
struct Held {
    delivery: usize,
    ack: String,
    plan: Plan,
}

/// What it will do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Ack(Instant),
    Nack(Instant),
    /// Nothing, so that it comes again.
    Forget,
}

impl Consumer {
    /// Consumes until the run is over.
    pub async fn run(mut self, nodes: &Nodes) {
        while self.phase() != Phase::Over {
            let node = self.rng.random_range(0..nodes.count());
            if let Some(address) = nodes.address(node)
                && let Ok(connection) = Connection::open(address, self.protocol, &self.token).await
            {
                let (held, asked) = (Vec::new(), HashMap::new());
                let mut visit = Visit { connection, node, held, asked, requests: 0 };
                // However it ends, it begins again elsewhere.
                let _ = self.consume(&mut visit).await;
                self.recorder.leave(visit.held.iter().map(|held| held.delivery));
                self.part(&mut visit).await;
            }
            sleep(Duration::from_millis(self.rng.random_range(20..300))).await;
        }
    }

    async fn consume(&mut self, visit: &mut Visit) -> anyhow::Result<()> {
        let opened = self.recorder.opened(&self.user, visit.node, &visit.connection.session);
        let prefetch = self.rng.random_range(1..=PREFETCH_MAX);
        let subscribe = self.protocol.consume(&self.name, SUBSCRIPTION, self.mode.name(), prefetch);
        visit.connection.send(&subscribe).await?;
        let stay = Duration::from_millis(self.rng.random_range(500..5_000));
        let leaves_at = Instant::now() + stay;
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        loop {
            let leaves = self.is_restless && self.phase() == Phase::Troubled;
            let due = visit.due_at();
            select! {
                incoming = visit.connection.next() => {
                    heard_at = Instant::now();
                    let incoming = incoming.inspect_err(|_| opened.cut());
                    for incoming in incoming? {
                        self.hear(visit, incoming)?;
                    }
                }
                () = sleep_until(due.unwrap_or(leaves_at)), if due.is_some() => {
                    self.do_due(visit).await?;
                }
                _ = pings.tick() => {
                    ensure!(heard_at.elapsed() < SILENCE_MAX, "the server is silent");
                    visit.connection.send(&self.protocol.ping()).await?;
                }
                () = sleep_until(leaves_at), if leaves => return Ok(()),
                changed = self.phase.changed() => {
                    if changed.is_err() || self.phase() == Phase::Over {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn hear(&mut self, visit: &mut Visit, incoming: Incoming) -> anyhow::Result<()> {
        match incoming {
            Incoming::Message { to, content, mark, .. } => {
                // Not where it was asked for: as wrong as a body that nobody sent.
                self.take(visit, content.filter(|_| to == self.name), mark);
            }
            Incoming::Done(done) => {
                for delivery in visit.asked.remove(&done.id).unwrap_or_default() {
                    self.recorder.confirm(delivery);
                }
            }
            // Of a native acknowledgement that did not get through; the session goes on.
            Incoming::Refused { id: Some(id), .. } if visit.asked.remove(&id).is_some() => {}
            Incoming::Refused { code, .. } => bail!("refused: {code}"),
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, visit: &mut Visit, content: Option<Content>, mark: Mark) {
        let settled = if self.mode == Mode::Auto { Settled::Taken } else { Settled::Held };
        let is_poison = mark.original.is_none()
            && content.is_some_and(|content| content.number % POISON_EVERY == 0);
        let delivery = self.recorder.deliver(Delivery {
            consumer: self.index,
            node: visit.node,
            destination: self.destination,
            content,
            count: mark.count,
            original: mark.original,
            got_at_ms: self.recorder.now_ms(),
            settled,
            left_at_ms: None,
        });
        let Some(ack) = mark.ack else { return };
        // What it was too slow for has come again: from now on the name means this delivery.
        visit.held.retain(|held| held.ack != ack);
        let at = Instant::now() + Duration::from_millis(self.rng.random_range(0..WORK_MAX_MS));
        let plan = match self.rng.random_range(0..40) {
            _ if is_poison => Plan::Nack(at),
            _ if self.phase() != Phase::Troubled => Plan::Ack(at),
            0 => Plan::Forget,
            1..=3 => Plan::Nack(at),
            _ => Plan::Ack(at),
        };
        visit.held.push(Held { delivery, ack, plan });
    }

    /// Acknowledges or refuses what is due.
    async fn do_due(&mut self, visit: &mut Visit) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(at) = visit.held.iter().position(|held| held.plan.is_due(now)) {
            let from = if self.mode == Mode::Client { 0 } else { at };
            let taken: Vec<Held> = visit.held.drain(from..=at).collect();
            let Some(last) = taken.last() else { return Ok(()) };
            visit.requests += 1;
            let id = format!("a{}", visit.requests);
            let asked_at_ms = self.recorder.now_ms();
            let acks = matches!(last.plan, Plan::Ack(_));
            let settled = if acks {
                Settled::Acked { asked_at_ms, confirmed_at_ms: None }
            } else {
                Settled::Nacked { asked_at_ms }
            };
            let deliveries: Vec<usize> = taken.iter().map(|held| held.delivery).collect();
            for delivery in &deliveries {
                self.recorder.settle(*delivery, settled);
            }
            let text = if acks {
                visit.asked.insert(id.clone(), deliveries);
                self.protocol.ack(&last.ack, &id)
            } else {
                self.protocol.nack(&last.ack, &id)
            };
            visit.connection.send(&text).await?;
        }
        Ok(())
    }

    /// Sometimes it says that it goes; whatever it still holds is nobody's then.
    async fn part(&mut self, visit: &mut Visit) {
        if self.rng.random_ratio(1, 3) {
            let unsubscribe = self.protocol.unsubscribe(&self.name, SUBSCRIPTION);
            let _ = visit.connection.send(&unsubscribe).await;
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

impl Visit {
    /// When the next message is to be acknowledged or refused.
    fn due_at(&self) -> Option<Instant> {
        self.held.iter().filter_map(|held| held.plan.at()).min()
    }
}

impl Plan {
    fn at(self) -> Option<Instant> {
        match self {
            Self::Ack(at) | Self::Nack(at) => Some(at),
            Self::Forget => None,
        }
    }

    fn is_due(self, now: Instant) -> bool {
        self.at().is_some_and(|at| at <= now)
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Client => "client",
            Self::Individual => "client-individual",
        }
    }
}

const SUBSCRIPTION: &str = "q";
const PREFETCH_MAX: u16 = 8;
/// Well within the ack timeout.
const WORK_MAX_MS: u64 = 300;
/// Some messages are refused by everybody, so that they become dead letters.
const POISON_EVERY: u64 = 16;
const PING_EVERY: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(5);
