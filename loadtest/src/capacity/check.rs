//! The model beside a run: what it predicts for some gateways over one Redis, and what they take.

pub mod crowd;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::constants::Constants;
use crate::adapters::{Place, Protocol, user_name};
use crate::client::mint;
use crate::receivers::Dial;
use crate::scenario::Nodes;
use crate::subprocess::Subprocess;
use crate::targets::{Node, Redis, SECRET, Start, fanlight};
use crate::wire::Wire;

/// What is run.
#[derive(Debug, clap::Args)]
pub struct CheckOptions {
    /// Gateway processes.
    #[arg(long, default_value_t = 5, requires = "check")]
    gateways: usize,
    /// Connections to all of them together.
    #[arg(long, default_value_t = 75_000, requires = "check")]
    connections: usize,
    /// Subscribers of each room, spread over all gateways.
    #[arg(long, default_value_t = 100, requires = "check")]
    subscribers: usize,
    /// How long each phase lasts.
    #[arg(long, default_value_t = 25, requires = "check")]
    phase_s: u64,
    /// The gateway's binary; the one beside this program when absent.
    #[arg(long, requires = "check")]
    gateway: Option<PathBuf>,
}

/// Prints a table: predicted, measured.
pub fn run(options: &CheckOptions, constants: &Constants) -> Result<()> {
    let mut run = Run::start(options)?;
    println!("| what | predicted | measured | measured / predicted |\n|---|---|---|---|");
    run.connect(constants)?;
    run.wait(constants)?;
    run.publish(constants, &ALONE)?;
    run.publish(constants, &AT_ONCE)
}

/// How publications are made.
struct Pace {
    name: &'static str,
    at_once: usize,
    every: Duration,
}

const ALONE: Pace = Pace { name: "one at a time", at_once: 1, every: Duration::from_millis(20) };
const AT_ONCE: Pace = Pace { name: "100 at once", at_once: 100, every: Duration::from_millis(500) };

/// What runs.
struct Run<'o> {
    options: &'o CheckOptions,
    // Ended in this order.
    crowds: Vec<Crowd>,
    gateways: Vec<Node>,
    redis: Redis,
    /// Each second, of Redis before there were gateways, and of these before there were clients.
    base: Used,
    /// Each second, with all clients connected.
    idle: Used,
}

/// CPU time so far, in microseconds, or what was used in a time.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    gateways_us: f64,
    redis_us: f64,
}

/// A process with clients.
struct Crowd {
    process: Subprocess,
    output: BufReader<ChildStdout>,
}

/// A session that publishes.
struct Publisher {
    socket: TcpStream,
    wire: Wire,
}

impl<'o> Run<'o> {
    fn start(options: &'o CheckOptions) -> Result<Self> {
        let redis = Redis::start()?;
        let redis_us = each_second(|| us(redis.master()))?;
        let start = Start {
            nodes: Nodes { workers: 1, ..Nodes::default() },
            secret: SECRET,
            gateway: options.gateway.as_deref(),
            ..Start::default()
        };
        let gateways = (0..options.gateways).map(|_| fanlight::start(&start, Some(&redis)));
        let gateways = gateways.collect::<Result<Vec<_>>>()?;
        sleep(SETTLE);
        let gateways_us = each_second(|| gateways.iter().map(us).sum())?;
        let base = Used { gateways_us, redis_us };
        let (crowds, idle) = (Vec::new(), Used::default());
        Ok(Self { options, crowds, gateways, redis, base, idle })
    }

    fn connect(&mut self, constants: &Constants) -> Result<()> {
        let memory_before = self.memory()?;
        let (redis_before, kernel_before) = (self.redis_bytes()?, kernel_bytes()?);
        let before = self.used()?;
        for at in 0..self.gateways.len() {
            self.crowds.push(self.start_crowd(at)?);
        }
        for crowd in &mut self.crowds {
            crowd.answer().context("clients did not connect")?;
        }
        let used = self.used()? - before;
        sleep(SETTLE);
        let connections = self.options.connections as f64;
        let (gateway, redis) = (&constants.gateway, &constants.redis);
        let nodes = self.gateways.len() as f64;
        row(
            "gateways without clients, MB each",
            gateway.base_bytes / 1e6,
            memory_before / nodes / 1e6,
        );
        let predicted = nodes * gateway.base_bytes + connections * gateway.native_bytes;
        row("gateways in all, MB", predicted / 1e6, self.memory()? / 1e6);
        let added = (self.memory()? - memory_before) / connections;
        row("gateways, bytes per connection", gateway.native_bytes, added);
        // Both ends are on this machine.
        let kernel = (kernel_bytes()? - kernel_before) / connections / 2.0;
        row("kernel, bytes per socket", gateway.kernel_bytes, kernel);
        row("gateways, µs per connect", gateway.connect_us, used.gateways_us / connections);
        let entry_us = redis.registry_call_us + redis.registry_operation_us;
        row("Redis, µs per connect", entry_us, used.redis_us / connections);
        let rooms = self.rooms() as f64;
        let channel = redis.channel_bytes + (nodes - 1.0) * redis.channel_node_bytes;
        let predicted = connections * redis.session_bytes + rooms * channel;
        row("Redis, MB added", predicted / 1e6, (self.redis_bytes()? - redis_before) / 1e6);
        Ok(())
    }

