//! The queue consumers of one worker: who gets which message, who holds what, what is to be told
//! to the broker. No I/O and no clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::{
    Batch, DeliveryId, EntryId, FETCH_MAX, Fetched, Queue, QueueError, Release, SETTLE_MAX,
};
use crate::broker::Channel;
use crate::hub::{SessionKey, Wire};
use crate::publication::{Publication, PublicationId};
use fanlight_proto::stomp::Version;

/// Names a consumer within its worker; reused once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerKey(u32);

/// How a consumer acknowledges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AckMode {
    /// Not at all: what is written to its connection counts as acknowledged.
    #[default]
    Auto,
    /// One acknowledgement is for its message and all before it.
    Client,
    /// One by one.
    ClientIndividual,
}

impl AckMode {
    /// From the value of STOMP's `ack` header, or the native `ack` field.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "client" => Some(Self::Client),
            "client-individual" => Some(Self::ClientIndividual),
            _ => None,
        }
    }
}

/// A subscription that wants to consume.
#[derive(Debug, Clone, Copy)]
pub struct NewConsumer<'w> {
    /// Who.
    pub session: SessionKey,
    /// How its messages are written.
    pub wire: Wire<'w>,
    /// How it acknowledges.
    pub mode: AckMode,
    /// A smaller prefetch than the queue's; 0 counts as 1.
    pub prefetch: Option<u16>,
}

/// All consumers of one worker. What they cause is collected, and taken by the worker at the end
/// of its tick: [`Consumers::next_settlement`], then [`Consumers::next_fetch`].
#[derive(Debug, Default)]
pub struct Consumers {
    all: Slab<Consumer>,
    queues: HashMap<Channel, State, foldhash::quality::RandomState>,
    /// Queues from which something may be to fetch.
    ready: VecDeque<Channel>,
    /// Queues with something to settle.
    unsettled: VecDeque<Channel>,
    /// Queues whose consumers could not take more, because their connections don't keep up.
    held: Vec<Channel>,
    /// `auto` consumers whose messages are on their way to the outbox.
    written: Vec<ConsumerKey>,
    /// When whom to look at: each queue once, and each consumer once that may be late.
    timers: BTreeSet<(u64, Timer)>,
    counts: Counts,
}

/// What has happened since it was last taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages given to consumers.
    pub deliveries: u64,
    /// Of these, those that had been delivered before.
    pub redeliveries: u64,
    /// Messages acknowledged, `auto` ones included.
    pub acks: u64,
    /// Messages refused by NACK.
    pub nacks: u64,
    /// Messages that were not acknowledged in time.
    pub timeouts: u64,
    /// ACKs and NACKs of what their subscription does not hold, or no longer.
    pub ignored: u64,
}

/// A fetch that is to be made.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// From where.
    pub queue: Arc<Queue>,
    /// How many.
    pub count: u32,
}

/// What the broker is to be told of one queue.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The queue.
    pub queue: Arc<Queue>,
    /// What was acknowledged, at most [`SETTLE_MAX`].
    pub acks: Vec<EntryId>,
    /// What is given back, at most [`SETTLE_MAX`].
    pub releases: Vec<Release>,
}

/// A message for one consumer.
#[derive(Debug)]
pub struct Dispatch {
    /// To whom.
    pub session: SessionKey,
    /// How it is written; see [`Dispatch::write`].
    pub(super) wire: OwnWire,
    /// Whether it is to be acknowledged.
    pub needs_ack: bool,
    /// Which delivery it is.
    pub delivery: DeliveryId,
    /// What.
    pub publication: Arc<Publication>,
}

/// A [`Wire`] that is kept.
#[derive(Debug, Clone)]
pub(super) enum OwnWire {
    Native { named: bool },
    Events { named: bool },
    Stomp { version: Version, id: Arc<str> },
}

#[derive(Debug)]
struct Consumer {
    session: SessionKey,
    channel: Channel,
    wire: OwnWire,
    mode: AckMode,
    prefetch: u16,
    /// Joined: from now on it gets messages.
    active: bool,
    /// In the order of delivery, at most `prefetch`.
    unacked: VecDeque<Unacked>,
    /// Under which time it is among the timers: not after the first of its deadlines.
    timer_ms: Option<u64>,
}

