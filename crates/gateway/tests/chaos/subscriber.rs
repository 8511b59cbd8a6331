//! A client that subscribes, goes elsewhere when it must, and records all that it hears.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use fanlight_proto::Position;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::connection::Connection;
use crate::nodes::Nodes;
use crate::publisher::Phase;
use crate::record::What;
use crate::recorder::Recorder;
use crate::wire::{Incoming, Protocol};

pub struct Listener {
    pub index: usize,
    pub protocol: Protocol,
    pub user: String,
    pub token: String,
    pub habit: Habit,
    pub places: Vec<Place>,
    pub recorder: Arc<Recorder>,
    pub rng: StdRng,
    pub phase: watch::Receiver<Phase>,
}

/// How a subscriber behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// It stays while it can, and returns with its positions.
    Stays,
    /// It leaves every few seconds, and returns with its positions.
    Restless,
    /// It stays, but stops reading now and then, sometimes for so long that it must be closed.
    Stalls,
    /// It leaves every few seconds, and returns without positions.
    Forgetful,
    /// It leaves every few seconds or when it must, stays away for so long that nothing of it may
    /// be left, and returns with its positions.
    Wanders,
}

/// What it subscribes to.
pub struct Place {
    /// The destination, by its place in the run.
    pub destination: usize,
    /// What it is called for a subscriber.
    pub name: String,
    pub history: bool,
    /// Up to where it has everything, or was told that it has not.
    pub position: Option<Position>,
}

impl Listener {
    /// Listens until the run is over.
    pub async fn run(mut self, nodes: &Nodes) {
        while self.phase() != Phase::Over {
            let node = self.rng.random_range(0..nodes.count());
            if let Some(address) = nodes.address(node)
                && let Ok(connection) = self.open(address).await
            {
                // However it ends, it begins again elsewhere.
                let _ = self.listen(connection, node).await;
                if self.phase() == Phase::Over {
                    return;
                }
                for place in &self.places {
                    self.recorder.hear(self.index, place.destination, What::Left);
                }
            }
            let wanders = self.habit == Habit::Wanders;
            let pause_ms = self.rng.random_range(if wanders { AWAY_MS } else { 20..300 });
            let pause = sleep(Duration::from_millis(pause_ms));
            select! {
                () = pause => {}
                () = self.until_calm(), if wanders => {}
            }
        }
    }

    async fn open(&self, node: SocketAddr) -> anyhow::Result<Connection> {
        if self.habit == Habit::Stalls {
            Connection::open_narrow(node, self.protocol, &self.token).await
        } else {
            Connection::open(node, self.protocol, &self.token).await
        }
    }

    async fn listen(&mut self, mut connection: Connection, node: usize) -> anyhow::Result<()> {
        let opened = self.recorder.opened(&self.user, node, &connection.session);
        if self.habit == Habit::Stalls {
            opened.narrow();
        }
        for index in 0..self.places.len() {
            let place = &mut self.places[index];
            if self.habit == Habit::Forgetful {
                place.position = None;
            }
            let since = place.position;
            let what = What::Asks { node, since };
            self.recorder.hear(self.index, place.destination, what);
            opened.asks(place.destination);
            let subscribe = self.protocol.subscribe(&place.name, &index.to_string(), since);
            connection.send(&subscribe).await?;
        }
        let stay = Duration::from_millis(self.rng.random_range(500..5_000));
        let leaves_at = Instant::now() + stay;
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        let mut stalls_at = self.next_stall();
        loop {
            let troubled = self.phase() == Phase::Troubled;
            let leaves = troubled && !matches!(self.habit, Habit::Stays | Habit::Stalls);
            let stalls = troubled && self.habit == Habit::Stalls;
            select! {
                incoming = connection.next() => {
                    heard_at = Instant::now();
                    let incoming = incoming.inspect_err(|_| opened.cut());
                    for incoming in incoming? {
                        // After an ERROR a STOMP connection ends.
                        let is_end = matches!(incoming, Incoming::Refused { .. });
                        if is_end && self.protocol == Protocol::Stomp {
                            opened.cut();
                        }
                        self.hear(incoming)?;
                    }
                }
                _ = pings.tick() => {
                    ensure!(heard_at.elapsed() < SILENCE_MAX, "the server is silent");
                    connection.send(&self.protocol.ping()).await?;
                }
                () = sleep_until(leaves_at), if leaves => return Ok(()),
                () = sleep_until(stalls_at), if stalls => {
                    opened.stalls();
                    self.stall().await;
                    heard_at = Instant::now();
                    stalls_at = self.next_stall();
                }
                changed = self.phase.changed() => {
                    if changed.is_err() || self.phase() == Phase::Over {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn hear(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        match incoming {
            Incoming::Done(done) => {
                let index: usize = done.id.parse()?;
                ensure!(index < self.places.len(), "an answer to {index}");
                let place = &mut self.places[index];
                place.position = done.position.filter(|_| place.history);
                let (position, recovered, reason) = (done.position, done.recovered, done.reason);
                let what = What::Joined { position, recovered, reason };
                self.recorder.hear(self.index, place.destination, what);
            }
            Incoming::Message { to, position, content, lost, .. } => {
                let Some(place) = self.places.iter_mut().find(|place| place.name == to) else {
                    // Not one that was ever asked for: as wrong as a body that nobody sent.
                    let what = What::Message { position, content: None };
                    self.recorder.hear(self.index, self.places[0].destination, what);
                    return Ok(());
                };
                if let Some(reason) = lost {
                    let what = What::Lost { reason, position: None };
                    self.recorder.hear(self.index, place.destination, what);
                }
                place.position = position.filter(|_| place.history);
                let what = What::Message { position, content };
                self.recorder.hear(self.index, place.destination, what);
            }
            Incoming::Lost { to, reason, position } => {
                if let Some(place) = self.places.iter_mut().find(|place| place.name == to) {
                    place.position = Some(position);
                    let what = What::Lost { reason, position: Some(position) };
                    self.recorder.hear(self.index, place.destination, what);
                }
            }
            Incoming::Refused { code, .. } => bail!("refused: {code}"),
            Incoming::Connected { .. }
            | Incoming::Alive
            | Incoming::History { .. }
            | Incoming::Members { .. } => {}
        }
        Ok(())
    }

    fn next_stall(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.random_range(300..2_000))
    }

    /// Reads nothing until so many of the largest messages have been published.
    async fn stall(&mut self) {
        let until = self.recorder.bulk() + self.rng.random_range(STALL_MESSAGES);
        let deadline = Instant::now() + STALL_MAX;
        while self.recorder.bulk() < until
            && Instant::now() < deadline
            && self.phase() == Phase::Troubled
        {
            sleep(POLL).await;
        }
    }

    async fn until_calm(&self) {
        let mut phase = self.phase.clone();
        let _ = phase.wait_for(|phase| *phase != Phase::Troubled).await;
        sleep(RETRY).await;
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

const PING_EVERY: Duration = Duration::from_secs(1);
const AWAY_MS: Range<u64> = 8_000..12_000;
/// Some less and some more than a node and its kernel keep for a connection.
const STALL_MESSAGES: Range<u64> = 2..40;
/// Sooner than a node that waits for a single write gives up.
const STALL_MAX: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(100);
const SILENCE_MAX: Duration = Duration::from_secs(5);
