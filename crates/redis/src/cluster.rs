//! The map of a Redis Cluster, kept up to date: learnt from any node, again when anything hints at
//! a change, and applied to the shards.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use fanlight_engine::broker::{BrokerHealth, PublishError};
use futures_util::FutureExt;
use futures_util::future::select_ok;
use rand::seq::SliceRandom;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::{Endpoint, RedisConfig};
use crate::connection::{Connection, ConnectionError, Peer};
use crate::meters::ClusterMeters;
use crate::names::Partition;
use crate::pipeline::Item;
use crate::redirect::Redirect;
use crate::routes::{Limits, Routes};
use crate::shard::{Environment, Shard};
use crate::shards::Table;
use crate::slots::{ClusterState, SlotMap};
use crate::topology::{Place, ShardId};
use crate::writer::CommandQueue;

/// What is known of the cluster, shared with all connections.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) routes: Arc<Routes>,
    pub(crate) meters: ClusterMeters,
    seeds: Vec<Endpoint>,
    /// How many slot maps were applied.
    map_number: AtomicU64,
    /// Something hints at a change.
    changed: Notify,
    /// Who knows of the latest change.
    hint: Mutex<Option<Endpoint>>,
    problem: Mutex<Option<String>>,
    guests: Mutex<Guests>,
    /// Which shard is where; weak, as shards know their cluster.
    table: OnceLock<Weak<Table>>,
}

/// Masters that have none of our partitions, but that some are just moving to.
#[derive(Debug, Default)]
struct Guests {
    /// To be connected to.
    wanted: Vec<Endpoint>,
    connected: Vec<Guest>,
}

#[derive(Debug)]
struct Guest {
    shard: Shard,
    used_at: Instant,
}

/// The task that keeps the map.
struct Keeper {
    /// The epoch of the newest map, and when one was applied last.
    newest: Mutex<(u64, Instant)>,
    cluster: Arc<Cluster>,
    table: Arc<Table>,
    nowhere: Arc<Shard>,
    environment: Environment,
}

/// Starts keeping the map.
pub(crate) fn start(
    cluster: Arc<Cluster>,
    table: Arc<Table>,
    nowhere: Arc<Shard>,
    environment: &Environment,
) {
    let shutdown = environment.shutdown.clone();
    cluster.table.get_or_init(|| Arc::downgrade(&table));
    let newest = Mutex::new((0, Instant::now()));
    let keeper = Keeper { newest, cluster, table, nowhere, environment: environment.clone() };
    environment.tracker.spawn(async move {
        shutdown.run_until_cancelled(keeper.run()).await;
        // Who is held would wait for nobody.
        keeper.cluster.routes.refuse_all();
    });
}

impl Cluster {
    pub(crate) fn new(seeds: Vec<Endpoint>, config: &RedisConfig) -> Self {
        let limits = Limits {
            messages: config.publish_queue_messages,
            bytes: config.publish_queue_bytes,
            time: config.response_timeout,
        };
        let problem = format!("{}: connecting; its slots are not known yet", describe(&seeds));
        Self {
            routes: Arc::new(Routes::new(limits)),
            meters: ClusterMeters::new(),
            seeds,
            map_number: AtomicU64::new(0),
            changed: Notify::new(),
            hint: Mutex::default(),
            problem: Mutex::new(Some(problem)),
            guests: Mutex::default(),
            table: OnceLock::new(),
        }
    }

    /// A command was not executed, for this reason.
    pub(crate) fn on_redirected(&self, item: Item, redirect: Redirect) {
        self.meters.on_redirected(&redirect);
        match redirect {
            Redirect::Moved(hint) => {
                self.routes.redirect(item, self.map_number());
                self.on_change(hint);
            }
            Redirect::Ask(None) | Redirect::ReadOnly => {
                self.routes.redirect(item, self.map_number());
                self.on_change(None);
            }
            Redirect::Ask(Some(target)) => self.ask(item, &target),
            Redirect::TryAgain => self.routes.retry(item),
            Redirect::Down => {
                let _ = item.waiter.send(Err(PublishError::Unavailable));
                self.on_change(None);
            }
        }
    }

    /// Sends a command to the master that its slot is moving to, as soon as that can take it.
    fn ask(&self, item: Item, target: &Endpoint) {
        let asked = match self.commands_at(target) {
            Some(commands) => self.routes.ask(item, &commands),
            None => Err(item),
        };
        if let Err(item) = asked {
            self.routes.retry(item);
        }
    }

    /// The commands to a master; if it is not known yet, it soon is.
    fn commands_at(&self, endpoint: &Endpoint) -> Option<Arc<CommandQueue>> {
        let table = self.table.get().and_then(Weak::upgrade);
        let shards = table.map(|table| table.shards()).unwrap_or_default();
        if let Some(shard) = shards.iter().find(|shard| shard.endpoint() == Some(endpoint)) {
            return Some(Arc::clone(&shard.commands));
        }
        let mut guests = lock(&self.guests);
        let mut connected = guests.connected.iter_mut();
        if let Some(guest) = connected.find(|guest| guest.shard.endpoint() == Some(endpoint)) {
            guest.used_at = Instant::now();
            return Some(Arc::clone(&guest.shard.commands));
        }
        if guests.connected.len() + guests.wanted.len() < GUESTS_MAX
            && !guests.wanted.contains(endpoint)
        {
            guests.wanted.push(endpoint.clone());
        }
        None
    }

