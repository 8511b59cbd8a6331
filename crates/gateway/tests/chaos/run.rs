//! A whole run: start everything, make faults, heal, drain, and return what was recorded.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use fanlight_proto::Position;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cast::{
    CONSUMERS, LISTENERS, PUBLISHERS, TOPICS, consumer_name, consumers, destinations,
    publisher_name, targets, users,
};
use crate::check::{check_queues, check_sessions};
use crate::connection::Connection;
use crate::consumer::Consumer;
use crate::publisher::{Phase, Publisher};
use crate::record::{Content, Fault, Run, Sample, What};
use crate::recorder::Recorder;
use crate::schedule::{Planned, Topology, schedule};
use crate::subscriber::{Listener, Place};
use crate::system::System;
use crate::watcher::{EventLog, Watcher};
use crate::wire::{Incoming, Protocol};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub topology: Topology,
    pub nodes: usize,
    pub seed: u64,
    /// For how long faults are made.
    pub length: Duration,
    /// Whether none are made after all.
    pub is_quiet: bool,
    /// How many replicas must have what is acknowledged.
    pub min_replicas_ack: u32,
    /// Where logs and records go; made anew.
    pub directory: PathBuf,
}

/// Runs, and returns what was recorded.
pub async fn run(options: &Options) -> anyhow::Result<Run> {
    // Logs of an earlier run would be taken for this one's.
    let _ = fs::remove_dir_all(&options.directory);
    fs::create_dir_all(&options.directory)?;
    let system = System::start(options).await?;
    let system = Arc::new(system);
    let listeners: Vec<_> = LISTENERS.iter().map(|it| (it.0.to_owned(), it.1.to_owned())).collect();
    let recorder = Arc::new(Recorder::new(&listeners));
    let (phase, watched) = watch::channel(Phase::Troubled);
    let mut clients = Clients { options, system: &system, recorder: &recorder, phase: watched };
    let mut listening = clients.listen().await?;
    let mut consuming = clients.consume().await?;
    let mut publishing = clients.publish().await?;
    let mut watching = clients.watch().await?;

    if options.is_quiet {
        sleep(options.length).await;
    } else {
        make_faults(options, &system, &recorder).await?;
    }
    system.nodes.wait_until_ready().await?;
    let ended = system.nodes.ended();
    ensure!(ended.is_empty(), "nodes {ended:?} ended by themselves");

    phase.send_replace(Phase::Calm);
    while publishing.join_next().await.transpose()?.is_some() {}
    clients.drain().await?;
    while watching.join_next().await.transpose()?.is_some() {}
    let mut run = clients.look_at_sessions().await?;
    phase.send_replace(Phase::Over);
    while listening.join_next().await.transpose()?.is_some() {}
    while consuming.join_next().await.transpose()?.is_some() {}
    run.finals = clients.read_finals(&run).await?;
    Ok(run)
}

/// Makes the faults of the schedule, each round once the one before is healed.
async fn make_faults(
    options: &Options,
    system: &Arc<System>,
    recorder: &Arc<Recorder>,
) -> anyhow::Result<()> {
    let Options { nodes, seed, length, .. } = *options;
    let over = Instant::now() + length;
    for round in schedule(seed, system.links, nodes, length.as_millis() as u64) {
        sleep(Duration::from_millis(round.calm_ms)).await;
        if Instant::now() > over {
            break;
        }
        let mut faults = JoinSet::new();
        for planned in round.faults {
            let (system, recorder) = (Arc::clone(system), Arc::clone(recorder));
            let options = options.clone();
            faults.spawn(async move { make(planned, &options, &system, &recorder).await });
        }
        while let Some(made) = faults.join_next().await {
            made??;
        }
    }
    Ok(())
}

async fn make(
    planned: Planned,
    options: &Options,
    system: &System,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let Planned { after_ms, for_ms, fault } = planned;
    sleep(Duration::from_millis(after_ms)).await;
    let Options { topology, min_replicas_ack, .. } = *options;
    let from_ms = recorder.now_ms();
    let cure = system.begin(fault).await.with_context(|| format!("making {fault:?}"))?;
    sleep(Duration::from_millis(for_ms)).await;
    system.heal(cure).await.with_context(|| format!("healing {fault:?}"))?;
    recorder.fault(Fault {
        from_ms,
        to_ms: recorder.now_ms(),
        what: format!("{fault:?}"),
        loses_data: fault.loses_data(topology),
        loses_copied: fault.loses_copied(topology, min_replicas_ack),
        wipes: fault.wipes(topology),
        strikes: fault.strikes(),
    });
    Ok(())
}

/// What makes the clients of a run.
struct Clients<'r> {
    options: &'r Options,
    system: &'r Arc<System>,
    recorder: &'r Arc<Recorder>,
    phase: watch::Receiver<Phase>,
}

