//! A subscriber connection: what is published in Redis, handed to the workers of this node.
//!
//! One task per connection reads, decodes and hands over, without ever waiting for a worker: a
//! full inbox drops and counts. The interests that workers declare live in [`Lane`], behind a
//! short lock that is held while a read's worth of publications is handed over, so that a worker
//! gets nothing of a channel after it left it.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{Channel, Delivery, DeliverySink, Joined, PublishError, WorkerId};
use fanlight_engine::publication::Publication;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::select;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::canary::{Canary, Verdict};
use crate::command;
use crate::connection::{Connection, ConnectionError};
use crate::envelope::{self, Destinations};
use crate::health::Role;
use crate::meters::amount;
use crate::names::Partition;
use crate::pipeline::Answer;
use crate::reconnect::Backoff;
use crate::resp3::{Event, Reader, Value};
use crate::shard::Context;
use crate::subscriptions::{Command, Join, Subscriptions};
use crate::writer::CommandQueue;

/// The interests in one subscriber connection's channels, shared with the workers.
#[derive(Debug)]
pub(crate) struct Lane {
    subscriptions: Mutex<Subscriptions>,
    /// There may be a command to send.
    changed: Notify,
    join_timeout: Duration,
}

impl Lane {
    pub(crate) fn new(linger: Duration, join_timeout: Duration) -> Self {
        Self {
            subscriptions: Mutex::new(Subscriptions::new(linger)),
            changed: Notify::new(),
            join_timeout,
        }
    }

