//! The streams in Redis: each is held by one node at a time, which delivers what it has.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanlight_redis::{EventFeed, EventId, EventPlace, EventStream, RedisBroker};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::Delivery;
use super::hand::Hand;
use super::{About, Event, Subscriber};

/// Delivers the events of one stream to one webhook, while this node holds it.
#[derive(Clone)]
struct Pump {
    feed: Arc<EventFeed>,
    delivery: Arc<Delivery>,
    stream: EventStream,
    /// How long a stream stays a node's that has gone silent.
    lease: Duration,
    stop: CancellationToken,
}

/// Begins to deliver to `subscriber` what any of the streams has.
pub(super) fn start(
    broker: &RedisBroker,
    lease: Duration,
    subscriber: &Arc<Subscriber>,
    (tracker, stop): (&TaskTracker, &CancellationToken),
) {
    let group = format!("{GROUP_PREFIX}{}", subscriber.webhook.name());
    let feed = Arc::new(EventFeed::new(broker, &group));
    let delivery = Delivery::new(subscriber);
    for stream in EventFeed::streams() {
        let (feed, delivery) = (Arc::clone(&feed), Arc::clone(&delivery));
        let pump = Pump { feed, delivery, stream, lease, stop: stop.clone() };
        tracker.spawn(async move {
            let stop = pump.stop.clone();
            if stop.run_until_cancelled(pump.run()).await.is_none() {
                pump.feed.give_up(stream).await;
            }
        });
    }
    let stop = stop.clone();
    tracker.spawn(async move { stop.run_until_cancelled(delivery.report()).await });
}

impl Pump {
    async fn run(&self) {
        // Not all nodes at once, nor one of them all streams.
        sleep((self.lease / 3).mul_f64(rand::random_range(0.0..1.0))).await;
        loop {
            let asked = Instant::now();
            if matches!(self.feed.hold(self.stream, self.lease).await, Ok(true)) {
                self.pump(asked + self.lease).await;
                self.delivery.forget(self.stream.number());
            }
            sleep((self.lease / 3).mul_f64(rand::random_range(0.8..1.2))).await;
        }
    }

    /// Delivers until another node may have the stream.
    async fn pump(&self, until: Instant) {
        let mut deliver = pin!(self.deliver_all());
        let mut keep = pin!(self.keep(until));
        tokio::select! {
            () = &mut deliver => {}
            () = &mut keep => {}
        }
    }

    async fn keep(&self, mut until: Instant) {
        loop {
            sleep(self.lease / 3).await;
            let asked = Instant::now();
            let held = tokio::select! {
                held = self.feed.hold(self.stream, self.lease) => held,
                () = sleep_until(until) => return,
            };
            match held {
                Ok(true) => until = asked + self.lease,
                Ok(false) => return,
                Err(_) if Instant::now() >= until => return,
                Err(_) => {}
            }
        }
    }

    async fn deliver_all(&self) {
        while self.feed.begin(self.stream).await.is_err() {
            sleep(RETRY_AFTER).await;
        }
        let mut hand = Hand::new(&self.delivery, self.stream.number());
        let mut course = Course::new();
        loop {
            let has_room = hand.room() > 0;
            if has_room && Instant::now() >= course.read_at {
                self.read(&mut hand, &mut course).await;
            } else {
                tokio::select! {
                    () = hand.settled() => {}
                    () = sleep_until(course.read_at), if has_room => {}
                    // It may take as long as the backend is away until there is room.
                    () = sleep_until(course.look_at), if !has_room => {
                        self.look_beside(&mut hand, &mut course).await;
                    }
                }
            }
            self.acknowledge(&mut hand, &mut course).await;
        }
    }

