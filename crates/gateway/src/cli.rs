//! The command line.

mod admin;
mod cluster;
mod completions;
mod config;
mod doctor;
mod drain;
mod health;
mod messages;
mod relay;
mod serve;
mod status;
mod token;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Runs the command that `args` (with the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let outcome = match cli.command {
        None => serve::run(&serve::Serve::dev()),
        Some(Command::Serve(command)) => serve::run(&command),
        Some(Command::Config(command)) => config::run(&command),
        Some(Command::Token(command)) => token::run(&command),
        Some(Command::Pub(command)) => messages::publish(&command),
        Some(Command::Sub(command)) => messages::subscribe(&command),
        Some(Command::Relay(command)) => relay::run(&command),
        Some(Command::Doctor(command)) => doctor::run(&command),
        Some(Command::Health(command)) => health::run(&command),
        Some(Command::Status(command)) => status::run(&command),
        Some(Command::Drain(command)) => drain::run(&command),
        Some(Command::Completions(command)) => completions::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", indented(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// A real-time gateway: WebSocket and STOMP in front of any backend.
///
/// Without a command: `fanlight serve --dev`, to try it out.
#[derive(Debug, Parser)]
#[command(name = "fanlight", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until told to stop.
    Serve(serve::Serve),
    /// Check, list and describe the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make and read tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Publish one message, as a client or as a backend.
    Pub(messages::Publish),
    /// Print messages as they come, as a client.
    Sub(messages::Subscribe),
    /// Relay publications of chosen namespaces from another cell into this one.
    Relay(relay::Relay),
    /// Check a Redis for what Fanlight needs of it.
    Doctor(doctor::Doctor),
    /// Ask a node whether it is ready, and succeed only if it is.
    Health(health::Health),
    /// Show how one or several nodes are, or the cluster and users of it.
    Status(status::Show),
    /// Take all connections off a node, and have it end.
    Drain(drain::Drain),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
}

/// An error of several lines, with those after the first set apart.
fn indented(text: &str) -> String {
    if text.contains('\n') { format!("\n{text}").replace('\n', "\n  ") } else { text.into() }
}

/// The runtime of a command: one thread is enough, workers have their own.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().context("can't start the runtime")?;
    runtime.block_on(work)
}

/// Prints what a program will read.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints to standard output. Whoever reads it may have had enough, as `head` has.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("can't write to standard output"),
    }
}
