//! CPU of a delivery, interleaved with the bare `send` loop on as many connections.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use crate::gateway::Gateway;
use crate::process::Process;
use crate::swarm::{Protocol, Publisher, Swarm};

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
    /// The protocols to measure.
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

const DESTINATION: &str = "/topic/fanout";

/// Prints a table with a row for each combination.
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
    gateway: Gateway,
    gateway_swarm: Swarm,
    publisher: Publisher,
    bare: BareSender,
    bare_swarm: Swarm,
}

impl Pair {
    fn start(options: &Options, protocol: Protocol, subscribers: usize) -> Result<Self> {
        let gateway = Gateway::start(options.gateway.clone(), options.workers)?;
        let token = gateway.token("subscriber")?;
        let mut gateway_swarm = Swarm::new()?;
        let (bare, address) = BareSender::start(subscribers)?;
        let mut bare_swarm = Swarm::new()?;
        for _ in 0..subscribers {
            gateway_swarm.add_client(gateway.address, &token, protocol, Some(DESTINATION))?;
            bare_swarm.add_raw(address)?;
        }
        let publisher = Publisher::connect(gateway.address, &token, protocol)?;
        Ok(Self { protocol, subscribers, gateway, gateway_swarm, publisher, bare, bare_swarm })
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
        let body = "x".repeat(options.body_bytes);
        let process = self.gateway.process();
        let before = process.cpu_ns()?;
        for _ in 0..times {
            self.publisher.publish(DESTINATION, &body, burst)?;
            self.gateway_swarm.receive((self.subscribers * burst) as u64)?;
        }
        Ok(per_delivery(process.cpu_ns()? - before, self.subscribers * burst * times))
    }

    /// CPU of the bare sender per delivery, in microseconds.
    fn bare_round(&mut self, burst: usize, times: usize) -> Result<f64> {
        // As many bytes as the gateway sends for such a body.
        let frame_bytes = self.gateway_swarm.last_message_bytes();
        let before = self.bare.process.cpu_ns()?;
        for _ in 0..times {
            writeln!(self.bare.input, "{burst} {frame_bytes}")?;
            self.bare_swarm.receive((self.subscribers * burst) as u64)?;
        }
        Ok(per_delivery(self.bare.process.cpu_ns()? - before, self.subscribers * burst * times))
    }
}

/// The bare `send` loop in a process of its own.
struct BareSender {
    child: Child,
    input: ChildStdin,
    process: Process,
}

impl BareSender {
    fn start(connections: usize) -> Result<(Self, SocketAddr)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bare", "--connections", &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("the bare sender has no input")?;
        let output = child.stdout.take().context("the bare sender has no output")?;
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse()?));
        let process = Process::new(child.id());
        Ok((Self { child, input, process }, address))
    }
}

impl Drop for BareSender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn per_delivery(cpu_ns: u64, deliveries: usize) -> f64 {
    cpu_ns as f64 / 1000.0 / deliveries as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