    /// Takes what the stream has next. What it takes is not acknowledged before it is told: so the
    /// next holder begins with what this one still has in hand.
    async fn read(&self, hand: &mut Hand, course: &mut Course) {
        // Before more is read: what is dropped unread is seen only until then.
        if course.is_behind || Instant::now() >= course.look_at {
            self.look_beside(hand, course).await;
        }
        let count = hand.room().min(AT_ONCE);
        let read = hand.beside(self.feed.read(self.stream, count, &mut course.place)).await;
        let Ok((events, lost)) = read else {
            course.read_at = Instant::now() + RETRY_AFTER;
            return;
        };
        let is_in_hand = |id: &EventId| course.in_hand.values().any(|own| own == id);
        self.delivery.lose(lost.iter().filter(|id| !is_in_hand(id)).count() as u64);
        course.is_behind = events.len() == count;
        if events.is_empty() {
            self.delivery.waiting(self.stream.number(), 0);
            course.read_at = Instant::now() + course.idle;
            course.idle = (course.idle * 2).min(IDLE_MAX);
            return;
        }
        (course.idle, course.read_at) = (IDLE_MIN, Instant::now());
        let mut taken = Vec::new();
        for event in events {
            let id = event.id.clone();
            match of_redis(event).filter(|event| self.delivery.wants(event)) {
                None => course.done.push(id),
                // It was given again, and is told already.
                Some(event) if course.in_hand.contains_key(&event.id) => {}
                Some(event) => {
                    course.in_hand.insert(event.id.clone(), id);
                    taken.push(event);
                }
            }
        }
        hand.take(taken);
    }

    /// Has what is told, or for nobody, not given again.
    async fn acknowledge(&self, hand: &mut Hand, course: &mut Course) {
        let told = hand.told();
        course.done.extend(told.iter().filter_map(|id| course.in_hand.get(id).cloned()));
        while hand.beside(self.feed.ack(self.stream, &course.done)).await.is_err() {
            hand.beside(sleep(RETRY_AFTER)).await;
        }
        course.done.clear();
        for id in told {
            course.in_hand.remove(&id);
        }
    }

    async fn look_beside(&self, hand: &mut Hand, course: &mut Course) {
        let is_seen = hand.beside(self.look()).await;
        let again = if is_seen { LOOK_EVERY } else { RETRY_AFTER };
        course.look_at = Instant::now() + again;
    }

    /// Tells how many wait and how many were lost, if that is known.
    async fn look(&self) -> bool {
        let Ok(backlog) = self.feed.backlog(self.stream).await else { return false };
        self.delivery.lose(backlog.lost);
        self.delivery.waiting(self.stream.number(), backlog.waiting);
        true
    }
}

/// How far a stream is read.
struct Course {
    place: EventPlace,
    /// The events in hand, and those told that Redis does not know of yet.
    in_hand: HashMap<Box<str>, EventId>,
    /// What is to be acknowledged.
    done: Vec<EventId>,
    /// When to read on.
    read_at: Instant,
    /// How soon to look again where there is nothing.
    idle: Duration,
    /// Whether there is more than was read.
    is_behind: bool,
    /// When to look how many wait.
    look_at: Instant,
}

impl Course {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            place: EventPlace::default(),
            in_hand: HashMap::new(),
            done: Vec::new(),
            read_at: now,
            idle: IDLE_MIN,
            is_behind: false,
            look_at: now,
        }
    }
}

/// `None` for what a later version tells.
fn of_redis(event: fanlight_redis::Event) -> Option<Event> {
    let fanlight_redis::Event { id, kind, at_unix_ms, node, session, user, destination, reason } =
        event;
    let about = About { session, user, destination, reason, owner: node };
    Some(Event { id: format!("evt_{id}").into(), kind: kind.parse().ok()?, at_unix_ms, about })
}

/// The consumer group of a webhook is this and its name.
const GROUP_PREFIX: &str = "fanlight:webhook:";
/// Events of one stream that are read together.
const AT_ONCE: usize = 64;
/// How soon to look again where there is nothing.
const IDLE_MIN: Duration = Duration::from_millis(50);
const IDLE_MAX: Duration = Duration::from_millis(800);
/// How often to look how many wait, and whether some were lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(500);
