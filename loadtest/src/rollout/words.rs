//! What the tester and its crowds say to each other: lines of JSON.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::adapters::Protocol;
use crate::control::Interval;

/// Which clients a crowd is; the first line that it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number among all crowds.
    pub process: usize,
    /// How many there are; each has the clients with its number.
    pub processes: usize,
    /// Clients of all crowds.
    pub clients: usize,
    /// Where they connect: the proxy.
    pub address: SocketAddr,
    /// Where they connect from.
    pub source: IpAddr,
    /// The secret of their tokens (HS256).
    pub secret: String,
    /// How many destinations they spread over.
    pub destinations: usize,
}

/// What to do next.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Connect all clients; answered by [`Told::Done`].
    Connect {
        /// By [`crate::clock::now_ns`].
        start_ns: u64,
        /// Dials per second, of all crowds together.
        rate: f64,
        /// When to give up.
        give_up_ns: u64,
    },
    /// What happens from now on belongs to this stage.
    Stage(usize),
    /// Wait until everything that was published has come, and count what has not as lost; answered by
    /// [`Told::Done`].
    Settle {
        /// How much that is, by destination.
        published: Vec<u64>,
        /// When to give up.
        give_up_ns: u64,
    },
    /// End.
    End,
}

/// What a crowd tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// What has happened since the last one.
    Interval {
        /// The stage that it belongs to.
        stage: usize,
        /// What it was.
        interval: Interval,
        /// Connections that ended after the server had said for how long to stay away.
        advised: u64,
    },
    /// The command is done, with what was wrong, if anything was.
    Done(Option<String>),
    /// It can't go on.
    Failed(String),
}

/// What the client with this number speaks, so that every destination has clients of each protocol.
pub fn protocol(number: usize, destinations: usize) -> Protocol {
    MIX[number / destinations % MIX.len()]
}

/// Of ten clients of a destination.
pub const MIX: [Protocol; 10] = [
    Protocol::Native,
    Protocol::Events,
    Protocol::Stomp,
    Protocol::Poll,
    Protocol::SockJs,
    Protocol::Native,
    Protocol::Events,
    Protocol::Stomp,
    Protocol::Native,
    Protocol::Native,
];
