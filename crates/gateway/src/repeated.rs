//! Warnings of what goes wrong many times a second: told once a second, with how often it was.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Decides whether a warning is due.
#[derive(Debug)]
pub struct Repeated {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When it was told last.
    told: Option<Instant>,
    /// How often it was not since then.
    untold: u64,
}

impl Repeated {
    /// A warning that was never told.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { told: None, untold: 0 }) }
    }

    /// It has happened again, at `now`. `Some` if it is to be told, with how often it was not since
    /// it was told last.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_some_and(|told| now.duration_since(told) < PAUSE) {
            state.untold += 1;
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

impl Default for Repeated {
    fn default() -> Self {
        Self::new()
    }
}

const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_told_once_a_second_with_how_often_it_was_not() {
        let (warning, begin) = (Repeated::new(), Instant::now());
        let at = |ms| warning.happened(begin + Duration::from_millis(ms));
        let told = [0, 50, 999, 1000, 1001, 5000].map(at);
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
