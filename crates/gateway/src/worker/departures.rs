//! Sessions that go to other nodes: all of them in a drain, some where this node has too many.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::hub::SessionKey;
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use rand::seq::SliceRandom;

use super::slot::{Phase, Role, Slot};
use super::{CLOSE_TIME, Ticket, Worker};
use crate::admission::Admission;

/// A drain under way.
pub(super) struct Drain {
    window: Duration,
    /// Until the rest is cut, after the window.
    deadline: Duration,
    started_ms: u64,
    /// Who is still to go, shuffled, so that no group of users goes at once.
    remaining: Vec<Ticket>,
    total: usize,
    /// Those of all workers, and those on the way to one.
    let_in: Arc<Admission>,
}

/// Why a session goes.
#[derive(Debug, Clone, Copy)]
enum Why {
    Draining,
    Rebalanced,
}

impl Drain {
    /// One more, whose handshake was under way when the drain began. `total` stays: so one goes at
    /// once, whoever is last, and the others keep their pace.
    pub(super) fn add(&mut self, ticket: Ticket) {
        self.remaining.push(ticket);
        let last = self.remaining.len() - 1;
        self.remaining.swap(rand::random_range(0..=last), last);
    }

    /// Whether nobody is left anywhere on this node.
    pub(super) fn is_over(&self) -> bool {
        self.let_in.connections() == 0
    }
}

impl Worker {
    /// Begins to close every connection, evenly over `window`. After that, who waits for an answer
    /// has half of `deadline` for it: so there is time for a goodbye.
    pub(super) fn begin_drain(
        &mut self,
        window: Duration,
        deadline: Duration,
        let_in: Arc<Admission>,
    ) {
        let mut remaining = self.tickets(|_| true);
        remaining.shuffle(&mut rand::rng());
        let total = remaining.len();
        let now = self.shared.clock.now();
        let started_ms = now.mono_ms;
        self.sweep.drain = Some(Drain { window, deadline, started_ms, remaining, total, let_in });
        self.hasten_ends(now);
        self.pace_drain(now);
    }

    /// What had ended before a drain does not hold it up.
    fn hasten_ends(&mut self, now: Now) {
        let last_ms = now.mono_ms + CLOSE_TIME.as_millis() as u64;
        for (_, slot) in &mut self.slots {
            if let Phase::Closing { deadline_ms, .. } = &mut slot.phase {
                *deadline_ms = last_ms.min(*deadline_ms);
            }
        }
        for ticket in self.tickets(Slot::has_told_end) {
            self.end_if_closed(ticket.key);
        }
    }

    /// Closes those connections whose time in the drain has come.
    pub(super) fn pace_drain(&mut self, now: Now) {
        let Some(drain) = &mut self.sweep.drain else { return };
        let window_ms = drain.window.as_millis() as u64;
        let elapsed_ms = now.mono_ms - drain.started_ms;
        let over = elapsed_ms >= window_ms;
        let due =
            if over { drain.total } else { drain.total * elapsed_ms as usize / window_ms as usize };
        let deadline_ms = drain.deadline.as_millis() as u64;
        let last_ms = drain.started_ms + window_ms + deadline_ms / 2;
        let until_ms = last_ms.min(now.mono_ms + deadline_ms);
        let keep = (drain.total - due).min(drain.remaining.len());
        for ticket in drain.remaining.split_off(keep) {
            self.send_away(ticket, Why::Draining, until_ms, now);
        }
        if over {
            // Whose answer takes too long.
            for ticket in self.tickets(Slot::is_open) {
                self.send_away(ticket, Why::Draining, until_ms, now);
            }
        }
    }

    fn tickets(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<Ticket> {
        let slots = self.slots.iter().filter(|(_, slot)| wanted(slot));
        slots.map(|(at, slot)| Ticket { key: SessionKey(at as u32), serial: slot.serial }).collect()
    }

    /// Sends so many sessions to other nodes, at once, whichever they are of those that may go; how
    /// many that were.
    pub(super) fn shed(&mut self, count: usize) -> usize {
        let mut tickets = self.tickets(Slot::is_movable);
        let now = self.shared.clock.now();
        let (chosen, _) = tickets.partial_shuffle(&mut rand::rng(), count);
        metrics::counter!("fanlight_rebalanced_sessions_total").increment(chosen.len() as u64);
        for ticket in &*chosen {
            self.send_away(*ticket, Why::Rebalanced, now.mono_ms + ANSWER_MS, now);
        }
        chosen.len()
    }

    fn send_away(&mut self, ticket: Ticket, why: Why, until_ms: u64, now: Now) {
        let Some(slot) = self.slots.get(ticket.key.0 as usize) else { return };
        if slot.serial != ticket.serial {
            return;
        }
        match slot.role {
            // It closes by itself once its client has the answer that it waits for.
            Role::Session(_) => self.guarded(ticket.key, |worker| {
                worker.with_session(ticket.key, now, |session, cx| match why {
                    Why::Draining => session.on_drain(cx, RECONNECT_AFTER_MS, until_ms),
                    Why::Rebalanced => session.on_rebalance(cx, RECONNECT_AFTER_MS, until_ms),
                });
            }),
            Role::Echo(_) => self.close(ticket.key, CloseReason::Draining, now),
        }
    }
}

/// Reconnects may come at once: the pace at which sessions go spreads them.
const RECONNECT_AFTER_MS: u64 = 500;
/// How long a session that goes to another node may wait for the answer to its request.
const ANSWER_MS: u64 = 5_000;