    pub(crate) fn subscribe(
        &self,
        worker: WorkerId,
        channel: &Channel,
    ) -> BoxFuture<'static, Joined> {
        let join = self.subscriptions().subscribe(worker, channel);
        match join {
            Join::Now(joined) => Box::pin(ready(joined)),
            Join::Wait(joined) => {
                self.changed.notify_one();
                let join_timeout = self.join_timeout;
                Box::pin(async move {
                    match timeout(join_timeout, joined).await {
                        Ok(Ok(joined)) => joined,
                        Ok(Err(_)) | Err(_) => Joined::Degraded,
                    }
                })
            }
        }
    }

    pub(crate) fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        self.subscriptions().unsubscribe(worker, channel, Instant::now());
    }

    /// Hands a publication that Redis never got to who wants it here, in one order with what is
    /// received; returns how many had a full inbox.
    pub(crate) fn deliver_here(
        &self,
        sinks: &[Arc<dyn DeliverySink>],
        channel: &Channel,
        publication: Arc<Publication>,
    ) -> u64 {
        let subscriptions = self.subscriptions();
        match subscriptions.interested(channel.as_str()) {
            Some((channel, workers)) => deliver(sinks, channel, workers, &mut vec![publication]),
            None => 0,
        }
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that owns one subscriber connection.
pub(crate) struct Subscriber {
    index: usize,
    lane: Arc<Lane>,
    context: Arc<Context>,
    commands: Arc<CommandQueue>,
    sinks: Arc<[Arc<dyn DeliverySink>]>,
    canary_name: String,
    destinations: Destinations,
    /// What the last read brought; empty between reads.
    arrivals: Vec<Arrival>,
    /// Scratch: the publications of one delivery.
    run: Vec<Arc<Publication>>,
    channels_counted: usize,
}

/// Something that concerns the subscriptions, in the order of its arrival.
enum Arrival {
    Publication(Bytes, Arc<Publication>),
    Subscribed(Bytes),
    Unsubscribed(Bytes),
}

/// What belongs to one connection.
struct Serving {
    canary: Canary,
    /// The canary that waits for Redis' answer.
    asked: Option<(u64, oneshot::Receiver<Answer>)>,
    outgoing: Vec<u8>,
    written: usize,
    heard_at: Instant,
    pinged: bool,
}

/// What `select!` picked.
enum Picked {
    Read(usize),
    Wrote(usize),
    Changed,
    Answered(u64, Answer),
    Tick,
}

impl Subscriber {
    pub(crate) fn new(
        index: usize,
        lane: Arc<Lane>,
        context: Arc<Context>,
        commands: Arc<CommandQueue>,
        sinks: Arc<[Arc<dyn DeliverySink>]>,
    ) -> Self {
        let canary_name = format!("{}:{index}", context.boot.simple());
        Self {
            canary_name: context.names.canary(Partition(0), &canary_name),
            index,
            lane,
            context,
            commands,
            sinks,
            destinations: Destinations::new(),
            arrivals: Vec::new(),
            run: Vec::new(),
            channels_counted: 0,
        }
    }

    /// Receives until the shutdown, over as many connections as it takes.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.receive()).await;
    }

    async fn receive(&mut self) {
        let context = Arc::clone(&self.context);
        let mut backoff = Backoff::new(context.config.reconnect_max);
        loop {
            let error = match context.connect("sub").await {
                Ok(mut connection) => {
                    let since = Instant::now();
                    context.health.on_up(Role::Subscriber(self.index));
                    self.lane.subscriptions().on_connected();
                    let error = self.use_up(&mut connection, since).await;
                    self.lane.subscriptions().on_disconnected();
                    self.count_channels();
                    context.meters.broken.increment(1);
                    backoff.on_ended(since.elapsed());
                    error
                }
                Err(error) => {
                    self.lane.subscriptions().on_unreachable();
                    error
                }
            };
            let role = Role::Subscriber(self.index);
            context.health.on_down(role, &error, Instant::now());
            sleep(backoff.next_wait()).await;
        }
    }

    /// Receives over one connection until it ends.
    async fn use_up(&mut self, connection: &mut Connection, now: Instant) -> ConnectionError {
        let mut serving = Serving::new(self.context.config.canary_interval, now);
        let canary = [&b"SUBSCRIBE"[..], self.canary_name.as_bytes()];
        command::words(&canary, &mut serving.outgoing);
        match self.serve(connection, &mut serving).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        serving: &mut Serving,
    ) -> Result<std::convert::Infallible, ConnectionError> {
        let config = Arc::clone(&self.context.config);
        let lane = Arc::clone(&self.lane);
        let (mut input, mut output) = connection.stream.split();
        let mut tick = interval((config.canary_interval / 4).clamp(TICK_MIN, TICK_MAX));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if serving.outgoing.is_empty() {
                self.next_command(&mut serving.outgoing);
            }
            let picked = select! {
                read = input.read_buf(connection.reader.space()) => Picked::Read(read?),
                wrote = output.write(&serving.outgoing[serving.written..]), if !serving.outgoing.is_empty() => {
                    Picked::Wrote(wrote?)
                }
                () = lane.changed.notified(), if serving.outgoing.is_empty() => Picked::Changed,
                (number, answer) = answered(&mut serving.asked) => Picked::Answered(number, answer),
                _ = tick.tick() => Picked::Tick,
            };
            match picked {
                Picked::Read(0) | Picked::Wrote(0) => return Err(ConnectionError::Closed),
                Picked::Read(_) => self.on_read(&mut connection.reader, serving)?,
                Picked::Wrote(bytes) => serving.on_written(bytes),
                Picked::Changed => {}
                Picked::Answered(number, answer) => serving.on_answered(number, answer)?,
                Picked::Tick => {
                    serving.keep_alive(config.keepalive)?;
                    self.send_canary(serving)?;
                }
            }
        }
    }

    fn next_command(&self, out: &mut Vec<u8>) {
        let names = &self.context.names;
        match self.lane.subscriptions().next_command(Instant::now()) {
            Some(Command::Subscribe(channels)) => {
                command::channels("SUBSCRIBE", &channels, names, out);
            }
            Some(Command::Unsubscribe(channels)) => {
                command::channels("UNSUBSCRIBE", &channels, names, out);
            }
            None => {}
        }
    }

    fn on_read(
        &mut self,
        reader: &mut Reader,
        serving: &mut Serving,
    ) -> Result<(), ConnectionError> {
        serving.on_heard(Instant::now());
        let read = self.take_events(reader, serving);
        // Also before an error: what is left would be taken for the next connection's.
        self.hand_over();
        read
    }

    fn take_events(
        &mut self,
        reader: &mut Reader,
        serving: &mut Serving,
    ) -> Result<(), ConnectionError> {
        while let Some(event) = reader.pop()? {
            match event {
                Event::Message { channel, payload } if channel == self.canary_name => {
                    self.on_canary(&payload, serving);
                }
                Event::Message { channel, payload } => self.on_message(channel, payload),
                Event::Value(Value::Push(push)) => self.on_push(&push, serving),
                Event::Value(Value::Error(answer)) => {
                    return Err(ConnectionError::refused("SUBSCRIBE", &answer));
                }
                // An answer to PING.
                Event::Value(_) => {}
            }
        }
        Ok(())
    }

    fn on_message(&mut self, channel: Bytes, payload: Bytes) {
        match envelope::decode(payload, &mut self.destinations) {
            Ok(publication) => {
                let publication = Arc::new(publication);
                self.arrivals.push(Arrival::Publication(channel, publication));
            }
            Err(error) => {
                self.context.meters.rejected.add(1);
                debug!("dropped a message that is no publication: {error}");
            }
        }
    }

    fn on_push(&mut self, push: &[Value], serving: &mut Serving) {
        let [Value::Bulk(kind), Value::Bulk(name), ..] = push else {
            return;
        };
        match &kind[..] {
            b"subscribe" if *name == self.canary_name => {
                serving.canary.on_subscribed(Instant::now());
            }
            b"subscribe" => self.arrivals.push(Arrival::Subscribed(name.clone())),
            b"unsubscribe" => self.arrivals.push(Arrival::Unsubscribed(name.clone())),
            _ => {}
        }
    }

    fn on_canary(&self, payload: &Bytes, serving: &mut Serving) {
        let Ok(number) = payload[..].try_into().map(u64::from_le_bytes) else {
            return;
        };
        let now = Instant::now();
        if let Some(lag) = serving.canary.on_echo(number, now) {
            self.context.meters.canary.record(lag);
            self.context.health.on_echo(self.index, now);
        }
    }

    /// Gives what arrived to who wants it, in order, under one lock.
    fn hand_over(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let names = &self.context.names;
        let mut received = 0;
        let mut dropped = 0;
        let mut subscriptions = self.lane.subscriptions();
        let mut arrivals = self.arrivals.drain(..).peekable();
        while let Some(arrival) = arrivals.next() {
            match arrival {
                Arrival::Subscribed(name) => {
                    if let Some(channel) = names.channel(&name) {
                        subscriptions.on_subscribed(channel);
                    }
                }
                Arrival::Unsubscribed(name) => {
                    if let Some(channel) = names.channel(&name) {
                        subscriptions.on_unsubscribed(channel);
                    }
                }
                Arrival::Publication(name, first) => {
                    self.run.push(first);
                    while let Some(Arrival::Publication(_, next)) = arrivals.next_if(
                        |next| matches!(next, Arrival::Publication(other, _) if *other == name),
                    ) {
                        self.run.push(next);
                    }
                    received += self.run.len() as u64;
                    let interested = names.channel(&name);
                    let interested = interested.and_then(|name| subscriptions.interested(name));
                    if let Some((channel, workers)) = interested {
                        dropped += deliver(&self.sinks, channel, workers, &mut self.run);
                    }
                    self.run.clear();
                }
            }
        }
        drop(arrivals);
        drop(subscriptions);
        self.context.meters.received.increment(received);
        if dropped > 0 {
            self.context.meters.dropped.add(dropped);
        }
        self.count_channels();
    }

    fn send_canary(&self, serving: &mut Serving) -> Result<(), ConnectionError> {
        let now = Instant::now();
        match serving.canary.on_tick(now) {
            Verdict::Wait => {}
            Verdict::NotDelivering => return Err(ConnectionError::NotDelivering),
            Verdict::Publish(number) => {
                let mut publish = Vec::new();
                let payload = number.to_le_bytes();
                let words = [&b"PUBLISH"[..], self.canary_name.as_bytes(), &payload];
                command::words(&words, &mut publish);
                match self.commands.send(publish) {
                    Ok(answer) => serving.asked = Some((number, answer)),
                    Err(_) => serving.canary.on_refused(number, now, TICK_MAX),
                }
            }
        }
        Ok(())
    }

    fn count_channels(&mut self) {
        let confirmed = self.lane.subscriptions().confirmed();
        if confirmed != self.channels_counted {
            let change = amount(confirmed) - amount(self.channels_counted);
            self.context.meters.channels.increment(change);
            if self.channels_counted <= CHANNELS_ADVISED && confirmed > CHANNELS_ADVISED {
                warn!(
                    "more than {CHANNELS_ADVISED} channels on one connection: losing it would \
                     block Redis for long; raise the number of subscriber connections"
                );
            }
            self.channels_counted = confirmed;
        }
    }
}