    /// Nobody publishes: heartbeats, sweeps, canaries and leases.
    fn wait(&mut self, constants: &Constants) -> Result<()> {
        let (before, begun) = (self.used()?, Instant::now());
        sleep(self.phase());
        let seconds = begun.elapsed().as_secs_f64();
        let used = self.used()? - before;
        self.idle =
            Used { gateways_us: used.gateways_us / seconds, redis_us: used.redis_us / seconds };
        let connections = self.options.connections as f64;
        let nodes = self.gateways.len() as f64;
        let measured = self.base.gateways_us / nodes;
        row("gateways without clients, µs per second", constants.gateway.base_us, measured);
        let measured = (self.idle.gateways_us - self.base.gateways_us) / connections;
        row("gateways idle, µs per connection and second", constants.gateway.idle_us, measured);
        let redis = &constants.redis;
        row("Redis without gateways, µs per second", redis.base_us, self.base.redis_us);
        let renewal_us = redis.lease_us + nodes * redis.lease_node_us + redis.reap_claim_us;
        let pings_us = f64::from(crate::simulate::rules::HELD_PARTITIONS) * redis.ping_us;
        let every = crate::simulate::rules::LEASE_RENEW.as_secs_f64();
        let looks_us = f64::from(crate::simulate::rules::PARTITIONS) * redis.dead_look_us / nodes;
        let probes_us = redis.canary_us + redis.info_us + redis.turn_us;
        let predicted = probes_us + looks_us + (renewal_us + pings_us) / every;
        let measured = (self.idle.redis_us - self.base.redis_us) / nodes;
        row("Redis idle, µs per node and second", predicted, measured);
        Ok(())
    }

    fn publish(&mut self, constants: &Constants, pace: &Pace) -> Result<()> {
        let mut publishers = self.publishers()?;
        let heard_before = self.heard()?;
        let (before, begun) = (self.used()?, Instant::now());
        let mut publications = 0;
        for turn in 0_u32.. {
            let due = pace.every * turn;
            if due >= self.phase() {
                break;
            }
            sleep(due.saturating_sub(begun.elapsed()));
            for _ in 0..pace.at_once {
                let at = publications % publishers.len();
                publishers[at].publish(&room(publications % self.rooms()))?;
                publications += 1;
            }
        }
        let expected = (publications * self.subscribers()) as u64;
        self.await_deliveries(heard_before + expected)?;
        let seconds = begun.elapsed().as_secs_f64();
        let used = self.used()? - before;
        self.tell(constants, pace, (used, seconds), publications as f64);
        Ok(())
    }

    fn tell(&self, constants: &Constants, pace: &Pace, used: (Used, f64), publications: f64) {
        let (used, seconds) = used;
        let (gateway, redis) = (&constants.gateway, &constants.redis);
        let nodes = self.gateways.len() as f64;
        let subscribers = self.subscribers() as f64;
        let predicted = gateway.publish_us
            + nodes * gateway.receive_us
            + subscribers * (gateway.send_us + gateway.message_us);
        let spent = used.gateways_us - self.idle.gateways_us * seconds;
        let measured = spent / publications / subscribers;
        let name = pace.name;
        row(&format!("gateways, µs per delivery, {name}"), predicted / subscribers, measured);
        let (publish_us, node_us) = if pace.at_once == 1 {
            (redis.publish_alone_us, redis.publish_node_alone_us)
        } else {
            (redis.publish_us, redis.publish_node_us)
        };
        let measured = (used.redis_us - self.idle.redis_us * seconds) / publications;
        row(&format!("Redis, µs per publication, {name}"), publish_us + nodes * node_us, measured);
    }

