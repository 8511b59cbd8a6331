//! Removing what dead nodes had entered, by compare-and-delete on their owner.

use std::collections::HashMap;
use std::sync::Arc;

use fanlight_engine::broker::PublishError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::operation::{
    CALLS, DESTINATION, DESTINATIONS_OF, EVENTS, Operation, Outcome, SESSIONS_OF, What, id_text,
    sessions_key,
};
use super::{Inner, RedisRegistry, unix_ms};
use crate::lease::{boot_of, generation_of, held_partitions, refuse_errors};
use crate::names::{Kind, Partition};
use crate::reaper::{Reap, reap_each};
use crate::resp3::Value;
use crate::scripts;

impl Reap for RedisRegistry {
    fn reap(&self, dead_owner: &str) -> BoxFuture<'static, Result<bool, PublishError>> {
        let (inner, owner) = (Arc::clone(&self.inner), dead_owner.to_owned());
        async move {
            let reap = |partition| inner.reap_partition(partition, &owner);
            reap_each(held_partitions(), PARTITIONS_AT_ONCE, reap).await
        }
        .boxed()
    }
}

impl Inner {
    /// Removes much of what `owner` holds in one partition; whether there was nothing any more.
    async fn reap_partition(
        &self,
        partition: Partition,
        owner: &str,
    ) -> Result<bool, PublishError> {
        for _ in 0..STEPS_MAX {
            if self.reap_one(partition, owner).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes one batch in one partition; whether there was nothing any more.
    async fn reap_one(&self, partition: Partition, owner: &str) -> Result<bool, PublishError> {
        let (members, destinations) = self.shut_out(partition, owner).await?;
        let sessions: Vec<_> = members.iter().filter_map(|member| member.split_once(' ')).collect();
        if !sessions.is_empty() {
            let removed = self.remove(partition, owner, &sessions).await?;
            metrics::counter!("fanlight_registry_reaped_total").increment(removed);
        }
        if !destinations.is_empty() {
            self.remove_destinations(partition, owner, &destinations).await?;
        }
        Ok(sessions.is_empty() && destinations.is_empty())
    }

    /// Removes sessions that `owner` holds still; how many did.
    async fn remove(
        &self,
        partition: Partition,
        owner: &str,
        sessions: &[(&str, &str)],
    ) -> Result<u64, PublishError> {
        let keys = sessions.iter().map(|(_, user)| sessions_key(&self.names, partition, user));
        let keys = self.with_index(partition, SESSIONS_OF, owner, keys);
        let (length, now) = (self.options.stream_length().to_string(), unix_ms().to_string());
        let mut arguments = vec![owner, &length, &now];
        arguments.extend(sessions.iter().flat_map(|(session, user)| [*session, *user]));
        match self.run_reap(&scripts::REGISTRY_REAP, partition, &keys, &arguments).await? {
            Value::Integer(removed) => Ok(removed.unsigned_abs()),
            _ => Err(PublishError::Unknown),
        }
    }

    async fn remove_destinations(
        &self,
        partition: Partition,
        owner: &str,
        destinations: &[String],
    ) -> Result<(), PublishError> {
        let keys = destinations.iter().map(|text| self.names.key(partition, DESTINATION, text));
        let keys = self.with_index(partition, DESTINATIONS_OF, owner, keys);
        let (length, now) = (self.options.stream_length().to_string(), unix_ms().to_string());
        let mut arguments = vec![owner, &length, &now];
        arguments.extend(destinations.iter().map(String::as_str));
        let script = &scripts::REGISTRY_REAP_DESTINATIONS;
        self.run_reap(script, partition, &keys, &arguments).await.map(drop)
    }

    /// Removes sessions of dead owners that keep others out; whether there were any.
    pub(super) async fn evict_dead(
        &self,
        partition: Partition,
        operations: &[Operation],
        outcomes: &[Outcome],
    ) -> Result<bool, PublishError> {
        let mut dead: HashMap<&str, Vec<(String, &str)>> = HashMap::new();
        for (operation, outcome) in operations.iter().zip(outcomes) {
            let (What::Enter { entry, .. }, Outcome::Full(held)) = (&operation.what, outcome)
            else {
                continue;
            };
            let user = entry.user.as_deref().unwrap_or_default();
            for held in held.iter().filter(|held| !self.lease.is_live(&held.owner)) {
                dead.entry(&held.owner).or_default().push((id_text(held.session), user));
            }
        }
        for (owner, sessions) in &dead {
            let sessions: Vec<_> =
                sessions.iter().map(|(session, user)| (session.as_str(), *user)).collect();
            for some in sessions.chunks(BATCH) {
                self.remove(partition, owner, some).await?;
            }
        }
        Ok(!dead.is_empty())
    }

    /// Sees to it that a dead owner enters nothing any more, and tells some of what it holds:
    /// sessions and destinations. They are not popped: who reads them may die too.
    async fn shut_out(
        &self,
        partition: Partition,
        owner: &str,
    ) -> Result<(Vec<String>, Vec<String>), PublishError> {
        let keys = [
            self.names.key(partition, CALLS, boot_of(owner)),
            self.names.key(partition, SESSIONS_OF, owner),
            self.names.key(partition, DESTINATIONS_OF, owner),
        ];
        let arguments = [generation_of(owner), &BATCH.to_string()];
        let answer =
            self.run_reap(&scripts::REGISTRY_SHUT_OUT, partition, &keys, &arguments).await?;
        let Value::Array(parts) = &answer else { return Err(PublishError::Unknown) };
        let [Value::Array(sessions), Value::Array(destinations)] = &parts[..] else {
            return Err(PublishError::Unknown);
        };
        let texts = |values: &[Value]| {
            values.iter().filter_map(|value| value.as_text().map(str::to_owned)).collect()
        };
        Ok((texts(sessions), texts(destinations)))
    }

    fn with_index(
        &self,
        partition: Partition,
        index: Kind,
        owner: &str,
        others: impl Iterator<Item = Vec<u8>>,
    ) -> Vec<Vec<u8>> {
        let mut keys =
            vec![self.names.key(partition, index, owner), self.names.key(partition, EVENTS, "")];
        keys.extend(others);
        keys
    }

    async fn run_reap(
        &self,
        script: &scripts::Script,
        partition: Partition,
        keys: &[Vec<u8>],
        arguments: &[&str],
    ) -> Result<Value, PublishError> {
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        let command = script.call(&keys, &arguments);
        refuse_errors(self.shards.call(partition, |_| command).await?)
    }
}

/// So many take Redis about a millisecond.
const BATCH: usize = 128;
/// Batches of one partition before the reaper looks whether all is calm still.
const STEPS_MAX: usize = 32;
/// Batches that are under way at the same time.
const PARTITIONS_AT_ONCE: usize = 8;
