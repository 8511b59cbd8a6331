//! What is timed of a worker: a few of each kind a moment, so that a delivery costs the same
//! however many there are, and a quiet node is measured too.

use std::time::{Duration, Instant};

use fanlight_engine::time::Now;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{Histogram, histogram};

/// What may still be timed until the next sweep, and where it goes.
pub(super) struct Samples {
    fanouts: u8,
    publishes: u8,
    fanout: Histogram,
    lag: Histogram,
    publish: Histogram,
}

/// A fan-out that is timed.
pub(super) struct Sample {
    begun: Instant,
    /// When its first publication was accepted.
    at_unix_ms: u64,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self {
            fanouts: PER_SWEEP,
            publishes: PER_SWEEP,
            fanout: histogram!("fanlight_fanout_seconds"),
            lag: histogram!("fanlight_delivery_lag_seconds"),
            publish: histogram!("fanlight_publish_seconds"),
        }
    }

    /// Begins anew, with each sweep.
    pub(super) fn renew(&mut self) {
        (self.fanouts, self.publishes) = (PER_SWEEP, PER_SWEEP);
    }

    /// Times the fan-out that begins with a publication of then, if it is its turn.
    pub(super) fn fanout(&mut self, at_unix_ms: u64) -> Option<Sample> {
        self.fanouts = self.fanouts.checked_sub(1)?;
        Some(Sample { begun: Instant::now(), at_unix_ms })
    }

    /// A fan-out is over.
    pub(super) fn end(&self, sample: &Sample, now: Now) {
        self.fanout.record(sample.begun.elapsed());
        let lag_ms = now.unix_ms.saturating_sub(sample.at_unix_ms);
        self.lag.record(Duration::from_millis(lag_ms));
    }

    /// Times how long the broker takes for a publication, if it is its turn.
    pub(super) fn publish<T: 'static>(
        &mut self,
        publish: BoxFuture<'static, T>,
    ) -> BoxFuture<'static, T> {
        let Some(left) = self.publishes.checked_sub(1) else { return publish };
        self.publishes = left;
        let (begun, histogram) = (Instant::now(), self.publish.clone());
        publish.inspect(move |_| histogram.record(begun.elapsed())).boxed()
    }
}

/// Ten sweeps are a second.
const PER_SWEEP: u8 = 4;
