//! All connections of a client process: who dials when, what is published when, and when a command
//! is done.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use fanlight_proto::ws::deflate::Inflater;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::connection::{Connection, Role, Shared, State};
use super::figures::Figures;
use super::schedule::{Schedule, whole};
use super::tell;
use super::tokens;
use crate::adapters::{Adapter, Names, Place, user_name};
use crate::clock::{Alarm, SECOND_NS, now_ns};
use crate::control::{Command, Job, Load, Told};
use crate::stamp::Stamp;

/// The connections and their times.
pub struct Swarm {
    job: Job,
    adapter: &'static dyn Adapter,
    names: Vec<Names>,
    poll: Poll,
    alarm: Alarm,
    alarm_ns: u64,
    connections: Vec<Connection>,
    /// Where each publisher of this process is in `connections`, by its number among all.
    publishers: Vec<Option<usize>>,
    /// Whether dials have times of their own, from which connecting counts. As fast as `in_flight`
    /// allows is no schedule.
    is_paced: bool,
    /// Dials to come: when, and whose.
    dials: BinaryHeap<Reverse<(u64, usize)>>,
    shared: Shared,
    buffer: Box<[u8]>,
    task: Option<Task>,
    /// The next publication of the load.
    next_publication: u64,
    churn: Churn,
    beats: Beats,
    /// When the last storm was, until the load is over.
    storm_ns: Option<u64>,
    /// While slow clients read what has been waiting for them.
    resuming_until_ns: Option<u64>,
}

/// What is to be answered by `Done`.
enum Task {
    Connect { give_up_ns: u64 },
    Load(Load),
}

#[derive(Default)]
struct Churn {
    due_ns: u64,
    away_ns: u64,
    interval_ns: u64,
    cursor: usize,
}

#[derive(Default)]
struct Beats {
    due_ns: u64,
    cursor: usize,
}

impl Swarm {
    /// One without connections.
    pub fn new(job: Job) -> Result<Self> {
        let adapter = job.protocol.adapter();
        let place = |n| if job.private { Place::User(n) } else { Place::Room(n) };
        let poll = Poll::new()?;
        let alarm = Alarm::new()?;
        poll.registry().register(&mut SourceFd(&alarm.fd()), ALARM, Interest::READABLE)?;
        let shared = Shared {
            figures: Figures::new(),
            schedule: Schedule::new(job.destinations),
            recover: job.recover,
            replays_apart: false,
            presence: job.presence,
            // Different in every process of every run: SockJS sessions must be.
            sessions: rand::random::<u64>() >> 16,
            dialling: 0,
            inflater: Inflater::new(),
        };
        Ok(Self {
            adapter,
            names: (0..job.destinations).map(|n| adapter.names(place(n))).collect(),
            poll,
            alarm,
            alarm_ns: 0,
            connections: Vec::new(),
            publishers: vec![None; job.publishers],
            is_paced: true,
            dials: BinaryHeap::new(),
            shared,
            buffer: vec![0; READ_BYTES].into(),
            task: None,
            next_publication: 0,
            churn: Churn::default(),
            beats: Beats::default(),
            storm_ns: None,
            resuming_until_ns: None,
            job,
        })
    }

    /// What wakes it when there is a command.
    pub fn waker(&self) -> Result<Arc<Waker>> {
        Ok(Arc::new(Waker::new(self.poll.registry(), COMMAND)?))
    }

