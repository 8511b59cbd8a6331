//! How sessions are spread over the nodes: whether what was added has its share, and all is calm.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::admission;
use super::nodes::THRESHOLD_PERCENT;

/// What each node has, and has given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Sessions, by node; the last is the one that was added.
    pub sessions: Vec<u64>,
    /// Sessions that were told to go to another node, by node, since then.
    pub given: Vec<u64>,
}

impl Spread {
    /// Asks all nodes.
    fn read(admins: &[SocketAddr]) -> Result<Self> {
        let readings: Vec<_> =
            admins.iter().map(|&admin| admission::read(admin)).collect::<Result<_>>()?;
        Ok(Self {
            sessions: readings.iter().map(|reading| reading.sessions).collect(),
            given: readings.iter().map(|reading| reading.given).collect(),
        })
    }

    /// Whether no node has so many more than the mean that it gives some away.
    fn is_even(&self) -> bool {
        let (total, nodes) = (self.sessions.iter().sum::<u64>(), self.sessions.len() as u64);
        let most = total * (100 + THRESHOLD_PERCENT);
        self.sessions.iter().all(|own| own * nodes * 100 <= most)
    }

    fn given_in_all(&self) -> u64 {
        self.given.iter().sum()
    }

    /// Why what was added has not its share, if so.
    pub fn lacks(&self) -> Option<String> {
        let (total, nodes) = (self.sessions.iter().sum::<u64>(), self.sessions.len() as u64);
        let own = *self.sessions.last()?;
        let mean = total / nodes;
        if own * nodes * 100 < total * LEAST_PERCENT {
            return Some(format!(
                "the node that was added has {own} sessions, less than {LEAST_PERCENT} % of the \
                 nodes' mean of {mean}"
            ));
        }
        // Nobody else comes: all that it has must have been given to it.
        let given = self.given_in_all();
        (given < own).then(|| {
            format!("the node that was added has {own} sessions, but only {given} were given away")
        })
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "\n## The node that was added\n\nOnce nothing moved any more. The last node is the one \
             that was added, and got its sessions from the others.\n\n\
             | node | sessions | given away |\n|---|---|---|\n",
        );
        for (number, (sessions, given)) in self.sessions.iter().zip(&self.given).enumerate() {
            let _ = writeln!(text, "| {} | {sessions} | {given} |", number + 1);
        }
        text
    }
}

/// Waits for the calm behind rebalancing.
pub struct Calm {
    admins: Vec<SocketAddr>,
    /// What nodes had given away before.
    before: Vec<u64>,
    /// For so long nothing may move: longer than a node rests between two rounds.
    quiet: Duration,
    last: Option<Spread>,
    /// Since when nothing has moved.
    since: Instant,
    look_at: Instant,
}

impl Calm {
    /// Begins to wait.
    pub fn begin(admins: Vec<SocketAddr>, quiet: Duration) -> Result<Self> {
        let (before, now) = (Spread::read(&admins)?.given, Instant::now());
        Ok(Self { admins, before, quiet, last: None, since: now, look_at: now })
    }

    /// Looks, where it is time to; whether sessions have moved, all have about as many, and nothing
    /// moves any more.
    pub fn has_come(&mut self) -> Result<bool> {
        let now = Instant::now();
        if now < self.look_at {
            return Ok(false);
        }
        self.look_at = now + LOOK_EVERY;
        let mut spread = Spread::read(&self.admins)?;
        for (given, before) in spread.given.iter_mut().zip(&self.before) {
            *given = given.saturating_sub(*before);
        }
        let given = spread.given_in_all();
        if self.last.as_ref().is_none_or(|last| last.given_in_all() != given) {
            self.since = now;
        }
        let is_calm = given > 0 && spread.is_even() && now - self.since >= self.quiet;
        self.last = Some(spread);
        Ok(is_calm)
    }

    /// What was seen last.
    pub fn seen(self) -> Option<Spread> {
        self.last
    }
}

/// Of the mean, what a node that was added is to have at least: what is left to it where each of three
/// others has by [`THRESHOLD_PERCENT`] more.
const LEAST_PERCENT: u64 = 70;
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(sessions: &[u64], given: &[u64]) -> Spread {
        Spread { sessions: sessions.to_vec(), given: given.to_vec() }
    }

    #[test]
    fn what_was_added_needs_its_share_and_from_the_others() {
        assert_eq!(spread(&[110, 119, 71], &[40, 40, 0]).lacks(), None);
        let of_few = spread(&[115, 116, 69], &[40, 30, 0]).lacks().unwrap();
        assert!(of_few.contains("69 sessions, less than 70 % of the nodes' mean of 100"));
        let of_others = spread(&[100, 100, 100], &[50, 20, 0]).lacks().unwrap();
        assert!(of_others.contains("only 70 were given away"), "{of_others}");
    }

    #[test]
    fn a_spread_is_even_up_to_the_threshold() {
        assert!(spread(&[110, 110, 80], &[0; 3]).is_even());
        assert!(!spread(&[111, 109, 80], &[0; 3]).is_even());
    }
}
