//! The reaper: removes what dead nodes hold, in batches, whoever of the living gets to it first.

use std::sync::Arc;

use fanlight_engine::broker::PublishError;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::lease::{CHANGES, CLAIMS, DEAD, LEASES, Lease, NODES};
use crate::names::Partition;
use crate::resp3::Value;
use crate::scripts;

/// Something that nodes hold under their lease, and that must go when they die.
pub trait Reap: Send + Sync + 'static {
    /// Removes a bounded part of what `dead_owner` holds, by compare-and-delete, as others may do
    /// the same at the same time; whether nothing is left of it. What can't be reached keeps
    /// nothing else from being removed, and is an error afterwards.
    fn reap(&self, dead_owner: &str) -> BoxFuture<'static, Result<bool, PublishError>>;
}

/// Looks for dead owners as often as leases are renewed.
pub struct Reaper {
    lease: Arc<Lease>,
    held: Vec<Arc<dyn Reap>>,
}

impl Reaper {
    /// Starts reaping, until the shutdown. `held` must be all there is: an owner that holds
    /// nothing of it is forgotten.
    pub fn start(
        lease: &Arc<Lease>,
        held: Vec<Arc<dyn Reap>>,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) {
        let reaper = Self { lease: Arc::clone(lease), held };
        tracker.spawn(async move { shutdown.run_until_cancelled(reaper.run()).await });
    }

    async fn run(self) {
        loop {
            sleep(self.lease.renew_every()).await;
            if self.lease.is_calm() {
                // What failed is tried again at the next turn.
                if let Err(error) = self.turn().await {
                    warn!("not all that dead nodes hold could be removed: {error}");
                }
            }
        }
    }

    /// Reaps whom it can claim, each as far as it can; the first error is told at the end.
    async fn turn(&self) -> Result<(), PublishError> {
        let mut outcome = Ok(());
        for (owner, died) in self.claim().await? {
            let mut reaped = Ok(());
            for held in &self.held {
                reaped = reaped.and(self.reap(&**held, &owner).await);
                if !self.lease.is_calm() {
                    return outcome.and(reaped);
                }
            }
            if let (Ok(()), Some(died)) = (reaped, died) {
                reaped = self.forget(&owner, &died).await;
            }
            outcome = outcome.and(reaped);
        }
        outcome
    }

    async fn reap(&self, held: &dyn Reap, owner: &str) -> Result<(), PublishError> {
        while !held.reap(owner).await? {
            if !self.lease.is_calm() {
                break;
            }
        }
        Ok(())
    }

    /// Dead owners, with the time of their death where that was long enough ago.
    async fn claim(&self) -> Result<Vec<(String, Option<String>)>, PublishError> {
        let (reaper, lasts_ms) = (self.lease.owner(), self.lease.lasts().as_millis().to_string());
        let most = OWNERS_MAX.to_string();
        let arguments = [reaper.as_bytes(), lasts_ms.as_bytes(), most.as_bytes()];
        let keys = [LEASES, DEAD, CLAIMS, CHANGES];
        let answer = self.lease.call(&scripts::REAP_CLAIM, &keys, &arguments).await?;
        let Value::Array(values) = answer else { return Err(PublishError::Unknown) };
        let pair = |pair: &[Value]| match pair {
            [owner, Value::Integer(died)] => {
                Some((owner.as_text()?.to_owned(), (*died > 0).then(|| died.to_string())))
            }
            _ => None,
        };
        Ok(values.chunks_exact(2).filter_map(pair).collect())
    }

    async fn forget(&self, owner: &str, died: &str) -> Result<(), PublishError> {
        let arguments = [owner.as_bytes(), died.as_bytes()];
        let keys = [DEAD, CLAIMS, NODES, CHANGES];
        let answer = self.lease.call(&scripts::REAP_FORGET, &keys, &arguments).await?;
        if answer == Value::Integer(1) {
            info!(owner, "nothing is left of a node that is gone");
            metrics::counter!("fanlight_nodes_reaped_total").increment(1);
        }
        Ok(())
    }
}

/// Reaps in each of `partitions`, `at_once` of them at a time; whether nothing is left in any. The
/// first error is told once all were tried: a shard that is away keeps only what is its own.
pub(crate) async fn reap_each<F>(
    partitions: impl Iterator<Item = Partition>,
    at_once: usize,
    reap: impl Fn(Partition) -> F,
) -> Result<bool, PublishError>
where
    F: Future<Output = Result<bool, PublishError>>,
{
    let partitions: Vec<_> = partitions.collect();
    let mut outcome = Ok(true);
    for some in partitions.chunks(at_once) {
        for one in join_all(some.iter().map(|partition| reap(*partition))).await {
            outcome = outcome.and_then(|all: bool| Ok(all & one?));
        }
    }
    outcome
}

/// Owners that one node reaps in one turn.
const OWNERS_MAX: usize = 16;