    /// Does what it is told until it is told to end.
    pub fn serve(&mut self, commands: &Receiver<Command>) -> Result<()> {
        // Few at a time, so that a publication that is due does not wait for many reads.
        let mut events = Events::with_capacity(EVENTS);
        loop {
            for command in commands.try_iter() {
                if matches!(command, Command::End) {
                    return Ok(());
                }
                self.obey(&command)?;
            }
            let now_ns = now_ns();
            self.dial_due(now_ns);
            self.publish_due(now_ns);
            self.churn_due(now_ns);
            self.beat_due(now_ns);
            if self.shared.figures.is_due(now_ns) {
                self.tell_interval()?;
            }
            self.finish(now_ns)?;
            self.set_alarm(now_ns)?;
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                self.ready(event.token());
            }
        }
    }

    fn obey(&mut self, command: &Command) -> Result<()> {
        match *command {
            Command::Connect { from, to, start_ns, rate, give_up_ns } => {
                self.add_publishers(start_ns)?;
                self.add_subscribers(from, to, start_ns, rate)?;
                self.is_paced = rate > 0.0;
                self.task = Some(Task::Connect { give_up_ns });
            }
            Command::Load(load) => {
                self.shared.schedule.begin(load);
                self.next_publication = 0;
                self.is_paced = true;
                self.churn.interval_ns = if load.churn > 0.0 {
                    whole(SECOND_NS as f64 * self.job.processes as f64 / load.churn)
                } else {
                    0
                };
                self.churn.due_ns = load.start_ns;
                self.churn.away_ns = load.away_ns;
                self.stall();
                self.task = Some(Task::Load(load));
            }
            Command::Storm { at_ns, cut } => {
                self.storm_ns = Some(at_ns);
                for index in 0..self.connections.len() {
                    if cut && self.is_subscriber(index) {
                        self.lose(index, "cut");
                    }
                }
            }
            Command::Disconnect => {
                self.connections.clear();
                self.dials.clear();
                self.publishers.fill(None);
                self.shared.dialling = 0;
                self.tell_interval()?;
                tell(&Told::Done(None))?;
            }
            Command::End => {}
        }
        Ok(())
    }

    fn add_publishers(&mut self, start_ns: u64) -> Result<()> {
        let adapter = self.adapter.publisher().unwrap_or(self.adapter);
        for number in 0..self.publishers.len() {
            let is_ours = number % self.job.processes == self.job.process;
            if is_ours && self.publishers[number].is_none() {
                let token = tokens::mint(&self.job.secret, PUBLISHER)?;
                self.publishers[number] = Some(self.connections.len());
                self.dials.push(Reverse((start_ns, self.connections.len())));
                self.connections.push(Connection::new(adapter, Role::Publisher, token));
            }
        }
        Ok(())
    }

    fn add_subscribers(&mut self, from: usize, to: usize, start_ns: u64, rate: f64) -> Result<()> {
        let ours = (from..to).filter(|n| n % self.job.processes == self.job.process);
        for number in ours {
            let destination = number % self.job.destinations;
            let role = Role::Subscriber {
                destination,
                name: self.names[destination].subscribe.as_str().into(),
                slow: number < self.job.slow,
            };
            let token = tokens::mint(
                &self.job.secret,
                &user_name(if self.job.users { number } else { 0 }),
            )?;
            let after_ns = if rate > 0.0 {
                whole((number - from) as f64 * SECOND_NS as f64 / rate)
            } else {
                0
            };
            self.dials.push(Reverse((start_ns + after_ns, self.connections.len())));
            self.connections.push(Connection::new(self.adapter, role, token));
        }
        Ok(())
    }

    fn dial_due(&mut self, now_ns: u64) {
        while self.shared.dialling < self.job.in_flight {
            let Some(&Reverse((at_ns, index))) = self.dials.peek() else { return };
            if at_ns > now_ns {
                return;
            }
            self.dials.pop();
            let intended_ns = if self.is_paced { at_ns } else { now_ns };
            if let Err(error) = self.dial(index, intended_ns) {
                self.lose(index, &format!("{error:#}"));
            }
        }
    }

    fn dial(&mut self, index: usize, intended_ns: u64) -> Result<()> {
        let Self { connections, job, shared, poll, .. } = self;
        let connection = &mut connections[index];
        // Publishers stay clear of the first node, which is the one that storms are made on.
        let turn = match connection.client.role {
            Role::Publisher => job.addresses.len() - 1,
            Role::Subscriber { .. } => index + connection.client.attempts as usize,
        };
        let address = job.addresses[turn % job.addresses.len()];
        let socket = connection.dial(address, job.source, intended_ns, shared)?;
        poll.registry().register(socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(())
    }

    fn publish_due(&mut self, now_ns: u64) {
        while let Some(due) = self.shared.schedule.due(self.next_publication) {
            if due.at_ns > now_ns {
                return;
            }
            self.next_publication += 1;
            let Some(Task::Load(load)) = &self.task else { continue };
            let publisher = self.publishers[due.destination % self.publishers.len()];
            let Some(index) = publisher else { continue };
            let stamp = Stamp {
                destination: due.destination as u32,
                sequence: due.sequence,
                intended_ns: due.at_ns,
                body_bytes: load.body_bytes as u32,
            };
            let to = &self.names[due.destination].publish;
            let connection = &mut self.connections[index];
            if let Err(error) = connection.publish(to, &stamp, &mut self.shared) {
                self.lose(index, &format!("{error:#}"));
            }
        }
    }

    /// Lets one after the other leave and come again.
    fn churn_due(&mut self, now_ns: u64) {
        if self.churn.interval_ns == 0 || self.connections.is_empty() {
            return;
        }
        while self.churn.due_ns <= now_ns && self.churn.due_ns < self.shared.schedule.end_ns() {
            let due_ns = self.churn.due_ns;
            self.churn.due_ns += self.churn.interval_ns;
            self.churn.cursor = (self.churn.cursor + 1) % self.connections.len();
            let index = self.churn.cursor;
            let is_live = self.connections[index].client.state == State::Live;
            if is_live && self.is_subscriber(index) {
                self.hang_up(index);
                self.connections[index].client.state = State::Due;
                self.dials.push(Reverse((due_ns + self.churn.away_ns, index)));
            }
        }
    }

    /// A slice of the connections at a time, so that beats don't come in bursts.
    fn beat_due(&mut self, now_ns: u64) {
        if self.adapter.heartbeat().is_none() || self.beats.due_ns > now_ns {
            return;
        }
        self.beats.due_ns = now_ns + BEAT_SLICE_NS;
        for _ in 0..self.connections.len().div_ceil(BEAT_SLICES) {
            self.beats.cursor = (self.beats.cursor + 1) % self.connections.len();
            let index = self.beats.cursor;
            if let Err(error) = self.connections[index].beat() {
                self.lose(index, &format!("{error:#}"));
            }
        }
    }

    fn ready(&mut self, token: Token) {
        let Self { connections, buffer, shared, .. } = self;
        let Some(connection) = connections.get_mut(token.0) else { return };
        if let Err(error) = connection.ready(buffer, shared) {
            self.lose(token.0, &format!("{error:#}"));
        }
    }

    /// A connection is of no more use: it is dialled again where a storm is to blame.
    fn lose(&mut self, index: usize, why: &str) {
        let state = self.connections[index].client.state;
        self.hang_up(index);
        let client = &mut self.connections[index].client;
        client.state = State::Gone;
        let is_slow = matches!(client.role, Role::Subscriber { slow: true, .. });
        let counts = &mut self.shared.figures.counts;
        match (self.storm_ns, &client.role) {
            (Some(storm_ns), Role::Subscriber { .. }) if !is_slow => {
                if matches!(state, State::Dialling | State::Due) {
                    counts.refused += 1;
                }
                client.storm_ns = Some(storm_ns);
                client.state = State::Due;
                let most_ms = self.job.backoff_ms << client.attempts.min(MOST_DOUBLINGS);
                let wait_ns = rand::random_range(0..=most_ms) * 1_000_000;
                self.dials.push(Reverse((now_ns() + wait_ns, index)));
            }
            _ if is_slow && matches!(self.task, Some(Task::Load(_))) => counts.slow_closed += 1,
            _ => {
                match state {
                    State::Live => counts.closed += 1,
                    _ => counts.refused += 1,
                }
                self.shared.figures.blame(|| why.to_owned());
            }
        }
    }

    fn hang_up(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.client.state == State::Dialling {
            self.shared.dialling -= 1;
        }
        // Closing the socket takes it out of the poll.
        connection.socket = None;
    }

    /// Slow clients stop reading.
    fn stall(&mut self) {
        for index in self.slow() {
            if let Some(socket) = &mut self.connections[index].socket {
                let _ = self.poll.registry().deregister(socket);
            }
        }
    }

    /// Slow clients read again.
    fn resume(&mut self) {
        for index in self.slow() {
            if let Some(socket) = &mut self.connections[index].socket {
                let both = Interest::READABLE | Interest::WRITABLE;
                let _ = self.poll.registry().register(socket, Token(index), both);
            }
        }
    }

    fn slow(&self) -> Vec<usize> {
        let is_slow = |index: &usize| {
            matches!(self.connections[*index].client.role, Role::Subscriber { slow: true, .. })
        };
        (0..self.connections.len()).filter(is_slow).collect()
    }

    /// Answers the command once it is done.
    fn finish(&mut self, now_ns: u64) -> Result<()> {
        let failed = match self.task {
            Some(Task::Connect { give_up_ns }) => {
                let states = self.connections.iter().map(|connection| connection.client.state);
                let live = states.clone().filter(|&state| state == State::Live).count();
                let is_over = states.clone().all(|it| matches!(it, State::Live | State::Gone));
                if !is_over && now_ns < give_up_ns {
                    return Ok(());
                }
                let all = self.connections.len();
                (live < all).then(|| format!("{live} of {all} connections are live"))
            }
            Some(Task::Load(load)) => {
                let end_ns = self.shared.schedule.end_ns();
                if now_ns < end_ns {
                    return Ok(());
                }
                let is_late = now_ns > end_ns + load.settle_ns;
                if !is_late && (!self.is_settled() || self.is_resuming(now_ns)) {
                    return Ok(());
                }
                self.settle();
                None
            }
            None => return Ok(()),
        };
        self.task = None;
        self.tell_interval()?;
        let wrong = self.shared.figures.wrong.take();
        tell(&Told::Done(match (failed, wrong) {
            (Some(failed), Some(wrong)) => Some(format!("{failed}; the first trouble: {wrong}")),
            (failed, wrong) => failed.or(wrong),
        }))
    }

    /// Whether everything has come that must.
    fn is_settled(&self) -> bool {
        self.connections.iter().all(|connection| {
            let client = &connection.client;
            match client.role {
                Role::Publisher => connection.is_answered() || client.state == State::Gone,
                Role::Subscriber { slow: true, .. } => true,
                Role::Subscriber { destination, .. } => match client.state {
                    State::Gone => true,
                    State::Live => {
                        client.check.outstanding(self.shared.schedule.published(destination)) == 0
                    }
                    _ => false,
                },
            }
        })
    }

    /// Gives slow clients a moment to read what waits, and to notice that they were closed.
    fn is_resuming(&mut self, now_ns: u64) -> bool {
        if self.job.slow == 0 {
            return false;
        }
        if self.resuming_until_ns.is_none() {
            self.resume();
        }
        now_ns < *self.resuming_until_ns.get_or_insert(now_ns + RESUME_NS)
    }

    /// Counts what is outstanding as lost.
    fn settle(&mut self) {
        self.storm_ns = None;
        self.resuming_until_ns = None;
        let Shared { figures, schedule, .. } = &mut self.shared;
        for connection in &mut self.connections {
            let client = &mut connection.client;
            let Role::Subscriber { destination, slow, .. } = client.role else { continue };
            let published = schedule.published(destination);
            if !slow && client.was_live {
                figures.counts.lost += client.check.outstanding(published);
            }
            client.check.forgive(published);
        }
    }

    fn tell_interval(&mut self) -> Result<()> {
        let mut interval = self.shared.figures.take()?;
        let clients = || self.connections.iter().map(|connection| &connection.client);
        interval.live = clients().filter(|client| client.state == State::Live).count();
        interval.recovering = clients().filter(|client| client.storm_ns.is_some()).count();
        tell(&Told::Interval(interval))
    }

    fn set_alarm(&mut self, now_ns: u64) -> Result<()> {
        let may_dial = self.shared.dialling < self.job.in_flight;
        let dial = self.dials.peek().filter(|_| may_dial).map(|Reverse((at_ns, _))| *at_ns);
        let publication = self.shared.schedule.due(self.next_publication).map(|due| due.at_ns);
        let churns = self.churn.interval_ns > 0 && now_ns < self.shared.schedule.end_ns();
        let beats = self.adapter.heartbeat().is_some();
        let times = [
            dial,
            publication,
            churns.then_some(self.churn.due_ns),
            beats.then_some(self.beats.due_ns),
            self.task.is_some().then_some(now_ns + FINISH_CHECK_NS),
            Some(self.shared.figures.due_ns()),
        ];
        let next_ns = times.into_iter().flatten().min().unwrap_or(now_ns);
        // Not again for a moment that it is set to already, unless that has passed.
        if next_ns < self.alarm_ns || self.alarm_ns <= now_ns {
            self.alarm.set(next_ns)?;
            self.alarm_ns = next_ns;
        }
        Ok(())
    }

    fn is_subscriber(&self, index: usize) -> bool {
        matches!(self.connections[index].client.role, Role::Subscriber { .. })
    }
}

/// No subscriber's name: Spring sends what is for oneself to the sending session only.
const PUBLISHER: &str = "publisher";
const ALARM: Token = Token(usize::MAX - 1);
const COMMAND: Token = Token(usize::MAX - 2);
const EVENTS: usize = 256;
const READ_BYTES: usize = 256 * 1024;
/// All connections beat within 15 s, which is within the 20 s that CONNECT promises.
const BEAT_SLICES: usize = 150;
const BEAT_SLICE_NS: u64 = SECOND_NS / 10;
const FINISH_CHECK_NS: u64 = SECOND_NS / 100;
const RESUME_NS: u64 = 2 * SECOND_NS;
/// Backoff doubles up to 32 times the first.
const MOST_DOUBLINGS: u32 = 5;
