//! The drain: readiness off, a pause for the balancer, paced closes, a deadline (design §11).

use tokio::sync::oneshot;
use tokio::time::timeout;

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

/// Takes all sessions off the node. `hurried` resolves to a shorter plan when the process is told
/// to end while a drain that nothing hurried is under way.
pub async fn run(
    node: &Node,
    mut workers: Vec<Draining>,
    plan: DrainPlan,
    hurried: impl Future<Output = DrainPlan>,
) {
    node.begin_drain();
    metrics::gauge!("fanlight_draining").set(1);
    let connections = node.admission.connections();
    tracing::info!(connections, ?plan, "draining: this node takes no new connections");
    let outcome = tokio::select! {
        outcome = carry_out(node, &mut workers, plan) => Ok(outcome),
        plan = hurried => Err(plan),
    };
    let ended = match outcome {
        Ok(ended) => ended,
        Err(plan) => {
            tracing::info!(?plan, "the process is to end: the drain goes on faster");
            carry_out(node, &mut workers, plan).await
        }
    };
    if ended {
        tracing::info!("drained: every connection is closed");
    } else {
        let connections = node.admission.connections();
        tracing::warn!(connections, "the drain's deadline has passed; what remains is cut");
    }
}

/// Whether every worker has ended before the deadline. Where it is dropped, another plan can take
/// its place.
async fn carry_out(node: &Node, workers: &mut Vec<Draining>, plan: DrainPlan) -> bool {
    if node.admission.connections() > 0 {
        tokio::time::sleep(plan.grace).await;
    }
    node.leaving.cancel();
    for worker in &*workers {
        let DrainPlan { window, deadline, .. } = plan;
        worker.handle.send(Inbox::Drain { window, deadline }).await;
    }
    let all_ended = async {
        while let Some(worker) = workers.last_mut() {
            // An error means that the worker's thread ended otherwise; it is gone all the same.
            let _ = (&mut worker.ended).await;
            workers.pop();
        }
    };
    timeout(plan.window + plan.deadline, all_ended).await.is_ok()
}
