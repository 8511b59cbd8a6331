//! A publication that comes by itself, without a session, under the same rules as one of a session.

use std::sync::Arc;

use fanlight_proto::CloseReason;
use fanlight_proto::native;

use super::live::{Outgoing, outgoing};
use super::native::draft_of;
use super::{Fault, Rules};
use crate::auth::Principal;
use crate::broker::PublishError;
use crate::history::IdempotencyKey;
use crate::ids::Ids;
use crate::policy::{PublishPermit, Subject};
use crate::publication::Publication;
use crate::time::Now;

/// A publication with the right to publish it.
#[derive(Debug)]
pub struct Alone {
    /// The right.
    pub permit: PublishPermit,
    /// The publication.
    pub publication: Publication,
    /// The publisher's name for it.
    pub key: Option<IdempotencyKey>,
}

/// Why it is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code, as in the native protocol's `error`.
    pub code: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
    /// Whose fault it is, roughly.
    pub reason: CloseReason,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Alone {
    /// Reads the native protocol's `send`, whose `type` may be left out, of a client who is
    /// `principal`.
    pub fn read(
        rules: &Rules,
        ids: &mut Ids,
        now: Now,
        principal: Option<&Arc<Principal>>,
        text: &str,
    ) -> Result<Self, Refusal> {
        let session = ids.session(now);
        let sender = Subject { principal: principal.map(|principal| &**principal), session };
        let mut read = || {
            let message = native::parse_send(text)?;
            outgoing(rules, ids, now, &sender, draft_of(&message, &rules.limits)?)
        };
        let Outgoing { permit, publication, key } = read()?;
        Ok(Self { permit, publication, key })
    }
}

impl Refusal {
    /// One that says which destination it is about, as far as that is of a sensible length.
    pub(super) fn of(fault: Fault, to: &str) -> Self {
        let shown: String = to.chars().take(SHOWN_MAX).collect();
        let refusal = Self::from(fault);
        Self { message: format!("{shown}: {}", refusal.message), ..refusal }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code,
            message: fault.text(),
            reason: fault.reason,
            retry_after_ms: fault.retry_after_ms,
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        Fault::from(error).into()
    }
}

/// How much of a destination a message shows.
const SHOWN_MAX: usize = 200;
