//! A worker and the registry: what it enters, enters again, and is told to do; and whose tokens are
//! revoked.

use std::collections::HashMap;
use std::sync::Arc;

use fanlight_engine::auth::{AuthError, Principal};
use fanlight_engine::hub::SessionKey;
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Command, Entry, Handle, Order, SessionKind};
use fanlight_engine::revocation::{Revocation, Revoked};
use fanlight_engine::session::{self, Done, Protocol};
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use slab::Slab;
use tokio::sync::oneshot;

use super::Worker;
use super::census::transport_of;
use super::slot::{Role, Slot};
use crate::hooks::Standing;
use crate::session_lookup::Found;

/// Where entering everything again stands.
#[derive(Default)]
pub(super) struct Reentry {
    /// The registry's round that was last begun.
    round: u64,
    /// The next slot; `None` when all are entered.
    next: Option<usize>,
}

/// Where looking for sessions whose tokens are revoked stands.
#[derive(Default)]
pub(super) struct Revoking {
    /// What was known when that last began.
    version: u64,
    next: usize,
    /// How many slots are still to be looked at.
    left: usize,
    /// Of sessions that wait for a backend to agree to what they publish.
    standings: HashMap<SessionKey, Standing, foldhash::fast::RandomState>,
}

impl Revoking {
    /// A session waits for a backend's word about what it publishes.
    pub(super) fn waits(&mut self, key: SessionKey) -> Standing {
        let standing = Standing::default();
        self.standings.insert(key, standing.clone());
        standing
    }

    /// It may wait no more.
    pub(super) fn answered(&mut self, key: SessionKey, done: &Done) {
        if matches!(done, Done::Published(_)) {
            self.standings.remove(&key);
        }
    }

    /// A session ends, and perhaps with what it waits for.
    pub(super) fn ended(&mut self, key: SessionKey, reason: CloseReason) {
        let standing = self.standings.remove(&key);
        if let Some(standing) = standing.filter(|_| reason == CloseReason::Revoked) {
            standing.revoke();
        }
    }
}

impl Worker {
    /// A session as the registry knows it.
    pub(super) fn entry(&self, key: SessionKey, user: Option<Arc<str>>) -> Option<Entry> {
        let slot = self.slots.get(key.0 as usize)?;
        let Role::Session(session) = &slot.role else { return None };
        let handle = Handle { worker: self.id, slot: key.0, serial: slot.serial };
        let is_stomp = matches!(session.protocol(), Some(Protocol::Stomp(_)));
        let kind = SessionKind { transport: transport_of(slot), is_stomp };
        Some(Entry { user, session: session.id(), handle, is_limited: true, kind })
    }

    /// Tells of a session, if it is here and has connected.
    pub(super) fn tell_of(&self, session: SessionId, reply: oneshot::Sender<Found>) {
        if let Some(found) = self.found(session) {
            let _ = reply.send(found);
        }
    }

    fn found(&self, session: SessionId) -> Option<Found> {
        let key = find(&self.slots, session, None)?;
        let slot = self.slots.get(key.0 as usize).filter(|slot| slot.is_connected())?;
        let Role::Session(session) = &slot.role else { return None };
        let user = session.principal().map(|principal| Arc::clone(&principal.user));
        let entry = self.entry(key, user)?;
        Some(Found {
            since_unix_ms: entry.since_unix_ms(),
            transport: entry.kind.transport.name().to_owned(),
            protocol: entry.kind.protocol().to_owned(),
            address: slot.admitted.address().map(|address| address.to_string()),
            subscriptions: session.subscription_count(),
            user: entry.user.map(|user| user.to_string()),
        })
    }

    /// Does to a session what is ordered; that may have come too late.
    pub(super) fn obey(&mut self, order: Order) {
        let Some(key) = find(&self.slots, order.session, order.handle) else { return };
        if !self.slots.get(key.0 as usize).is_some_and(Slot::is_open) {
            return;
        }
        let now = self.shared.clock.now();
        self.guarded(key, |worker| match order.command {
            Command::End { reason, message } => worker.fault(key, reason, &message, now),
            Command::Revoke { until_unix_ms } => worker.revoke(key, until_unix_ms, now),
            Command::Subscribe(to) => worker.order(key, session::Order::Subscribe(to), now),
            Command::Unsubscribe(to) => worker.order(key, session::Order::Unsubscribe(to), now),
        });
    }

    fn order(&mut self, key: SessionKey, order: session::Order, now: Now) {
        let mut is_taken = true;
        self.with_session(key, now, |session, cx| is_taken = session.on_order(cx, order));
        if !is_taken {
            metrics::counter!("fanlight_orders_dropped_total").increment(1);
        }
    }

