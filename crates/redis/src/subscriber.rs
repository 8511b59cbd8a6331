//! A subscriber connection: what is published in Redis, handed to the workers of this node.
//!
//! One task per connection reads, decodes and hands over, without ever waiting for a worker: a
//! full inbox drops and counts. The interests that workers declare live in [`Lane`], behind a
//! short lock that is held while a read's worth of publications is handed over, so that a worker
//! gets nothing of a channel after it left it.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{
    Channel, Delivery, DeliverySink, Joined, Notice, PublishError, WorkerId,
};
use fanlight_engine::publication::Publication;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::select;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::canary::{self, Canary, Verdict};
use crate::command;
use crate::config::RedisConfig;
use crate::connection::{Connection, ConnectionError};
use crate::envelope::{self, Destinations};
use crate::health::Role;
use crate::meters::amount;
use crate::names::Partition;
use crate::partitions::PartitionSet;
use crate::pipeline::Answer;
use crate::reconnect::Backoff;
use crate::redirect::Redirect;
use crate::resp3::{Event, Reader, Value};
use crate::shard::Context;
use crate::subscriptions::{Command, Confirmation, Interest, Join, Subscriptions};
use crate::writer::CommandQueue;

/// The interests in one subscriber connection's channels, shared with the workers.
#[derive(Debug)]
pub(crate) struct Lane {
    subscriptions: Mutex<Subscriptions>,
    /// There may be a command to send.
    changed: Notify,
    join_timeout: Duration,
    silence_max: Duration,
}

impl Lane {
    pub(crate) fn new(config: &RedisConfig, is_cluster: bool) -> Self {
        Self {
            subscriptions: Mutex::new(Subscriptions::new(config.linger, is_cluster)),
            changed: Notify::new(),
            join_timeout: config.join_timeout,
            silence_max: canary::silence_max(config.canary_interval),
        }
    }

