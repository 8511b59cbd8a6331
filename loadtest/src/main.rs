//! Loads a gateway, or a peer beside it, and says what came of it: scenarios, figures, reports.

mod adapters;
mod bare;
mod capacity;
mod client;
mod clock;
mod control;
mod fleet;
mod floor;
mod machine;
mod metric;
mod null;
mod process;
mod receivers;
mod report;
mod rollout;
mod round;
mod run;
mod scenario;
mod sequence;
mod simulate;
mod stamp;
mod subprocess;
mod targets;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Loads servers by scenarios, on an open model: publications are sent when the schedule wants them,
/// and latency counts from that moment, whatever the server does.
///
/// CPU and memory are those of the server's processes as the kernel accounts them. Every subscriber
/// checks that it gets everything, once and in order.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs scenarios against one or several servers, in turns, and writes a report.
    Run(run::Options),
    /// CPU of a delivery beside the bare `send` system call, in turns.
    Floor(floor::Options),
    /// The null server, for calibration: what the tester itself can do.
    Null(null::Options),
    /// Nodes, Redis shards and cost of a described load.
    Capacity(capacity::Options),
    /// Registry, leases and fan-out of a cluster too large to run.
    Simulate(simulate::Options),
    /// Restarts every node in turn and adds one, behind a real proxy and under load, and proves that
    /// nobody loses anything.
    Rollout(rollout::Options),
    /// Clients of `rollout`, which starts them.
    #[command(hide = true)]
    RolloutClients,
    /// Clients of `capacity --check`, which starts them.
    #[command(hide = true)]
    Crowd(capacity::check::crowd::Options),
    /// The bare `send` loop; started by `floor`.
    #[command(hide = true)]
    Bare(bare::Options),
    /// Becomes a server that is to be loaded, and ends with who started it.
    #[command(hide = true)]
    Become(targets::Become),
    /// A client process; started by `run`.
    #[command(hide = true)]
    Client,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Floor(options) => floor::run(&options),
        Command::Null(options) => null::run(&options),
        Command::Capacity(options) => capacity::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Rollout(options) => rollout::run(&options),
        Command::RolloutClients => rollout::run_crowd(),
        Command::Crowd(options) => capacity::check::crowd::run(&options),
        Command::Bare(options) => bare::run(&options),
        Command::Become(program) => targets::exec(&program),
        Command::Client => client::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_has_no_contradiction() {
        super::Cli::command().debug_assert();
    }
}
