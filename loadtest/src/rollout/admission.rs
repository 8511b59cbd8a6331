//! How many handshakes each node admits, seen from outside: its counter, read again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::client::whole;
use crate::clock::{SECOND_NS, now_ns};
use crate::targets::fanlight;

/// One reading of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// It was taken after this moment,
    asked_ns: u64,
    /// and before this one.
    answered_ns: u64,
    /// Handshakes since the node started.
    handshakes: u64,
    /// Those that were too many, and were told to come later.
    paced: u64,
    /// Connections there are.
    pub connections: u64,
    /// Sessions there are.
    pub sessions: u64,
    /// Sessions that were told to go to another node, since the node started.
    pub given: u64,
}

/// What a node admitted, at its fastest.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Peak {
    /// In a second or little more.
    pub per_second: u64,
    /// Handshakes beyond what rate and burst allow in any time, or nothing.
    pub beyond: u64,
    /// Handshakes that were told to come later as they were too many.
    pub paced: u64,
}

/// Reads all nodes until it is told to end.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Reading>>>,
}

impl Watch {
    /// Begins.
    pub fn start(admins: &[SocketAddr]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = |&admin: &SocketAddr| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                let mut readings = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    // A node that is away has no counter.
                    readings.extend(read(admin).ok());
                    std::thread::sleep(EVERY);
                }
                readings
            })
        };
        Self { threads: admins.iter().map(watch).collect(), is_over }
    }

    /// What was read of each node.
    pub fn end(self) -> Result<Vec<Vec<Reading>>> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let Ok(readings) = thread.join() else { bail!("a watch panicked") };
            all.push(readings);
        }
        Ok(all)
    }
}

/// Asks a node.
pub fn read(admin: SocketAddr) -> Result<Reading> {
    let asked_ns = now_ns();
    let page = fanlight::ask_at(admin, "GET", "/metrics")?;
    let accepted = |line: &&str| line.contains("result=\"accepted\"");
    let paced = |line: &&str| line.contains("result=\"paced\"");
    let sum = |name: &str, wanted: &dyn Fn(&&str) -> bool| {
        let lines = page.lines().filter(|line| line.starts_with(name)).filter(wanted);
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    Ok(Reading {
        asked_ns,
        answered_ns: now_ns(),
        handshakes: whole(sum("fanlight_handshakes_total{", &accepted)),
        paced: whole(sum("fanlight_handshakes_total{", &paced)),
        connections: whole(sum("fanlight_connections{", &|_| true)),
        sessions: whole(sum("fanlight_sessions{", &|_| true)),
        given: whole(sum("fanlight_rebalanced_sessions_total", &|_| true)),
    })
}

/// The fastest of what was read, judged by a rate and a burst. Whatever a reading's own time leaves
/// uncertain counts for the node.
pub fn peak(readings: &[Reading], rate: f64, burst: f64) -> Peak {
    let mut peak = Peak { paced: paced(readings), ..Peak::default() };
    for (at, from) in readings.iter().enumerate() {
        for to in &readings[at + 1..] {
            if to.handshakes < from.handshakes {
                // Another process counts anew.
                break;
            }
            let handshakes = (to.handshakes - from.handshakes) as f64;
            let seconds = (to.answered_ns - from.asked_ns) as f64 / SECOND_NS as f64;
            let beyond = handshakes - burst - rate * seconds;
            peak.beyond = peak.beyond.max(whole(beyond.ceil().max(0.0)));
            if seconds >= 1.0 {
                peak.per_second = peak.per_second.max(whole(handshakes / seconds));
            }
            if seconds > MOST_SECONDS {
                break;
            }
        }
    }
    peak
}

/// Of all the processes that were read.
fn paced(readings: &[Reading]) -> u64 {
    let mut before = 0;
    let since = readings.iter().map(|&Reading { paced, .. }| {
        let since = if paced < before { paced } else { paced - before };
        before = paced;
        since
    });
    since.sum()
}

const EVERY: Duration = Duration::from_millis(200);
/// Longer times are made of shorter ones.
const MOST_SECONDS: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(handshakes: &[u64]) -> Vec<Reading> {
        let reading = |(at, &handshakes): (usize, &u64)| {
            let now_ns = at as u64 * SECOND_NS / 2;
            Reading { asked_ns: now_ns, answered_ns: now_ns, handshakes, ..Reading::default() }
        };
        handshakes.iter().enumerate().map(reading).collect()
    }

    #[test]
    fn a_node_may_admit_its_rate_and_once_its_burst() {
        let peak = peak(&readings(&[0, 15, 20, 25, 30]), 10.0, 10.0);
        assert_eq!((peak.beyond, peak.per_second), (0, 20));
    }

    #[test]
    fn what_a_node_admits_beyond_that_is_told() {
        assert_eq!(peak(&readings(&[0, 15, 20, 40]), 10.0, 10.0).beyond, 15);
        assert_eq!(peak(&readings(&[0, 0, 0, 18]), 10.0, 10.0).beyond, 3);
    }

    #[test]
    fn a_node_that_was_restarted_counts_anew() {
        assert_eq!(peak(&readings(&[500, 3, 6]), 10.0, 1.0).beyond, 0);
    }

    #[test]
    fn those_that_were_told_to_come_later_are_of_all_processes_of_a_node() {
        let reading = |paced| Reading { paced, ..Reading::default() };
        assert_eq!(peak(&[0, 3, 3, 5, 1, 4].map(reading), 10.0, 1.0).paced, 9);
    }
}