impl Clients<'_> {
    async fn listen(&self) -> anyhow::Result<JoinSet<()>> {
        let mut listening = JoinSet::new();
        for (index, (_, user, protocol, habit, places)) in LISTENERS.iter().enumerate() {
            let place = |destination: &usize| {
                let (name, _, history, _) = TOPICS[*destination];
                let destination = *destination;
                Place { destination, name: name.to_owned(), history, position: None }
            };
            let listener = Listener {
                index,
                protocol: *protocol,
                user: (*user).to_owned(),
                token: System::token(user, &[]).await?,
                habit: *habit,
                places: places.iter().map(place).collect(),
                recorder: Arc::clone(self.recorder),
                rng: self.rng(1, index),
                phase: self.phase.clone(),
            };
            let system = Arc::clone(self.system);
            listening.spawn(async move { listener.run(&system.nodes).await });
        }
        Ok(listening)
    }

    async fn consume(&self) -> anyhow::Result<JoinSet<()>> {
        let mut consuming = JoinSet::new();
        for (index, (_, protocol, mode, is_restless, destination)) in CONSUMERS.iter().enumerate() {
            let user = consumer_name(index);
            let consumer = Consumer {
                index,
                protocol: *protocol,
                mode: *mode,
                is_restless: *is_restless,
                token: System::token(&user, &[]).await?,
                user,
                destination: *destination,
                name: destinations()[*destination].name.clone(),
                recorder: Arc::clone(self.recorder),
                rng: self.rng(4, index),
                phase: self.phase.clone(),
            };
            let system = Arc::clone(self.system);
            consuming.spawn(async move { consumer.run(&system.nodes).await });
        }
        Ok(consuming)
    }

    async fn publish(&self) -> anyhow::Result<JoinSet<()>> {
        let mut publishing = JoinSet::new();
        for (index, (protocol, keyed)) in PUBLISHERS.into_iter().enumerate() {
            let publisher = self.publisher(index, protocol, keyed).await?;
            let system = Arc::clone(self.system);
            publishing.spawn(async move { publisher.run(&system.nodes).await });
        }
        Ok(publishing)
    }

    async fn publisher(
        &self,
        index: usize,
        protocol: Protocol,
        keyed: bool,
    ) -> anyhow::Result<Publisher> {
        let user = publisher_name(index);
        Ok(Publisher {
            index,
            protocol,
            keyed,
            token: System::token(&user, &["admin"]).await?,
            user,
            targets: targets().into(),
            recorder: Arc::clone(self.recorder),
            rng: self.rng(2, index),
            phase: self.phase.clone(),
            connections: 0,
            sent: 0,
            open: None,
        })
    }

    /// Publishes twice more to each destination: by the first, who is told of a loss with the next
    /// message is told; the second must come to everybody. Who does not get it is found by the
    /// checker.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let mut publisher = self.publisher(PUBLISHERS.len(), Protocol::Native, false).await?;
        let deadline = Instant::now() + DRAIN_MAX;
        // All are subscribed before the last publications: those without history get no others.
        while !self.all_joined() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        for wait_max in [SETTLE_MAX, DRAIN_MAX] {
            let deadline = Instant::now() + DRAIN_MAX;
            let mut newest = Vec::new();
            for destination in 0..targets().len() {
                newest.push(publisher.insist(&self.system.nodes, destination, deadline).await?);
            }
            let deadline = Instant::now() + wait_max;
            while !self.recorder.waiting_for(&newest).is_empty() && Instant::now() < deadline {
                sleep(POLL).await;
            }
        }
        // What is held by nobody any more comes again, until all is done.
        let deadline = Instant::now() + QUEUES_MAX;
        while !check_queues(&self.record()).is_empty() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Asks nodes who is there, until the faults are over.
    async fn watch(&self) -> anyhow::Result<JoinSet<()>> {
        let watcher = self.watcher().await?;
        let (system, phase) = (Arc::clone(self.system), self.phase.clone());
        let mut rng = self.rng(3, 0);
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            while *phase.borrow() == Phase::Troubled {
                let node = rng.random_range(0..system.nodes.count());
                // A node that does not answer says nothing wrong.
                if let Ok(sample) = watcher.sample(&system.nodes, node).await {
                    watcher.recorder.sample(sample);
                }
                sleep(SAMPLE_EVERY).await;
            }
        });
        Ok(watching)
    }

    async fn watcher(&self) -> anyhow::Result<Watcher> {
        let topics = TOPICS.iter().enumerate().filter(|(_, it)| it.3.is_none());
        Ok(Watcher {
            token: System::token("watcher", &[]).await?,
            users: users(),
            places: topics.map(|(index, it)| (index, it.0.to_owned())).collect(),
            recorder: Arc::clone(self.recorder),
        })
    }

    /// The record with what all nodes and the events say of sessions: once that is right, or when
    /// it should have been for long.
    async fn look_at_sessions(&self) -> anyhow::Result<Run> {
        let watcher = self.watcher().await?;
        let log = EventLog::start(&self.system.redis_url()).await?;
        let deadline = Instant::now() + SESSIONS_MAX;
        let mut events = Vec::new();
        loop {
            let mut samples = Vec::new();
            for node in 0..self.system.nodes.count() {
                let sample = watcher.sample(&self.system.nodes, node).await;
                let sample = sample.with_context(|| format!("asking node {node} at the end"))?;
                samples.push(Sample { is_final: true, ..sample });
            }
            events.extend(log.read().await?);
            let mut run = self.record();
            run.events.clone_from(&events);
            let before = std::mem::replace(&mut run.samples, samples);
            let is_right = check_sessions(&run).is_empty();
            if is_right || Instant::now() > deadline {
                run.samples.splice(0..0, before);
                return Ok(run);
            }
            sleep(POLL).await;
        }
    }

    /// The record as it is now.
    fn record(&self) -> Run {
        let mut run = self.recorder.run(destinations());
        run.nodes = self.options.nodes;
        run.consumers = consumers();
        run
    }

    fn all_joined(&self) -> bool {
        let run = self.recorder.run(Vec::new());
        run.subscribers.iter().zip(LISTENERS).all(|(subscriber, (.., places))| {
            places.iter().all(|place| {
                let of_it = subscriber.heard.iter().rev().filter(|it| it.destination == *place);
                let mut states =
                    of_it.filter(|it| matches!(it.what, What::Joined { .. } | What::Left));
                states.next().is_some_and(|it| matches!(it.what, What::Joined { .. }))
            })
        })
    }

    /// What each history holds at the end, as a new reader gets it.
    async fn read_finals(
        &self,
        run: &Run,
    ) -> anyhow::Result<BTreeMap<usize, Vec<(Position, Content)>>> {
        let mut finals = BTreeMap::new();
        for (destination, (name, _, history, owner)) in TOPICS.into_iter().enumerate() {
            if !history {
                continue;
            }
            let token = System::token(owner.unwrap_or("reader"), &[]).await?;
            let node = self.system.nodes.address(0).context("node 0 is not there")?;
            let mut connection = Connection::open(node, Protocol::Native, &token).await?;
            for start in starts(run, destination) {
                let read = read_history(&mut connection, name, start);
                if let Some(history) = timeout(DRAIN_MAX, read).await?? {
                    finals.insert(destination, history);
                    break;
                }
            }
        }
        Ok(finals)
    }

    fn rng(&self, kind: u64, index: usize) -> StdRng {
        StdRng::seed_from_u64(self.options.seed ^ (kind << 32) ^ index as u64)
    }
}

