//! Subscriptions that the server would not renew yet: again one by one, at the pace it asks for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Those that wait. All are of one session, so what the server says of one holds for all.
#[derive(Debug, Default)]
pub(crate) struct Postponed {
    waiting: VecDeque<Arc<str>>,
    next_at: Option<Instant>,
    pace: Duration,
}

impl Postponed {
    /// `to` is to be tried again after `wait`.
    pub(crate) fn add(&mut self, to: Arc<str>, wait: Duration, now: Instant) {
        self.waiting.push_back(to);
        self.pace = wait;
        self.next_at = self.next_at.max(Some(now + wait));
    }

    /// When the next is to be tried, if one waits.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// The next to be tried.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Arc<str>> {
        let next = self.waiting.pop_front();
        self.next_at = (!self.waiting.is_empty()).then(|| now + self.pace);
        next
    }

    /// It is not wanted any more; whether it waited.
    pub(crate) fn remove(&mut self, to: &str) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| **waiting != *to);
        if self.waiting.is_empty() {
            self.next_at = None;
        }
        self.waiting.len() < before
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_are_tried_one_by_one_as_far_apart_as_the_server_asked() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut postponed = Postponed::default();
        assert_eq!(postponed.next_at(), None);
        for (to, ms) in [("a", 0), ("b", 1), ("c", 2)] {
            postponed.add(to.into(), Duration::from_millis(20), at(ms));
        }
        assert_eq!(postponed.next_at(), Some(at(22)));
        assert_eq!(postponed.take(at(30)).as_deref(), Some("a"));
        assert_eq!(postponed.next_at(), Some(at(50)));
        assert!(postponed.remove("b") && !postponed.remove("b"));
        // Refused once more, with a longer wait.
        postponed.add("a".into(), Duration::from_millis(40), at(31));
        assert_eq!(postponed.next_at(), Some(at(71)));
        assert_eq!(postponed.take(at(71)).as_deref(), Some("c"));
        assert_eq!(postponed.next_at(), Some(at(111)));
        assert!(postponed.remove("a"));
        assert_eq!(postponed.next_at(), None);
    }
}