    /// A subscription was not made, for this reason.
    pub(crate) fn on_subscription_redirected(&self, redirect: Redirect) {
        self.meters.on_redirected(&redirect);
        match redirect {
            Redirect::Moved(hint) | Redirect::Ask(hint) => self.on_change(hint),
            Redirect::ReadOnly | Redirect::TryAgain | Redirect::Down => self.on_change(None),
        }
    }

    /// Something hints at a change, of which `hint` knows.
    pub(crate) fn on_change(&self, hint: Option<Endpoint>) {
        if hint.is_some() {
            *lock(&self.hint) = hint;
        }
        self.changed.notify_one();
    }

    /// What is wrong with the map, if it is.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    fn map_number(&self) -> u64 {
        self.map_number.load(Ordering::Relaxed)
    }
}

impl Keeper {
    async fn run(&self) {
        loop {
            let begun = Instant::now();
            let fetched = select! {
                fetched = self.fetch() => fetched,
                never = self.let_go() => match never {},
            };
            match fetched {
                Ok((map, epoch)) => {
                    *lock(&self.newest) = (epoch, Instant::now());
                    self.apply(&map);
                }
                Err(error) => self.on_failed(&error),
            }
            self.wait(begun).await;
        }
    }

    /// Until the map is to be fetched again; meanwhile what is held is let go.
    async fn wait(&self, fetched_at: Instant) {
        let cluster = &self.cluster;
        let mut changed = false;
        loop {
            let holding = self.release();
            let age = fetched_at.elapsed();
            let due = match () {
                () if changed => REFRESH_MIN,
                () if self.is_troubled() => REFRESH_TROUBLED,
                () => REFRESH_MAX,
            };
            if age >= due {
                return;
            }
            let pause = if holding { HOLD_TICK } else { due.saturating_sub(age).min(LOOK_EVERY) };
            select! {
                () = cluster.changed.notified(), if !changed => changed = true,
                () = cluster.routes.holding(), if !holding => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Lets go of what can go, while a map is fetched: some may have to wait no longer.
    async fn let_go(&self) -> Infallible {
        loop {
            let pause = if self.release() { HOLD_TICK } else { LOOK_EVERY };
            select! {
                () = self.cluster.routes.holding() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn release(&self) -> bool {
        self.look_after_guests();
        let master = |partition| Arc::clone(&self.table.of(partition).commands);
        self.cluster.routes.release(self.cluster.map_number(), master)
    }

    /// Connects to masters that are wanted, and leaves those that are not any more.
    fn look_after_guests(&self) {
        let cluster = &self.cluster;
        let mut guests = lock(&cluster.guests);
        for endpoint in std::mem::take(&mut guests.wanted) {
            info!("Redis at {endpoint}: a slot of ours is moving there");
            let boot = self.nowhere.context.boot;
            let shard = Shard::guest(endpoint, Arc::clone(cluster), boot, &self.environment);
            guests.connected.push(Guest { shard, used_at: Instant::now() });
        }
        guests.connected.retain(|guest| {
            let is_used = guest.used_at.elapsed() < GUEST_IDLE_MAX;
            if !is_used {
                guest.shard.stop();
            }
            is_used
        });
    }

    fn is_troubled(&self) -> bool {
        let now = Instant::now();
        let shards = self.table.shards();
        let is_well = |shard: &Arc<Shard>| {
            let health = &shard.context.health;
            health.all_up() && health.status(now) == BrokerHealth::Healthy
        };
        self.cluster.problem().is_some() || !shards.iter().all(is_well)
    }

    /// Asks who has a hint; then all others at once, and takes the first answer that is not older
    /// than what is known. The map comes with its epoch.
    async fn fetch(&self) -> Result<(SlotMap, u64), ConnectionError> {
        let hint = lock(&self.cluster.hint).take();
        if let Some(hint) = hint
            && let Ok(map) = self.ask(&hint).await
        {
            return Ok(map);
        }
        let shards = self.table.shards();
        let mut known: Vec<_> = shards.iter().filter_map(|shard| shard.endpoint()).collect();
        for seed in &self.cluster.seeds {
            if !known.contains(&seed) {
                known.push(seed);
            }
        }
        known.shuffle(&mut rand::rng());
        known.truncate(ASK_MAX);
        let asking = known.into_iter().map(|endpoint| self.ask(endpoint).boxed());
        select_ok(asking).await.map(|(map, _)| map)
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<(SlotMap, u64), ConnectionError> {
        let config = &self.environment.config;
        let name = "fanlight-map";
        let mut node = Connection::open(endpoint.clone(), Peer::Node, config, name).await?;
        let asking = async {
            let info = node.ask("CLUSTER INFO", &[b"CLUSTER", b"INFO"]).await?;
            let slots = node.ask("CLUSTER SLOTS", &[b"CLUSTER", b"SLOTS"]).await?;
            Ok((info, slots))
        };
        let after = config.connect_timeout;
        let during = "to CLUSTER SLOTS";
        let answers = timeout(after, asking).await;
        let (info, slots) = answers.unwrap_or(Err(ConnectionError::TimedOut { during, after }))?;
        let state = ClusterState::parse(&info).ok_or(ConnectionError::Unasked)?;
        if !state.is_ok {
            return Err(ConnectionError::ClusterDown);
        }
        let (newest, applied_at) = *lock(&self.newest);
        // A cluster that was made anew begins at zero, so this is not for ever.
        if state.epoch < newest && applied_at.elapsed() < OUTDATED_MAX {
            return Err(ConnectionError::Outdated);
        }
        let map = SlotMap::parse(&slots, endpoint).ok_or(ConnectionError::Unasked)?;
        Ok((map, state.epoch))
    }

    fn on_failed(&self, error: &ConnectionError) {
        self.cluster.meters.map_failed.add(1);
        let text = error.to_string();
        let (fault, remedy) = text.rsplit_once("; ").unwrap_or((&text, "check its log"));
        let place = describe(&self.cluster.seeds);
        let mut problem = lock(&self.cluster.problem);
        if self.cluster.map_number() == 0 {
            let told = format!("{place}: {fault}; retrying; {remedy}");
            if problem.as_ref() != Some(&told) {
                warn!("{told}");
            }
            *problem = Some(told);
        }
    }

    fn apply(&self, map: &SlotMap) {
        let before = self.table.shards();
        let mut shards = before.clone();
        let of: Vec<_> = Partition::all()
            .map(|partition| match map.master_of(partition) {
                Some(master) => self.shard_at(master, &mut shards),
                None => Arc::clone(&self.nowhere),
            })
            .collect();
        let missing = of.iter().filter(|shard| Arc::ptr_eq(shard, &self.nowhere)).count();
        let number = self.cluster.map_number();
        let mut has_changed = false;
        for partition in Partition::all() {
            let new = &of[usize::from(partition.0)];
            let is_kept = Arc::ptr_eq(&self.table.of(partition), new);
            has_changed |= !is_kept;
            if !is_kept && !Arc::ptr_eq(new, &self.nowhere) {
                self.cluster.routes.hold(partition, number);
            }
        }
        let meters = &self.cluster.meters;
        if has_changed { &meters.map_changed } else { &meters.map_same }.add(1);
        let gone = self.table.assign(of, &self.nowhere);
        for shard in &shards[before.len()..] {
            info!("{}: a master of the cluster", shard.context.health.place());
        }
        for shard in gone {
            info!("{}: has none of our slots any more", shard.context.health.place());
            shard.stop();
        }
        self.cluster.map_number.fetch_add(1, Ordering::Relaxed);
        self.tell_missing(missing);
    }

    fn tell_missing(&self, missing: usize) {
        let told = (missing > 0).then(|| {
            let place = describe(&self.cluster.seeds);
            format!("{place}: {missing} of 256 partitions have no master; check CLUSTER INFO")
        });
        let mut problem = lock(&self.cluster.problem);
        if let Some(told) = &told
            && problem.as_ref() != Some(told)
        {
            warn!("{told}");
        }
        *problem = told;
    }

    /// The shard at `master`, started if there is none yet.
    fn shard_at(&self, master: &Endpoint, shards: &mut Vec<Arc<Shard>>) -> Arc<Shard> {
        if let Some(known) = shards.iter().find(|shard| shard.endpoint() == Some(master)) {
            return Arc::clone(known);
        }
        let is_free = |id: &u16| !shards.iter().any(|shard| shard.context.id == ShardId(*id));
        let id = ShardId((0..ShardId::NONE.0).find(is_free).unwrap_or(ShardId::NONE.0));
        let place = Place::Fixed(master.clone());
        let cluster = Some(Arc::clone(&self.cluster));
        let shard = Arc::new(Shard::start(
            id,
            place,
            cluster,
            self.nowhere.context.boot,
            &self.environment,
        ));
        shards.push(Arc::clone(&shard));
        shard
    }
}

fn describe(seeds: &[Endpoint]) -> String {
    let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
    format!("Redis Cluster at {}", seeds.join(", "))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// However many hints there are, the map is fetched this often at most.
const REFRESH_MIN: Duration = Duration::from_millis(50);
/// While a shard is not well, its replica may be taking over.
const REFRESH_TROUBLED: Duration = Duration::from_millis(500);
const REFRESH_MAX: Duration = Duration::from_secs(30);
/// For how long a node may lag behind another one; longer than gossip takes.
const OUTDATED_MAX: Duration = Duration::from_secs(10);
/// How often the shards are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether what is held can go.
const HOLD_TICK: Duration = Duration::from_millis(5);
/// How many nodes are asked at once.
const ASK_MAX: usize = 8;
const GUESTS_MAX: usize = 8;
/// By then it has a partition, or the move is over or stuck.
const GUEST_IDLE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
