//! Backends that publish at a steady rate, through the proxy as clients come: `POST /publish`, each
//! publication repeated with its key until it is accepted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::adapters::{Place, Protocol};
use crate::client::{mint, whole};
use crate::clock::{SECOND_NS, now_ns, sleep_until};
use crate::control::{Histograms, Phase, histogram};
use crate::stamp::Stamp;
use crate::wire::Wire;

/// What is published, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The proxy.
    pub address: SocketAddr,
    /// The secret of the publishers' tokens (HS256).
    pub secret: String,
    /// Destinations, which get a publication in turn.
    pub destinations: usize,
    /// Publications per second.
    pub rate: f64,
    /// The length of a body.
    pub body_bytes: usize,
}

/// Publishers at work.
pub struct Publishers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<OwnCounts>>>,
}

/// How many publications each destination of one publisher had.
type OwnCounts = Vec<(usize, u64)>;

struct Shared {
    plan: Plan,
    start_ns: u64,
    /// What is due later is not published.
    end_ns: AtomicU64,
    stage: AtomicUsize,
    repeated: AtomicU64,
    times: Mutex<Vec<Histograms>>,
}

/// What became of it.
pub struct Published {
    /// By destination.
    pub counts: Vec<u64>,
    /// Attempts that were not accepted, each of which was repeated.
    pub repeated: u64,
    /// By stage: how late publications left, and from when they were due to their being accepted.
    pub times: Vec<Histograms>,
}

impl Publishers {
    /// Starts to publish.
    pub fn start(plan: Plan, stages: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            start_ns: now_ns() + SECOND_NS / 10,
            end_ns: AtomicU64::new(u64::MAX),
            stage: AtomicUsize::new(0),
            repeated: AtomicU64::new(0),
            times: Mutex::new(vec![Histograms::new(); stages]),
            plan,
        });
        let publishers = shared.plan.destinations.min(PUBLISHERS);
        let publisher = |number| {
            let token = mint(&shared.plan.secret, &format!("publisher-{number}"))?;
            let shared = Arc::clone(&shared);
            let thread = Publisher { shared, token, number, connection: None };
            Ok(std::thread::spawn(move || thread.publish()))
        };
        let threads = (0..publishers).map(publisher).collect::<Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// What happens from now on belongs to this stage.
    pub fn begin_stage(&self, stage: usize) {
        self.shared.stage.store(stage, Ordering::Relaxed);
    }

    /// Ends, once everything that is due has been accepted.
    pub fn end(self) -> Result<Published> {
        self.shared.end_ns.store(now_ns(), Ordering::Relaxed);
        let mut counts = vec![0; self.shared.plan.destinations];
        for thread in self.threads {
            let Ok(published) = thread.join() else { bail!("a publisher panicked") };
            for (destination, count) in published? {
                counts[destination] = count;
            }
        }
        let times =
            std::mem::take(&mut *self.shared.times.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Published { counts, repeated: self.shared.repeated.load(Ordering::Relaxed), times })
    }
}

impl Shared {
    fn took(&self, phase: Phase, from_ns: u64, to_ns: u64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = times.get_mut(self.stage.load(Ordering::Relaxed)) {
            let microseconds = (to_ns.saturating_sub(from_ns) / 1000).max(1);
            // An automatically resizing histogram takes any value.
            let _ = times.entry(phase).or_insert_with(histogram).record(microseconds);
        }
    }
}

/// One of them: its destinations are its own, so that each one's order is known.
struct Publisher {
    shared: Arc<Shared>,
    token: String,
    number: usize,
    connection: Option<(TcpStream, Wire)>,
}

