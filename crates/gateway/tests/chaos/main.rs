//! Faults against real processes: what clients saw is recorded and judged (design §5).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking where something is missing")]

mod check;
mod check_tests;
mod record;
