//! CPU of a delivery, interleaved with the bare `send` loop on as many connections.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::adapters::{Place, Protocol};
use crate::client::mint;
use crate::receivers::{Dial, Publisher, Receivers};
use crate::scenario::Nodes;
use crate::subprocess::Subprocess;
use crate::targets::{SECRET, Server, Start, Target};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Numbers of subscribers, all of one destination.
    #[arg(long, value_delimiter = ',', default_values = ["1000", "5000"])]
    subscribers: Vec<usize>,
    /// Publications per burst: 1 is one at a time.
    #[arg(long, value_delimiter = ',', default_values = ["1", "10"])]
    bursts: Vec<usize>,
    /// The size of a body, in bytes.
    #[arg(long, default_value_t = 128)]
    body_bytes: usize,
    /// The protocols to measure: `native`, `stomp`.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["native", "stomp"])]
    protocols: Vec<Protocol>,
    /// `send` calls of each round; each delivers a burst.
    #[arg(long, default_value_t = 200_000)]
    sends: usize,
    /// Rounds; gateway and bare loop take turns, and the median ratio counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Workers of the gateway. One, like the bare loop: a second only moves work elsewhere.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The gateway's binary; the one beside this program when absent.
    #[arg(long)]
    gateway: Option<PathBuf>,
}

/// Prints a table with a row for each combination.
///
/// Each round is closed: a burst is published once every subscriber has read the one before, so that
/// both sides do exactly as much.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "| protocol | subscribers | burst | µs per delivery | bare `send` | ratio (min-max) |"
    );
    println!("|---|---|---|---|---|---|");
    for &protocol in &options.protocols {
        for &subscribers in &options.subscribers {
            let mut pair = Pair::start(options, protocol, subscribers)?;
            for &burst in &options.bursts {
                pair.measure(options, burst)?;
            }
        }
    }
    Ok(())
}

/// A gateway and a bare sender, each with as many clients.
struct Pair {
    protocol: Protocol,
    subscribers: usize,
    gateway: Server,
    receivers: Receivers,
    publisher: Publisher,
    bare: Subprocess,
    bare_receivers: Receivers,
}

impl Pair {
    fn start(options: &Options, protocol: Protocol, subscribers: usize) -> Result<Self> {
        let nodes = Nodes { workers: options.workers, ..Nodes::default() };
        let target: Target = "fanlight".parse()?;
        let gateway = target.start(&Start {
            nodes,
            secret: SECRET,
            gateway: options.gateway.as_deref(),
            ..Start::default()
        })?;
        let adapter = protocol.adapter();
        let token = mint(SECRET, "floor")?;
        let dial = Dial { address: gateway.addresses()[0], source: None, token: &token, adapter };
        let destination = adapter.names(Place::Room(0));
        let mut receivers = Receivers::new(adapter)?;
        let (bare, bare_address) = start_bare(subscribers)?;
        let mut bare_receivers = Receivers::new(adapter)?;
        for _ in 0..subscribers {
            receivers.add_client(&dial, &destination.subscribe)?;
            bare_receivers.add_raw(bare_address)?;
        }
        let publisher = Publisher::connect(&dial, destination.publish)?;
        Ok(Self { protocol, subscribers, gateway, receivers, publisher, bare, bare_receivers })
    }

    fn measure(&mut self, options: &Options, burst: usize) -> Result<()> {
        let times = (options.sends / self.subscribers).max(1);
        // Warm up both, outside the figures.
        self.gateway_round(options, burst, times.div_ceil(10))?;
        self.bare_round(burst, times.div_ceil(10))?;
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            let gateway = self.gateway_round(options, burst, times)?;
            let bare = self.bare_round(burst, times)?;
            rounds.push((gateway, bare));
        }
        let mut ratios: Vec<f64> = rounds.iter().map(|(gateway, bare)| gateway / bare).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "| {:?} | {} | {burst} | {:.2} | {:.2} | {:.2} ({:.2}-{:.2}) |",
            self.protocol,
            self.subscribers,
            median(rounds.iter().map(|round| round.0)),
            median(rounds.iter().map(|round| round.1)),
            ratios[ratios.len() / 2],
            ratios[0],
            ratios[ratios.len() - 1],
        );
        Ok(())
    }

    /// CPU of the gateway per delivery, in microseconds.
    fn gateway_round(&mut self, options: &Options, burst: usize, times: usize) -> Result<f64> {
        let before = self.gateway_cpu_ns()?;
        for _ in 0..times {
            self.publisher.publish(options.body_bytes, burst)?;
            self.receivers.receive((self.subscribers * burst) as u64)?;
        }
        Ok(per_delivery(self.gateway_cpu_ns()? - before, self.subscribers * burst * times))
    }

    fn gateway_cpu_ns(&self) -> Result<u64> {
        self.gateway.cpu_ns()?.context("the gateway's process is known")
    }

    /// CPU of the bare sender per delivery, in microseconds.
    fn bare_round(&mut self, burst: usize, times: usize) -> Result<f64> {
        // As many bytes as the gateway sends for such a body.
        let frame_bytes = self.receivers.last_message_bytes();
        let before = self.bare.process().cpu_ns()?;
        for _ in 0..times {
            writeln!(self.bare.input, "{burst} {frame_bytes}")?;
            self.bare_receivers.receive((self.subscribers * burst) as u64)?;
        }
        Ok(per_delivery(self.bare.process().cpu_ns()? - before, self.subscribers * burst * times))
    }
}

/// The bare `send` loop, and where it listens.
fn start_bare(connections: usize) -> Result<(Subprocess, SocketAddr)> {
    let (bare, mut output) =
        Subprocess::start(["bare", "--connections", &connections.to_string()])?;
    let mut port = String::new();
    output.read_line(&mut port)?;
    Ok((bare, SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse()?))))
}

fn per_delivery(cpu_ns: u64, deliveries: usize) -> f64 {
    cpu_ns as f64 / 1000.0 / deliveries as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
