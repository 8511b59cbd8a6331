//! The drain: readiness off, a pause for the balancer, paced closes, a deadline (design §11).

mod progress;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::DrainPlan;
use crate::node::Node;
use crate::worker::{Inbox, WorkerHandle};

pub use progress::{Begun, Progress, Report, Stage, Trigger};

/// A worker as the drain sees it.
pub struct Draining {
    /// Takes the plan.
    pub handle: WorkerHandle,
    /// Resolves when the worker's last connection is gone.
    pub ended: oneshot::Receiver<()>,
}

/// Takes all sessions off a node whose drain has begun. `hurried` resolves to a shorter plan when
/// the process is told to end while a drain that nothing hurries is under way.
pub async fn run(
    node: &Node,
    mut workers: Vec<Draining>,
    plan: DrainPlan,
    is_hurried: bool,
    hurried: impl Future<Output = DrainPlan>,
) {
    let connections = node.admission.connections();
    tracing::info!(
        connections,
        ?plan,
        "draining: this node takes no new connections after the grace"
    );
    let outcome = tokio::select! {
        outcome = carry_out(node, &mut workers, plan, is_hurried) => Ok(outcome),
        plan = hurried => Err(plan),
    };
    let ended = match outcome {
        Ok(ended) => ended,
        Err(mut plan) => {
            if node.leaving.is_cancelled() {
                // The balancer has had its time.
                plan.grace = Duration::ZERO;
            }
            tracing::info!(?plan, "the process is to end: the drain goes on faster");
            carry_out(node, &mut workers, plan, true).await
        }
    };
    let connections = node.admission.connections();
    if ended {
        tracing::info!("drained: every connection is closed");
    } else {
        tracing::warn!(connections, "the drain's deadline has passed; what remains is cut");
    }
    let cut = if ended { 0 } else { connections as u64 };
    node.drain.finish(cut, node.clock.now().mono_ms).await;
}

/// Whether every worker has ended before the deadline. Where it is dropped, another plan can take
/// its place.
async fn carry_out(
    node: &Node,
    workers: &mut Vec<Draining>,
    plan: DrainPlan,
    is_hurried: bool,
) -> bool {
    node.drain.follow(plan, is_hurried, node.clock.now().mono_ms);
    if node.admission.connections() > 0 || node.is_watched() {
        tokio::time::sleep(plan.grace).await;
    }
    node.leaving.cancel();
    node.drain.close(node.admission.connections() as u64);
    for worker in &*workers {
        let DrainPlan { window, deadline, .. } = plan;
        let let_in = Arc::clone(&node.admission);
        worker.handle.send(Inbox::Drain { window, deadline, let_in }).await;
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
