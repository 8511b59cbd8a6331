//! A worker and the registry: what it enters, enters again, and is told to end.

use std::sync::Arc;

use fanlight_engine::hub::SessionKey;
use fanlight_engine::registry::{Entry, Handle, Order};
use slab::Slab;

use super::Worker;
use super::slot::{Role, Slot};

/// Where entering everything again stands.
#[derive(Default)]
pub(super) struct Reentry {
    /// The registry's round that was last begun.
    round: u64,
    /// The next slot; `None` when all are entered.
    next: Option<usize>,
}

impl Worker {
    /// A session as the registry knows it.
    pub(super) fn entry(&self, key: SessionKey, user: Option<Arc<str>>) -> Option<Entry> {
        let slot = self.slots.get(key.0 as usize)?;
        let Role::Session(session) = &slot.role else { return None };
        let handle = Handle { worker: self.id, slot: key.0, serial: slot.serial };
        Some(Entry { user, session: session.id(), handle, is_limited: true })
    }

    /// Ends a session for an order, which may have come too late.
    pub(super) fn obey(&mut self, order: &Order) {
        let Some(key) = find(&self.slots, order) else { return };
        let now = self.shared.clock.now();
        self.guarded(key, |worker| {
            let is_open = worker.slots.get(key.0 as usize).is_some_and(Slot::is_open);
            if is_open {
                worker.fault(key, order.reason, &order.message, now);
            }
        });
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

/// The slot of the session that an order is about.
fn find(slots: &Slab<Slot>, order: &Order) -> Option<SessionKey> {
    let is_it = |slot: &Slot| match &slot.role {
        Role::Session(session) => session.id() == order.session,
        Role::Echo(_) => false,
    };
    let at = match order.handle {
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

/// Sessions that are entered again in one turn, of which there are ten in a second.
const REENTRIES_EACH: usize = 1000;
