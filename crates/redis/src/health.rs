//! How one shard is: judged by its canaries, explained by its connections, logged once per outage.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanlight_engine::broker::BrokerHealth;
use tracing::{info, warn};

use crate::canary;
use crate::connection::ConnectionError;

/// How one shard is, shared by its connections.
#[derive(Debug)]
pub(crate) struct Health {
    /// `Redis at 127.0.0.1:6379`
    place: String,
    /// A canary that has been silent for longer makes the shard unhealthy.
    silence_max: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Per connection, the one for commands first, then the subscribers.
    connections: Vec<Link>,
    /// Per subscriber, when its canary last came back.
    echoes: Vec<Option<Instant>>,
    outage: Option<Outage>,
    /// The last command that was answered with an error, since the last echo.
    refusal: Option<String>,
    refusal_logged_at: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Link {
    Connecting,
    Up,
    Down(String),
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    logged_at: Instant,
}

/// One of a shard's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that carries commands.
    Commands,
    /// Counted from 0.
    Subscriber(usize),
}

impl Health {
    pub(crate) fn new(place: String, subscribers: usize, canary_interval: Duration) -> Self {
        Self {
            place,
            silence_max: canary::silence_max(canary_interval),
            state: Mutex::new(State {
                connections: vec![Link::Connecting; subscribers + 1],
                echoes: vec![None; subscribers],
                outage: None,
                refusal: None,
                refusal_logged_at: None,
            }),
        }
    }

    pub(crate) fn on_up(&self, role: Role) {
        self.state().connections[role.index()] = Link::Up;
    }

    pub(crate) fn on_down(&self, role: Role, error: &ConnectionError, now: Instant) {
        let mut state = self.state();
        let text = format!("{}: {error}", self.place);
        let outage = state.outage.get_or_insert_with(|| {
            warn!("{text}; retrying");
            Outage { since: now, logged_at: now }
        });
        if now - outage.logged_at >= LOG_AGAIN {
            outage.logged_at = now;
            warn!("{text}; still retrying after {:.0?}", now - outage.since);
        }
        state.connections[role.index()] = Link::Down(error.to_string());
    }

    /// A command was answered with an error; logged now and then.
    pub(crate) fn on_refusal(&self, error: &ConnectionError, now: Instant) {
        let mut state = self.state();
        if state.refusal_logged_at.is_none_or(|at| now - at >= LOG_AGAIN) {
            state.refusal_logged_at = Some(now);
            warn!("{}: {error}", self.place);
        }
        state.refusal = Some(error.to_string());
    }

    /// A canary came back. That, and not a connection alone, ends an outage.
    pub(crate) fn on_echo(&self, subscriber: usize, now: Instant) {
        let mut state = self.state();
        let is_first = state.echoes.iter().all(Option::is_none);
        state.echoes[subscriber] = Some(now);
        state.refusal = None;
        if !state.connections.iter().all(|link| matches!(link, Link::Up)) {
            return;
        }
        let place = &self.place;
        if let Some(outage) = state.outage.take() {
            info!("{place}: delivers again after {:.1?}", now - outage.since);
        } else if is_first {
            info!("{place}: connected, and it delivers");
        }
    }

    /// When a subscriber's canary last came back.
    pub(crate) fn last_echo(&self, subscriber: usize) -> Option<Instant> {
        self.state().echoes[subscriber]
    }

    pub(crate) fn status(&self, now: Instant) -> BrokerHealth {
        let state = self.state();
        let silent = |echo: &Option<Instant>| match echo {
            Some(at) => now.saturating_duration_since(*at) > self.silence_max,
            None => true,
        };
        if !state.echoes.iter().any(silent) {
            return BrokerHealth::Healthy;
        }
        let place = &self.place;
        BrokerHealth::Unhealthy(if let Some(error) = state.problem() {
            let (problem, remedy) = error.rsplit_once("; ").unwrap_or((error, "check its log"));
            format!("{place}: {problem}; retrying; {remedy}")
        } else if state.echoes.contains(&None) {
            format!("{place}: connecting; delivery is not proven yet")
        } else {
            let silence = self.silence_max;
            format!(
                "{place}: nothing published has come back for more than {silence:?}; \
                 check that it is the master, and not overloaded or stopped"
            )
        })
    }

    /// Whether all connections are there.
    pub(crate) fn all_up(&self) -> bool {
        self.state().connections.iter().all(|link| matches!(link, Link::Up))
    }

    /// How logs call the shard.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn problem(&self) -> Option<&str> {
        let down = self.connections.iter().find_map(|link| match link {
            Link::Down(error) => Some(error.as_str()),
            Link::Connecting | Link::Up => None,
        });
        down.or(self.refusal.as_deref())
    }
}

impl Role {
    fn index(self) -> usize {
        match self {
            Self::Commands => 0,
            Self::Subscriber(subscriber) => subscriber + 1,
        }
    }
}

const LOG_AGAIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn unhealthy(health: &Health, now: Instant) -> String {
        match health.status(now) {
            BrokerHealth::Unhealthy(text) => text,
            BrokerHealth::Healthy => panic!("healthy"),
        }
    }

    #[test]
    fn health_is_delivery_and_its_text_says_what_where_and_the_remedy() {
        let now = Instant::now();
        let health = Health::new("Redis at h:1".to_owned(), 1, INTERVAL);
        assert!(unhealthy(&health, now).contains("connecting"));
        health.on_down(Role::Commands, &ConnectionError::ConnectionRefused, now);
        assert_eq!(
            unhealthy(&health, now),
            "Redis at h:1: connection refused; retrying; \
             check that it is running and that the configured URL is right"
        );
        health.on_up(Role::Commands);
        health.on_up(Role::Subscriber(0));
        assert!(unhealthy(&health, now).contains("not proven"));
        health.on_echo(0, now);
        assert_eq!(health.status(now), BrokerHealth::Healthy);
    }

    #[test]
    fn a_short_break_is_no_outage_and_three_missed_canaries_are() {
        let now = Instant::now();
        let health = Health::new("Redis at h:1".to_owned(), 1, INTERVAL);
        health.on_echo(0, now);
        health.on_down(Role::Subscriber(0), &ConnectionError::Closed, now);
        assert_eq!(health.status(now + 3 * INTERVAL), BrokerHealth::Healthy);
        assert!(unhealthy(&health, now + 4 * INTERVAL).contains("closed the connection; retrying"));
        health.on_up(Role::Subscriber(0));
        assert!(unhealthy(&health, now + 4 * INTERVAL).contains("come back"));
    }

    #[test]
    fn an_outage_lasts_until_something_is_delivered_so_that_it_is_logged_once() {
        let now = Instant::now();
        let health = Health::new("Redis at h:1".to_owned(), 1, INTERVAL);
        let in_outage = || health.state().outage.is_some();
        health.on_up(Role::Commands);
        for _ in 0..3 {
            health.on_up(Role::Subscriber(0));
            health.on_down(Role::Subscriber(0), &ConnectionError::Closed, now);
            assert!(in_outage());
        }
        health.on_up(Role::Subscriber(0));
        assert!(in_outage());
        health.on_echo(0, now);
        assert!(!in_outage());
    }
}