    fn start_crowd(&self, at: usize) -> Result<Crowd> {
        let count = self.options.connections / self.gateways.len();
        let source = Ipv4Addr::new(127, 0, 0, 2 + at as u8);
        let (process, output) = Subprocess::start([
            "crowd",
            &format!("--address={}", self.gateways[at].address),
            &format!("--source={source}"),
            &format!("--first={}", at * count),
            &format!("--count={count}"),
            &format!("--rooms={}", self.rooms()),
        ])?;
        Ok(Crowd { process, output })
    }

    /// A session has one publication under way, so those at once are of as many sessions.
    fn publishers(&self) -> Result<Vec<Publisher>> {
        let gateways = self.gateways.iter().cycle().take(PUBLISHERS);
        gateways.map(Publisher::connect).collect()
    }

    /// How many messages the clients got so far.
    fn heard(&mut self) -> Result<u64> {
        self.crowds.iter_mut().map(Crowd::heard).sum()
    }

    fn await_deliveries(&mut self, expected: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let heard = self.heard()?;
            if heard == expected {
                return Ok(());
            }
            ensure!(heard < expected, "{heard} messages came, not {expected}");
            ensure!(Instant::now() < deadline, "only {heard} of {expected} messages came");
            sleep(Duration::from_millis(100));
        }
    }

    fn rooms(&self) -> usize {
        (self.options.connections / self.options.subscribers).max(1)
    }

    fn subscribers(&self) -> usize {
        self.options.subscribers
    }

    fn phase(&self) -> Duration {
        Duration::from_secs(self.options.phase_s)
    }

    fn memory(&self) -> Result<f64> {
        let bytes = |gateway: &Node| gateway.process().context(UNKNOWN)?.anonymous_rss_bytes();
        Ok(self.gateways.iter().map(bytes).sum::<Result<u64>>()? as f64)
    }

    fn redis_bytes(&self) -> Result<f64> {
        Ok(self.redis.used_bytes()? as f64)
    }

    fn used(&self) -> Result<Used> {
        Ok(Used {
            gateways_us: self.gateways.iter().map(us).sum::<Result<f64>>()?,
            redis_us: us(self.redis.master())?,
        })
    }
}

impl std::ops::Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            gateways_us: self.gateways_us - before.gateways_us,
            redis_us: self.redis_us - before.redis_us,
        }
    }
}

impl Crowd {
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line)?;
        ensure!(bytes > 0, "a process with clients ended");
        Ok(line)
    }

    fn heard(&mut self) -> Result<u64> {
        self.process.input.write_all(b"\n")?;
        Ok(self.answer()?.trim().parse()?)
    }
}

impl Publisher {
    fn connect(gateway: &Node) -> Result<Self> {
        let (address, source, token) = (gateway.address, None, &token(0)?);
        let adapter = Protocol::Native.adapter();
        let (socket, wire) = Dial { address, source, token, adapter }.connect(None)?;
        Ok(Self { socket, wire })
    }

    /// Publishes without an id, so that there is no answer to wait for.
    fn publish(&mut self, to: &str) -> Result<()> {
        let body = "x".repeat(BODY_BYTES);
        let mut out = Vec::new();
        let text = format!(r#"{{"type":"send","to":"{to}","data":"{body}"}}"#);
        self.wire.write(&mut out, &text);
        Ok(self.socket.write_all(&out)?)
    }
}

/// The destination of a room.
fn room(number: usize) -> String {
    Protocol::Native.adapter().names(Place::Room(number)).subscribe
}

fn token(user: usize) -> Result<String> {
    mint(SECRET, &user_name(user))
}

fn us(node: &Node) -> Result<f64> {
    Ok(node.cpu_ns()?.context(UNKNOWN)? as f64 / 1000.0)
}

/// How much `used` grows in a second.
fn each_second(used: impl Fn() -> Result<f64>) -> Result<f64> {
    let (before, begun) = (used()?, Instant::now());
    sleep(SETTLE);
    Ok((used()? - before) / begun.elapsed().as_secs_f64())
}

fn row(what: &str, predicted: f64, measured: f64) {
    println!("| {what} | {predicted:.2} | {measured:.2} | {:.2} |", measured / predicted);
}

/// What the kernel holds in its own structures, of all processes.
fn kernel_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Slab:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no Slab in /proc/meminfo")?.trim().parse::<f64>()? * 1024.0)
}

const UNKNOWN: &str = "a process that was started here is known";
const PUBLISHERS: usize = 100;
const BODY_BYTES: usize = 128;
const SETTLE: Duration = Duration::from_secs(8);
