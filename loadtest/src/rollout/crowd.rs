//! A crowd: clients of every protocol in one process. They listen, go when they are told to, and come
//! again from where they were, as late as they are advised.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Error, Result};
use fanlight_proto::ws::deflate::Inflater;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::words::{Command, Job, Told, protocol};
use crate::adapters::{Place, user_name};
use crate::client::{
    Connection, Figures, Role, Schedule, Shared, State, listen, mint, tell, whole,
};
use crate::clock::{Alarm, SECOND_NS, now_ns};
use crate::wire::Refused;

/// Reads its job, then does what it is told until its input ends.
pub fn run() -> Result<()> {
    let told = serve();
    if let Err(error) = &told {
        tell(&Told::Failed(format!("{error:#}")))?;
    }
    told
}

fn serve() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let mut crowd = Crowd::new(serde_json::from_str(&line).context("the job")?)?;
    let commands = listen(crowd.waker()?, || Command::End);
    crowd.serve(&commands)
}

struct Crowd {
    job: Job,
    poll: Poll,
    alarm: Alarm,
    clients: Vec<Client>,
    /// Dials to come: when, and whose.
    dials: BinaryHeap<Reverse<(u64, usize)>>,
    shared: Shared,
    buffer: Box<[u8]>,
    task: Option<Task>,
    /// When to look whether it is done.
    finish_ns: u64,
    stage: usize,
    advised: u64,
    /// The next slice of clients to look after: when, and from which on.
    look_ns: u64,
    look_at: usize,
}

struct Client {
    connection: Connection,
    /// By when the attempt under way must have succeeded.
    give_up_ns: u64,
}

/// What is to be answered by `Done`.
enum Task {
    Connect { give_up_ns: u64 },
    Settle { published: Vec<u64>, give_up_ns: u64 },
}

impl Crowd {
    fn new(job: Job) -> Result<Self> {
        let (poll, alarm) = (Poll::new()?, Alarm::new()?);
        poll.registry().register(&mut SourceFd(&alarm.fd()), ALARM, Interest::READABLE)?;
        let shared = Shared {
            figures: Figures::new(),
            // Publications are others' work, who say at the end how many there were.
            schedule: Schedule::new(job.destinations),
            recover: true,
            replays_apart: true,
            presence: false,
            sessions: rand::random::<u64>() >> 16,
            dialling: 0,
            inflater: Inflater::new(),
        };
        let ours = (0..job.clients).filter(|number| number % job.processes == job.process);
        let clients = ours.map(|number| Client::new(&job, number)).collect::<Result<_>>()?;
        Ok(Self {
            poll,
            alarm,
            clients,
            dials: BinaryHeap::new(),
            shared,
            buffer: vec![0; READ_BYTES].into(),
            task: None,
            finish_ns: 0,
            stage: 0,
            advised: 0,
            look_ns: 0,
            look_at: 0,
            job,
        })
    }

