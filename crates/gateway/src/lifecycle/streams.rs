//! The streams in Redis: each is held by one node at a time, which delivers what it has.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanlight_redis::{EventFeed, EventStream, RedisBroker};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::Delivery;
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
        let part = self.stream.number();
        while self.feed.begin(self.stream).await.is_err() {
            sleep(RETRY_AFTER).await;
        }
        let mut looked: Option<Instant> = None;
        let (mut idle, mut is_behind) = (IDLE_MIN, false);
        loop {
            // Before more is read: what is dropped unread is seen only until then.
            if (is_behind || looked.is_none_or(|looked| looked.elapsed() > LOOK_EVERY))
                && self.look().await
            {
                looked = Some(Instant::now());
            }
            let Ok((events, lost)) = self.feed.read(self.stream, AT_ONCE).await else {
                sleep(RETRY_AFTER).await;
                continue;
            };
            self.delivery.lose(lost);
            is_behind = events.len() == AT_ONCE;
            if events.is_empty() {
                self.delivery.waiting(part, 0);
                sleep(idle).await;
                idle = (idle * 2).min(IDLE_MAX);
                continue;
            }
            idle = IDLE_MIN;
            let (ids, events): (Vec<_>, Vec<_>) =
                events.into_iter().map(|event| (event.id.clone(), of_redis(event))).unzip();
            let events: Vec<_> = events.into_iter().flatten().collect();
            tokio::select! {
                () = self.delivery.deliver(part, &events) => {}
                // It may take as long as the backend is away.
                never = self.look_on() => match never {},
            }
            while self.feed.ack(self.stream, &ids).await.is_err() {
                sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn look_on(&self) -> Infallible {
        loop {
            sleep(LOOK_EVERY).await;
            self.look().await;
        }
    }

    /// Tells how many wait and how many were lost, if that is known.
    async fn look(&self) -> bool {
        let Ok(backlog) = self.feed.backlog(self.stream).await else { return false };
        self.delivery.lose(backlog.lost);
        self.delivery.waiting(self.stream.number(), backlog.waiting);
        true
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
/// Events of one stream that are delivered together.
const AT_ONCE: usize = 64;
/// How soon to look again where there is nothing.
const IDLE_MIN: Duration = Duration::from_millis(50);
const IDLE_MAX: Duration = Duration::from_millis(800);
/// How often to look how many wait, and whether some were lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(500);