#[derive(Debug)]
struct Unacked {
    delivery: DeliveryId,
    message: PublicationId,
    deadline_ms: u64,
}

/// One queue as this worker knows it. It stays until its last consumer has left and everything is
/// settled.
#[derive(Debug)]
struct State {
    queue: Arc<Queue>,
    /// In turn.
    consumers: VecDeque<ConsumerKey>,
    fetch: FetchState,
    /// There may be something to fetch.
    more: bool,
    /// Under which time it is among the timers.
    look_at_ms: u64,
    acks: Vec<EntryId>,
    releases: Vec<Release>,
    is_ready: bool,
    is_unsettled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A consumer may not have acknowledged in time.
    Late(ConsumerKey),
    /// A queue is to be looked at.
    Look(Channel),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchState {
    Idle,
    UnderWay {
        /// Woken since it was made, perhaps for something that it has missed.
        woken: bool,
    },
}

impl Consumers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds a consumer. It gets nothing before it is [activated](Self::activate).
    pub fn add(&mut self, queue: Queue, new: NewConsumer<'_>) -> ConsumerKey {
        let most = queue.options.prefetch.max(1);
        let consumer = Consumer {
            session: new.session,
            channel: queue.channel.clone(),
            wire: match new.wire {
                Wire::Native { named } => OwnWire::Native { named },
                Wire::Events { named, .. } => OwnWire::Events { named },
                Wire::Stomp { version, id, .. } => OwnWire::Stomp { version, id: id.into() },
            },
            mode: new.mode,
            prefetch: new.prefetch.unwrap_or(most).clamp(1, most),
            active: false,
            unacked: VecDeque::new(),
            timer_ms: None,
        };
        let key = ConsumerKey(self.all.insert(consumer) as u32);
        let state = self.queues.entry(queue.channel.clone()).or_insert_with(|| {
            self.timers.insert((0, Timer::Look(queue.channel.clone())));
            State::new(queue)
        });
        state.consumers.push_back(key);
        key
    }

    /// Lets a consumer have messages, now that wakes of its queue arrive.
    pub fn activate(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.all.get_mut(key.0 as usize) else { return };
        consumer.active = true;
        let channel = consumer.channel.clone();
        self.look(&channel);
    }

    /// Removes a consumer; what it has not acknowledged is given back. `key` must come from
    /// [`Consumers::add`] and be used once.
    pub fn remove(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.all.try_remove(key.0 as usize) else {
            debug_assert!(false, "removed twice");
            return;
        };
        if let Some(at_ms) = consumer.timer_ms {
            self.timers.remove(&(at_ms, Timer::Late(key)));
        }
        let Some(state) = self.queues.get_mut(&consumer.channel) else { return };
        state.consumers.retain(|other| *other != key);
        self.written.retain(|other| *other != key);
        let given_back = consumer.unacked.iter().map(|one| Release::after(one.delivery));
        state.releases.extend(given_back);
        self.settle(&consumer.channel);
        self.drop_if_unused(&consumer.channel);
    }

    /// Removes all consumers of `session`, by looking at every one: for a session whose own list
    /// can't be trusted.
    pub fn forget(&mut self, session: SessionKey) {
        let own = self.all.iter().filter(|(_, consumer)| consumer.session == session);
        let own: Vec<ConsumerKey> = own.map(|(key, _)| ConsumerKey(key as u32)).collect();
        for key in own {
            self.remove(key);
        }
    }

    /// The queue that a consumer consumes.
    pub fn channel_of(&self, key: ConsumerKey) -> Option<&Channel> {
        self.all.get(key.0 as usize).map(|consumer| &consumer.channel)
    }

    /// Whether a consumer holds this message without having acknowledged it.
    pub fn holds(&self, key: ConsumerKey, message: PublicationId) -> bool {
        let consumer = self.all.get(key.0 as usize);
        consumer.is_some_and(|consumer| consumer.place_of(message).is_some())
    }