    fn waker(&self) -> Result<Arc<Waker>> {
        Ok(Arc::new(Waker::new(self.poll.registry(), COMMAND)?))
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            for command in commands.try_iter() {
                if matches!(command, Command::End) {
                    return Ok(());
                }
                self.obey(command)?;
            }
            let now_ns = now_ns();
            self.dial_due(now_ns);
            self.look_after_some(now_ns);
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

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Connect { start_ns, rate, give_up_ns } => {
                for index in 0..self.clients.len() {
                    let number = index * self.job.processes + self.job.process;
                    let after_ns = whole(number as f64 * SECOND_NS as f64 / rate);
                    self.dials.push(Reverse((start_ns + after_ns, index)));
                }
                self.task = Some(Task::Connect { give_up_ns });
            }
            Command::Stage(stage) => {
                self.tell_interval()?;
                self.stage = stage;
            }
            Command::Settle { published, give_up_ns } => {
                self.task = Some(Task::Settle { published, give_up_ns });
            }
            Command::End => {}
        }
        Ok(())
    }

    fn dial_due(&mut self, now_ns: u64) {
        while self.shared.dialling < IN_FLIGHT {
            let Some(&Reverse((at_ns, index))) = self.dials.peek() else { return };
            if at_ns > now_ns {
                return;
            }
            self.dials.pop();
            if let Err(error) = self.dial(index, at_ns) {
                self.lose(index, &error);
            }
        }
    }

    fn dial(&mut self, index: usize, due_ns: u64) -> Result<()> {
        let Self { clients, job, shared, poll, .. } = self;
        let client = &mut clients[index];
        client.give_up_ns = now_ns() + ATTEMPT_NS;
        let socket = client.connection.dial(job.address, Some(job.source), due_ns, shared)?;
        poll.registry().register(socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(())
    }

    /// A slice of the clients at a time says what keeps sessions alive, and gives up attempts that
    /// take too long.
    fn look_after_some(&mut self, now_ns: u64) {
        if self.look_ns > now_ns || self.clients.is_empty() {
            return;
        }
        self.look_ns = now_ns + SLICE_NS;
        for _ in 0..self.clients.len().div_ceil(SLICES) {
            self.look_at = (self.look_at + 1) % self.clients.len();
            let index = self.look_at;
            let Client { connection, give_up_ns } = &mut self.clients[index];
            let is_trying = matches!(connection.client.state, State::Dialling | State::Subscribing);
            let looked = if is_trying && *give_up_ns < now_ns {
                Err(anyhow::anyhow!("not live within {} s", ATTEMPT_NS / SECOND_NS))
            } else {
                connection.beat()
            };
            if let Err(error) = looked {
                self.lose(index, &error);
            }
        }
    }

    fn ready(&mut self, token: Token) {
        let Self { clients, buffer, shared, .. } = self;
        let Some(client) = clients.get_mut(token.0) else { return };
        if let Err(error) = client.connection.ready(buffer, shared) {
            self.lose(token.0, &error);
        }
    }

    /// A connection is of no more use: its client comes again as advised, or, without advice, after a
    /// while that doubles with each failure. Either way not all come at once.
    fn lose(&mut self, index: usize, error: &Error) {
        let connection = &mut self.clients[index].connection;
        let client = &mut connection.client;
        let counts = &mut self.shared.figures.counts;
        if client.state == State::Dialling {
            self.shared.dialling -= 1;
        }
        // Closing the socket takes it out of the poll.
        connection.socket = None;
        let refusal = error.downcast_ref::<Refused>().and_then(|refused| refused.after_ms);
        let advice_ms = client.advice_ms.or(refusal);
        if client.state == State::Live {
            counts.closed += 1;
            self.advised += u64::from(advice_ms.is_some());
        } else {
            counts.refused += 1;
        }
        if client.was_live {
            client.storm_ns.get_or_insert_with(now_ns);
        }
        client.state = State::Due;
        let wait_ms = match advice_ms {
            Some(advice_ms) => advice_ms + rand::random_range(0..=advice_ms),
            None => rand::random_range(0..=BACKOFF_MS << client.attempts.min(MOST_DOUBLINGS)),
        };
        self.dials.push(Reverse((now_ns() + wait_ms * 1_000_000, index)));
    }

    /// Answers the command once it is done.
    fn finish(&mut self, now_ns: u64) -> Result<()> {
        if self.task.is_none() || self.finish_ns > now_ns {
            return Ok(());
        }
        self.finish_ns = now_ns + FINISH_CHECK_NS;
        let (live, all) = (self.count_live(), self.clients.len());
        let failed = match &self.task {
            Some(Task::Connect { give_up_ns }) => {
                if live < all && now_ns < *give_up_ns {
                    return Ok(());
                }
                (live < all).then(|| format!("{live} of {all} clients are live"))
            }
            Some(Task::Settle { published, give_up_ns }) => {
                let lacking = |client: &&Client| client.lacks(published) > 0;
                let lacks = self.clients.iter().find(lacking);
                if (live < all || lacks.is_some()) && now_ns < *give_up_ns {
                    return Ok(());
                }
                self.shared.figures.counts.lost +=
                    self.clients.iter().map(|client| client.lacks(published)).sum::<u64>();
                match lacks {
                    Some(client) => Some(client.lack(published)),
                    None => (live < all).then(|| format!("{live} of {all} clients are back")),
                }
            }
            None => return Ok(()),
        };
        self.task = None;
        let wrong = self.shared.figures.wrong.take();
        self.tell_interval()?;
        let all: Vec<String> = wrong.into_iter().chain(failed).collect();
        tell(&Told::Done((!all.is_empty()).then(|| all.join("; "))))
    }

    fn count_live(&self) -> usize {
        let states = self.clients.iter().map(|client| client.connection.client.state);
        states.filter(|&state| state == State::Live).count()
    }

    fn tell_interval(&mut self) -> Result<()> {
        let mut interval = self.shared.figures.take()?;
        interval.live = self.count_live();
        interval.recovering = self.clients.len() - interval.live;
        let advised = std::mem::take(&mut self.advised);
        tell(&Told::Interval { stage: self.stage, interval, advised })
    }

    fn set_alarm(&mut self, now_ns: u64) -> Result<()> {
        let may_dial = self.shared.dialling < IN_FLIGHT;
        let times = [
            self.dials.peek().filter(|_| may_dial).map(|Reverse((at_ns, _))| *at_ns),
            Some(self.look_ns),
            self.task.is_some().then_some(self.finish_ns),
            Some(self.shared.figures.due_ns()),
        ];
        Ok(self.alarm.set(times.into_iter().flatten().min().unwrap_or(now_ns))?)
    }
}

impl Client {
    fn new(job: &Job, number: usize) -> Result<Self> {
        let adapter = protocol(number, job.destinations).adapter();
        let destination = number % job.destinations;
        let name = adapter.names(Place::Room(destination)).subscribe.into();
        let role = Role::Subscriber { destination, name, slow: false };
        let token = mint(&job.secret, &user_name(number))?;
        Ok(Self { connection: Connection::new(adapter, role, token), give_up_ns: u64::MAX })
    }

    fn destination(&self) -> usize {
        match self.connection.client.role {
            Role::Subscriber { destination, .. } => destination,
            Role::Publisher => usize::MAX,
        }
    }

    fn lacks(&self, published: &[u64]) -> u64 {
        let published = published.get(self.destination()).copied().unwrap_or_default();
        self.connection.client.check.outstanding(published)
    }

    fn lack(&self, published: &[u64]) -> String {
        let client = &self.connection.client;
        format!(
            "a client {:?} lacks {} publications, is {:?}, and has {:?}",
            client.role,
            self.lacks(published),
            client.state,
            client.check
        )
    }
}

const ALARM: Token = Token(usize::MAX - 1);
const COMMAND: Token = Token(usize::MAX - 2);
const EVENTS: usize = 256;
const READ_BYTES: usize = 256 * 1024;
/// Dials of a crowd that may be under way at once.
const IN_FLIGHT: usize = 128;
/// All are looked after within 15 s, which is within the 20 s that CONNECT promises.
const SLICES: usize = 150;
const SLICE_NS: u64 = SECOND_NS / 10;
const FINISH_CHECK_NS: u64 = SECOND_NS / 20;
/// From the dial to a live subscription.
const ATTEMPT_NS: u64 = 15 * SECOND_NS;
/// Without advice: at most this long, doubled by each failure.
const BACKOFF_MS: u64 = 500;
/// Up to 16 s.
const MOST_DOUBLINGS: u32 = 5;
