//! Time-ordered ids from a seed and the time, without a clock.