    /// A consumer acknowledges a message, or, cumulatively, all up to it. What it does not hold,
    /// or no longer, is counted and otherwise ignored: it may be delivered to somebody else by now.
    pub fn ack(&mut self, key: ConsumerKey, message: PublicationId) {
        let Some((channel, taken)) = self.take(key, message) else { return };
        self.counts.acks += taken.len() as u64;
        let Some(state) = self.queues.get_mut(&channel) else { return };
        state.acks.extend(taken.iter().map(|one| one.delivery.entry));
        self.settle(&channel);
        self.make_ready(&channel);
    }

    /// A consumer refuses a message, or, cumulatively, all up to it.
    pub fn nack(&mut self, key: ConsumerKey, message: PublicationId) {
        let Some((channel, taken)) = self.take(key, message) else { return };
        self.counts.nacks += taken.len() as u64;
        let Some(state) = self.queues.get_mut(&channel) else { return };
        state.releases.extend(taken.iter().map(|one| Release::after(one.delivery)));
        self.settle(&channel);
        self.make_ready(&channel);
    }

    /// Counts an ACK or NACK that names nothing here.
    pub fn ignore(&mut self) {
        self.counts.ignored += 1;
    }

    /// Something may be available. Whether the channel is that of a queue that is consumed here.
    pub fn wake(&mut self, channel: &Channel) -> bool {
        let is_known = self.queues.contains_key(channel);
        self.look(channel);
        is_known
    }

