//! Every bound that concerns a session, with its unit and default, and the rate limiter.

/// What one session may use (design §10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest transport message and STOMP frame, in bytes.
    pub message_bytes: usize,
    /// The same until the session is connected.
    pub pre_auth_frame_bytes: usize,
    /// Headers of one STOMP frame.
    pub headers: usize,
    /// One STOMP header line, in bytes.
    pub header_bytes: usize,
    /// The longest destination or pattern, in bytes; at most 255.
    pub destination_bytes: usize,
    /// Subscriptions of a session.
    pub subscriptions: usize,
    /// The longest id that a STOMP client may choose for a subscription, transaction or receipt,
    /// in bytes.
    pub id_bytes: usize,
    /// How often a client may send.
    pub messages: Rate,
    /// How often a client may do anything else: connecting again, it subscribes to all at once.
    pub commands: Rate,
    /// From the connection to the answer to CONNECT, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Open STOMP transactions of a session.
    pub transactions: usize,
    /// Frames in one STOMP transaction.
    pub transaction_frames: usize,
    /// Bodies and headers of all open STOMP transactions of a session, in bytes.
    pub transaction_bytes: usize,
}

/// How often heartbeats go, in milliseconds; 0 is never. Between 0 and 2000 counts as 2000, since
/// sessions are swept once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeats {
    /// What a STOMP client is offered to get.
    pub stomp_send_ms: u32,
    /// What is wanted from a STOMP client.
    pub stomp_receive_ms: u32,
    /// When a silent native client is pinged. A STOMP client that promises no heartbeat is pinged
    /// in the same way, since a dead connection would otherwise stay.
    pub native_ms: u32,
    /// What is allowed for the network on top of twice the promised interval.
    pub tolerance_ms: u32,
}

/// So many per second in the long run, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second; 0 is no limit.
    pub per_s: u32,
    /// At once; at least 1 is taken.
    pub burst: u32,
}

/// A rate limiter in one number: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gcra {
    /// When all that was admitted would have come, had it come evenly.
    theoretical_us: u64,
}

/// Refused; worth another try after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfterMs(pub u64);

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            pre_auth_frame_bytes: 8 * 1024,
            headers: 64,
            header_bytes: 8 * 1024,
            destination_bytes: 255,
            subscriptions: 128,
            id_bytes: 255,
            messages: Rate { per_s: 50, burst: 100 },
            commands: Rate { per_s: 100, burst: 400 },
            connect_timeout_ms: 10_000,
            transactions: 8,
            transaction_frames: 64,
            transaction_bytes: 256 * 1024,
        }
    }
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self {
            stomp_send_ms: 10_000,
            stomp_receive_ms: 10_000,
            native_ms: 25_000,
            tolerance_ms: 5_000,
        }
    }
}

impl Gcra {
    /// Takes one, or tells when one can be had.
    pub fn admit(&mut self, now_ms: u64, rate: Rate) -> Result<(), RetryAfterMs> {
        if rate.per_s == 0 {
            return Ok(());
        }
        let clock_us = now_ms.saturating_mul(1000);
        let interval_us = (1_000_000 / u64::from(rate.per_s)).max(1);
        let ahead_us = interval_us * u64::from(rate.burst.max(1) - 1);
        let earliest_us = self.theoretical_us.saturating_sub(ahead_us);
        if clock_us < earliest_us {
            return Err(RetryAfterMs((earliest_us - clock_us).div_ceil(1000)));
        }
        self.theoretical_us = self.theoretical_us.max(clock_us) + interval_us;
        Ok(())
    }

    /// Takes back the last one that was admitted.
    pub fn take_back(&mut self, rate: Rate) {
        if rate.per_s > 0 {
            let interval_us = (1_000_000 / u64::from(rate.per_s)).max(1);
            self.theoretical_us = self.theoretical_us.saturating_sub(interval_us);
        }
    }

    /// How much of its burst is used: 1 is all.
    pub fn used_ratio(&self, now_ms: u64, rate: Rate) -> f64 {
        let ahead_us = self.theoretical_us.saturating_sub(now_ms.saturating_mul(1000));
        let used = ahead_us as f64 * f64::from(rate.per_s) / 1e6;
        (used / f64::from(rate.burst.max(1))).min(1.0)
    }

    /// Whether its whole burst can be had again.
    pub fn is_idle(&self, now_ms: u64) -> bool {
        self.theoretical_us <= now_ms.saturating_mul(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_at_once_and_then_one_per_interval() {
        let rate = Rate { per_s: 50, burst: 100 };
        let mut gcra = Gcra::default();
        let passed = (0..200).filter(|_| gcra.admit(5_000, rate).is_ok()).count();
        assert_eq!(passed, 100);
        assert_eq!(gcra.admit(5_000, rate), Err(RetryAfterMs(20)));
        assert_eq!(gcra.admit(5_019, rate), Err(RetryAfterMs(1)));
        assert_eq!(gcra.admit(5_020, rate), Ok(()));
        assert!(gcra.admit(5_020, rate).is_err());
    }

    #[test]
    fn what_is_taken_back_can_be_had_again() {
        let rate = Rate { per_s: 1, burst: 2 };
        let mut gcra = Gcra::default();
        gcra.admit(5_000, rate).unwrap();
        for _ in 0..3 {
            gcra.admit(5_000, rate).unwrap();
            assert_eq!(gcra.admit(5_000, rate), Err(RetryAfterMs(1000)));
            gcra.take_back(rate);
        }
        assert!(gcra.admit(5_000, rate).is_ok() && gcra.admit(5_000, rate).is_err());
    }

    #[test]
    fn what_is_used_of_a_burst_comes_back_at_the_rate() {
        let rate = Rate { per_s: 10, burst: 20 };
        let mut gcra = Gcra::default();
        assert_eq!(gcra.used_ratio(0, rate).to_string(), "0");
        let _ = (0..30).filter(|_| gcra.admit(1000, rate).is_ok()).count();
        let used = [1000, 2000, 3000, 9000].map(|now_ms| gcra.used_ratio(now_ms, rate).to_string());
        assert_eq!(used, ["1", "0.5", "0", "0"]);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let mut gcra = Gcra::default();
        assert!((0..1000).all(|_| gcra.admit(0, Rate { per_s: 0, burst: 0 }).is_ok()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_together(
            per_s in 1_u32..2000, burst in 0_u32..50, steps in proptest::collection::vec(0_u64..100, 1..300),
        ) {
            let rate = Rate { per_s, burst };
            let (mut gcra, mut now_ms, mut passed) = (Gcra::default(), 0, 0_u64);
            for step in steps {
                now_ms += step;
                match gcra.admit(now_ms, rate) {
                    Ok(()) => passed += 1,
                    Err(RetryAfterMs(after)) => {
                        prop_assert!(after > 0);
                        let mut later = gcra;
                        prop_assert!(later.admit(now_ms + after, rate).is_ok());
                    }
                }
            }
            let interval_us = 1_000_000 / u64::from(per_s);
            prop_assert!(passed <= u64::from(burst.max(1)) + now_ms * 1000 / interval_us);
        }
    }
}
