//! Single flight of history reads: many who ask the same at once share one call.
//!
//! A read that was already on its way when somebody asks may be older than what he must see: he
//! has just subscribed, and what was published before is to be in what he reads. So he does not
//! join that one but the next, which leaves when it is answered, with all who have asked by then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fanlight_engine::history::{History, HistoryError, HistoryPage, HistoryQuery, HistoryRange};
use fanlight_proto::Destination;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// What a read gives.
pub(crate) type Outcome = Result<Arc<HistoryPage>, HistoryError>;

type Reading = BoxFuture<'static, Outcome>;

/// The reads that others may still join, or must wait for.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    latest: Mutex<HashMap<Key, Flight>>,
}

/// What makes two queries the same; the channel follows from the destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    destination: Destination,
    size: u32,
    ttl_ms: u64,
    /// Epoch and offset, or the newest.
    after: Option<(u64, u64)>,
    limit: u32,
}

#[derive(Debug)]
struct Flight {
    left: Arc<AtomicBool>,
    /// Gone when all who waited have gone.
    outcome: WeakShared<Reading>,
}

impl Flights {
    /// The outcome of a read that leaves after this call; `read` makes its call when polled first.
    pub(crate) fn join(
        &self,
        query: &HistoryQuery,
        read: impl Future<Output = Outcome> + Send + 'static,
    ) -> Shared<Reading> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(query);
        let before = latest.get(&key).and_then(|flight| {
            let outcome = flight.outcome.upgrade()?;
            Some((outcome, flight.left.load(Ordering::SeqCst)))
        });
        let before = match before {
            Some((outcome, false)) => return outcome,
            Some((outcome, true)) => Some(outcome),
            None => None,
        };
        let left = Arc::new(AtomicBool::new(false));
        let leaves = Arc::clone(&left);
        let reading = async move {
            if let Some(before) = before {
                // Its outcome is that of who asked before.
                let _ = before.await;
            }
            leaves.store(true, Ordering::SeqCst);
            read.await
        };
        let outcome = reading.boxed().shared();
        if latest.len() >= FLIGHTS_MAX {
            latest.retain(|_, flight| flight.outcome.upgrade().is_some());
        }
        if latest.len() < FLIGHTS_MAX
            && let Some(outcome) = outcome.downgrade()
        {
            latest.insert(key, Flight { left, outcome });
        }
        outcome
    }
}

impl Key {
    fn of(query: &HistoryQuery) -> Self {
        let HistoryQuery { destination, history: History { size, ttl_ms }, limit, .. } = query;
        let after = match query.range {
            HistoryRange::After(position) => Some((position.epoch, position.offset)),
            HistoryRange::Newest => None,
        };
        Self {
            destination: destination.clone(),
            size: *size,
            ttl_ms: *ttl_ms,
            after,
            limit: *limit,
        }
    }
}

/// Further reads each make their own call.
const FLIGHTS_MAX: usize = 1024;
