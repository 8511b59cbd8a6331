//! History reads under way: a few at a time, and many who ask the same at once share one call.
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
use tokio::sync::Semaphore;

/// What a read gives.
pub(crate) type Outcome = Result<Arc<HistoryPage>, HistoryError>;

type Reading = BoxFuture<'static, Outcome>;

/// The reads of one shard.
#[derive(Debug)]
pub(crate) struct Flights {
    latest: Mutex<Latest>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Latest {
    /// Those that others may still join, or must wait for.
    flights: HashMap<Key, Flight>,
    /// How many came for which there was no room, since it was looked who has gone.
    without_room: usize,
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
    pub(crate) fn new() -> Self {
        Self { latest: Mutex::default(), places: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }

    /// The outcome of a read that leaves after this call; `read` makes its call when polled first.
    pub(crate) fn join(
        &self,
        query: &HistoryQuery,
        read: impl Future<Output = Outcome> + Send + 'static,
    ) -> Shared<Reading> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(query);
        let before = latest.flights.get(&key).and_then(|flight| {
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
        let places = Arc::clone(&self.places);
        let reading = async move {
            if let Some(before) = before {
                // Its outcome is that of who asked before.
                let _ = before.await;
            }
            let _place = places.acquire().await.map_err(|_| HistoryError::Unavailable)?;
            leaves.store(true, Ordering::SeqCst);
            read.await
        };
        let outcome = reading.boxed().shared();
        if let Some(outcome) = outcome.downgrade() {
            latest.insert(key, Flight { left, outcome });
        }
        outcome
    }
}

impl Latest {
    /// Without room it can't be joined.
    fn insert(&mut self, key: Key, flight: Flight) {
        if self.flights.len() >= FLIGHTS_MAX && !self.flights.contains_key(&key) {
            // Only now and then, or each of many would look at all the others.
            if self.without_room.is_multiple_of(LOOK_EVERY) {
                self.flights.retain(|_, flight| flight.outcome.upgrade().is_some());
            }
            self.without_room += 1;
            if self.flights.len() >= FLIGHTS_MAX {
                return;
            }
            self.without_room = 0;
        }
        self.flights.insert(key, flight);
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
/// Reads without room between two looks for it.
const LOOK_EVERY: usize = 128;
/// Each may bring a page of a mebibyte, and publications wait for what was asked before them.
const UNDER_WAY_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_engine::broker::Channel;
    use fanlight_proto::Position;
    use tokio::sync::oneshot;

    fn query(destination: &str) -> HistoryQuery {
        HistoryQuery {
            channel: Channel::of_destination(destination.into()),
            destination: destination.parse().unwrap(),
            history: History { size: 1, ttl_ms: 1 },
            range: HistoryRange::Newest,
            limit: 1,
        }
    }

    /// A read that is answered by the sender, and whether it has left.
    fn read() -> (impl Future<Output = Outcome>, oneshot::Sender<u64>, Arc<AtomicBool>) {
        let (answer, answered) = oneshot::channel();
        let left = Arc::new(AtomicBool::new(false));
        let leaves = Arc::clone(&left);
        let read = async move {
            leaves.store(true, Ordering::SeqCst);
            let offset = answered.await.map_err(|_| HistoryError::Unavailable)?;
            let top = Position { epoch: 0, offset };
            Ok(Arc::new(HistoryPage { publications: Vec::new(), top, lost: None }))
        };
        (read, answer, left)
    }

    fn never() -> BoxFuture<'static, Outcome> {
        async { panic!("it should have joined another") }.boxed()
    }

    #[test]
    fn who_asks_while_a_read_is_on_its_way_shares_the_next_one() {
        let flights = Flights::new();
        let offset = |outcome: Option<Outcome>| outcome.map(|page| page.unwrap().top.offset);
        let (read_1, answer_1, left_1) = read();
        let first = flights.join(&query("/topic/a"), read_1);
        let with_first = flights.join(&query("/topic/a"), never());
        assert!(first.clone().now_or_never().is_none() && left_1.load(Ordering::SeqCst));

        let (read_2, answer_2, left_2) = read();
        let second = flights.join(&query("/topic/a"), read_2);
        let with_second = flights.join(&query("/topic/a"), never());
        assert!(second.clone().now_or_never().is_none());
        assert!(!left_2.load(Ordering::SeqCst), "one at a time");

        answer_1.send(1).unwrap();
        drop(first);
        assert!(with_second.clone().now_or_never().is_none());
        assert!(left_2.load(Ordering::SeqCst));
        assert_eq!(offset(with_first.now_or_never()), Some(1));
        answer_2.send(2).unwrap();
        assert_eq!(offset(second.now_or_never()), Some(2));
        assert_eq!(offset(with_second.now_or_never()), Some(2));
    }

    #[test]
    fn what_differs_is_read_by_itself_and_what_was_given_up_is_forgotten() {
        let flights = Flights::new();
        let newest = query("/topic/a");
        let position = Position { epoch: 0, offset: 0 };
        let after = HistoryQuery { range: HistoryRange::After(position), ..newest.clone() };
        let longer = HistoryQuery { limit: 2, ..newest.clone() };
        for query in [&newest, &after, &longer, &query("/topic/b")] {
            let (read, _answer, left) = read();
            assert!(flights.join(query, read).now_or_never().is_none());
            assert!(left.load(Ordering::SeqCst));
        }
        for number in 0..=FLIGHTS_MAX {
            drop(flights.join(&query(&format!("/topic/{number}")), never()));
        }
        assert!(flights.latest.lock().unwrap().flights.len() <= FLIGHTS_MAX);
        let (read, _answer, left) = read();
        assert!(flights.join(&newest, read).now_or_never().is_none());
        assert!(left.load(Ordering::SeqCst), "nobody waits for what was given up");
    }

    #[test]
    fn a_few_are_under_way_at_a_time_and_who_waits_can_still_be_joined() {
        let flights = Flights::new();
        let under_way: Vec<_> = (0..UNDER_WAY_MAX)
            .map(|number| {
                let (read, answer, _) = read();
                let outcome = flights.join(&query(&format!("/topic/{number}")), read);
                assert!(outcome.clone().now_or_never().is_none());
                (outcome, answer)
            })
            .collect();
        let (read, _answer, left) = read();
        let next = flights.join(&query("/topic/a"), read);
        assert!(next.clone().now_or_never().is_none() && !left.load(Ordering::SeqCst));
        let with_next = flights.join(&query("/topic/a"), never());
        drop(under_way);
        assert!(with_next.now_or_never().is_none() && left.load(Ordering::SeqCst));
    }
}
