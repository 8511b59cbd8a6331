//! A client process: many connections in one thread, told what to do by lines on its input.

mod connection;
mod figures;
mod schedule;
mod swarm;
mod tokens;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result};
use mio::Waker;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{Command, Job, Told};
pub use connection::{Connection, Role, Shared, State};
pub use figures::Figures;
pub use schedule::{Schedule, whole};
use swarm::Swarm;
pub use tokens::mint;

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
    std::io::stdin().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line).context("the job")?;
    let mut swarm = Swarm::new(job)?;
    let commands = listen(swarm.waker()?, || Command::End);
    swarm.serve(&commands)
}

/// Reads commands in a thread of their own, since the poll can't wait for both.
pub fn listen<C>(waker: Arc<Waker>, end: fn() -> C) -> Receiver<C>
where
    C: DeserializeOwned + Send + 'static,
{
    let (sender, receiver) = sync_channel(COMMANDS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let command = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            // Who started this process is gone, or is of another version: end either way.
            if sender.send(command.unwrap_or_else(end)).is_err() {
                return;
            }
            let _ = waker.wake();
        }
        let _ = sender.send(end());
        let _ = waker.wake();
    });
    receiver
}

/// Says something to who started this process.
pub fn tell(told: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, told)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Commands that may wait; the tester sends one at a time, and storms.
const COMMANDS: usize = 16;
