//! What the tester and its client processes say to each other: lines of JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::adapters::Protocol;

/// What a client process is for; the first line that it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are options, not states")]
pub struct Job {
    /// Its number among all.
    pub process: usize,
    /// How many processes there are; of everything, each does what has its number.
    pub processes: usize,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Where they connect, one after the other.
    pub addresses: Vec<SocketAddr>,
    /// Where they connect from, when not from anywhere.
    pub source: Option<IpAddr>,
    /// The secret of the tokens that it makes (HS256).
    pub secret: String,
    /// How many destinations there are.
    pub destinations: usize,
    /// Whether each connection has a user of its own.
    pub users: bool,
    /// Whether each connection subscribes to what is private to its user.
    pub private: bool,
    /// How many connections publish.
    pub publishers: usize,
    /// How many connections may be dialling at once.
    pub in_flight: usize,
    /// Whether subscribers ask who comes and goes.
    pub presence: bool,
    /// Whether those who come again go on from their position, so that nothing may be missing.
    pub recover: bool,
    /// How many of the subscribers stop reading while there is load.
    pub slow: usize,
    /// How long who was disconnected waits at most before the first and any later attempt.
    pub backoff_ms: u64,
}

/// What to do next. All but `Storm` and `End` are answered by [`Told::Done`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Connect the subscribers numbered `from..to`, and all publishers if they are not yet.
    Connect {
        /// The first.
        from: usize,
        /// Behind the last.
        to: usize,
        /// By [`crate::clock::now_ns`].
        start_ns: u64,
        /// Connections per second; 0: as fast as `in_flight` allows.
        rate: f64,
        /// When to give up.
        give_up_ns: u64,
    },
    /// Publish, and let come and go, by the schedule; done when everything has come.
    Load(Load),
    /// Something happens to the server now, after which everybody connects anew.
    Storm {
        /// From when recovering counts.
        at_ns: u64,
        /// Whether it is the clients that cut their connections.
        cut: bool,
    },
    /// Close all connections.
    Disconnect,
    /// End.
    End,
}

/// A time of load.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Load {
    /// By [`crate::clock::now_ns`].
    pub start_ns: u64,
    /// How long.
    pub length_ns: u64,
    /// Publications per second, of all processes together.
    pub rate: f64,
    /// How many publications are due at once; the rate is what they come to.
    pub burst: u64,
    /// The length of a body.
    pub body_bytes: usize,
    /// Subscribers that leave and come again each second, of all processes together.
    pub churn: f64,
    /// How long they stay away.
    pub away_ns: u64,
    /// How long to wait for what is outstanding.
    pub settle_ns: u64,
}

/// What a client process tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// What has happened since the last one.
    Interval(Interval),
    /// The command is done, and all of it has been told. With what was wrong, if it failed.
    Done(Option<String>),
    /// It can't go on.
    Failed(String),
}

/// What happened in some time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Interval {
    /// When it began, by [`crate::clock::now_ns`].
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// CPU time of the process.
    pub cpu_ns: u64,
    /// Connections that are live now.
    pub live: usize,
    /// Connections that a storm has disconnected and that are not live again.
    pub recovering: usize,
    /// How often what happened.
    pub counts: Counts,
    /// How long what took, in microseconds, as base64 of `HdrHistogram`'s V2 deflate format.
    pub phases: BTreeMap<Phase, String>,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that became live.
    pub connected: u64,
    /// Publications sent.
    pub published: u64,
    /// Publications that the server accepted.
    pub accepted: u64,
    /// Deliveries, duplicates included.
    pub delivered: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came more than once.
    pub duplicates: u64,
    /// Deliveries that came after a later one.
    pub reordered: u64,
    /// Connections that ended although nobody wanted it.
    pub closed: u64,
    /// Attempts to connect that failed.
    pub refused: u64,
    /// Answers that were errors.
    pub faults: u64,
    /// Notices of who came and went.
    pub presence: u64,
    /// Connections that are live again after a storm.
    pub recovered: u64,
    /// Positions that the server could not go on from.
    pub not_recovered: u64,
    /// Slow connections that the server closed.
    pub slow_closed: u64,
}

impl Counts {
    /// Adds those of another time or process.
    pub fn add(&mut self, other: &Self) {
        let Self {
            connected,
            published,
            accepted,
            delivered,
            lost,
            duplicates,
            reordered,
            closed,
            refused,
            faults,
            presence,
            recovered,
            not_recovered,
            slow_closed,
        } = other;
        self.connected += connected;
        self.published += published;
        self.accepted += accepted;
        self.delivered += delivered;
        self.lost += lost;
        self.duplicates += duplicates;
        self.reordered += reordered;
        self.closed += closed;
        self.refused += refused;
        self.faults += faults;
        self.presence += presence;
        self.recovered += recovered;
        self.not_recovered += not_recovered;
        self.slow_closed += slow_closed;
    }
}

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From the intended dial to the session.
    Connect,
    /// From asking for a subscription to its being live.
    Subscribe,
    /// From a publication's intended time to its being accepted.
    Publish,
    /// From a publication's intended time to a subscriber.
    Deliver,
    /// The same, of what was due while that subscriber was away.
    Replay,
    /// From a storm to a subscription that is live again.
    Recover,
    /// From the intended time of a publication to when it was really sent.
    Lag,
}

impl Phase {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Deliver => "deliver",
            Self::Replay => "replay",
            Self::Recover => "recover",
            Self::Lag => "lag",
        }
    }
}

/// Microseconds by phase.
pub type Histograms = BTreeMap<Phase, Histogram<u64>>;

/// Three digits, up to whatever comes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are few enough")
}

/// As a line of JSON can carry it.
pub fn encode(histogram: &Histogram<u64>) -> Result<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes)?;
    Ok(BASE64_STANDARD.encode(bytes))
}

/// Back again.
pub fn decode(text: &str) -> Result<Histogram<u64>> {
    let bytes = BASE64_STANDARD.decode(text)?;
    Ok(Deserializer::new().deserialize(&mut bytes.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_comes_back_as_it_was_sent_and_can_be_merged() {
        let mut sent = histogram();
        sent.record_n(120, 3).unwrap();
        sent.record(90_000_000).unwrap();
        let mut merged = decode(&encode(&sent).unwrap()).unwrap();
        assert_eq!(merged, sent);
        merged.add(&sent).unwrap();
        assert_eq!((merged.len(), merged.value_at_quantile(0.5)), (8, 120));
    }
}
