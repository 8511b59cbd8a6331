//! What must hold, and whether it does.

use std::time::Instant;

use crate::control::{Histograms, Phase};

/// What happened in a stage, beside what clients tell.
pub struct Happening {
    /// In words.
    pub name: String,
    /// When it began.
    pub began: Instant,
    /// For how long.
    pub seconds: f64,
    /// Connections of each node at its end; of none that does not run.
    pub connections: Vec<Option<u64>>,
}

impl Happening {
    /// It begins now.
    pub fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, began: Instant::now(), seconds: 0.0, connections: Vec::new() }
    }
}

/// What is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Handshakes per second of a node.
    pub admitted: u32,
    /// How many more at once.
    pub burst: u32,
    /// Whether latencies and the tester's own lateness count.
    pub judges_times: bool,
}

/// How much slower p99.9 may be while nodes come and go.
pub const MOST_TIMES_CALM: f64 = 2.0;
/// A calm p99.9 below this counts as this: what is judged is what people notice, not the scheduler's
/// noise.
pub const CALM_FLOOR_MS: f64 = 5.0;
/// How late publications may leave, at p99, for the latencies to be the server's.
pub const MOST_LAG_MS: f64 = 25.0;
/// How much of a core a client process may use, for the latencies to be the server's.
pub const MOST_CPU: f64 = 0.9;

/// A percentile in milliseconds.
pub fn milliseconds(times: &Histograms, phase: Phase, quantile: f64) -> Option<f64> {
    let histogram = times.get(&phase).filter(|histogram| !histogram.is_empty())?;
    Some(histogram.value_at_quantile(quantile) as f64 / 1000.0)
}

/// Why a stage's latencies are not good beside those of the calm, if so.
pub fn too_slow(name: &str, calm: Option<f64>, p999_ms: Option<f64>) -> Option<String> {
    let (Some(calm_ms), Some(p999_ms)) = (calm, p999_ms) else {
        return Some(format!("{name}: nothing was delivered to whom it did not concern"));
    };
    let most_ms = calm_ms.max(CALM_FLOOR_MS) * MOST_TIMES_CALM;
    (p999_ms > most_ms).then(|| {
        format!(
            "{name}: p99.9 of {p999_ms:.1} ms is more than {most_ms:.1} ms, {MOST_TIMES_CALM} times \
             that of the calm"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_may_be_twice_as_slow_as_the_calm_or_as_its_floor() {
        assert_eq!(too_slow("s", Some(20.0), Some(40.0)), None);
        assert_eq!(too_slow("s", Some(0.5), Some(10.0)), None);
        assert!(too_slow("s", Some(20.0), Some(40.1)).is_some());
        assert!(too_slow("s", Some(0.5), Some(10.1)).is_some());
    }

    #[test]
    fn a_stage_without_deliveries_proves_nothing() {
        assert!(too_slow("s", Some(1.0), None).is_some());
        assert!(too_slow("s", None, Some(1.0)).is_some());
    }
}
