//! What time it is, as told to the engine (design invariant 3).

/// The time of one event: monotonic for intervals, wall clock for what clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since this process started; never goes back.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl Now {
    /// Seconds since the Unix epoch, as tokens count.
    pub fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }
}
