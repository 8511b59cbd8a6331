//! Measures a gateway: memory of idle connections, CPU of a delivery beside the bare `send` loop.

mod bare;
mod fanout;
mod gateway;
mod idle;
mod listen;
mod process;
mod swarm;

use clap::{Parser, Subcommand};

/// Measures a Fanlight gateway that it starts itself, on loopback.
///
/// Figures are of the gateway's process only: user-space memory (anonymous RSS) and CPU time as
/// the kernel accounts it, so that the load of this program does not count.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// User-space memory per idle connection: authenticated, one subscription, heartbeats on.
    Idle(idle::Options),
    /// CPU per delivery at several numbers of subscribers, interleaved with the bare `send` loop.
    Fanout(fanout::Options),
    /// The bare `send` loop itself; started by `fanout`.
    #[command(hide = true)]
    Bare(bare::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Idle(options) => idle::run(&options),
        Command::Fanout(options) => fanout::run(&options),
        Command::Bare(options) => bare::run(&options),
    }
}
