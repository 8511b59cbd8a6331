//! Drives a relay while it holds the lease.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Broker as _, WorkerId};
use fanlight_proto::Destination;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Core;
use super::calls;
use super::scan::{self, Found};
use super::step::{self, Done, Fault, Tidings};
use super::table::Table;
use crate::command;
use crate::names::Partition;
use crate::reconnect::Backoff;
use crate::resp3::Value;

/// The work of a relay under one token of its lease.
pub(super) struct Engine {
    core: Arc<Core>,
    token: u64,
    table: Table,
    steps: FuturesUnordered<BoxFuture<'static, Done>>,
    polls: FuturesUnordered<BoxFuture<'static, Polled>>,
    round: Round,
    /// Nothing is begun before this, after a failure.
    pause_until: Instant,
    backoff: Backoff,
    deferred: Vec<(Instant, Destination)>,
    /// Who the target's servers are; another one may have lost something.
    target_runs: Option<Vec<String>>,
    news: News,
    tick_at: Instant,
}

/// A round of polls over all destinations.
struct Round {
    next_at: Instant,
    /// Where it is; `None` between two rounds.
    at: Option<(Partition, usize)>,
    failed: bool,
    counted: bool,
}

/// What a poll answered.
enum Polled {
    /// Whether the source is there.
    Source(bool),
    /// Who the target's servers are; `None` if one did not answer.
    Target(Option<Vec<String>>),
    /// Destinations with news, and whether they are gone; `None` if it failed.
    News(Option<Vec<(Destination, bool)>>),
}

/// What is to be logged, now and then.
#[derive(Default)]
struct News {
    tidings: Tidings,
    example: Option<Destination>,
    refused: u64,
    told_at: Option<Instant>,
}

/// What `select!` picked.
enum Picked {
    Done(Done),
    Polled(Polled),
    Found(Option<Found>),
    Heard,
    Time,
}

impl Engine {
    pub(super) fn new(core: Arc<Core>, token: u64) -> Self {
        let now = Instant::now();
        let options = &core.options;
        Self {
            table: Table::new(options.destinations_max, options.concurrency),
            token,
            steps: FuturesUnordered::new(),
            polls: FuturesUnordered::new(),
            round: Round { next_at: now, at: None, failed: false, counted: true },
            pause_until: now,
            backoff: Backoff::new(PAUSE_MAX),
            deferred: Vec::new(),
            target_runs: None,
            news: News::default(),
            tick_at: now,
            core,
        }
    }