    /// Ends a session and has its token refused from now on.
    fn revoke(&mut self, key: SessionKey, until_unix_ms: u64, now: Now) {
        let token = self.claimant(key).and_then(|principal| principal.token_id.clone());
        if let Some(id) = token {
            let what = Revoked::Token(id);
            self.shared.revocations.revoke_soon(Revocation { what, until_unix_ms });
        }
        self.fault(key, CloseReason::Revoked, REVOKED, now);
    }

    /// Whether the token that a session has come by, or is coming by, is revoked, or a capability
    /// that it subscribes by.
    pub(super) fn is_revoked(&self, key: SessionKey, now: Now) -> bool {
        let known = self.shared.revocations.known();
        if known.is_empty() {
            return false;
        }
        let is_claimant = self.claimant(key).is_some_and(|own| known.covers(own, now));
        is_claimant
            || self.session(key).is_some_and(|session| {
                session.capabilities().any(|own| known.covers_capability(own, now))
            })
    }

    /// What was found good may have been revoked before its answer came here, behind the look at
    /// those who have it.
    pub(super) fn unless_revoked(&self, done: Done, now: Now) -> Done {
        let known = self.shared.revocations.known();
        match done {
            Done::Authenticated(Ok(own)) if known.covers(&own, now) => {
                Done::Authenticated(Err(AuthError::Revoked))
            }
            Done::Authorized(Ok(own)) if known.covers_capability(&own, now) => {
                Done::Authorized(Err(AuthError::Revoked))
            }
            done => done,
        }
    }

    fn claimant(&self, key: SessionKey) -> Option<&Principal> {
        self.session(key)?.claimant().map(|principal| &**principal)
    }

    /// Once more is revoked than before, ends the sessions that have come by it: looks at some in
    /// each turn, until it has looked at all.
    pub(super) fn pace_revoking(&mut self, now: Now) {
        let version = self.shared.revocations.known().version();
        if version != self.revoking.version {
            // From where it is: the others are looked at in the next round.
            self.revoking.version = version;
            self.revoking.left = self.slots.capacity();
        }
        for _ in 0..self.revoking.left.min(LOOKS_EACH) {
            self.revoking.left -= 1;
            let at = self.revoking.next;
            self.revoking.next = if at + 1 < self.slots.capacity() { at + 1 } else { 0 };
            let key = SessionKey(at as u32);
            let is_open = self.slots.get(at).is_some_and(Slot::is_open);
            if is_open && self.is_revoked(key, now) {
                self.guarded(key, |worker| {
                    worker.fault(key, CloseReason::Revoked, REVOKED, now);
                });
            }
        }
    }

    /// Enters sessions again when the registry asks for it: some in each turn, as far as there is
    /// room.
    pub(super) fn pace_reentry(&mut self) {
        let round = self.shared.registry.round();
        if round != self.reentry.round {
            self.reentry = Reentry { round, next: Some(0) };
        }
        let Some(first) = self.reentry.next else { return };
        let mut entered = 0;
        for at in first..self.slots.capacity() {
            let key = SessionKey(at as u32);
            let user = match self.slots.get(at).map(|slot| &slot.role) {
                Some(Role::Session(session)) if session.is_connected() => {
                    session.principal().map(|principal| Arc::clone(&principal.user))
                }
                _ => continue,
            };
            let Some(entry) = self.entry(key, user) else { continue };
            if entered == REENTRIES_EACH || !self.shared.registry.reenter(entry) {
                self.reentry.next = Some(at);
                return;
            }
            entered += 1;
        }
        self.reentry.next = None;
    }
}

/// The slot of a session, which may be known to have been there.
fn find(slots: &Slab<Slot>, session: SessionId, handle: Option<Handle>) -> Option<SessionKey> {
    let is_it = |slot: &Slot| match &slot.role {
        Role::Session(own) => own.id() == session,
        Role::Echo(_) => false,
    };
    let at = match handle {
        Some(handle) => {
            let at = handle.slot as usize;
            slots.get(at).filter(|slot| slot.serial == handle.serial && is_it(slot))?;
            at
        }
        // Rare, and nothing else leads from an id to its slot.
        None => slots.iter().find(|(_, slot)| is_it(slot))?.0,
    };
    Some(SessionKey(at as u32))
}

/// What a client is told whose token is revoked.
pub(super) const REVOKED: &str = "the token was revoked; fetch a new one";
/// Slots that are looked at for revoked tokens in one turn: a worker with 100,000 is done in half a
/// second.
const LOOKS_EACH: usize = 20_000;
/// Sessions that are entered again in one turn, of which there are ten in a second.
const REENTRIES_EACH: usize = 1000;
