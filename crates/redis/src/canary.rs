//! The canary of one subscriber connection: is what this node publishes also delivered to it?
//!
//! A healthy TCP connection does not mean delivery: a subscriber can stay attached to a demoted
//! master without an error. So each interval a number is published to a channel that only this
//! connection subscribes to, and its return is measured. No I/O and no clock in here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Missing this many in a row makes the broker unhealthy.
const MISSES_MAX: u32 = 3;

#[derive(Debug)]
pub(crate) struct Canary {
    interval: Duration,
    /// The number of the next one.
    number: u64,
    /// Sent and not yet back, oldest first; at most [`SENT_MAX`].
    sent: VecDeque<Sent>,
    /// When to publish next; `None` until its channel is subscribed.
    next_at: Option<Instant>,
    /// When anything was last read from the connection.
    heard_at: Instant,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Instant,
    /// When Redis accepted it.
    accepted_at: Option<Instant>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wait,
    /// Publish this number.
    Publish(u64),
    /// This connection does not deliver: connect anew.
    NotDelivering,
}

impl Canary {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, number: 0, sent: VecDeque::new(), next_at: None, heard_at: now }
    }

    /// Its channel is subscribed: begin.
    pub(crate) fn on_subscribed(&mut self, now: Instant) {
        self.next_at = Some(now);
    }

    /// Something, anything, was read from the connection.
    pub(crate) fn on_heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(crate) fn on_tick(&mut self, now: Instant) -> Verdict {
        match self.next_at {
            Some(at) if at <= now => {}
            _ => return Verdict::Wait,
        }
        if self.is_lost(now) {
            return Verdict::NotDelivering;
        }
        self.next_at = Some(now + self.interval);
        self.number += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { number: self.number, at: now, accepted_at: None });
        Verdict::Publish(self.number)
    }

    /// Redis accepted it for this many receivers. `NotDelivering` when we were not one of them.
    pub(crate) fn on_accepted(&mut self, number: u64, receivers: u64, now: Instant) -> Verdict {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) {
            sent.accepted_at = Some(now);
            if receivers == 0 {
                return Verdict::NotDelivering;
            }
        }
        Verdict::Wait
    }

    /// It could not be published, which says nothing about this connection; try again `after`.
    pub(crate) fn on_refused(&mut self, number: u64, now: Instant, after: Duration) {
        self.sent.retain(|sent| sent.number != number);
        self.next_at = Some(now + after.min(self.interval));
    }

    /// It came back: how long it took, unless it was not one of ours.
    pub(crate) fn on_echo(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let index = self.sent.iter().position(|sent| sent.number == number)?;
        let at = self.sent.drain(..=index).next_back()?.at;
        Some(now.saturating_duration_since(at))
    }

    /// One was accepted an interval ago, but is not back. While other messages keep arriving, it
    /// may only be late; not for ever though.
    fn is_lost(&self, now: Instant) -> bool {
        let accepted = self.sent.iter().find_map(|sent| sent.accepted_at);
        accepted.is_some_and(|at| {
            let silent = self.heard_at < at && now >= at + self.interval;
            silent || now >= at + self.interval * MISSES_MAX
        })
    }
}

/// Silence of canaries for longer means that it is not known any more whether anything is
/// delivered. Half an interval is for the way there and back.
pub(crate) fn silence_max(interval: Duration) -> Duration {
    interval * MISSES_MAX + interval / 2
}

const SENT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn started() -> (Canary, Instant) {
        let now = Instant::now();
        let mut canary = Canary::new(INTERVAL, now);
        assert_eq!(canary.on_tick(now), Verdict::Wait);
        canary.on_subscribed(now);
        assert_eq!(canary.on_tick(now), Verdict::Publish(1));
        (canary, now)
    }

    #[test]
    fn one_is_published_each_interval_and_its_return_is_measured() {
        let (mut canary, now) = started();
        assert_eq!(canary.on_accepted(1, 1, now), Verdict::Wait);
        let later = now + INTERVAL / 100;
        assert_eq!(canary.on_echo(1, later), Some(INTERVAL / 100));
        assert_eq!(canary.on_tick(later), Verdict::Wait);
        assert_eq!(canary.on_tick(now + INTERVAL), Verdict::Publish(2));
        assert_eq!(canary.on_echo(99, later), None);
    }

    #[test]
    fn an_accepted_one_that_is_not_back_in_an_interval_of_silence_means_reconnect() {
        let (mut canary, now) = started();
        let accepted = now + INTERVAL / 100;
        canary.on_accepted(1, 1, accepted);
        assert_eq!(canary.on_tick(now + INTERVAL), Verdict::Publish(2));
        assert_eq!(canary.on_tick(now + 2 * INTERVAL), Verdict::NotDelivering);
    }

    #[test]
    fn a_busy_connection_is_given_three_intervals() {
        let (mut canary, now) = started();
        canary.on_accepted(1, 1, now);
        for second in 1..3 {
            canary.on_heard(now + INTERVAL * second);
            assert_eq!(
                canary.on_tick(now + INTERVAL * second),
                Verdict::Publish(u64::from(second) + 1)
            );
        }
        canary.on_heard(now + INTERVAL * 3);
        assert_eq!(canary.on_tick(now + INTERVAL * 3), Verdict::NotDelivering);
    }

    #[test]
    fn one_that_reaches_nobody_means_reconnect_at_once() {
        let (mut canary, now) = started();
        assert_eq!(canary.on_accepted(1, 0, now), Verdict::NotDelivering);
    }

    #[test]
    fn one_that_could_not_be_published_does_not_blame_the_subscriber() {
        let (mut canary, now) = started();
        for second in 1..9 {
            let now = now + INTERVAL * second;
            canary.on_refused(u64::from(second), now, Duration::ZERO);
            assert_eq!(canary.on_tick(now), Verdict::Publish(u64::from(second) + 1));
        }
        assert!(canary.sent.len() <= 1);
    }
}
