//! What is told of the node now and then: metrics that are not counted where they arise, and lines
//! for CloudWatch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::drain::Report;
use crate::node::{Node, Readiness};
use crate::telemetry::Metrics;
use crate::telemetry::emf::Emf;
use crate::worker::{WorkerHandle, WorkerShared};

/// Looks at the node each second.
pub struct Upkeep {
    /// What it tells.
    pub metrics: Metrics,
    /// The node.
    pub node: Arc<Node>,
    /// What its workers share.
    pub shared: Arc<WorkerShared>,
    /// The inboxes of its workers.
    pub inboxes: Vec<WorkerHandle>,
}

impl Upkeep {
    /// Tells until the shutdown.
    pub fn start(self, tracker: &TaskTracker, shutdown: &CancellationToken) {
        let options = &self.node.config.telemetry;
        if options.emf {
            let emf = Emf::new(options, self.metrics.clone(), self.node.clock);
            let until = shutdown.clone();
            tracker.spawn(async move { until.run_until_cancelled(emf.run()).await });
        }
        let until = shutdown.clone();
        tracker.spawn(async move { until.run_until_cancelled(self.run()).await });
    }

    async fn run(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            self.tell();
        }
    }

    fn tell(&self) {
        let node = &self.node;
        let ready = node.readiness() == Readiness::Ready;
        metrics::gauge!("fanlight_ready").set(u8::from(ready));
        let Report { connections, begun, .. } = node.drain_report();
        let left = if begun.is_some() { connections } else { 0 };
        metrics::gauge!("fanlight_drain_remaining_connections").set(left as f64);
        let fullest = self.inboxes.iter().map(WorkerHandle::used_ratio).fold(0.0, f64::max);
        for (limit, used) in [
            ("connections", node.admission.used_ratio()),
            ("http_connections", node.http_admission.used_ratio()),
            ("handshakes", node.handshakes.node.used_ratio(node.clock.now().mono_ms)),
            ("worker_inbox", fullest),
        ] {
            metrics::gauge!("fanlight_limit_used_ratio", "limit" => limit).set(used);
        }
        if let Some(lease) = &node.lease {
            lease.set_takes_sessions(ready);
            lease.set_movable(self.shared.movable().sum());
        }
        node.registry.set_sessions(self.shared.sessions.load(Ordering::Relaxed));
        self.metrics.upkeep();
    }
}
