//! The asks of this node that wait for answers, and which asks of others were here before.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanlight_engine::peers::PeerError;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::meters;

/// Those of this node that wait.
#[derive(Debug)]
pub(super) struct Asks {
    state: Mutex<State>,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Bytes, PeerError>>>,
}

/// One of them; it stops waiting when this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    asks: Arc<Asks>,
    pub(super) number: u64,
    pub(super) answer: oneshot::Receiver<Result<Bytes, PeerError>>,
}

impl Asks {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max })
    }

    /// `None` when too many wait.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Waiting> {
        let mut state = self.state();
        if state.waiting.len() >= self.max {
            return None;
        }
        state.last += 1;
        let number = state.last;
        let (sender, answer) = oneshot::channel();
        state.waiting.insert(number, sender);
        meters::pending(state.waiting.len());
        Some(Waiting { asks: Arc::clone(self), number, answer })
    }

    /// An answer has come; whether anybody still waited for it.
    pub(super) fn answered(&self, number: u64, outcome: Result<Bytes, PeerError>) -> bool {
        let waiting = self.state().waiting.remove(&number);
        waiting.is_some_and(|waiting| waiting.send(outcome).is_ok())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.asks.state();
        state.waiting.remove(&self.number);
        meters::pending(state.waiting.len());
    }
}

/// Which asks of other nodes were here before, by who asked. Each numbers its asks in order, and
/// they come nearly so: those far behind the newest are taken for repeated.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<Uuid, Window>);

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    newest: u64,
    /// Bit `n`: whether the one `n` before the newest was here.
    bits: u128,
}

impl Seen {
    /// Whether this one is new.
    pub(super) fn is_new(&mut self, asker: Uuid, number: u64) -> bool {
        let Window { newest, bits } = self.0.entry(asker).or_default();
        if number > *newest {
            let ahead = u32::try_from(number - *newest).unwrap_or(u32::MAX);
            *bits = bits.checked_shl(ahead).unwrap_or(0) | 1;
            *newest = number;
            return true;
        }
        let behind = u32::try_from(*newest - number).unwrap_or(u32::MAX);
        let Some(bit) = 1_u128.checked_shl(behind) else { return false };
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }

    /// Forgets askers that are gone, once there are many.
    pub(super) fn prune(&mut self, living: impl FnOnce() -> HashSet<Uuid>) {
        if self.0.len() >= ASKERS_MAX {
            let living = living();
            self.0.retain(|asker, _| living.contains(asker));
        }
    }
}

/// Askers that are known before those that are gone are forgotten.
const ASKERS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_who_waits_once_and_nobody_later() {
        let asks = Asks::new(2);
        let (mut one, two) = (asks.begin().unwrap(), asks.begin().unwrap());
        assert!(asks.begin().is_none(), "two may wait");
        assert!(asks.answered(one.number, Ok(Bytes::from_static(b"1"))));
        assert!(!asks.answered(one.number, Ok(Bytes::from_static(b"again"))));
        assert_eq!(one.answer.try_recv(), Ok(Ok(Bytes::from_static(b"1"))));
        let late = two.number;
        drop(two);
        assert!(!asks.answered(late, Ok(Bytes::new())));
        drop(one);
        assert!(asks.begin().is_some_and(|three| three.number == 3));
    }

    #[test]
    fn an_ask_is_new_once_in_whatever_order_it_comes() {
        let mut seen = Seen::default();
        let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let table = [
            (ann, 1, true),
            (ann, 1, false),
            (ann, 3, true),
            (ann, 2, true),
            (ann, 2, false),
            (bob, 2, true),
            (ann, 130, true),
            (ann, 3, false),
            (ann, 4, true),
            (ann, 1_000_000, true),
            (ann, 130, false),
            (ann, 999_999, true),
            (ann, u64::MAX, true),
            (ann, u64::MAX, false),
            (ann, 0, false),
            (bob, 3, true),
        ];
        for (at, (asker, number, is_new)) in table.into_iter().enumerate() {
            assert_eq!(seen.is_new(asker, number), is_new, "line {at}: {number}");
        }
        seen.prune(|| unreachable!("there are few"));
        for asker in 10..10 + ASKERS_MAX as u128 {
            seen.is_new(Uuid::from_u128(asker), 1);
        }
        seen.prune(|| HashSet::from([bob]));
        assert!(!seen.is_new(bob, 3) && seen.is_new(ann, 1));
    }
}
