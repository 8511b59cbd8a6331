//! Waiting for a condition, so that no test sleeps for luck.

use std::time::{Duration, Instant};

/// Waits until `condition` holds; panics with `what` if it does not within 20 seconds.
#[track_caller]
pub fn eventually<'t>(
    what: &'t str,
    mut condition: impl FnMut() -> bool + 't,
) -> impl Future<Output = ()> + 't {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "{caller}: never happened: {what}");
            tokio::time::sleep(POLL).await;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
