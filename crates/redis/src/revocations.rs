//! `RedisRevocations`: what is revoked, on all nodes.
//!
//! Redis has all of it, numbered, until it is over; each node reads what is newer than the number
//! up to which it has read. It does so when another node says that there is something, and every
//! two seconds in case that was not heard. Until it has read all once, it accepts no token. A Redis
//! that has lost its data gets back what the nodes know: so a revocation is forgotten only where all
//! of Redis and all nodes have ended.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanlight_engine::broker::PublishError;
use fanlight_engine::revocation::{Revocation, Revocations, RevokeError, Revoked, RevokedList};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::select;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::RedisBroker;
use crate::history::new_epoch;
use crate::lease::{Lease, boot_of, held_partition_of, refuse_errors};
use crate::meters::amount;
use crate::names::{Kind, Names, Partition};
use crate::registry::{REVOKED, say, unix_ms};
use crate::resp3::Value;
use crate::scripts;
use crate::shards::Shards;

/// What is revoked, over all nodes.
pub struct RedisRevocations(Arc<Inner>);

struct Inner {
    shards: Arc<Shards>,
    names: Names,
    lease: Arc<Lease>,
    max: usize,
    known: Arc<RevokedList>,
    /// Somebody says that there is more to read.
    news: Arc<Notify>,
    read: Mutex<Read>,
    soon: mpsc::Sender<Revocation>,
}

/// How far this node has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Read {
    epoch: Vec<u8>,
    number: u64,
}

/// Some of what was revoked.
struct Page {
    /// How far it goes.
    upto: Read,
    /// How far there are any.
    newest: u64,
    revocations: Vec<Revocation>,
}

impl RedisRevocations {
    /// Starts reading. At most `max` are stored; `news` is what the node's control inbox wakes.
    pub fn start(
        broker: &RedisBroker,
        lease: &Arc<Lease>,
        (max, news): (usize, Arc<Notify>),
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let (shards, names, _) = broker.parts();
        let (soon, waiting) = mpsc::channel(SOON_MAX);
        let inner = Arc::new(Inner {
            shards,
            names,
            lease: Arc::clone(lease),
            max,
            known: Arc::new(RevokedList::incomplete()),
            news,
            read: Mutex::default(),
            soon,
        });
        let run = |job: BoxFuture<'static, ()>| {
            let shutdown = shutdown.clone();
            tracker.spawn(async move { shutdown.run_until_cancelled(job).await });
        };
        run(Arc::clone(&inner).read_all().boxed());
        run(Arc::clone(&inner).revoke_all(waiting).boxed());
        Arc::new(Self(inner))
    }
}

impl Revocations for RedisRevocations {
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'static, Result<(), RevokeError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.revoke(&revocation).await }.boxed()
    }

    fn revoke_soon(&self, revocation: Revocation) {
        self.0.known.add(&revocation);
        if self.0.soon.try_send(revocation).is_err() {
            tracing::error!(
                "too many revocations wait for Redis; one of a session's token is known to this \
                 node only: revoke it again"
            );
        }
    }

    fn known(&self) -> &Arc<RevokedList> {
        &self.0.known
    }
}

impl Inner {
    async fn revoke(&self, revocation: &Revocation) -> Result<(), RevokeError> {
        self.store(std::slice::from_ref(revocation)).await?;
        self.known.add(revocation);
        let nodes = self.lease.nodes();
        let telling = nodes
            .iter()
            .map(|node| say(&self.shards, &self.names, boot_of(&node.owner), REVOKED.to_owned()));
        // Who does not hear it reads it a little later.
        let _ = join_all(telling).await;
        Ok(())
    }

    /// Revokes what nobody waits for, until it is done or over.
    async fn revoke_all(self: Arc<Self>, mut waiting: mpsc::Receiver<Revocation>) {
        while let Some(revocation) = waiting.recv().await {
            while unix_ms() < revocation.until_unix_ms {
                match self.revoke(&revocation).await {
                    Ok(()) => break,
                    Err(RevokeError::Full) => {
                        tracing::error!("a session's token could not be revoked: there is no room");
                        break;
                    }
                    Err(RevokeError::Unavailable) => sleep(RETRY_AFTER).await,
                }
            }
        }
    }

    async fn read_all(self: Arc<Self>) {
        let mut changed = self.lease.changed();
        loop {
            let wait = match self.read().await {
                Ok(()) => {
                    self.known.complete();
                    LOOK_EVERY
                }
                Err(_) => RETRY_AFTER,
            };
            self.known.expire(unix_ms());
            metrics::gauge!("fanlight_revocations").set(amount(self.known.len()));
            select! {
                () = sleep(wait) => {}
                () = self.news.notified() => {}
                Ok(()) = changed.changed() => {
                    // Another master may lack what the former was told last.
                    *self.read_so_far() = Read::default();
                }
            }
        }
    }

    /// Reads what is new; where Redis has begun anew, gives it what this node knows.
    async fn read(&self) -> Result<(), RevokeError> {
        loop {
            let before = self.read_so_far().clone();
            let page = self.page(&before).await?;
            if page.upto.epoch != before.epoch || page.newest < before.number {
                self.store_known().await?;
            }
            for revocation in &page.revocations {
                self.known.add(revocation);
            }
            let is_whole = page.upto.number >= page.newest;
            *self.read_so_far() = page.upto;
            if is_whole {
                return Ok(());
            }
        }
    }