impl Serving {
    fn new(canary_interval: Duration, now: Instant) -> Self {
        Self {
            canary: Canary::new(canary_interval, now),
            asked: None,
            outgoing: Vec::new(),
            written: 0,
            heard_at: now,
            pinged: false,
        }
    }

    fn on_written(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.outgoing.len() {
            self.outgoing.clear();
            self.written = 0;
        }
    }

    fn on_heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.pinged = false;
        self.canary.on_heard(now);
    }

    fn on_answered(&mut self, number: u64, answer: Answer) -> Result<(), ConnectionError> {
        let now = Instant::now();
        match answer {
            Ok(Value::Integer(receivers)) => {
                match self.canary.on_accepted(number, receivers.unsigned_abs(), now) {
                    Verdict::NotDelivering => return Err(ConnectionError::NotDelivering),
                    Verdict::Wait | Verdict::Publish(_) => {}
                }
            }
            Ok(_) | Err(_) => self.canary.on_refused(number, now, TICK_MAX),
        }
        Ok(())
    }

    /// A connection that says nothing is pinged, and given up if it does not answer.
    fn keep_alive(&mut self, keepalive: Duration) -> Result<(), ConnectionError> {
        let silence = self.heard_at.elapsed();
        if silence >= keepalive * 2 {
            return Err(ConnectionError::TimedOut { during: "to a PING", after: keepalive });
        }
        if silence >= keepalive && !self.pinged {
            self.pinged = true;
            command::words(&[b"PING"], &mut self.outgoing);
        }
        Ok(())
    }
}

