//! Timers by sweeping: every connection is looked at once a second, a slice at a time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fanlight_engine::hub::SessionKey;
use fanlight_engine::session::Activity;
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use slab::Slab;

use super::census::Tally;
use super::departures::Drain;
use super::slot::{Phase, Role, Slot, Unread};
use super::{Ticket, Worker};

/// How often a slice is swept; [`SLICES`] of them make a round.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
const SLICES: usize = 10;

/// Where the sweep stands, and the drain that it paces.
#[derive(Default)]
pub(super) struct Sweep {
    slice: usize,
    /// What each slice held when it was last swept.
    tallies: [Tally; SLICES],
    pub(super) drain: Option<Drain>,
}

impl Sweep {
    /// Whether connections are being closed for a drain.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// A connection has come that was let in before the drain's grace was over.
    pub(super) fn has_come_late(&mut self, ticket: Ticket) {
        if let Some(drain) = &mut self.drain {
            drain.add(ticket);
        }
    }

    /// Whether the drain has ended: nobody is left, neither here nor on the way from a handshake.
    pub(super) fn is_drained(&self, slots: &Slab<Slot>) -> bool {
        self.drain.as_ref().is_some_and(|drain| slots.is_empty() && drain.is_over())
    }
}

impl Worker {
    pub(super) fn on_sweep(&mut self) {
        let now = self.shared.clock.now();
        let slice = self.sweep.slice;
        self.sweep.slice = (slice + 1) % SLICES;
        let (mut at, mut tally) = (slice, Tally::default());
        // Keys rather than an iterator: a swept session may end and leave the slab.
        while at < self.slots.capacity() {
            if self.slots.contains(at) {
                let key = SessionKey(at as u32);
                self.guarded(key, |worker| worker.sweep_one(key, now));
                if let Some(slot) = self.slots.get(at) {
                    tally.add(slot);
                }
            }
            at += SLICES;
        }
        let before = std::mem::replace(&mut self.sweep.tallies[slice], tally);
        self.stats.census.change(&before, &tally);
        let more = tally.connected().wrapping_sub(before.connected());
        self.shared.sessions.fetch_add(more, Ordering::Relaxed);
        if let Some(movable) = self.shared.movable.get(usize::from(self.id.0)) {
            movable.store(self.sweep.tallies.iter().map(Tally::movable).sum(), Ordering::Relaxed);
        }
        self.queues.consumers.sweep(now.mono_ms);
        self.pace_reentry();
        self.pace_revoking(now);
        self.pace_drain(now);
        self.recovery.timelines.on_tick(now);
        self.report();
    }

    pub(super) fn report(&mut self) {
        self.stats.gaps = self.recovery.timelines.take_counts();
        self.stats.conflated = self.conflation.conflation.take_counts();
        self.stats.conflation_bytes = self.conflation.conflation.used_bytes();
        self.stats.subscriptions = (self.hub.len() + self.queues.consumers.len()) as u64;
        self.stats.report();
        self.queues.report();
    }

    fn sweep_one(&mut self, key: SessionKey, now: Now) {
        let Some(slot) = self.slots.get(key.0 as usize) else { return };
        if let Phase::Closing { deadline_ms, .. } = slot.phase {
            if now.mono_ms >= deadline_ms {
                self.remove(key);
            }
            return;
        }
        if self.sweep_mailbox(key, now) {
            return;
        }
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        if slot.is_stuck(now.mono_ms, self.shared.send_time_ms) {
            self.cut(key, CloseReason::SendTimeout, now);
            return;
        }
        if let Role::Session(_) = slot.role {
            if slot.paused && slot.peer_ended {
                let is_owed = now.mono_ms < slot.last_received_ms + OWED_MS;
                match slot.unread() {
                    Unread::Nothing if is_owed => {}
                    Unread::Nothing => return self.on_peer_ended(key, now),
                    Unread::Lost => return self.cut(key, CloseReason::ConnectionLost, now),
                    Unread::Something => {}
                }
            }
            // Whose input waits for us is not accused of silence.
            let heard = slot.paused || slot.is_attended();
            let heard_ms = if heard { now.mono_ms } else { slot.last_received_ms };
            let activity = Activity { last_received_ms: heard_ms, last_sent_ms: slot.last_sent_ms };
            self.with_session(key, now, |session, cx| session.on_sweep(cx, activity));
        }
    }
}

/// For so long a client that sends nothing more is owed the answer to what it sent. A broker takes
/// less, or says that it does not know.
const OWED_MS: u64 = 5_000;