impl Publisher {
    fn publish(mut self) -> Result<OwnCounts> {
        let shared = Arc::clone(&self.shared);
        let plan = &shared.plan;
        let destinations = plan.destinations as u64;
        let mut counts = vec![0; plan.destinations];
        let mut free_ns = 0;
        for n in 0.. {
            let destination = (n % destinations) as usize;
            if destination % PUBLISHERS != self.number {
                continue;
            }
            let due_ns = shared.start_ns + whole(n as f64 * SECOND_NS as f64 / plan.rate);
            let is_wanted = || due_ns <= shared.end_ns.load(Ordering::Relaxed);
            while now_ns() < due_ns && is_wanted() {
                sleep_until(due_ns.min(now_ns() + SECOND_NS / 10));
            }
            if !is_wanted() {
                break;
            }
            let stamp = Stamp {
                destination: destination as u32,
                sequence: n / destinations,
                intended_ns: due_ns,
                body_bytes: plan.body_bytes as u32,
            };
            // Waiting for the answer to the one before is the server's time; the rest is our own.
            shared.took(Phase::Lag, due_ns.max(free_ns), now_ns());
            self.until_accepted(&stamp)?;
            free_ns = now_ns();
            shared.took(Phase::Publish, due_ns, free_ns);
            counts[destination] = stamp.sequence + 1;
        }
        let counts = counts.into_iter().enumerate();
        Ok(counts.filter(|(destination, _)| destination % PUBLISHERS == self.number).collect())
    }

    fn until_accepted(&mut self, stamp: &Stamp) -> Result<()> {
        let mut said = String::new();
        for attempt in 0..MOST_ATTEMPTS {
            match self.attempt(stamp) {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
                Ok(answer) => {
                    let is_passing = PASSING.iter().any(|passing| answer.starts_with(passing));
                    ensure!(is_passing, "a publication was refused by {answer}");
                    said = answer;
                }
                Err(error) => {
                    self.connection = None;
                    said = format!("{error:#}");
                }
            }
            self.shared.repeated.fetch_add(1, Ordering::Relaxed);
            // The first time at once: through the proxy, that is at another node.
            if attempt > 0 {
                let most_ms = 50 << attempt.min(4);
                std::thread::sleep(Duration::from_millis(rand::random_range(0..=most_ms)));
            }
        }
        bail!(
            "{stamp:?} was not accepted in {MOST_ATTEMPTS} attempts; the last was answered by {said}"
        )
    }

    fn attempt(&mut self, stamp: &Stamp) -> Result<String> {
        let address = self.shared.plan.address;
        if self.connection.is_none() {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(ANSWER_TIME))?;
            let framing = crate::adapters::Framing::Answers;
            self.connection = Some((socket, Wire::new(framing)));
        }
        let (socket, wire) = self.connection.as_mut().context("it is connected")?;
        let Stamp { destination, sequence, .. } = stamp;
        let to = Protocol::Native.adapter().names(Place::Room(*destination as usize)).publish;
        let body = stamp.body();
        let content =
            format!(r#"{{"to":"{to}","data":"{body}","key":"rollout-{destination}-{sequence}"}}"#);
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{content}",
            self.token,
            content.len()
        );
        socket.write_all(request.as_bytes())?;
        let answer = answer(socket, wire)?;
        if crate::wire::header(&answer, "connection").is_some_and(|value| value == "close") {
            self.connection = None;
        }
        Ok(answer)
    }
}

/// Reads one answer, whole.
fn answer(socket: &mut TcpStream, wire: &mut Wire) -> Result<String> {
    let mut buffer = [0; 4096];
    let mut whole = None;
    let mut inflater = fanlight_proto::ws::deflate::Inflater::new();
    loop {
        let bytes = socket.read(&mut buffer)?;
        ensure!(bytes > 0, "the connection ended without an answer");
        wire.read(&mut buffer[..bytes], &mut inflater, &mut |piece| {
            if let crate::wire::Piece::Text(text) = piece {
                whole = Some(text.to_owned());
            }
            Ok(())
        })?;
        if let Some(answer) = whole {
            return Ok(answer);
        }
    }
}

/// Each waits for its answers, so that a slow one holds up few destinations.
const PUBLISHERS: usize = 16;
/// What may be otherwise the next time: too many, a node that failed, drains, or is not sure.
const PASSING: [&str; 4] = ["HTTP/1.1 429", "HTTP/1.1 502", "HTTP/1.1 503", "HTTP/1.1 504"];
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// With pauses, some 20 s: longer than any node takes to come back.
const MOST_ATTEMPTS: u32 = 40;
