//! The drain: readiness off, a pause for the balancer, paced closes, a deadline (design §11).

use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Drain;
use crate::node::Node;
use crate::worker::{DrainPlan, Inbox, WorkerHandle};

/// The steps of a drain, fitted to the time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From failing readiness to the first close.
    pub grace: Duration,
    /// Over which the sessions are closed.
    pub window: Duration,
    /// For the last ones to close their sockets.
    pub deadline: Duration,
}

impl Schedule {
    /// The configured steps, compressed in proportion when they exceed the time from SIGTERM to
    /// the supervisor's kill.
    pub fn new(drain: &Drain) -> Self {
        let total = drain.grace.0 + drain.window.0 + drain.deadline.0;
        let ratio = if total > drain.shutdown_timeout.0 {
            drain.shutdown_timeout.0.as_secs_f64() / total.as_secs_f64()
        } else {
            1.0
        };
        Self {
            grace: drain.grace.0.mul_f64(ratio),
            window: drain.window.0.mul_f64(ratio),
            deadline: drain.deadline.0.mul_f64(ratio),
        }
    }
}

/// A worker as the drain sees it.
pub struct Draining {
    /// Takes the plan.
    pub handle: WorkerHandle,
    /// Resolves when the worker's last connection is gone.
    pub ended: oneshot::Receiver<()>,
}

/// Takes all sessions off the node.
pub async fn run(node: &Node, workers: Vec<Draining>, schedule: Schedule) {
    node.begin_drain();
    metrics::gauge!("fanlight_draining").set(1);
    let connections = node.admission.connections();
    tracing::info!(connections, ?schedule, "draining: this node takes no new connections");
    if connections > 0 {
        tokio::time::sleep(schedule.grace).await;
    }
    for worker in &workers {
        worker.handle.send(Inbox::Drain(DrainPlan { window: schedule.window })).await;
    }
    let all_ended = async {
        for worker in workers {
            // An error means that the worker's thread ended otherwise; it is gone all the same.
            let _ = worker.ended.await;
        }
    };
    match tokio::time::timeout(schedule.window + schedule.deadline, all_ended).await {
        Ok(()) => tracing::info!("drained: every connection is closed"),
        Err(_) => tracing::warn!(
            connections = node.admission.connections(),
            "the drain's deadline has passed; the remaining connections are cut"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    #[test]
    fn a_drain_is_compressed_to_fit_the_time_before_the_kill() {
        let drain = Drain {
            grace: Span::seconds(10),
            window: Span::seconds(240),
            deadline: Span::seconds(50),
            shutdown_timeout: Span::seconds(30),
        };
        let schedule = Schedule::new(&drain);
        assert_eq!(schedule.grace, Duration::from_secs(1));
        assert_eq!(schedule.window, Duration::from_secs(24));
        assert_eq!(schedule.deadline, Duration::from_secs(5));
    }
}