/// Where to try to read a history from: before the first of each epoch, in the order in which the
/// epochs were seen.
fn starts(run: &Run, destination: usize) -> Vec<Position> {
    let mut seen: Vec<(u64, Position)> = Vec::new();
    let of_sends = run.sends.iter().filter(|send| send.content.destination == destination);
    seen.extend(of_sends.filter_map(|send| Some((send.ended_at_ms, send.position()?))));
    for heard in run.subscribers.iter().flat_map(|subscriber| &subscriber.heard) {
        if let What::Message { position: Some(position), .. } = heard.what
            && heard.destination == destination
        {
            seen.push((heard.at_ms, position));
        }
    }
    seen.sort_by_key(|(at_ms, position)| (*at_ms, position.offset));
    let mut epochs = HashSet::new();
    let mut starts = Vec::new();
    for (_, Position { epoch, .. }) in &seen {
        if epochs.insert(*epoch) {
            let of_epoch = seen.iter().filter(|(_, position)| position.epoch == *epoch);
            let first = of_epoch.map(|(_, position)| position.offset).min().unwrap_or(1);
            starts.push(Position { epoch: *epoch, offset: first - 1 });
        }
    }
    starts
}

/// All after a position, page by page; `None` where it can't be read from there.
async fn read_history(
    connection: &mut Connection,
    name: &str,
    start: Position,
) -> anyhow::Result<Option<Vec<(Position, Content)>>> {
    let mut all = Vec::new();
    let mut since = start;
    loop {
        connection.send(&Protocol::history(name, since)).await?;
        let (page, more) = 'answer: loop {
            for incoming in connection.next().await? {
                match incoming {
                    Incoming::History { reason: Some(_), .. } => return Ok(None),
                    Incoming::History { messages, more, .. } => break 'answer (messages, more),
                    Incoming::Refused { code, .. } => {
                        anyhow::bail!("the history of {name} is refused: {code}")
                    }
                    _ => {}
                }
            }
        };
        for (position, content) in page {
            let position = position.context("a message of history without a position")?;
            all.push((position, content.context("a body that nobody sent")?));
            since = position;
        }
        if !more {
            return Ok(Some(all));
        }
    }
}

const SAMPLE_EVERY: Duration = Duration::from_millis(300);
/// Longer than reconnects, a lease and the reapers take.
const SESSIONS_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// Longer than a node that says that it is ready takes to find what it missed.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const DRAIN_MAX: Duration = Duration::from_secs(45);
/// Longer than five deliveries with an ack timeout each, and what a crashed node held.
const QUEUES_MAX: Duration = Duration::from_secs(25);
