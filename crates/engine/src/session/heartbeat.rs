//! Who owes whom a sign of life, and when (STOMP 1.2, "Heart-beating").

use super::Activity;
use crate::limits::Heartbeats;

/// What was agreed at CONNECT, in milliseconds; 0 is nothing.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_field_names, reason = "units are last in names")]
pub(super) struct Beats {
    /// How often the client is owed a STOMP heartbeat.
    pub(super) send_ms: u32,
    /// How often the client promised to be heard. 0: it is pinged instead.
    pub(super) receive_ms: u32,
    pinged_ms: u64,
}

/// What a sweep finds due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// An end of line.
    Heartbeat,
    /// A ping of the transport.
    Ping,
    /// The client has been silent for longer than agreed.
    Silent,
}

impl Beats {
    /// For a client without heartbeats of its own: it is pinged.
    pub(super) fn pinged() -> Self {
        Self::default()
    }

    /// For a client that is never heard: it is sent something in every interval.
    pub(super) fn one_way(ours: &Heartbeats) -> Self {
        Self { send_ms: at_least_min(ours.native_ms), receive_ms: u32::MAX, pinged_ms: 0 }
    }

    /// For a client whose connections come and go.
    pub(super) fn none() -> Self {
        Self { send_ms: 0, receive_ms: u32::MAX, pinged_ms: 0 }
    }

    /// What follows from a client's `heart-beat` and our offer: the greater of the two, nothing
    /// where either says 0.
    pub(super) fn negotiated((can_do, wants): (u32, u32), ours: &Heartbeats) -> Self {
        let agree = |theirs: u32, ours: u32| match (theirs, ours) {
            (0, _) | (_, 0) => 0,
            (theirs, ours) => theirs.min(MAX_MS).max(ours),
        };
        let (send_ms, receive_ms) = offer(ours);
        Self { send_ms: agree(wants, send_ms), receive_ms: agree(can_do, receive_ms), pinged_ms: 0 }
    }

    /// What is due now. A beat goes out early rather than late, as the next sweep may be a whole
    /// interval away.
    pub(super) fn due(&mut self, now_ms: u64, activity: Activity, rules: &Heartbeats) -> Due {
        let interval_ms = match self.receive_ms {
            0 => u64::from(at_least_min(rules.native_ms)),
            promised => u64::from(promised),
        };
        let silent_ms = now_ms.saturating_sub(activity.last_received_ms);
        if interval_ms > 0 && silent_ms > 2 * interval_ms + u64::from(rules.tolerance_ms) {
            return Due::Silent;
        }
        let is_due = |last_ms: u64, interval_ms: u64| {
            interval_ms > 0 && now_ms + SWEEP_MS >= last_ms + interval_ms
        };
        if is_due(activity.last_sent_ms, u64::from(self.send_ms)) {
            return Due::Heartbeat;
        }
        let heard_or_pinged_ms = activity.last_received_ms.max(self.pinged_ms);
        if self.receive_ms == 0 && is_due(heard_or_pinged_ms, interval_ms) {
            self.pinged_ms = now_ms;
            return Due::Ping;
        }
        Due::Nothing
    }
}

/// What we offer to send and want to receive, as in CONNECTED's `heart-beat`.
pub(super) fn offer(ours: &Heartbeats) -> (u32, u32) {
    (at_least_min(ours.stomp_send_ms), at_least_min(ours.stomp_receive_ms))
}

fn at_least_min(ms: u32) -> u32 {
    if ms == 0 { 0 } else { ms.max(MIN_MS) }
}

/// How far apart sweeps may be.
const SWEEP_MS: u64 = 1000;

/// Two sweeps: less could not be kept.
const MIN_MS: u32 = 2000;

/// A client that wants or promises less than one beat in five minutes is held to that: load
/// balancers cut connections that are idle for longer.
const MAX_MS: u32 = 300_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heartbeats_are_the_greater_of_both_wishes_and_none_where_either_has_none() {
        let ours = Heartbeats::default();
        for (theirs, send_ms, receive_ms) in [
            ((0, 0), 0, 0),
            ((10_000, 0), 0, 10_000),
            ((0, 4_000), 10_000, 0),
            ((20_000, 30_000), 30_000, 20_000),
            ((1, 1), 10_000, 10_000),
            ((u32::MAX, u32::MAX), MAX_MS, MAX_MS),
        ] {
            let beats = Beats::negotiated(theirs, &ours);
            assert_eq!((beats.send_ms, beats.receive_ms), (send_ms, receive_ms), "{theirs:?}");
        }
        let none = Heartbeats { stomp_send_ms: 0, stomp_receive_ms: 0, ..ours };
        let beats = Beats::negotiated((5_000, 5_000), &none);
        assert_eq!((beats.send_ms, beats.receive_ms), (0, 0));
    }

    proptest! {
        #[test]
        fn a_beat_is_never_late_however_sweeps_fall_within_their_interval(
            wants in 1_u32..60_000, gaps in proptest::collection::vec(1_u64..=1000, 200),
        ) {
            let mut beats = Beats::negotiated((0, wants), &Heartbeats::default());
            let (mut now_ms, mut last_sent_ms) = (0, 0);
            for gap in gaps {
                now_ms += gap;
                let activity = Activity { last_received_ms: now_ms, last_sent_ms };
                if beats.due(now_ms, activity, &Heartbeats::default()) == Due::Heartbeat {
                    last_sent_ms = now_ms;
                }
                prop_assert!(now_ms - last_sent_ms <= u64::from(beats.send_ms));
            }
        }
    }
}
