//! How fast sessions are let in: a rate for the whole node, and a later turn for whoever is too many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fanlight_engine::limits::{Gcra, Rate, RetryAfterMs};

/// Lets sessions in at a rate, on all workers and by every way in.
#[derive(Debug)]
pub struct Pacer {
    rate: Rate,
    turns: Mutex<Turns>,
}

/// Too many at once; there is a turn after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComeBack(pub Duration);

/// The turns that were had, and those that were promised.
#[derive(Debug, Default)]
struct Turns {
    had: Gcra,
    /// When the last of those has its turn who were told to come back.
    last_promised_us: u64,
}

impl Pacer {
    /// One that lets in as many as `rate` says.
    pub fn new(rate: Rate) -> Self {
        Self { rate, turns: Mutex::default() }
    }

    /// Lets one in, or tells it when to come back. `spread`, from 0 to 1 and random, is for those
    /// whose turn is too far away to be promised.
    pub fn admit(&self, now_ms: u64, spread: f64) -> Result<(), ComeBack> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.next(now_ms, self.rate, spread)
    }

    /// Whether the next one would be told to come back.
    pub fn is_full(&self, now_ms: u64) -> bool {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let mut had = turns.had;
        had.admit(now_ms, self.rate).is_err()
    }

    /// How much of the burst is used: 1 is all, and 0 where there is no limit.
    pub fn used_ratio(&self, now_ms: u64) -> f64 {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.had.used_ratio(now_ms, self.rate)
    }
}

impl Turns {
    /// Whoever is refused is promised a turn behind all others who were: if all come back when they
    /// were told, they come at the rate.
    fn next(&mut self, now_ms: u64, rate: Rate, spread: f64) -> Result<(), ComeBack> {
        let Err(RetryAfterMs(wait_ms)) = self.had.admit(now_ms, rate) else { return Ok(()) };
        let clock_us = now_ms.saturating_mul(1000);
        let interval_us = (1_000_000 / u64::from(rate.per_s.max(1))).max(1);
        let first_us = clock_us + wait_ms * 1000;
        let turn_us = first_us.max(self.last_promised_us + interval_us);
        let after = Duration::from_micros(turn_us - clock_us);
        if after > PROMISED_MAX {
            return Err(ComeBack(PROMISED_MAX.mul_f64(f64::midpoint(1.0, spread))));
        }
        self.last_promised_us = turn_us;
        Err(ComeBack(after))
    }
}

/// Nobody is told to stay away for longer.
const PROMISED_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::whole_seconds;
    use proptest::prelude::*;

    const RATE: Rate = Rate { per_s: 20, burst: 40 };

    #[test]
    fn who_is_refused_is_promised_a_turn_behind_those_who_were_refused_before() {
        let pacer = Pacer::new(RATE);
        let let_in = (0..40).filter(|_| pacer.admit(5_000, 0.0).is_ok()).count();
        assert_eq!(let_in, 40);
        assert!(pacer.is_full(5_000) && !pacer.is_full(5_050));
        let promised = [(); 3].map(|()| pacer.admit(5_000, 0.0).unwrap_err().0.as_millis());
        assert_eq!(promised, [50, 100, 150]);
        assert_eq!(pacer.admit(5_100, 0.0), Ok(()));
    }

    #[test]
    fn nobody_is_told_to_stay_away_for_longer_than_half_a_minute() {
        let pacer = Pacer::new(Rate { per_s: 1, burst: 1 });
        pacer.admit(0, 0.0).unwrap();
        let waits = (0..100).map(|n| pacer.admit(0, f64::from(n) / 100.0).unwrap_err().0.as_secs());
        let waits: Vec<_> = waits.collect();
        assert_eq!(waits[..30], (1..=30).collect::<Vec<_>>());
        assert!(waits[30..].iter().all(|wait| (15..=30).contains(wait)), "{waits:?}");
        assert_ne!(waits[30], waits[99], "they are spread");
    }

    #[test]
    fn a_limit_of_zero_lets_everybody_in() {
        let pacer = Pacer::new(Rate { per_s: 0, burst: 0 });
        assert!((0..1000).all(|_| pacer.admit(0, 0.0).is_ok()) && !pacer.is_full(0));
        assert_eq!(pacer.used_ratio(0).to_string(), "0");
    }

    proptest! {
        /// In whole seconds, as `Retry-After` has them.
        #[test]
        fn of_a_crowd_that_comes_back_when_told_hardly_anybody_is_told_so_twice(
            per_s in 1_u32..200, extra in 0_u32..100, crowd in 1_usize..2000, over_ms in 0_u64..500,
        ) {
            let rate = Rate { per_s, burst: per_s * 2 + extra };
            let crowd = crowd.min(rate.burst as usize + per_s as usize * 25);
            let pacer = Pacer::new(rate);
            let mut due: Vec<u64> =
                (0..crowd as u64).map(|n| 1000 + n * over_ms / crowd as u64).collect();
            let mut asked = 0;
            while !due.is_empty() {
                due.sort_unstable();
                let mut again = Vec::new();
                for now_ms in due {
                    asked += 1;
                    if let Err(ComeBack(after)) = pacer.admit(now_ms, 0.0) {
                        again.push(now_ms + whole_seconds(after) * 1000);
                    }
                }
                due = again;
            }
            let too_many = crowd.saturating_sub(rate.burst as usize);
            // Whoever comes first meanwhile may take a turn that was promised to another.
            let bound = crowd + too_many + too_many / 10 + 2;
            prop_assert!(asked <= bound, "{asked} for {crowd}");
        }
    }
}
