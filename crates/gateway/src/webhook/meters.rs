//! What is measured of a webhook.

use metrics::{Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;

/// Those of one webhook.
pub(super) struct Meters {
    webhook: String,
    seconds: Histogram,
    in_flight: Gauge,
    waiting: Gauge,
    breaker_open: Gauge,
}

/// A request that is counted among those that wait, or are under way, for as long as this lives.
pub(super) struct Counted(Gauge);

/// A request that is under way, or was given up where nothing else is said.
pub(super) struct Outcome<'m> {
    meters: &'m Meters,
    kind: &'static str,
    begun: Option<Instant>,
    result: &'static str,
}

impl Meters {
    pub(super) fn new(webhook: &str) -> Self {
        let label = || webhook.to_owned();
        let meters = Self {
            webhook: label(),
            seconds: histogram!("fanlight_webhook_seconds", "webhook" => label()),
            in_flight: gauge!("fanlight_webhook_in_flight", "webhook" => label()),
            waiting: gauge!("fanlight_webhook_waiting", "webhook" => label()),
            breaker_open: gauge!("fanlight_webhook_breaker_open", "webhook" => label()),
        };
        for gauge in [&meters.in_flight, &meters.waiting, &meters.breaker_open] {
            gauge.set(0);
        }
        meters
    }

    pub(super) fn waiting(&self) -> Counted {
        Counted::among(&self.waiting)
    }

    pub(super) fn in_flight(&self) -> Counted {
        Counted::among(&self.in_flight)
    }

    pub(super) fn breaker(&self, is_closed: bool) {
        self.breaker_open.set(u32::from(!is_closed));
    }

    pub(super) fn outcome(&self, kind: &'static str) -> Outcome<'_> {
        Outcome { meters: self, kind, begun: None, result: "cancelled" }
    }

    /// Counts a request.
    pub(super) fn count(&self, kind: &'static str, result: &'static str) {
        let webhook = self.webhook.clone();
        let name = "fanlight_webhook_requests_total";
        counter!(name, "webhook" => webhook, "kind" => kind, "result" => result).increment(1);
    }
}

impl Counted {
    fn among(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl Outcome<'_> {
    /// It begins only now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// What came of it.
    pub(super) fn is(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.meters.count(self.kind, self.result);
        if let Some(begun) = self.begun {
            self.meters.seconds.record(begun.elapsed());
        }
    }
}
