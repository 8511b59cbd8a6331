//! The circuit breaker: a backend that keeps failing is left alone for a while, and whoever wants
//! something of it hears so at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Those of one webhook: one for each kind of question, and one for all events. So events that a
/// backend can't take, or messages that it fails over, keep nobody from connecting.
#[derive(Debug)]
pub struct Breakers {
    questions: [(&'static str, Arc<Breaker>); 6],
    events: Arc<Breaker>,
}

/// Of requests for one purpose.
#[derive(Debug)]
pub struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All may pass; so many in a row have failed.
    Closed { failures: u32 },
    /// Nobody may until then.
    Open { until: Instant },
    /// One tries whether it works again.
    Trial { begun: Instant },
}

/// Somebody who may pass, and is to say what came of it. Who does not has learned nothing.
#[derive(Debug)]
pub struct Passage {
    breaker: Arc<Breaker>,
    is_trial: bool,
}

/// When to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open(pub Duration);

impl Breakers {
    /// Each opens after so many failures in a row, for so long.
    pub fn new(failures_max: u32, pause: Duration) -> Self {
        let breaker = || Arc::new(Breaker::new(failures_max, pause));
        Self { questions: QUESTIONS.map(|kind| (kind, breaker())), events: breaker() }
    }

    /// The one for requests of this kind.
    pub fn of(&self, kind: &str) -> &Arc<Breaker> {
        let own = self.questions.iter().find(|(own, _)| *own == kind);
        own.map_or(&self.events, |(_, breaker)| breaker)
    }

    /// Whether all let all pass.
    pub fn are_closed(&self) -> bool {
        self.events.is_closed() && self.questions.iter().all(|(_, breaker)| breaker.is_closed())
    }
}

impl Breaker {
    /// One that opens after so many failures in a row, for so long.
    pub fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Whether somebody may pass now.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Passage, Open> {
        let is_trial = self.state().admit(now)?;
        Ok(Passage { breaker: Arc::clone(self), is_trial })
    }

    /// Whether it lets all pass.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closed { .. })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether somebody may pass now, and is the one who tries.
    fn admit(&mut self, now: Instant) -> Result<bool, Open> {
        match *self {
            Self::Closed { .. } => Ok(false),
            Self::Open { until } if now < until => Err(Open(until - now)),
            Self::Open { .. } => {
                *self = Self::Trial { begun: now };
                Ok(true)
            }
            Self::Trial { .. } => Err(Open(TRIAL_TIME)),
        }
    }
}

impl Passage {
    /// Whether it is still good: who has waited since is not to ask a backend that has failed in
    /// the meantime.
    pub fn still(&mut self, now: Instant) -> Result<(), Open> {
        if !self.is_trial {
            self.is_trial = self.breaker.state().admit(now)?;
        }
        Ok(())
    }

    /// The backend is well. Who had passed before it opened says nothing about now.
    pub fn succeeded(mut self) {
        let mut state = self.breaker.state();
        if self.is_trial || matches!(*state, State::Closed { .. }) {
            *state = State::Closed { failures: 0 };
        }
        drop(state);
        self.is_trial = false;
    }

    /// It is not; whether the breaker opens by that.
    pub fn failed(mut self, now: Instant) -> bool {
        let mut state = self.breaker.state();
        let opens = match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                *failures >= self.breaker.failures_max
            }
            State::Open { .. } | State::Trial { .. } => self.is_trial,
        };
        if opens {
            *state = State::Open { until: now + self.breaker.pause };
        }
        drop(state);
        self.is_trial = false;
        opens
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        // A trial that was given up: the next one may try at once.
        if self.is_trial
            && let State::Trial { begun } = *state
        {
            *state = State::Open { until: begun };
        }
    }
}

/// When to come back while another tries.
const TRIAL_TIME: Duration = Duration::from_secs(1);

/// The kinds of requests to which somebody waits for an answer.
const QUESTIONS: [&str; 6] = ["connect", "refresh", "subscribe", "publish", "message", "request"];

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn open(now: Instant) -> Arc<Breaker> {
        let breaker = Arc::new(Breaker::new(2, PAUSE));
        assert!(!breaker.admit(now).unwrap().failed(now));
        breaker.admit(now).unwrap().succeeded();
        assert!(!breaker.admit(now).unwrap().failed(now), "a success between them");
        assert!(breaker.admit(now).unwrap().failed(now));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_trial_closes_it() {
        let now = Instant::now();
        let breaker = open(now);
        let half = now + PAUSE / 2;
        assert_eq!(breaker.admit(half).unwrap_err(), Open(PAUSE / 2));
        let later = now + PAUSE;
        let trial = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "one at a time");
        trial.succeeded();
        assert!(breaker.is_closed() && breaker.admit(later).is_ok());
    }

    #[test]
    fn a_trial_that_fails_opens_it_anew_and_one_that_is_given_up_frees_its_place() {
        let now = Instant::now();
        let breaker = open(now);
        let later = now + PAUSE;
        assert!(breaker.admit(later).unwrap().failed(later));
        assert_eq!(breaker.admit(later).unwrap_err(), Open(PAUSE));
        let later = later + PAUSE;
        drop(breaker.admit(later).unwrap());
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn who_waits_when_it_opens_does_not_pass_until_it_is_time_for_a_trial() {
        let now = Instant::now();
        let breaker = Arc::new(Breaker::new(1, PAUSE));
        let (first, mut second, mut third) = [(); 3].map(|()| breaker.admit(now).unwrap()).into();
        assert_eq!(second.still(now), Ok(()));
        assert!(first.failed(now));
        assert_eq!(second.still(now), Err(Open(PAUSE)));
        assert_eq!(second.still(now + PAUSE), Ok(()));
        assert!(third.still(now + PAUSE).is_err() && breaker.admit(now + PAUSE).is_err());
        second.succeeded();
        assert_eq!(third.still(now + PAUSE), Ok(()));
    }

    #[test]
    fn who_passed_before_it_opened_changes_nothing_after() {
        let now = Instant::now();
        let breaker = Arc::new(Breaker::new(1, PAUSE));
        let (first, second, third) = [(); 3].map(|()| breaker.admit(now).unwrap()).into();
        assert!(first.failed(now));
        second.succeeded();
        assert!(!third.failed(now + PAUSE / 2));
        assert_eq!(breaker.admit(now).unwrap_err(), Open(PAUSE));
    }
}
