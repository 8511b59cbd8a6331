//! Clients in a process of their own, as one has only so many descriptors: they connect, subscribe
//! and count what they get.

use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{room, token};
use crate::adapters::Protocol;
use crate::receivers::{Dial, Receivers};

/// Which clients.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where they connect.
    #[arg(long)]
    address: SocketAddr,
    /// The address from which they do.
    #[arg(long)]
    source: Ipv4Addr,
    /// The number of the first; a client's number decides its room and its user.
    #[arg(long)]
    first: usize,
    /// How many.
    #[arg(long)]
    count: usize,
    /// Rooms over which all clients spread.
    #[arg(long)]
    rooms: usize,
}

/// Connects, prints a line, then prints how many messages came whenever a line is read.
pub fn run(options: &Options) -> Result<()> {
    let adapter = Protocol::Native.adapter();
    let tokens = (0..USERS).map(token).collect::<Result<Vec<_>>>()?;
    let mut receivers = Receivers::new(adapter)?;
    let (address, source) = (options.address, Some(options.source.into()));
    let mut answered = Instant::now();
    for number in options.first..options.first + options.count {
        let dial = Dial { address, source, token: &tokens[number % USERS], adapter };
        receivers.add_client(&dial, &room(number % options.rooms))?;
        // Those who are there already have pings to answer.
        if answered.elapsed() >= ANSWER_EVERY {
            while receivers.read(Duration::ZERO)? {}
            answered = Instant::now();
        }
    }
    println!("connected");
    let (asked, asks) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        lines.take_while(|_| asked.send(()).is_ok()).for_each(drop);
    });
    loop {
        receivers.read(Duration::from_millis(100))?;
        match asks.try_recv() {
            Ok(()) => println!("{}", receivers.received()),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

const ANSWER_EVERY: Duration = Duration::from_millis(200);
/// Several sessions each.
const USERS: usize = 500;
