//! The one place that reads the clocks: everything else is told the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fanlight_engine::time::Now;

/// Tells the time as the engine wants it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.start.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }
}