    /// Relays until it must not any more; says why.
    pub(super) async fn run(self) -> &'static str {
        let core = Arc::clone(&self.core);
        let joins = core.options.channels.iter().map(|channel| {
            // The interest stands from now on; whether it is live yet does not matter.
            core.source.subscribe(WorkerId(0), channel)
        });
        drop(joins.collect::<Vec<_>>());
        let (sender, found) = mpsc::channel(FOUND_MAX);
        tokio::select! {
            why = self.drive(found) => why,
            () = async { scan::run(Arc::clone(&core), sender).await; pending().await } => "",
        }
    }

    async fn drive(mut self, mut found: mpsc::Receiver<Found>) -> &'static str {
        let core = Arc::clone(&self.core);
        loop {
            self.begin_steps();
            self.begin_polls();
            let wake_at = self.wake_at();
            let mut time = pin!(sleep_until(wake_at));
            let picked = tokio::select! {
                Some(done) = self.steps.next(), if !self.steps.is_empty() => Picked::Done(done),
                Some(polled) = self.polls.next(), if !self.polls.is_empty() => {
                    Picked::Polled(polled)
                }
                found = found.recv(), if self.table.has_room() => Picked::Found(found),
                () = core.notices.heard() => Picked::Heard,
                () = &mut time => Picked::Time,
            };
            match picked {
                Picked::Done(done) => {
                    if !self.on_done(done) {
                        return "another process has taken over";
                    }
                }
                Picked::Polled(polled) => self.on_polled(polled),
                Picked::Found(Some(Found::Destination(destination, partition))) => {
                    self.table.found(destination, partition);
                }
                Picked::Found(Some(Found::Complete)) => self.table.on_scanned(),
                Picked::Found(None) => return "the search has ended",
                Picked::Heard => self.on_heard(),
                Picked::Time => self.on_time(),
            }
        }
    }

    fn begin_steps(&mut self) {
        if Instant::now() < self.pause_until {
            return;
        }
        while self.steps.len() < self.core.options.concurrency
            && let Some((destination, known)) = self.table.take_ready()
        {
            let core = Arc::clone(&self.core);
            self.steps.push(Box::pin(step::step(core, self.token, destination, known)));
        }
    }

    /// Begins a round when it is time, and goes on with the one that is under way.
    fn begin_polls(&mut self) {
        let now = Instant::now();
        if self.round.at.is_none() && self.polls.is_empty() && now >= self.round.next_at {
            let next_at = now + self.core.options.poll_interval;
            let at = Some((Partition(0), 0));
            self.round = Round { next_at, at, failed: false, counted: false };
            self.polls.push(Box::pin(ask_source(Arc::clone(&self.core))));
        }
        while self.polls.len() < POLLS_MAX
            && let Some((partition, from)) = self.round.at
        {
            let some = self.table.some_of(partition, from, POLLED_AT_ONCE);
            self.round.at = if some.len() == POLLED_AT_ONCE {
                Some((partition, from + POLLED_AT_ONCE))
            } else {
                partition.0.checked_add(1).map(|next| (Partition(next), 0))
            };
            if !some.is_empty() {
                self.polls.push(Box::pin(ask_news(Arc::clone(&self.core), partition, some)));
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let mut at = self.tick_at;
        if self.round.at.is_none() && self.polls.is_empty() {
            at = at.min(self.round.next_at);
        }
        if self.table.has_ready() && self.steps.is_empty() {
            at = at.min(self.pause_until);
        }
        at
    }

    /// Whether the relay may go on.
    fn on_done(&mut self, done: Done) -> bool {
        let Done { destination, known, top, result, tidings } = done;
        self.news.add(tidings, &destination);
        let meters = &self.core.meters;
        meters.lost.increment(tidings.lost);
        meters.epochs.increment(tidings.epochs);
        meters.unannounced.increment(tidings.unannounced);
        match result {
            Ok(progress) => {
                self.backoff = Backoff::new(PAUSE_MAX);
                self.table.advanced(&destination, known, top, progress);
            }
            Err(Fault::Source) => {
                meters.source_failures.increment(1);
                self.table.failed(&destination, top);
                self.pause();
            }
            Err(Fault::Target) => {
                meters.target_failures.increment(1);
                self.table.failed(&destination, top);
                self.pause();
            }
            Err(Fault::Refused) => {
                self.news.refused += 1;
                self.news.example.get_or_insert_with(|| destination.clone());
                self.table.deferred(&destination, top);
                let wait = DEFER.mul_f64(rand::rng().random_range(0.5..1.5));
                self.deferred.push((Instant::now() + wait, destination));
            }
            Err(Fault::Fenced) => return false,
        }
        true
    }

    /// Either side is away: it is given time, in which nothing new is begun.
    fn pause(&mut self) {
        let now = Instant::now();
        if now >= self.pause_until {
            self.pause_until = now + self.backoff.next_wait();
        }
    }

    fn on_polled(&mut self, polled: Polled) {
        match polled {
            Polled::Source(is_there) => self.round.failed |= !is_there,
            Polled::Target(None) => {}
            Polled::Target(Some(runs)) => {
                if self.target_runs.as_ref().is_some_and(|known| *known != runs) {
                    info!("the target has another master or was restarted; all is compared again");
                    self.table.doubt_all();
                }
                self.target_runs = Some(runs);
            }
            Polled::News(None) => self.round.failed = true,
            Polled::News(Some(news)) => {
                for (destination, is_gone) in news {
                    if is_gone {
                        self.table.gone(&destination);
                    } else {
                        self.table.mark(&destination);
                    }
                }
            }
        }
        let is_over = self.round.at.is_none() && self.polls.is_empty();
        if is_over && !self.round.failed && !self.round.counted {
            self.round.counted = true;
            self.core.meters.rounds.increment(1);
        }
    }

    fn on_heard(&mut self) {
        for destination in self.core.notices.take() {
            if !self.table.mark(&destination)
                && let Some(place) = self.core.place(&destination)
            {
                self.table.found(destination, place.partition);
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + TICK;
        let (due, later) = self.deferred.drain(..).partition(|(at, _)| *at <= now);
        self.deferred = later;
        let due: Vec<(Instant, Destination)> = due;
        for (_, destination) in &due {
            self.table.resume(destination);
        }
        self.core.meters.behind.set(self.table.behind() as f64);
        self.core.meters.destinations.set(self.table.len() as f64);
        self.news.tell(now, &self.core.options.name);
        self.polls.push(Box::pin(ask_target(Arc::clone(&self.core))));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for channel in &self.core.options.channels {
            self.core.source.unsubscribe(WorkerId(0), channel);
        }
    }
}

async fn ask_source(core: Arc<Core>) -> Polled {
    let mut ping = Vec::new();
    command::words(&[b"PING"], &mut ping);
    let answers = join_all(core.source.shards.call_each(&ping)).await;
    Polled::Source(!answers.is_empty() && answers.iter().all(Result::is_ok))
}

async fn ask_target(core: Arc<Core>) -> Polled {
    let mut info = Vec::new();
    command::words(&[b"INFO", b"server"], &mut info);
    let answers = join_all(core.target.shards.call_each(&info)).await;
    let run = |answer: &Result<Value, _>| {
        let text = answer.as_ref().ok()?.as_text()?;
        text.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::to_owned)
    };
    let runs: Option<Vec<_>> = answers.iter().map(run).collect();
    Polled::Target(runs.filter(|runs| !runs.is_empty()).map(|mut runs| {
        runs.sort_unstable();
        runs
    }))
}

async fn ask_news(
    core: Arc<Core>,
    partition: Partition,
    known: Vec<(Destination, Option<fanlight_proto::Position>)>,
) -> Polled {
    let command = calls::tops(&core.source.names, partition, &known);
    let answer = core.source.shards.call(partition, |_| command).await;
    let news = answer.ok().and_then(|answer| calls::news(answer, known.len()).ok());
    Polled::News(news.map(|news| {
        let named = |(at, is_gone): (usize, bool)| (known[at].0.clone(), is_gone);
        news.into_iter().map(named).collect()
    }))
}

impl News {
    fn add(&mut self, tidings: Tidings, destination: &Destination) {
        if tidings == Tidings::default() {
            return;
        }
        self.tidings.lost += tidings.lost;
        self.tidings.epochs += tidings.epochs;
        self.tidings.unannounced += tidings.unannounced;
        self.example.get_or_insert_with(|| destination.clone());
    }

    /// Logs what there is, the first of it at once and the rest together.
    fn tell(&mut self, now: Instant, relay: &str) {
        let is_early = self.told_at.is_some_and(|at| now - at < TELL_AGAIN);
        let Some(destination) = self.example.as_ref().filter(|_| !is_early) else { return };
        let Tidings { lost, epochs, unannounced } = self.tidings;
        if lost > 0 {
            warn!(
                relay,
                lost,
                ?destination,
                "publications were not relayed, as the source does not keep them any more, or in \
                 a form that this version does not read; goes on with the oldest that is there"
            );
        }
        if epochs > 0 {
            warn!(
                relay,
                epochs,
                ?destination,
                "histories of the source have begun anew, after a failover or a loss of its data; \
                 goes on with what is there"
            );
        }
        if unannounced > 0 {
            warn!(
                relay,
                unannounced,
                ?destination,
                "the target refuses to publish on its channels: publications are in its history \
                 only; allow the relay's user the channels of the target's prefix"
            );
        }
        if self.refused > 0 {
            let refused = self.refused;
            warn!(
                relay,
                refused,
                ?destination,
                "the source or the target refused a command of the relay; tries again"
            );
        }
        *self = Self { told_at: Some(now), ..Self::default() };
    }
}

/// What a search may be ahead of the work.
const FOUND_MAX: usize = 256;
/// Polls that are under way at a time.
const POLLS_MAX: usize = 8;
/// Destinations of one poll.
const POLLED_AT_ONCE: usize = 256;
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long what was refused waits, about.
const DEFER: Duration = Duration::from_secs(3);
/// How often metrics are set and the target is looked at.
const TICK: Duration = Duration::from_millis(500);
const TELL_AGAIN: Duration = Duration::from_secs(10);
