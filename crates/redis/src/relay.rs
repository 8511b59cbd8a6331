//! A relay: carries publications with history from the Redis of one cell into that of another.
//!
//! Per destination it keeps, in the target, up to which position of the source it has relayed; the
//! script that publishes moves that position, if it is where this relay believes it to be. So a
//! publication is relayed once per position whatever happens in between, for as long as the target
//! keeps its data; and where the target loses some, position and publications go together.
//!
//! | module | what |
//! |---|---|
//! | `calls` | what `lua/relay_*.lua` is asked and answers |
//! | `passage` | what is passed on, and what is not: loops end here |
//! | `lease` | of all processes of one relay, only one relays |
//! | `scan`, `notices` | how destinations are found, and how it is heard that they have something |
//! | `table` | the destinations that are known, and which of them have work; no I/O |
//! | `step` | one read and one publish of one destination |
//! | `engine` | drives all of these while the lease stands |

mod calls;
mod engine;
mod lease;
mod meters;
mod notices;
mod passage;
mod scan;
mod step;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanlight_engine::broker::{Broker, BrokerHealth, Channel, DeliverySink};
use fanlight_engine::policy::{Namespaces, PublishPermit};
use fanlight_proto::Destination;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::broker::RedisBroker;
use crate::config::RedisConfig;
use crate::envelope::Destinations;
use crate::names::Partition;

use engine::Engine;
use lease::{Held, Lease};
use meters::Meters;
use notices::Notices;
use passage::Cells;

/// What a relay does.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Its name in the target's keys, in metrics and logs: letters, digits, `_` and `-`. Of the
    /// processes with one name and target, one relays and the others stand by.
    pub name: String,
    /// What the cell is called that it reads from.
    pub source_cell: String,
    /// What the cell is called that it publishes to.
    pub target_cell: String,
    /// The namespaces, which both cells have alike; those are relayed that keep a history here.
    pub namespaces: Namespaces,
    /// The namespaces' own channels, of those that are relayed and have one.
    pub channels: Vec<Channel>,
    /// Whether to pass on what came to the source from a third cell.
    pub transit: bool,
    /// How long after a search for destinations the next one begins.
    pub scan_interval: Duration,
    /// How often the known destinations are asked for news.
    pub poll_interval: Duration,
    /// How long the lease lasts that one process of this relay holds.
    pub lease: Duration,
    /// The most destinations that are asked for news between two searches.
    pub destinations_max: usize,
    /// The most destinations that are worked on at a time.
    pub concurrency: usize,
}

/// How a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// It relays.
    Active,
    /// Another process of the same name relays; this one would take over.
    Standby,
    /// It can't do either; the text says what, where and the remedy.
    Unhealthy(String),
}

/// One process of a relay.
pub struct Relay {
    core: Arc<Core>,
    lease: Lease,
    state: AtomicU8,
}

/// What all parts of a relay share.
struct Core {
    options: RelayOptions,
    cells: Cells,
    source: Arc<RedisBroker>,
    target: Arc<RedisBroker>,
    notices: Arc<Notices>,
    destinations: Mutex<Destinations>,
    meters: Meters,
}

/// Where a destination is, in both cells.
struct Place {
    permit: PublishPermit,
    partition: Partition,
}

impl Relay {
    /// Connects to both; returns at once, also when either is down. The connections' tasks are
    /// counted by `tracker` and end on `shutdown`. A metrics recorder must be installed before.
    pub fn start(
        source: RedisConfig,
        target: RedisConfig,
        options: RelayOptions,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let notices = Notices::new(options.destinations_max);
        let inbox = Arc::clone(&notices) as Arc<dyn DeliverySink>;
        let source = RedisConfig { metrics_label: "source-".into(), ..source };
        let source = RedisBroker::start(source, vec![inbox], tracker.clone(), shutdown.clone());
        let target = RedisConfig { metrics_label: "target-".into(), ..target };
        let target = RedisBroker::start(target, Vec::new(), tracker.clone(), shutdown.clone());
        let core = Arc::new(Core {
            cells: Cells::new(&options),
            meters: Meters::new(&options.name),
            options,
            source,
            target,
            notices,
            destinations: Mutex::default(),
        });
        let lease = Lease::new(Arc::clone(&core));
        Arc::new(Self { core, lease, state: AtomicU8::new(STARTING) })
    }

    /// Relays, or stands by, until `stop`; the lease is given back then.
    pub async fn run(&self, stop: &CancellationToken) {
        let _ = stop.run_until_cancelled(self.relay()).await;
        self.lease.give_back().await;
        self.core.meters.active.set(0.0);
    }

    async fn relay(&self) {
        loop {
            let held = self.take_lease().await;
            self.set(ACTIVE);
            self.core.meters.active.set(1.0);
            info!(relay = self.core.options.name, "holds the lease, and relays");
            let engine = Engine::new(Arc::clone(&self.core), held.token);
            let ended = tokio::select! {
                ended = engine.run() => ended,
                () = self.lease.keep(held) => "the lease has run out, or another has it",
            };
            self.core.meters.active.set(0.0);
            self.core.meters.behind.set(0.0);
            self.set(STARTING);
            warn!(relay = self.core.options.name, why = ended, "relays no longer; tries again");
        }
    }

    /// Waits for the lease for as long as it takes.
    async fn take_lease(&self) -> Held {
        loop {
            match self.lease.take().await {
                Ok(Some(held)) => return held,
                Ok(None) => {
                    if self.state.swap(STANDBY, Ordering::Relaxed) != STANDBY {
                        info!(relay = self.core.options.name, "another holds the lease; stands by");
                    }
                }
                Err(_) => self.set(STARTING),
            }
            sleep(self.lease.retry_after()).await;
        }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    /// How it is.
    pub fn state(&self) -> RelayState {
        if let Some(why) = self.trouble() {
            return RelayState::Unhealthy(why);
        }
        match self.state.load(Ordering::Relaxed) {
            ACTIVE => RelayState::Active,
            STANDBY => RelayState::Standby,
            _ => RelayState::Unhealthy("no answer about the lease yet; tries again".into()),
        }
    }

    /// Why a cell can't be reached, if one can't.
    pub fn trouble(&self) -> Option<String> {
        for (cell, broker) in [
            (&self.core.options.source_cell, &self.core.source),
            (&self.core.options.target_cell, &self.core.target),
        ] {
            if let BrokerHealth::Unhealthy(why) = broker.health() {
                return Some(format!("cell {cell}: {why}"));
            }
        }
        None
    }

    /// Whether a process of this name holds the lease now; `None` when the target can't be asked.
    pub async fn is_held(&self) -> Option<bool> {
        self.lease.is_held().await
    }
}

impl Core {
    /// Where a destination is; `None` if it is not one to relay.
    fn place(&self, destination: &Destination) -> Option<Place> {
        let permit = PublishPermit::for_backend(&self.options.namespaces, destination).ok()?;
        let is_absolute = permit.destination() == destination;
        if !is_absolute || permit.history().is_none() {
            return None;
        }
        let partition = Partition::of(permit.channel().as_str());
        Some(Place { permit, partition })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("options", &self.core.options)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

const STARTING: u8 = 0;
const STANDBY: u8 = 1;
const ACTIVE: u8 = 2;
