//! Revoking: tokens that are not accepted any more, though they are signed and have not expired.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::auth::{Capability, Principal};
use crate::time::Now;

/// That some tokens are refused, for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Which.
    pub what: Revoked,
    /// Until when, in Unix milliseconds. They should have expired by then.
    pub until_unix_ms: u64,
}

/// Which tokens are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// The one with this id.
    Token(Box<str>),
    /// All of a user that were issued until then.
    User {
        /// The user.
        user: Box<str>,
        /// Unix seconds, as `iat` counts: one that was issued in the same second is refused, and
        /// so is one that does not say when it was issued.
        issued_until_unix_s: u64,
    },
}

/// Makes tokens be refused on every node, and ends the sessions that have come by them.
pub trait Revocations: Send + Sync + 'static {
    /// Revokes; resolves once every node that starts from now on knows it, and those that run have
    /// been told.
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'static, Result<(), RevokeError>>;

    /// The same, where nobody waits for it. It is repeated until it is done.
    fn revoke_soon(&self, revocation: Revocation);

    /// What this node knows to be revoked.
    fn known(&self) -> &Arc<RevokedList>;
}

/// Why nothing was revoked, or that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// There is no room.
    #[error(
        "as much is revoked as limits.revocations allows; raise it, or let shorter expiries end some"
    )]
    Full,
    /// Redis can't be reached, or did not answer in time.
    #[error("the revocation can't be stored now; try again")]
    Unavailable,
}

/// What is revoked, as one node knows it; asked for every token.
#[derive(Debug, Default)]
pub struct RevokedList {
    /// How many there are: most nodes have none, and need not look.
    count: AtomicUsize,
    /// Grows with everything that is added.
    version: AtomicU64,
    entries: RwLock<Entries>,
    /// What was revoked before is still to be read.
    is_incomplete: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    /// By id, until when.
    tokens: HashMap<Box<str>, u64>,
    /// By user, issued until when and until when.
    users: HashMap<Box<str>, (u64, u64)>,
}

/// Revocations of a node that is alone.
pub struct MemoryRevocations {
    known: Arc<RevokedList>,
    max: usize,
    clock: Clock,
}

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

impl RevokedList {
    /// That of a node which has still to read what was revoked before it started.
    pub fn incomplete() -> Self {
        Self { is_incomplete: AtomicBool::new(true), ..Self::default() }
    }

    /// Everything that was revoked before has been added.
    pub fn complete(&self) {
        self.is_incomplete.store(false, Ordering::Release);
    }

    /// Whether it says of every token if that is revoked. Until then none is to be accepted.
    pub fn is_complete(&self) -> bool {
        !self.is_incomplete.load(Ordering::Acquire)
    }

    /// Whether whoever brings the token of `principal` is to be refused.
    pub fn covers(&self, principal: &Principal, now: Now) -> bool {
        let Principal { user, subject, token_id, issued_unix_s, .. } = principal;
        let is_by = |user| self.has(token_id.as_deref(), Some(user), *issued_unix_s, now);
        !principal.is_service && (is_by(user) || subject.as_deref().is_some_and(is_by))
    }

    /// Whether a capability is to be refused: itself, or all that its user has.
    pub fn covers_capability(&self, capability: &Capability, now: Now) -> bool {
        let Capability { user, token_id, issued_unix_s, .. } = capability;
        self.has(token_id.as_deref(), user.as_deref(), *issued_unix_s, now)
    }

    fn has(
        &self,
        token_id: Option<&str>,
        user: Option<&str>,
        issued_unix_s: Option<u64>,
        now: Now,
    ) -> bool {
        if self.is_empty() {
            return false;
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let token = token_id.and_then(|id| entries.tokens.get(id));
        if token.is_some_and(|until| *until > now.unix_ms) {
            return true;
        }
        let of_user = user.and_then(|user| entries.users.get(user));
        of_user.is_some_and(|(issued_until, until)| {
            *until > now.unix_ms && issued_unix_s.unwrap_or(0) <= *issued_until
        })
    }

    /// Whether it is revoked already, for whatever time.
    fn has_entry(&self, what: &Revoked) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        match what {
            Revoked::Token(id) => entries.tokens.contains_key(id),
            Revoked::User { user, .. } => entries.users.contains_key(user),
        }
    }

    /// Adds one; of two of the same, whatever reaches further counts. Whether it says anything new.
    pub fn add(&self, revocation: &Revocation) -> bool {
        let Revocation { what, until_unix_ms } = revocation;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = match what {
            Revoked::Token(id) => {
                let until = entries.tokens.entry(id.clone()).or_insert(0);
                let is_new = *until < *until_unix_ms;
                *until = (*until).max(*until_unix_ms);
                is_new
            }
            Revoked::User { user, issued_until_unix_s } => {
                let entry = entries.users.entry(user.clone()).or_insert((0, 0));
                let before = *entry;
                *entry = (entry.0.max(*issued_until_unix_s), entry.1.max(*until_unix_ms));
                *entry != before
            }
        };
        self.count.store(entries.len(), Ordering::Release);
        if is_new {
            self.version.fetch_add(1, Ordering::Release);
        }
        is_new
    }

    /// Grows whenever more is revoked than before: sessions are to be looked at then.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Forgets what is over.
    pub fn expire(&self, now_unix_ms: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.retain(|_, until| *until > now_unix_ms);
        entries.users.retain(|_, (_, until)| *until > now_unix_ms);
        self.count.store(entries.len(), Ordering::Release);
    }