    pub(crate) fn subscribe(
        &self,
        worker: WorkerId,
        channel: &Channel,
    ) -> BoxFuture<'static, Joined> {
        let mut subscriptions = self.subscriptions();
        let join = subscriptions.subscribe(worker, channel);
        let is_silent = subscriptions.is_silent_for(self.silence_max, Instant::now());
        drop(subscriptions);
        match join {
            // It was confirmed before, by a Redis that says nothing now.
            Join::Now(Joined::Live) if is_silent => Box::pin(ready(Joined::Degraded)),
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

    /// Gives away the interests in these partitions.
    pub(crate) fn take(&self, partitions: &PartitionSet) -> Vec<Interest> {
        self.subscriptions().take(partitions)
    }

    /// Takes an interest over from another lane.
    pub(crate) fn adopt(&self, interest: Interest) {
        self.subscriptions().adopt(interest);
    }

    /// There may be a command to send.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
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

    fn on_connected(&self, now: Instant) {
        let mut subscriptions = self.subscriptions();
        subscriptions.on_connected();
        subscriptions.on_proven(now);
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
    Refused(Command),
}

/// What belongs to one connection.
struct Serving {
    canary: Canary,
    /// The partition that the canary's channel is in.
    home: Partition,
    /// When the canary's channel is to be subscribed anew, because it was refused or ended.
    renew_at: Option<Instant>,
    /// The canary that waits for Redis' answer.
    asked: Option<(u64, oneshot::Receiver<Answer>)>,
    /// In a cluster each command is followed by a PING, so that an error is known to be the answer
    /// to the first of these.
    under_way: VecDeque<Sent>,
    /// The first of them was answered by a redirection.
    refused: bool,
    outgoing: Vec<u8>,
    written: usize,
    heard_at: Instant,
    pinged: bool,
}

/// A command of a subscriber connection in a cluster.
enum Sent {
    Canary,
    Channels(Command),
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
        Self {
            canary_name: String::new(),
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
        let (context, index) = (Arc::clone(&self.context), self.index);
        let received = async { tokio::join!(self.receive(), count_missed(&context, index)) };
        shutdown.run_until_cancelled(received).await;
        self.lane.subscriptions().on_disconnected();
        self.count_channels();
    }

    async fn receive(&mut self) {
        let context = Arc::clone(&self.context);
        let mut backoff = Backoff::new(context.config.reconnect_max);
        loop {
            let error = match context.connect("sub").await {
                Ok(mut connection) => {
                    let since = Instant::now();
                    context.health.on_up(Role::Subscriber(self.index));
                    self.lane.on_connected(since);
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
        self.subscribe_canary(&mut serving, now);
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
        let Connection { endpoint, stream, reader } = connection;
        let (mut input, mut output) = stream.split();
        let mut tick = interval((config.canary_interval / 4).clamp(TICK_MIN, TICK_MAX));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if serving.outgoing.is_empty() {
                self.next_commands(serving);
            }
            let picked = select! {
                read = input.read_buf(reader.space()) => Picked::Read(read?),
                wrote = output.write(&serving.outgoing[serving.written..]), if !serving.outgoing.is_empty() => {
                    Picked::Wrote(wrote?)
                }
                () = lane.changed.notified(), if serving.outgoing.is_empty() => Picked::Changed,
                (number, answer) = answered(&mut serving.asked) => Picked::Answered(number, answer),
                _ = tick.tick() => Picked::Tick,
            };
            match picked {
                Picked::Read(0) | Picked::Wrote(0) => return Err(ConnectionError::Closed),
                Picked::Read(_) => self.on_read(reader, serving)?,
                Picked::Wrote(bytes) => serving.on_written(bytes),
                Picked::Changed => {}
                Picked::Answered(number, answer) => serving.on_answered(number, &answer)?,
                Picked::Tick => {
                    self.context.check_place(endpoint)?;
                    self.on_tick(serving);
                    serving.keep_alive(config.keepalive)?;
                    self.send_canary(serving)?;
                }
            }
        }
    }

    /// Subscribes the canary's channel, in a partition that the shard has.
    fn subscribe_canary(&mut self, serving: &mut Serving, now: Instant) {
        let (boot, shard) = (self.context.boot.simple(), self.context.id);
        let text = format!("{boot}:{shard}:{}", self.index);
        serving.home = self.context.home();
        serving.renew_at = None;
        serving.canary = Canary::new(self.context.config.canary_interval, now);
        serving.asked = None;
        self.canary_name = self.context.names.canary(serving.home, &text);
        let word = if self.context.sharded_pubsub() { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        let command = [word.as_bytes(), self.canary_name.as_bytes()];
        command::words(&command, &mut serving.outgoing);
        if self.context.sharded_pubsub() {
            serving.sent(Sent::Canary);
        }
    }

    fn next_commands(&self, serving: &mut Serving) {
        let names = &self.context.names;
        let sharded = self.context.sharded_pubsub();
        let mut subscriptions = self.lane.subscriptions();
        while serving.outgoing.len() < WRITE_BYTES
            && let Some(command) = subscriptions.next_command(Instant::now())
        {
            let (word, channels) = match (&command, sharded) {
                (Command::Subscribe(channels), false) => ("SUBSCRIBE", channels),
                (Command::Subscribe(channels), true) => ("SSUBSCRIBE", channels),
                (Command::Unsubscribe(channels), false) => ("UNSUBSCRIBE", channels),
                (Command::Unsubscribe(channels), true) => ("SUNSUBSCRIBE", channels),
            };
            command::channels(word, channels, names, &mut serving.outgoing);
            if sharded {
                serving.sent(Sent::Channels(command));
            }
        }
    }

    /// What a cluster makes necessary: asking again, and elsewhere.
    fn on_tick(&mut self, serving: &mut Serving) {
        let now = Instant::now();
        let has_moved = serving.home != self.context.home();
        if has_moved || serving.renew_at.is_some_and(|at| at <= now) {
            self.subscribe_canary(serving, now);
        }
        self.lane.subscriptions().on_tick(now);
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
                Event::Value(Value::Error(answer)) => self.on_error(&answer, serving)?,
                Event::Value(Value::Bulk(_)) => self.on_answered(serving),
                // An answer to PING.
                Event::Value(_) => {}
            }
        }
        Ok(())
    }

    fn on_error(&self, answer: &[u8], serving: &mut Serving) -> Result<(), ConnectionError> {
        match (Redirect::of(answer), &self.context.cluster) {
            (Some(redirect), Some(cluster)) => {
                serving.refused = true;
                cluster.on_subscription_redirected(redirect);
                Ok(())
            }
            _ => Err(ConnectionError::refused("SUBSCRIBE", answer)),
        }
    }

    /// The answer to the PING after a command: all of that command's own answers are there.
    fn on_answered(&mut self, serving: &mut Serving) {
        let refused = std::mem::take(&mut serving.refused);
        match serving.under_way.pop_front() {
            Some(Sent::Canary) if refused => serving.renew_later(Instant::now()),
            Some(Sent::Channels(command)) if refused => {
                self.arrivals.push(Arrival::Refused(command));
            }
            _ => {}
        }
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
            b"subscribe" | b"ssubscribe" if *name == self.canary_name => {
                serving.canary.on_subscribed(Instant::now());
            }
            b"sunsubscribe" if *name == self.canary_name => {
                serving.renew_later(Instant::now());
                self.on_ended();
            }
            b"subscribe" | b"ssubscribe" => self.arrivals.push(Arrival::Subscribed(name.clone())),
            b"unsubscribe" | b"sunsubscribe" => {
                self.arrivals.push(Arrival::Unsubscribed(name.clone()));
            }
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
            self.lane.subscriptions().on_proven(now);
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
        let mut ended = false;
        let mut subscriptions = self.lane.subscriptions();
        let mut arrivals = self.arrivals.drain(..).peekable();
        while let Some(arrival) = arrivals.next() {
            match arrival {
                Arrival::Subscribed(name) => {
                    let Some(channel) = names.channel(&name) else { continue };
                    match subscriptions.on_subscribed(channel) {
                        Confirmation::First => {}
                        Confirmation::Stray => subscriptions.on_stray(channel, Instant::now()),
                        Confirmation::Again => {
                            if let Some((channel, workers)) = subscriptions.interested(channel) {
                                suspect(&self.sinks, channel, workers);
                            }
                        }
                    }
                }
                Arrival::Unsubscribed(name) => {
                    if let Some(channel) = names.channel(&name) {
                        ended |= subscriptions.on_unsubscribed(channel, Instant::now());
                    }
                }
                Arrival::Refused(command) => subscriptions.on_refused(&command, Instant::now()),
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
        if ended {
            self.on_ended();
        }
        self.count_channels();
    }

    /// The server ended subscriptions by itself: their slot has moved.
    fn on_ended(&self) {
        if let Some(cluster) = &self.context.cluster {
            cluster.on_change(None);
        }
    }

    fn send_canary(&self, serving: &mut Serving) -> Result<(), ConnectionError> {
        let now = Instant::now();
        match serving.canary.on_tick(now) {
            Verdict::Wait => {}
            Verdict::NotDelivering => return Err(ConnectionError::NotDelivering),
            Verdict::Publish(number) => {
                let mut publish = Vec::new();
                let payload = number.to_le_bytes();
                let word = command::publish_word(self.context.sharded_pubsub());
                let words = [word, self.canary_name.as_bytes(), &payload];
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
            home: Partition::default(),
            renew_at: None,
            asked: None,
            under_way: VecDeque::new(),
            refused: false,
            outgoing: Vec::new(),
            written: 0,
            heard_at: now,
            pinged: false,
        }
    }

    /// Marks the end of a command's answers.
    fn sent(&mut self, sent: Sent) {
        command::words(&[b"PING", b"answered"], &mut self.outgoing);
        self.under_way.push_back(sent);
    }

    fn renew_later(&mut self, now: Instant) {
        self.renew_at.get_or_insert(now + RENEW_AFTER);
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

    fn on_answered(&mut self, number: u64, answer: &Answer) -> Result<(), ConnectionError> {
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

/// Tells all who want a channel that they may have missed something: it was not subscribed for a
/// while.
fn suspect(sinks: &[Arc<dyn DeliverySink>], channel: &Channel, workers: &[WorkerId]) {
    for worker in workers {
        if let Some(sink) = sinks.get(usize::from(worker.0)) {
            sink.notify(Notice::Suspect(channel.clone()));
        }
    }
}

/// Counts canaries that should have come back by now, whatever becomes of the connections.
async fn count_missed(context: &Context, subscriber: usize) {
    let every = context.config.canary_interval;
    let begun = Instant::now();
    loop {
        sleep(every).await;
        let last = context.health.last_echo(subscriber).unwrap_or(begun);
        if last.elapsed() > every * 2 {
            context.meters.missed.increment(1);
        }
    }
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
/// Commands leave in writes of about this size.
const WRITE_BYTES: usize = 16 << 10;
/// How long after a refusal the canary's channel is asked for again.
const RENEW_AFTER: Duration = Duration::from_millis(250);
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_millis(100);
