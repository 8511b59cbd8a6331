//! What a client process has counted and timed since it last told.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::clock::{now_ns, own_cpu_ns};
use crate::control::{Counts, Histograms, Interval, Phase, encode, histogram};

/// Counts and times.
pub struct Figures {
    /// How often what happened.
    pub counts: Counts,
    phases: Histograms,
    since_ns: u64,
    cpu_since_ns: u64,
    /// The first thing that went wrong, for people.
    pub wrong: Option<String>,
}

impl Figures {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            counts: Counts::default(),
            phases: Histograms::new(),
            since_ns: now_ns(),
            cpu_since_ns: own_cpu_ns(),
            wrong: None,
        }
    }

    /// Notes how long something took.
    pub fn took(&mut self, phase: Phase, from_ns: u64, to_ns: u64) {
        let microseconds = (to_ns.saturating_sub(from_ns) / 1000).max(1);
        // An automatically resizing histogram takes any value.
        let _ = self.phases.entry(phase).or_insert_with(histogram).record(microseconds);
    }

    /// Notes what went wrong, if it is the first.
    pub fn blame(&mut self, what: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(what);
    }

    /// Whether it is time to tell.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns()
    }

    /// When it is time to tell.
    pub fn due_ns(&self) -> u64 {
        self.since_ns + INTERVAL_NS
    }

    /// Takes everything since the last time; the caller adds what is true now.
    pub fn take(&mut self) -> Result<Interval> {
        let (end_ns, cpu_ns) = (now_ns(), own_cpu_ns());
        let phases = std::mem::take(&mut self.phases)
            .into_iter()
            .map(|(phase, histogram)| Ok((phase, encode(&histogram)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let interval = Interval {
            start_ns: self.since_ns,
            end_ns,
            cpu_ns: cpu_ns - self.cpu_since_ns,
            counts: std::mem::take(&mut self.counts),
            phases,
            ..Interval::default()
        };
        (self.since_ns, self.cpu_since_ns) = (end_ns, cpu_ns);
        Ok(interval)
    }
}

const INTERVAL_NS: u64 = crate::clock::SECOND_NS;