    /// All that there are.
    pub fn all(&self) -> Vec<Revocation> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let tokens = entries.tokens.iter().map(|(id, until)| Revocation {
            what: Revoked::Token(id.clone()),
            until_unix_ms: *until,
        });
        let users = entries.users.iter().map(|(user, (issued_until, until))| Revocation {
            what: Revoked::User { user: user.clone(), issued_until_unix_s: *issued_until },
            until_unix_ms: *until,
        });
        tokens.chain(users).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entries {
    fn len(&self) -> usize {
        self.tokens.len() + self.users.len()
    }
}

impl MemoryRevocations {
    /// None yet, and at most `max`.
    pub fn new(max: usize, clock: Clock) -> Self {
        Self { known: Arc::default(), max, clock }
    }

    fn add(&self, revocation: &Revocation) -> Result<(), RevokeError> {
        self.known.expire((self.clock)().unix_ms);
        if self.known.len() >= self.max && !self.known.has_entry(&revocation.what) {
            return Err(RevokeError::Full);
        }
        self.known.add(revocation);
        Ok(())
    }
}

impl Revocations for MemoryRevocations {
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'static, Result<(), RevokeError>> {
        std::future::ready(self.add(&revocation)).boxed()
    }

    fn revoke_soon(&self, revocation: Revocation) {
        let _ = self.add(&revocation);
    }

    fn known(&self) -> &Arc<RevokedList> {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Grants;

    const UNTIL: u64 = 10_000;

    fn at(unix_ms: u64) -> Now {
        Now { mono_ms: 0, unix_ms }
    }

    fn token(id: &str, until_unix_ms: u64) -> Revocation {
        Revocation { what: Revoked::Token(id.into()), until_unix_ms }
    }

    fn user(user: &str, issued_until_unix_s: u64, until_unix_ms: u64) -> Revocation {
        let what = Revoked::User { user: user.into(), issued_until_unix_s };
        Revocation { what, until_unix_ms }
    }

    #[test]
    fn a_revoked_token_is_refused_until_its_time_and_no_other_is() {
        let list = RevokedList::default();
        let of = |id: Option<&str>| Principal {
            token_id: id.map(Into::into),
            ..Principal::of_user("ann")
        };
        assert!(list.add(&token("t", UNTIL)));
        assert!(!list.add(&token("t", UNTIL - 1)), "the longer counts");
        assert!(list.covers(&of(Some("t")), at(UNTIL - 1)));
        assert!(!list.covers(&of(Some("t")), at(UNTIL)));
        assert!(!list.covers(&of(Some("u")), at(0)) && !list.covers(&of(None), at(0)));
        list.expire(UNTIL);
        assert!(list.is_empty());
    }

    #[test]
    fn a_capability_is_refused_by_its_id_and_with_what_else_its_user_has() {
        let list = RevokedList::default();
        list.add(&token("t", UNTIL));
        list.add(&user("ann", 100, UNTIL));
        let of = |id: &str, user: Option<&str>, issued_unix_s| Capability {
            user: user.map(Into::into),
            grants: Grants::default(),
            expires_unix_s: 200,
            token_id: Some(id.into()),
            issued_unix_s: Some(issued_unix_s),
        };
        for (id, user, issued_at, is_covered) in [
            ("t", None, 101, true),
            ("u", None, 99, false),
            ("u", Some("ann"), 99, true),
            ("u", Some("ann"), 101, false),
        ] {
            let covered = list.covers_capability(&of(id, user, issued_at), at(0));
            assert_eq!(covered, is_covered, "{id} {user:?} {issued_at}");
        }
    }

    #[test]
    fn what_is_revoked_again_needs_no_more_room() {
        let revocations = MemoryRevocations::new(2, Arc::new(|| at(0)));
        let revoke = |one: &Revocation| revocations.add(one);
        assert_eq!(revoke(&token("t", UNTIL)), Ok(()));
        assert_eq!(revoke(&user("ann", 1, UNTIL)), Ok(()));
        assert_eq!(revoke(&token("u", UNTIL)), Err(RevokeError::Full));
        assert_eq!(revoke(&token("t", UNTIL + 1)), Ok(()));
        assert_eq!(revoke(&user("ann", 2, UNTIL)), Ok(()));
        assert_eq!(revocations.known.len(), 2);
    }

    #[test]
    fn of_a_user_what_was_issued_until_then_is_refused_and_what_does_not_say() {
        let list = RevokedList::default();
        list.add(&user("ann", 100, UNTIL));
        list.add(&user("ann", 90, UNTIL + 1));
        let issued =
            |user: &str, issued_unix_s| Principal { issued_unix_s, ..Principal::of_user(user) };
        for (who, issued_at, is_covered) in [
            ("ann", Some(99), true),
            ("ann", Some(100), true),
            ("ann", Some(101), false),
            ("ann", None, true),
            ("bob", Some(1), false),
        ] {
            let covered = list.covers(&issued(who, issued_at), at(UNTIL));
            assert_eq!(covered, is_covered, "{who} {issued_at:?}");
        }
        let service = Principal { is_service: true, ..Principal::of_user("ann") };
        assert!(!list.covers(&service, at(0)), "an account has no token");
        assert_eq!(list.all(), [user("ann", 100, UNTIL + 1)]);
    }
}