    /// Gives back what was not acknowledged in time, and looks at queues now and then: to be
    /// called several times a second. It costs what is due.
    pub fn sweep(&mut self, now_ms: u64) {
        while self.timers.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            let Some((_, timer)) = self.timers.pop_first() else { return };
            match timer {
                Timer::Late(key) => self.give_back_late(key, now_ms),
                Timer::Look(channel) => {
                    let Some(state) = self.queues.get_mut(&channel) else { continue };
                    state.look_at_ms = now_ms + state.queue.options.look_every_ms();
                    state.more = true;
                    let timer = (state.look_at_ms, Timer::Look(channel.clone()));
                    self.timers.insert(timer);
                    self.make_ready(&channel);
                }
            }
        }
    }

    /// Connections that did not keep up may do so again.
    pub fn unhold(&mut self) {
        for channel in std::mem::take(&mut self.held) {
            self.make_ready(&channel);
        }
    }

    /// What is to be fetched next, if anything: as much as there is credit for. `keeps_up` tells
    /// of a session whether its connection takes what it is sent; who acknowledges by taking gets
    /// no more otherwise.
    pub fn next_fetch(&mut self, keeps_up: impl Fn(SessionKey) -> bool) -> Option<Fetch> {
        while let Some(channel) = self.ready.pop_front() {
            let Some(state) = self.queues.get_mut(&channel) else { continue };
            state.is_ready = false;
            if state.fetch != FetchState::Idle || !state.more {
                continue;
            }
            let mut count = 0;
            let mut held = false;
            for key in &state.consumers {
                let consumer = &self.all[key.0 as usize];
                if consumer.takes(&keeps_up) {
                    count += consumer.credit();
                } else {
                    held = true;
                }
            }
            if held && !self.held.contains(&channel) {
                self.held.push(channel);
            }
            if count > 0 {
                state.fetch = FetchState::UnderWay { woken: false };
                return Some(Fetch {
                    queue: Arc::clone(&state.queue),
                    count: count.min(FETCH_MAX),
                });
            }
        }
        None
    }

    /// Takes the outcome of `fetch`, which was made at `asked_ms`, and distributes it in turn.
    /// What nobody can take any more is given back: there is no credit, or an `auto` consumer does
    /// not [keep up](Self::next_fetch) since it was asked for. Dead letters are not among it:
    /// whoever fetches moves them.
    pub fn on_fetched(
        &mut self,
        fetch: &Fetch,
        asked_ms: u64,
        fetched: Result<Batch, QueueError>,
        keeps_up: impl Fn(SessionKey) -> bool,
    ) -> Vec<Dispatch> {
        let channel = &fetch.queue.channel;
        let Some(state) = self.queues.get_mut(channel) else { return Vec::new() };
        let woken = state.fetch == FetchState::UnderWay { woken: true };
        state.fetch = FetchState::Idle;
        let Ok(Batch { messages, has_more }) = fetched else {
            // The next look tries again.
            state.more = woken;
            self.make_ready(channel);
            self.drop_if_unused(channel);
            return Vec::new();
        };
        state.more = woken || has_more;
        let deadline_ms = asked_ms + fetch.queue.options.ack_timeout_ms;
        let mut dispatches = Vec::with_capacity(messages.len());
        for Fetched { delivery, publication } in messages {
            let Some(key) = state.next_in_turn(&self.all, &keeps_up) else {
                state.releases.push(Release { delivery, was_delivered: false });
                state.more = true;
                continue;
            };
            let consumer = &mut self.all[key.0 as usize];
            if consumer.mode != AckMode::Auto {
                consumer.set_timer(key, deadline_ms, &mut self.timers);
            } else if consumer.unacked.is_empty() {
                self.written.push(key);
            }
            consumer.unacked.push_back(Unacked { delivery, message: publication.id, deadline_ms });
            self.counts.deliveries += 1;
            self.counts.redeliveries += u64::from(delivery.count > 1);
            dispatches.push(Dispatch {
                session: consumer.session,
                wire: consumer.wire.clone(),
                needs_ack: consumer.mode != AckMode::Auto,
                delivery,
                publication,
            });
        }
        self.settle(channel);
        self.make_ready(channel);
        self.drop_if_unused(channel);
        dispatches
    }

    /// What was dispatched is written, or waits in an outbox: `auto` consumers have acknowledged
    /// it thereby.
    pub fn on_written(&mut self) {
        for key in std::mem::take(&mut self.written) {
            let Some(consumer) = self.all.get_mut(key.0 as usize) else { continue };
            let channel = consumer.channel.clone();
            let Some(state) = self.queues.get_mut(&channel) else { continue };
            self.counts.acks += consumer.unacked.len() as u64;
            state.acks.extend(consumer.unacked.drain(..).map(|one| one.delivery.entry));
            self.settle(&channel);
            self.make_ready(&channel);
        }
    }

    /// What the broker is to be told next, if anything.
    pub fn next_settlement(&mut self) -> Option<Settlement> {
        while let Some(channel) = self.unsettled.pop_front() {
            if let Some(state) = self.queues.get_mut(&channel) {
                state.is_unsettled = false;
            }
            if let Some(settlement) = self.settlement_of(&channel) {
                return Some(settlement);
            }
        }
        None
    }

    /// What the broker is to be told of one queue, if anything.
    pub fn settlement_of(&mut self, channel: &Channel) -> Option<Settlement> {
        let state = self.queues.get_mut(channel)?;
        if state.acks.is_empty() && state.releases.is_empty() {
            return None;
        }
        let acks = state.acks.drain(..state.acks.len().min(SETTLE_MAX)).collect();
        let releases = state.releases.drain(..state.releases.len().min(SETTLE_MAX)).collect();
        let settlement = Settlement { queue: Arc::clone(&state.queue), acks, releases };
        self.settle(channel);
        self.drop_if_unused(channel);
        Some(settlement)
    }

    /// What has happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Takes what an ACK or NACK of `message` is for.
    fn take(
        &mut self,
        key: ConsumerKey,
        message: PublicationId,
    ) -> Option<(Channel, Vec<Unacked>)> {
        let found = self.all.get_mut(key.0 as usize).and_then(|consumer| {
            let at = consumer.place_of(message)?;
            let from = if consumer.mode == AckMode::Client { 0 } else { at };
            Some((consumer.channel.clone(), consumer.unacked.drain(from..=at).collect()))
        });
        if found.is_none() {
            self.counts.ignored += 1;
        }
        found
    }

    fn give_back_late(&mut self, key: ConsumerKey, now_ms: u64) {
        let Some(consumer) = self.all.get_mut(key.0 as usize) else { return };
        consumer.timer_ms = None;
        let late = consumer.unacked.partition_point(|one| one.deadline_ms <= now_ms);
        let late: Vec<_> = consumer.unacked.drain(..late).collect();
        if let Some(next) = consumer.unacked.front() {
            consumer.set_timer(key, next.deadline_ms, &mut self.timers);
        }
        let channel = consumer.channel.clone();
        self.counts.timeouts += late.len() as u64;
        if let Some(state) = self.queues.get_mut(&channel) {
            state.releases.extend(late.iter().map(|one| Release::after(one.delivery)));
        }
        self.settle(&channel);
        self.make_ready(&channel);
    }

    fn look(&mut self, channel: &Channel) {
        let Some(state) = self.queues.get_mut(channel) else { return };
        state.more = true;
        if let FetchState::UnderWay { woken } = &mut state.fetch {
            *woken = true;
        }
        self.make_ready(channel);
    }

    fn make_ready(&mut self, channel: &Channel) {
        let Some(state) = self.queues.get_mut(channel) else { return };
        if state.more
            && state.fetch == FetchState::Idle
            && !state.consumers.is_empty()
            && !state.is_ready
        {
            state.is_ready = true;
            self.ready.push_back(channel.clone());
        }
    }

    fn settle(&mut self, channel: &Channel) {
        let Some(state) = self.queues.get_mut(channel) else { return };
        let is_due = !state.acks.is_empty() || !state.releases.is_empty();
        if is_due && !std::mem::replace(&mut state.is_unsettled, true) {
            self.unsettled.push_back(channel.clone());
        }
    }

    fn drop_if_unused(&mut self, channel: &Channel) {
        let is_unused = self.queues.get(channel).is_some_and(|state| {
            state.consumers.is_empty()
                && state.fetch == FetchState::Idle
                && state.acks.is_empty()
                && state.releases.is_empty()
        });
        if is_unused && let Some(state) = self.queues.remove(channel) {
            self.timers.remove(&(state.look_at_ms, Timer::Look(channel.clone())));
        }
    }
}

