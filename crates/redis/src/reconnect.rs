//! Waiting between attempts to connect: for ever, from 50 ms up, fully jittered.

use std::time::Duration;

use rand::Rng;

/// The growing waits between attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    cap: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self { cap: START.min(max), max }
    }

    /// How long to wait before the next attempt: anything from nothing to a cap that doubles, so
    /// that the nodes of a cluster don't come back in step.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = rand::rng().random_range(Duration::ZERO..=self.cap);
        self.cap = (self.cap * 2).min(self.max);
        wait
    }

    /// A connection ended that had been there for `lifetime`. One that ends at once, for a
    /// command that is never allowed say, keeps the waits growing.
    pub(crate) fn on_ended(&mut self, lifetime: Duration) {
        if lifetime >= STABLE {
            self.cap = START.min(self.max);
        }
    }
}

const START: Duration = Duration::from_millis(50);
const STABLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_to_the_maximum_and_begin_anew_after_a_stable_connection() {
        let max = Duration::from_secs(5);
        let mut backoff = Backoff::new(max);
        for cap_ms in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert_eq!(backoff.cap, Duration::from_millis(cap_ms));
            assert!(backoff.next_wait() <= Duration::from_millis(cap_ms));
        }
        backoff.on_ended(Duration::from_millis(10));
        assert_eq!(backoff.cap, max);
        backoff.on_ended(STABLE);
        assert_eq!(backoff.cap, START);
    }
}
