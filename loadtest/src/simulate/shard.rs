//! A Redis process as a queue with one server, and what it was asked.

use std::time::Duration;

/// Nanoseconds since the simulation began.
pub type Time = u64;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node's probe of a connection.
    Canary,
    /// Whether a master is the same as before, asked each second.
    Info,
    /// Whose turn it is to look for dead letters, and the looks.
    DeadLetters,
    /// Whether a master of held partitions is the same as before.
    Ping,
    /// A renewal.
    Lease,
    /// Claiming the dead, and forgetting them.
    Claim,
    /// Looking for what a dead node holds, and removing it.
    Reap,
    /// Entering and removing sessions.
    Registry,
}

impl Kind {
    /// All of them, with how tables call them.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Canary, "canaries"),
        (Self::Info, "replication ids"),
        (Self::DeadLetters, "dead letters"),
        (Self::Ping, "pings of masters"),
        (Self::Lease, "renewals"),
        (Self::Claim, "claims of the dead"),
        (Self::Reap, "reaping"),
        (Self::Registry, "registry"),
    ];
}

/// How many calls, and how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    pub calls: u64,
    pub busy_ns: u64,
}

/// One Redis process.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    busy_until: Time,
    /// Since the phase began, by kind.
    pub by_kind: [Work; Kind::ALL.len()],
    /// By second since the phase began.
    pub by_second: Vec<Work>,
    phase_began: Time,
}

impl Shard {
    /// Serves a call that arrives at `at`, after those before it; when it is done.
    pub fn serve(&mut self, at: Time, kind: Kind, us: f64) -> Time {
        self.serve_many(at, kind, us, 1)
    }

    /// The same of several that arrive together.
    pub fn serve_many(&mut self, at: Time, kind: Kind, us: f64, calls: u64) -> Time {
        let busy_ns = nanos_of(us) * calls;
        let begins = at.max(self.busy_until);
        self.busy_until = begins + busy_ns;
        let work = &mut self.by_kind[kind as usize];
        work.calls += calls;
        work.busy_ns += busy_ns;
        let second = (begins.saturating_sub(self.phase_began) / SECOND) as usize;
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, Work::default());
        }
        self.by_second[second].calls += calls;
        self.by_second[second].busy_ns += busy_ns;
        self.busy_until
    }

    /// Begins to count anew.
    pub fn begin_phase(&mut self, now: Time) {
        self.by_kind = Default::default();
        self.by_second.clear();
        self.phase_began = now;
    }

    /// Since the phase began.
    pub fn all(&self) -> Work {
        self.by_kind.iter().fold(Work::default(), |sum, work| Work {
            calls: sum.calls + work.calls,
            busy_ns: sum.busy_ns + work.busy_ns,
        })
    }
}

/// Whole nanoseconds of microseconds, which are not negative.
pub fn nanos_of(us: f64) -> Time {
    Duration::from_secs_f64(us / 1e6).as_nanos() as Time
}

pub const SECOND: Time = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_served_one_after_the_other() {
        let mut shard = Shard::default();
        assert_eq!(shard.serve(1000, Kind::Lease, 2.0), 3000);
        assert_eq!(shard.serve(2000, Kind::Ping, 1.0), 4000);
        assert_eq!(shard.serve(9000, Kind::Ping, 1.0), 10_000);
        assert_eq!(shard.all(), Work { calls: 3, busy_ns: 4000 });
    }
}