    async fn store_known(&self) -> Result<(), RevokeError> {
        let now = unix_ms();
        let all: Vec<_> =
            self.known.all().into_iter().filter(|one| one.until_unix_ms > now).collect();
        for some in all.chunks(BATCH) {
            match self.store(some).await {
                Ok(()) => {}
                Err(RevokeError::Full) => {
                    tracing::error!("Redis has no room for all that this node knows to be revoked");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn store(&self, revocations: &[Revocation]) -> Result<(), RevokeError> {
        let keys = self.keys();
        let mut arguments = vec![hex(new_epoch()), self.max.to_string()];
        for revocation in revocations {
            arguments.extend(fields(revocation));
        }
        let keys = keys.each_ref().map(Vec::as_slice);
        let arguments: Vec<_> = arguments.iter().map(String::as_bytes).collect();
        let command = scripts::REVOKE.call(&keys, &arguments);
        let answer = self.shards.call_kept(partition(), |_| command).await;
        match answer.and_then(refuse_errors) {
            Ok(Value::Integer(1)) => Ok(()),
            Ok(Value::Integer(0)) => Err(RevokeError::Full),
            Ok(_) | Err(_) => Err(RevokeError::Unavailable),
        }
    }

    async fn page(&self, since: &Read) -> Result<Page, RevokeError> {
        let [state, values, order, _] = self.keys();
        let (number, count) = (since.number.to_string(), PAGE.to_string());
        let arguments = [&since.epoch[..], number.as_bytes(), count.as_bytes()];
        let command = scripts::REVOKED_SINCE.call(&[&state, &values, &order], &arguments);
        let answer = self.shards.call(partition(), |_| command).await;
        let answer =
            answer.and_then(refuse_errors).map_err(|_: PublishError| RevokeError::Unavailable)?;
        Page::of(&answer).ok_or(RevokeError::Unavailable)
    }

    fn keys(&self) -> [Vec<u8>; 4] {
        [STATE, VALUES, ORDER, EXPIRY].map(|kind| self.names.key(partition(), kind, ""))
    }

    fn read_so_far(&self) -> std::sync::MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    /// What can't be read is left out: a later version may say more.
    fn of(answer: &Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let [Value::Bulk(epoch), newest, found @ ..] = &parts[..] else { return None };
        let newest = number_of(newest)?;
        let is_full = found.len() >= 3 * PAGE;
        let number = if is_full { number_of(found.last()?)? } else { newest };
        let read = |fields: &[Value]| revocation(fields[0].as_text()?, fields[1].as_text()?);
        Some(Self {
            upto: Read { epoch: epoch.to_vec(), number },
            newest,
            revocations: found.chunks_exact(3).filter_map(read).collect(),
        })
    }
}

fn number_of(value: &Value) -> Option<u64> {
    value.as_text().and_then(|text| u64::from_str(text).ok())
}

/// What a revocation is in Redis: a letter for its kind and its name, and the two times.
fn fields(Revocation { what, until_unix_ms }: &Revocation) -> [String; 3] {
    let (what, issued) = match what {
        Revoked::Token(id) => (format!("t{id}"), 0),
        Revoked::User { user, issued_until_unix_s } => (format!("u{user}"), *issued_until_unix_s),
    };
    [what, issued.to_string(), until_unix_ms.to_string()]
}

fn revocation(what: &str, value: &str) -> Option<Revocation> {
    let (issued, until) = value.split_once('|')?;
    let (issued_until_unix_s, until_unix_ms) = (issued.parse().ok()?, until.parse().ok()?);
    let what = match (what.strip_prefix('t'), what.strip_prefix('u')) {
        (Some(id), _) => Revoked::Token(id.into()),
        (_, Some(user)) => Revoked::User { user: user.into(), issued_until_unix_s },
        _ => return None,
    };
    Some(Revocation { what, until_unix_ms })
}

fn partition() -> Partition {
    held_partition_of("revocations")
}

fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_le_bytes(bytes))
}

impl fmt::Debug for RedisRevocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRevocations")
            .field("known", &self.0.known.len())
            .finish_non_exhaustive()
    }
}

const STATE: Kind = Kind("rs");
const VALUES: Kind = Kind("rv");
const ORDER: Kind = Kind("rn");
const EXPIRY: Kind = Kind("rx");
/// Revocations that are read at once.
const PAGE: usize = 256;
/// Revocations that are stored at once.
const BATCH: usize = 128;
/// Revocations of sessions' tokens that wait for Redis.
const SOON_MAX: usize = 1024;
/// How often this node looks whether it has missed something.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_read_as_it_is_stored() {
        let token = Revocation { what: Revoked::Token("t|u 1".into()), until_unix_ms: 7 };
        let what = Revoked::User { user: "ann\u{e9}".into(), issued_until_unix_s: 5 };
        for stored in [token, Revocation { what, until_unix_ms: 9 }] {
            let [what, issued, until] = fields(&stored);
            assert_eq!(revocation(&what, &format!("{issued}|{until}")), Some(stored));
        }
        for (what, value) in [("x1", "0|1"), ("t1", ""), ("t1", "0"), ("u", "a|1"), ("", "0|1")] {
            assert_eq!(revocation(what, value), None, "{what} {value}");
        }
    }
}