impl State {
    fn new(queue: Queue) -> Self {
        Self {
            queue: Arc::new(queue),
            consumers: VecDeque::new(),
            fetch: FetchState::Idle,
            more: false,
            look_at_ms: 0,
            acks: Vec::new(),
            releases: Vec::new(),
            is_ready: false,
            is_unsettled: false,
        }
    }

    /// The next consumer that can take a message; it then comes last.
    fn next_in_turn(
        &mut self,
        consumers: &Slab<Consumer>,
        keeps_up: &impl Fn(SessionKey) -> bool,
    ) -> Option<ConsumerKey> {
        let can_take = |consumer: &Consumer| consumer.credit() > 0 && consumer.takes(keeps_up);
        let at = self.consumers.iter().position(|key| can_take(&consumers[key.0 as usize]))?;
        let key = self.consumers.remove(at)?;
        self.consumers.push_back(key);
        Some(key)
    }
}

impl Consumer {
    fn credit(&self) -> u32 {
        if self.active {
            u32::from(self.prefetch).saturating_sub(self.unacked.len() as u32)
        } else {
            0
        }
    }

    /// Has it looked at then, unless that is to happen earlier.
    fn set_timer(&mut self, key: ConsumerKey, at_ms: u64, timers: &mut BTreeSet<(u64, Timer)>) {
        if self.timer_ms.is_none() {
            self.timer_ms = Some(at_ms);
            timers.insert((at_ms, Timer::Late(key)));
        }
    }

    /// Whether it may be sent anything: what an `auto` consumer is sent is acknowledged, so what
    /// waits in its outbox would be lost with its connection.
    fn takes(&self, keeps_up: &impl Fn(SessionKey) -> bool) -> bool {
        self.mode != AckMode::Auto || keeps_up(self.session)
    }

    fn place_of(&self, message: PublicationId) -> Option<usize> {
        let is_auto = self.mode == AckMode::Auto;
        self.unacked.iter().position(|one| one.message == message).filter(|_| !is_auto)
    }
}

impl Release {
    /// A consumer had it and did not acknowledge it.
    pub fn after(delivery: DeliveryId) -> Self {
        Self { delivery, was_delivered: true }
    }
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