/// Hands one delivery to each worker; returns how many had a full inbox.
fn deliver(
    sinks: &[Arc<dyn DeliverySink>],
    channel: &Channel,
    workers: &[WorkerId],
    run: &mut Vec<Arc<Publication>>,
) -> u64 {
    let mut dropped = 0;
    if workers.is_empty() {
        return 0;
    }
    let publications: Arc<[_]> = run.drain(..).collect();
    for worker in workers {
        let Some(sink) = sinks.get(usize::from(worker.0)) else {
            continue;
        };
        let delivery =
            Delivery { channel: channel.clone(), publications: Arc::clone(&publications) };
        dropped += u64::from(sink.deliver(delivery).is_err());
    }
    dropped
}

/// The answer to the canary that was asked for; never, when none was.
async fn answered(asked: &mut Option<(u64, oneshot::Receiver<Answer>)>) -> (u64, Answer) {
    let Some((number, answer)) = asked else {
        return std::future::pending().await;
    };
    let answered = (*number, answer.await.unwrap_or(Err(PublishError::Unknown)));
    *asked = None;
    answered
}

/// Losing a connection of a million channels blocked Redis for 774 ms (measured), so they are
/// spread over connections of at most this many.
const CHANNELS_ADVISED: usize = 50_000;
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_millis(100);
