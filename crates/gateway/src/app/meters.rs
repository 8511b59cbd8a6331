//! How messages to `/app/...` went, by route and result.

use fanlight_engine::app::AppFailure;
use metrics::{Counter, counter};

use super::Handled;

/// The counters of one route.
pub(super) struct Meters(Box<[(&'static str, Counter)]>);

impl Meters {
    pub(super) fn new(route: &str) -> Self {
        let of = |result: &'static str| {
            let route = route.to_owned();
            let counter =
                counter!("fanlight_app_messages_total", "route" => route, "result" => result);
            (result, counter)
        };
        Self(RESULTS.into_iter().map(of).collect())
    }

    pub(super) fn count(&self, result: &Result<Handled, AppFailure>) {
        let name = match result {
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
        };
        let found = self.0.iter().find(|(result, _)| *result == name);
        if let Some((_, counter)) = found {
            counter.increment(1);
        }
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
