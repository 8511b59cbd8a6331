//! The drain: readiness off, a pause for the balancer, paced closes, a deadline (design §11).

use tokio::sync::oneshot;

use crate::config::DrainPlan;
use crate::node::Node;
use crate::worker::{Inbox, WorkerHandle};

/// A worker as the drain sees it.
pub struct Draining {
    /// Takes the plan.
    pub handle: WorkerHandle,
    /// Resolves when the worker's last connection is gone.
    pub ended: oneshot::Receiver<()>,
}

/// Takes all sessions off the node.
pub async fn run(node: &Node, workers: Vec<Draining>, plan: DrainPlan) {
    node.begin_drain();
    metrics::gauge!("fanlight_draining").set(1);
    let connections = node.admission.connections();
    tracing::info!(connections, ?plan, "draining: this node takes no new connections");
    if connections > 0 {
        tokio::time::sleep(plan.grace).await;
    }
    for worker in &workers {
        worker.handle.send(Inbox::Drain { window: plan.window }).await;
    }
    let all_ended = async {
        for worker in workers {
            // An error means that the worker's thread ended otherwise; it is gone all the same.
            let _ = worker.ended.await;
        }
    };
    if tokio::time::timeout(plan.window + plan.deadline, all_ended).await.is_ok() {
        tracing::info!("drained: every connection is closed");
    } else {
        let connections = node.admission.connections();
        tracing::warn!(connections, "the drain's deadline has passed; what remains is cut");
    }
}
