//! Renewing the claims of this node, and taking out of Redis those that it has given up.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanlight_engine::broker::PublishError;
use fanlight_engine::peers::ClaimName;
use fanlight_engine::registry::Handle;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::info;

use super::claims::Stamp;
use super::{Inner, meters};
use crate::lease::{held_partition_of, refuse_errors};
use crate::names::Partition;
use crate::resp3::Value;
use crate::scripts::{self, Script};

/// Claims that are given up and still to be taken out.
#[derive(Debug, Default)]
pub(super) struct Releases {
    waiting: Mutex<Vec<Release>>,
    pushed: Notify,
}

#[derive(Debug, Clone)]
struct Release {
    name: ClaimName,
    handle: Handle,
    since: Instant,
}

impl Releases {
    pub(super) fn push(&self, name: ClaimName, handle: Handle) {
        self.put([Release { name, handle, since: Instant::now() }]);
        self.pushed.notify_one();
    }

    /// What has no room is left to its time to live.
    fn put(&self, releases: impl IntoIterator<Item = Release>) {
        let mut waiting = self.waiting();
        let room = RELEASES_MAX.saturating_sub(waiting.len());
        waiting.extend(releases.into_iter().take(room));
    }

    fn take(&self) -> Vec<Release> {
        std::mem::take(&mut *self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Release>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) async fn release_all(self: Arc<Self>) {
        loop {
            self.releases.pushed.notified().await;
            loop {
                let releases = self.releases.take();
                if releases.is_empty() {
                    break;
                }
                if !self.release_some(releases).await {
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Whether all were taken out; those that were not wait again, until they run out.
    async fn release_some(&self, releases: Vec<Release>) -> bool {
        let batches = batches(releases, |release| &release.name);
        let releasing = batches.iter().map(|(partition, batch)| async move {
            let claims: Vec<_> = batch.iter().map(|one| (&one.name, one.handle)).collect();
            self.run_over(&scripts::PEER_RELEASE, *partition, &claims, &[]).await.is_ok()
        });
        let done = join_all(releasing).await;
        let is_all = done.iter().all(|done| *done);
        let failed = batches.into_iter().zip(done).filter(|(_, done)| !done);
        let failed = failed.flat_map(|((_, batch), _)| batch);
        let ttl = self.ttl();
        self.releases.put(failed.filter(|release| release.since.elapsed() < ttl));
        is_all
    }

    pub(super) async fn renew_all(self: Arc<Self>) {
        // Each is looked at so often that a third of its time never passes without a renewal.
        let (due_after, every) = (self.ttl() / 4, self.ttl() / 12);
        let mut changed = self.lease.changed();
        loop {
            let wait = if self.renew_due(due_after).await { every } else { every.min(RETRY_AFTER) };
            select! {
                () = sleep(wait) => {}
                Ok(()) = changed.changed() => {}
                () = self.renew.notified() => {}
            }
        }
    }

    /// Whether all that were due are renewed.
    async fn renew_due(self: &Arc<Self>, after: Duration) -> bool {
        if !self.lease.is_held() {
            // Under an owner that is dead for the others, nothing would be won.
            return false;
        }
        let due = self.claims().due(self.stamp(), after);
        let batches = batches(due, |(name, _)| name);
        let renewing = batches.into_iter().map(|(partition, batch)| {
            let inner = Arc::clone(self);
            async move { inner.renew_some(partition, batch).await }
        });
        let renewed = futures_util::stream::iter(renewing).buffer_unordered(BATCHES_AT_ONCE);
        let all_renewed = |all, renewed: Result<(), PublishError>| ready(all && renewed.is_ok());
        renewed.fold(true, all_renewed).await
    }

    async fn renew_some(
        self: &Arc<Self>,
        partition: Partition,
        batch: Vec<(ClaimName, Handle)>,
    ) -> Result<(), PublishError> {
        let hold = self.lease.hold();
        let stamp = Stamp { round: hold.round, at: Instant::now() };
        let ttl_ms = self.ttl().as_millis().to_string();
        let claims: Vec<_> = batch.iter().map(|(name, handle)| (name, *handle)).collect();
        let more = [hold.owner.as_bytes(), ttl_ms.as_bytes()];
        let answer = self.run_over(&scripts::PEER_RENEW, partition, &claims, &more).await?;
        let Value::Array(answers) = answer else { return Err(PublishError::Unknown) };
        let mut lost = Vec::new();
        for ((name, handle), answer) in batch.into_iter().zip(answers) {
            if answer != Value::Integer(1) {
                if self.claims().remove(&name, handle) {
                    lost.push((name, handle));
                }
            } else if !self.claims().confirm(&name, handle, stamp) {
                // It was given up meanwhile, and perhaps taken out before this.
                self.releases.push(name, handle);
            }
        }
        self.lose(lost);
        Ok(())
    }

    /// Ends sessions whose claims others have.
    pub(super) fn lose(&self, lost: Vec<(ClaimName, Handle)>) {
        if lost.is_empty() {
            return;
        }
        meters::lost(lost.len());
        self.count_claims();
        info!(sessions = lost.len(), "other sessions have got the names of these, which end");
        let ending: Vec<_> =
            lost.into_iter().map(|(name, handle)| self.answerer.lost(name, handle)).collect();
        // Workers may let it wait.
        self.run(Box::pin(async move { drop(join_all(ending).await) }));
    }

    /// Runs a script over claims of one partition: the process, `more`, and the handles.
    async fn run_over(
        &self,
        script: &Script,
        partition: Partition,
        claims: &[(&ClaimName, Handle)],
        more: &[&[u8]],
    ) -> Result<Value, PublishError> {
        let keys: Vec<_> = claims.iter().map(|(name, _)| self.key(name).1).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let boot = format!("{}:", self.lease.boot());
        let handles: Vec<_> = claims.iter().map(|(_, handle)| handle.to_string()).collect();
        let mut arguments = vec![boot.as_bytes()];
        arguments.extend(more);
        arguments.extend(handles.iter().map(String::as_bytes));
        let command = script.call(&keys, &arguments);
        refuse_errors(self.shards.call(partition, |_| command).await?)
    }
}

/// By partition, so many at a time.
fn batches<T>(all: Vec<T>, name: impl Fn(&T) -> &ClaimName) -> Vec<(Partition, Vec<T>)> {
    let mut partitions: HashMap<Partition, Vec<T>> = HashMap::new();
    let mut batches = Vec::new();
    for one in all {
        let partition = held_partition_of(name(&one).as_str());
        let batch = partitions.entry(partition).or_default();
        batch.push(one);
        if batch.len() == BATCH_MAX {
            batches.push((partition, std::mem::take(batch)));
        }
    }
    batches.extend(partitions.into_iter().filter(|(_, batch)| !batch.is_empty()));
    batches
}

/// So many take Redis less than a millisecond.
const BATCH_MAX: usize = 128;
/// Batches of renewals that are under way.
const BATCHES_AT_ONCE: usize = 8;
/// How soon what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Claims that wait to be taken out while Redis is away.
const RELEASES_MAX: usize = 64 << 10;
