//! The events that one part of a webhook's delivery has in hand: those of a session are told one
//! after the other, and one that is not taken holds up only what is behind it in the same session.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::Event;
use super::delivery::{Delivery, Held, Outcome};

/// What is being told, and what waits behind it.
pub(super) struct Hand {
    delivery: Arc<Delivery>,
    part: u8,
    /// Of webhooks that are told many at once: what comes next, of all sessions that have no lane.
    queue: VecDeque<Held>,
    /// Whether some of these are being told.
    is_telling: bool,
    /// What waits behind an event of the same session that is being told, or not taken.
    lanes: HashMap<Box<str>, VecDeque<Held>>,
    under_way: FuturesUnordered<BoxFuture<'static, Step>>,
    /// How many events these are.
    being_told: usize,
    /// When each came about that is in hand, in the order in which they came.
    since: BTreeMap<u64, u64>,
    /// The number of the next one.
    next: u64,
    /// What is done with.
    told: Vec<Box<str>>,
}

/// What came of some events: those of a lane, or else of the queue.
struct Step {
    lane: Option<Box<str>>,
    outcome: Outcome,
}

impl Hand {
    pub(super) fn new(delivery: &Arc<Delivery>, part: u8) -> Self {
        Self {
            delivery: Arc::clone(delivery),
            part,
            queue: VecDeque::new(),
            is_telling: false,
            lanes: HashMap::new(),
            under_way: FuturesUnordered::new(),
            being_told: 0,
            since: BTreeMap::new(),
            next: 0,
            told: Vec::new(),
        }
    }

    /// How many more events it takes.
    pub(super) fn room(&self) -> usize {
        IN_HAND_MAX.saturating_sub(self.since.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Takes events to tell, in the order in which they came about.
    pub(super) fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let held = Held { number: self.next, event };
            self.next += 1;
            self.since.insert(held.number, held.event.at_unix_ms);
            let of = held.event.lane();
            if let Some(behind) = self.lanes.get_mut(of) {
                behind.push_back(held);
            } else if self.delivery.batch() > 1 {
                self.queue.push_back(held);
            } else {
                let of: Box<str> = of.into();
                self.lanes.insert(of.clone(), VecDeque::new());
                self.tell(Some(of), vec![held]);
            }
        }
        self.go_on();
    }

    /// The ids of what was told or dropped since this was last asked.
    pub(super) fn told(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.told)
    }

    /// Until something was told, or dropped, or found not to be taken. It may be given up.
    pub(super) async fn settled(&mut self) {
        match self.under_way.next().await {
            Some(step) => self.settle(step),
            None => pending().await,
        }
        while let Some(Some(step)) = self.under_way.next().now_or_never() {
            self.settle(step);
        }
    }

    /// The outcome of `work`, beside which it tells what it has.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.tell_on() => match never {},
        }
    }

    async fn tell_on(&mut self) -> Infallible {
        loop {
            self.settled().await;
        }
    }

    fn settle(&mut self, Step { lane, outcome }: Step) {
        let Outcome { told, parked } = outcome;
        self.being_told -= told.len() + parked.len();
        for held in told {
            self.since.remove(&held.number);
            self.told.push(held.event.id);
        }
        if let Some(of) = lane {
            self.go_on_with(of);
        } else {
            self.is_telling = false;
            self.park(parked);
        }
        self.go_on();
    }

    /// Gives the sessions of what is not taken a lane each, with what has come behind.
    fn park(&mut self, parked: Vec<Held>) {
        let mut begun = Vec::new();
        for held in parked {
            let of = held.event.lane();
            if !self.lanes.contains_key(of) {
                begun.push(Box::from(of));
                self.lanes.insert(of.into(), VecDeque::new());
            }
            self.lanes.entry(held.event.lane().into()).or_default().push_back(held);
        }
        for held in std::mem::take(&mut self.queue) {
            match self.lanes.get_mut(held.event.lane()) {
                Some(behind) => behind.push_back(held),
                None => self.queue.push_back(held),
            }
        }
        for of in begun {
            // By itself, or what is behind it would be told over and over with it.
            let first = self.lanes.get_mut(&of).and_then(VecDeque::pop_front);
            self.tell(Some(of), first.into_iter().collect());
        }
    }

    fn go_on_with(&mut self, of: Box<str>) {
        let Some(behind) = self.lanes.get_mut(&of) else { return };
        if behind.is_empty() {
            self.lanes.remove(&of);
            return;
        }
        let count = behind.len().min(self.delivery.batch());
        let events = behind.drain(..count).collect();
        self.tell(Some(of), events);
    }

    fn go_on(&mut self) {
        if !self.is_telling && !self.queue.is_empty() {
            let count = self.queue.len().min(self.delivery.batch());
            let events = self.queue.drain(..count).collect();
            self.is_telling = true;
            self.tell(None, events);
        }
        let oldest = self.since.first_key_value().map(|(_, at_unix_ms)| *at_unix_ms);
        let behind = self.since.len() - self.being_told;
        self.delivery.in_hand(self.part, oldest, behind as u64);
    }

    fn tell(&mut self, lane: Option<Box<str>>, events: Vec<Held>) {
        self.being_told += events.len();
        let delivery = Arc::clone(&self.delivery);
        let may_park = lane.is_none();
        let telling = async move {
            let outcome = delivery.tell_some(events, may_park).await;
            Step { lane, outcome }
        };
        self.under_way.push(telling.boxed());
    }
}

/// The most events that are in hand at once: beyond these, nothing more is read until one is taken.
const IN_HAND_MAX: usize = 512;
