//! How messages to `/app/...` went, by route and result, and how long backends take.

use std::time::Duration;

use fanlight_engine::app::AppFailure;
use metrics::{Counter, Histogram, counter, histogram};

use super::Handled;

/// Those of one route.
pub(super) struct Meters {
    results: Box<[(&'static str, Counter)]>,
    seconds: Histogram,
}

impl Meters {
    /// Of the route of this pattern, to a backend of this kind.
    pub(super) fn new(route: &str, backend: &'static str) -> Self {
        let of = |result: &'static str| {
            let route = route.to_owned();
            let counter =
                counter!("fanlight_app_messages_total", "route" => route, "result" => result);
            (result, counter)
        };
        Self {
            results: RESULTS.into_iter().map(of).collect(),
            seconds: histogram!("fanlight_app_seconds", "backend" => backend),
        }
    }

    pub(super) fn count(&self, result: &Result<Handled, AppFailure>) {
        let name = result_of(result);
        let found = self.results.iter().find(|(result, _)| *result == name);
        if let Some((_, counter)) = found {
            counter.increment(1);
        }
    }

    /// The backend has taken so long; one that was not asked has not.
    pub(super) fn answered<T>(&self, time: Duration, answer: &Result<T, AppFailure>) {
        if !matches!(answer, Err(AppFailure::Unavailable | AppFailure::Overloaded)) {
            self.seconds.record(time);
        }
    }
}

/// What metrics and traces call it.
pub(super) fn result_of<T>(result: &Result<T, AppFailure>) -> &'static str {
    match result {
        Ok(_) => "handled",
        Err(AppFailure::Refused(_)) => "refused",
        Err(AppFailure::Timeout) => "timeout",
        Err(AppFailure::Unavailable) => "unavailable",
        Err(AppFailure::Failed) => "failed",
        Err(AppFailure::Overloaded) => "overloaded",
        Err(AppFailure::BadAnswer(_)) => "bad_answer",
        Err(AppFailure::Unpublished(_)) => "unpublished",
        Err(AppFailure::Undelivered(_)) => "undelivered",
        Err(AppFailure::Internal) => "internal",
    }
}

/// What `result` may be.
pub(crate) const RESULTS: [&str; 10] = [
    "handled",
    "refused",
    "timeout",
    "unavailable",
    "failed",
    "overloaded",
    "bad_answer",
    "unpublished",
    "undelivered",
    "internal",
];
/// What `backend` may be.
pub(crate) const BACKENDS: [&str; 3] = ["webhook", "stream", "handler"];
