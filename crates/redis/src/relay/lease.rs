//! The lease of a relay, in the target: of all processes with its name, one holds it.
//!
//! Its token grows with each holder. Each partition of the target remembers the newest token that
//! has published there and takes nothing under an older one, so that a process which was stopped
//! and does not know yet that another has taken over does no harm.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::PublishError;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::Core;
use crate::command;
use crate::names::{Kind, Partition};
use crate::resp3::Value;
use crate::scripts;

/// How one process gets and keeps the lease.
pub(super) struct Lease {
    core: Arc<Core>,
    /// This process.
    owner: String,
    partition: Partition,
}

/// The lease, while it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) token: u64,
    /// Reckoned from before it was asked for, so no later than in Redis.
    until: Instant,
}

impl Lease {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let partition = Partition::of(&core.options.name);
        Self { core, owner: Uuid::now_v7().simple().to_string(), partition }
    }

    /// Asks for it; `None` while another has it.
    pub(super) async fn take(&self) -> Result<Option<Held>, PublishError> {
        let asked_at = Instant::now();
        let lease = self.core.options.lease;
        let lease_ms = lease.as_millis().to_string();
        let [held, newest] = [HELD, NEWEST].map(|kind| self.key(kind));
        let command = scripts::RELAY_LEASE
            .call(&[&held, &newest], &[self.owner.as_bytes(), lease_ms.as_bytes()]);
        let answer = self.core.target.shards.call_kept(self.partition, |_| command).await?;
        let Value::Array(words) = answer else {
            return Err(PublishError::Unknown);
        };
        match words.iter().map(Value::as_text).collect::<Vec<_>>()[..] {
            [Some("ours"), Some(token)] => {
                let token = token.parse().map_err(|_| PublishError::Unknown)?;
                Ok(Some(Held { token, until: asked_at + lease }))
            }
            [Some("theirs"), _] => Ok(None),
            _ => Err(PublishError::Unknown),
        }
    }

    /// Renews it until it is lost.
    pub(super) async fn keep(&self, mut held: Held) {
        let mut wait = self.core.options.lease / 3;
        loop {
            sleep(wait).await;
            match timeout_at(held.until, self.take()).await {
                Ok(Ok(Some(renewed))) if renewed.token == held.token => {
                    held = renewed;
                    wait = self.core.options.lease / 3;
                }
                Ok(Ok(_)) | Err(_) => return,
                Ok(Err(_)) => wait = self.retry_after(),
            }
            if Instant::now() >= held.until {
                return;
            }
        }
    }

    /// How soon to ask again after a refusal.
    pub(super) fn retry_after(&self) -> Duration {
        self.core.options.lease / 10
    }

    /// Gives it back, if this process has it.
    pub(super) async fn give_back(&self) {
        let command = scripts::RELAY_LEASE_END.call(&[&self.key(HELD)], &[self.owner.as_bytes()]);
        let _ = self.core.target.shards.call(self.partition, |_| command).await;
    }

    /// Whether any process has it; `None` when that can't be asked.
    pub(super) async fn is_held(&self) -> Option<bool> {
        let mut command = Vec::new();
        command::words(&[b"EXISTS", &self.key(HELD)], &mut command);
        match self.core.target.shards.call(self.partition, |_| command).await {
            Ok(Value::Integer(keys)) => Some(keys > 0),
            _ => None,
        }
    }

    fn key(&self, kind: Kind) -> Vec<u8> {
        self.core.target.names.key(self.partition, kind, &self.core.options.name)
    }
}

const HELD: Kind = Kind("relay-lease");
const NEWEST: Kind = Kind("relay-token");
