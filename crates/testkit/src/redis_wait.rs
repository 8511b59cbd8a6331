//! Waiting, in blocking code, for what Redis servers agree on among themselves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Asks until the answer is `Ok`; after 90 seconds, fails with the last reason why it was not.
pub(crate) fn wait_for<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(reason) if Instant::now() > deadline => {
                return Err(reason).with_context(|| format!("never happened: {what}"));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
