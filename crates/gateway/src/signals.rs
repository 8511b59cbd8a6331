//! SIGTERM and SIGINT: the first asks a process to end, a second one to wait for nothing more.

use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Hears them.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they are heard here, and end nothing by themselves.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does the last `work` of a process. The first signal hurries it, where it can be hurried still;
    /// whoever signals then does not want to wait at all, and the process ends at once.
    pub async fn end_with(
        mut self,
        work: impl Future<Output = ()>,
        mut hurry: Option<CancellationToken>,
    ) {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                () = self.next() => {}
            }
            let Some(hurry) = hurry.take() else {
                tracing::warn!("ended by a further signal, before all was done");
                std::process::exit(INTERRUPTED);
            };
            hurry.cancel();
        }
    }
}

/// The status of a process that ends so, as shells have it of SIGINT.
const INTERRUPTED: i32 = 130;
