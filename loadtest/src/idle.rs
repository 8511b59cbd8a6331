//! Memory of idle connections.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::gateway::Gateway;
use crate::listen::{self, Listen};
use crate::swarm::{Protocol, Swarm};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Connections to open; each needs a file descriptor here and one in the gateway.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// The kinds of connection to measure, one gateway each.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_values = ["native", "stomp", "events", "sockjs"]
    )]
    protocols: Vec<Kind>,
    /// Destinations that the connections spread over; 0: one each.
    #[arg(long, default_value_t = 100)]
    destinations: usize,
    /// Seconds to wait, over which heartbeats are answered, before memory is read.
    #[arg(long, default_value_t = 5)]
    settle_s: u64,
    /// The gateway's binary; the one beside this program when absent.
    #[arg(long)]
    gateway: Option<PathBuf>,
}

/// A kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A WebSocket with the native protocol.
    Native,
    /// A WebSocket with STOMP 1.2.
    Stomp,
    /// Server-sent events.
    Events,
    /// SockJS by `xhr_streaming`, with STOMP inside.
    #[value(name = "sockjs")]
    SockJs,
}

/// Prints a table with a row per protocol.
pub fn run(options: &Options) -> Result<()> {
    println!("| protocol | connections | before | after | bytes per connection |");
    println!("|---|---|---|---|---|");
    for &protocol in &options.protocols {
        let gateway = Gateway::start(options.gateway.clone(), 0)?;
        let process = gateway.process();
        let mut swarm = Swarm::new()?;
        // The first connections pay for what is there once: routes, parsers, the allocator's own.
        for n in 0..WARM_UP {
            let token = gateway.token(&format!("warm-{n}"))?;
            add(&mut swarm, &gateway, &token, protocol, "/topic/warm", n)?;
        }
        let token = gateway.token("user")?;
        swarm.idle(Duration::from_secs(1))?;
        let before = process.anonymous_rss_bytes()?;
        for n in 0..options.connections {
            let destination = match options.destinations {
                0 => format!("/topic/room.{n}"),
                rooms => format!("/topic/room.{}", n % rooms),
            };
            add(&mut swarm, &gateway, &token, protocol, &destination, WARM_UP + n)?;
        }
        swarm.idle(Duration::from_secs(options.settle_s))?;
        let after = process.anonymous_rss_bytes()?;
        let each = after.saturating_sub(before) / options.connections as u64;
        println!(
            "| {protocol:?} | {} | {:.1} MiB | {:.1} MiB | {each} |",
            swarm.len() - WARM_UP,
            mebibytes(before),
            mebibytes(after),
        );
    }
    Ok(())
}

fn add(
    swarm: &mut Swarm,
    gateway: &Gateway,
    token: &str,
    kind: Kind,
    destination: &str,
    number: usize,
) -> Result<()> {
    let address = gateway.address;
    match kind {
        Kind::Native => swarm.add_client(address, token, Protocol::Native, Some(destination)),
        Kind::Stomp => swarm.add_client(address, token, Protocol::Stomp, Some(destination)),
        Kind::Events => {
            swarm.add_listener(listen::open(address, token, Listen::Events, destination, number)?)
        }
        Kind::SockJs => {
            swarm.add_listener(listen::open(address, token, Listen::SockJs, destination, number)?)
        }
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const WARM_UP: usize = 8;
