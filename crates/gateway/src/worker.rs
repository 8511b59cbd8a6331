//! One worker: its sockets in one poll, its sessions, its hub; no task and no lock per connection.

mod census;
mod conflation;
mod departures;
mod effects;
mod fanout;
mod guard;
mod hooks;
mod inbox;
mod input;
mod mailbox;
mod poll;
mod queues;
mod recovery;
mod registry;
mod samples;
mod slot;
mod stage;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;
mod traces;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanlight_engine::broker::{Broker, Channel, Delivery, Notice, WorkerId};
use fanlight_engine::encode::{Encoder, Framing};
use fanlight_engine::hub::{Hub, SessionKey};
use fanlight_engine::ids::Ids;
use fanlight_engine::outbox::{Chunk, OutboxLimits};
use fanlight_engine::peers::Peers;
use fanlight_engine::presence::Presence;
use fanlight_engine::queue::Queues;
use fanlight_engine::registry::{Handle, Registry};
use fanlight_engine::revocation::Revocations;
use fanlight_engine::session::{Cx, Done, Effect, Rules, Session};
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Opcode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use mio::{Events, Interest, Token};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior};

use crate::admission::Admitted;
use crate::app::App;
use crate::clock::Clock;
use crate::handshakes::Handshakes;
use crate::hooks::Hooks;
use crate::jwt::Authenticator;
use crate::traces::Tracer;

use census::transport_of;
use conflation::Conflated;
pub use inbox::{
    Adopted, Carrier, Echo, Inbox, InboxReceiver, Opened, Opening, WorkerHandle, inbox,
};
pub use mailbox::{MailboxKind, MailboxOptions};
use poll::{EVENTS, poll_sockets, watch};
use queues::{QueueDone, QueueSide};
use recovery::Recovery;
use registry::{Reentry, Revoking};
use slot::{Link, Phase, Role, Slot, Written};
use stage::Stage;
use stats::Stats;
use sweep::Sweep;
use traces::Traces;

/// What the workers of a node share.
pub struct WorkerShared {
    /// What sessions may do, and their limits.
    pub rules: Arc<Rules>,
    /// Checks the tokens of CONNECT, `connect` and `refresh`.
    pub authenticator: Arc<Authenticator>,
    /// Asks backends about sessions.
    pub hooks: Arc<Hooks>,
    /// How often sessions may begin.
    pub handshakes: Arc<Handshakes>,
    /// Carries publications.
    pub broker: Arc<dyn Broker>,
    /// Keeps who is where.
    pub presence: Arc<dyn Presence>,
    /// Keeps the queues.
    pub queues: Arc<dyn Queues>,
    /// Knows the sessions of all nodes.
    pub registry: Arc<dyn Registry>,
    /// Knows which tokens are revoked.
    pub revocations: Arc<dyn Revocations>,
    /// Knows who has the sessions that clients have named.
    pub peers: Arc<dyn Peers>,
    /// The time.
    pub clock: Clock,
    /// The bounds of each outbox.
    pub outbox_limits: OutboxLimits,
    /// The same where what waits goes as one answer, perhaps to another node.
    pub mailbox_limits: OutboxLimits,
    /// How long an outbox may wait without progress, in milliseconds.
    pub send_time_ms: u64,
    /// Messages below this are not compressed, in bytes.
    pub deflate_min_bytes: usize,
    /// What each worker may keep for conflation, in bytes.
    pub conflation_bytes: usize,
    /// How many sessions are connected, on all workers; up to a second old.
    pub sessions: AtomicU64,
    /// By worker, how many of them could go to another node; up to a second old.
    pub movable: Box<[AtomicU64]>,
    /// Makes spans, where there are traces.
    pub tracer: Option<Arc<Tracer>>,
    /// Has messages to `/app/...` handled.
    pub app: Arc<App>,
}

impl WorkerShared {
    /// By worker, how many of its sessions could go to another node.
    pub fn movable(&self) -> impl Iterator<Item = u64> {
        self.movable.iter().map(|count| count.load(Ordering::Relaxed))
    }
}

/// One worker; it belongs to one thread.
pub struct Worker {
    id: WorkerId,
    shared: Arc<WorkerShared>,
    poll: AsyncFd<mio::Poll>,
    inbox: InboxReceiver,
    slots: Slab<Slot>,
    next_serial: u64,
    hub: Hub,
    queues: QueueSide,
    ids: Ids,
    encoder: Encoder,
    inflater: Inflater,
    /// How many subscriptions of this worker stand behind each channel.
    channels: HashMap<Channel, u32, foldhash::quality::RandomState>,
    /// Work that waits for the broker: at most one piece per session.
    work: FuturesUnordered<BoxFuture<'static, (Ticket, Done)>>,
    effects: Vec<Effect>,
    stage: Stage,
    recovery: Recovery,
    conflation: Conflated,
    /// Connections whose unread input can go on.
    resumed: VecDeque<Ticket>,
    sweep: Sweep,
    reentry: Reentry,
    revoking: Revoking,
    stats: Stats,
    traces: Traces,
    buffers: Buffers,
}

/// Names a connection for as long as it lives: a slot is reused, a serial is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    key: SessionKey,
    serial: u64,
}

/// What one tick uses and the next one reuses.
struct Buffers {
    /// All sockets are read through this one buffer.
    read: Box<[u8]>,
    write: Vec<u8>,
    chunks: Vec<Chunk>,
}

/// Why the loop woke up.
enum Wake {
    Sockets,
    Inbox,
    Done(Ticket, Done),
    Read(recovery::Read),
    Queue(QueueDone),
    Conflation,
    Resumed,
    Sweep,
}

impl Worker {
    /// A worker that takes its connections and publications from `inbox`.
    ///
    /// `seed` makes the ids of this worker's sessions and publications its own.
    pub fn new(
        id: WorkerId,
        shared: Arc<WorkerShared>,
        inbox: InboxReceiver,
        seed: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            id,
            poll: watch(mio::Poll::new()?)?,
            inbox,
            slots: Slab::new(),
            next_serial: 0,
            hub: Hub::new(),
            queues: QueueSide::new(id),
            ids: Ids::new(seed),
            encoder: Encoder::new(shared.deflate_min_bytes),
            inflater: Inflater::new(),
            channels: HashMap::default(),
            work: FuturesUnordered::new(),
            effects: Vec::new(),
            stage: Stage::default(),
            recovery: Recovery::new(shared.outbox_limits),
            conflation: Conflated::new(&shared),
            resumed: VecDeque::new(),
            sweep: Sweep::default(),
            reentry: Reentry::default(),
            revoking: Revoking::default(),
            stats: Stats::new(id),
            traces: Traces::new(&shared),
            buffers: Buffers { read: read_buffer(), write: Vec::new(), chunks: Vec::new() },
            shared,
        })
    }

    /// Runs until the drain has ended and the last connection is gone.
    pub async fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut inbox = Vec::with_capacity(INBOX_BATCH);
        let mut ticks = tokio::time::interval(sweep::INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.sweep.is_drained(&self.slots) {
            let Some(wake) = self.next_wake(&mut events, &mut inbox, &mut ticks).await? else {
                break;
            };
            match wake {
                Wake::Sockets => {
                    for event in &events {
                        let key = SessionKey(event.token().0 as u32);
                        self.guarded(key, |worker| worker.on_socket(key, event));
                        self.relieve(&mut inbox).await;
                    }
                }
                Wake::Inbox => self.on_inbox(&mut inbox).await,
                Wake::Done(ticket, done) => {
                    self.on_done(ticket, done);
                    while let Some(Some((ticket, done))) = self.work.next().now_or_never() {
                        self.on_done(ticket, done);
                        self.relieve(&mut inbox).await;
                    }
                }
                Wake::Read(read) => {
                    self.on_read(read).await;
                    while let Some(Some(read)) = self.recovery.reads.next().now_or_never() {
                        self.on_read(read).await;
                        self.relieve(&mut inbox).await;
                    }
                }
                Wake::Queue(done) => self.on_queue_done(done),
                Wake::Conflation => self.on_conflation_tick().await,
                Wake::Resumed => self.resume(&mut inbox).await,
                Wake::Sweep => self.on_sweep(),
            }
            if !self.recovery.is_to_suspect() && self.inbox.take_missed() {
                // What there was room for comes first, or it would be read as missed too.
                self.recovery.suspect_all_after(self.inbox.messages.len());
            }
            self.settle().await;
            self.flush_stage();
            self.tend_queues();
            if !self.resumed.is_empty()
                || self.recovery.has_more
                || !self.inbox.messages.is_empty()
                || self.has_conflation_due()
            {
                // Else the loop would not wait, and what shares this thread would: accepting,
                // handshakes, and the runtime that tells of sockets and time.
                tokio::task::yield_now().await;
            }
        }
        self.end_queues().await;
        self.report();
        Ok(())
    }

    /// Waits until there is something to do; `None` once nobody can tell it of anything more.
    async fn next_wake(
        &mut self,
        events: &mut Events,
        inbox: &mut Vec<Inbox>,
        ticks: &mut Interval,
    ) -> io::Result<Option<Wake>> {
        let resumed = !self.resumed.is_empty() || self.recovery.has_more;
        let tick = self.conflation.wait(|| self.shared.clock.now().mono_ms);
        Ok(Some(tokio::select! {
            polled = poll_sockets(&mut self.poll, events) => {
                polled?;
                Wake::Sockets
            }
            taken = self.inbox.messages.recv_many(inbox, INBOX_BATCH) => {
                if taken == 0 {
                    return Ok(None);
                }
                Wake::Inbox
            }
            Some((ticket, done)) = self.work.next(), if !self.work.is_empty() => {
                Wake::Done(ticket, done)
            }
            Some(read) = self.recovery.reads.next(), if !self.recovery.reads.is_empty() => {
                Wake::Read(read)
            }
            Some(done) = self.queues.work.next(), if !self.queues.work.is_empty() => {
                Wake::Queue(done)
            }
            () = conflation::tick_after(tick), if tick.is_some() => Wake::Conflation,
            () = std::future::ready(()), if resumed => Wake::Resumed,
            _ = ticks.tick() => Wake::Sweep,
        }))
    }

    /// Bounds what one wake-up gathers: sends before the stage is large, and delivers before the
    /// inbox is full, where this worker's own sessions fill it; what does not fit would be lost.
    async fn relieve(&mut self, inbox: &mut Vec<Inbox>) {
        if self.stage.is_large() {
            self.flush_stage();
        }
        for _ in 0..self.inbox.messages.len() / INBOX_BATCH {
            while inbox.len() < INBOX_BATCH
                && let Ok(message) = self.inbox.messages.try_recv()
            {
                inbox.push(message);
            }
            self.on_inbox(inbox).await;
        }
    }

    async fn on_inbox(&mut self, inbox: &mut Vec<Inbox>) {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let taken = inbox.len();
        for message in inbox.drain(..) {
            match message {
                Inbox::Adopt(adopted) => self.adopt(*adopted),
                Inbox::Deliver(delivery) if self.queues.consumers.wake(&delivery.channel) => {}
                Inbox::Deliver(delivery) => deliveries.push(delivery),
                // A wake may have been missed.
                Inbox::Notice(Notice::Suspect(channel)) if self.queues.consumers.wake(&channel) => {
                }
                Inbox::Notice(Notice::Suspect(channel)) => {
                    self.recovery.timelines.suspect(&channel);
                }
                Inbox::Open(opened) => self.open(*opened),
                Inbox::Mail(mail) => self.on_mail(*mail),
                Inbox::Unclaimed(handle) => self.on_unclaimed(handle),
                Inbox::Order(order) => self.obey(*order),
                Inbox::Find { session, reply } => self.tell_of(session, reply),
                Inbox::Shed { count, gone } => {
                    let _ = gone.send(self.shed(count));
                }
                Inbox::Drain { window, deadline, let_in } => {
                    self.begin_drain(window, deadline, let_in);
                }
            }
        }
        if !deliveries.is_empty() {
            self.flush_stage();
            self.fan_out(deliveries).await;
        }
        self.recovery.took(taken);
    }

    /// Takes over a connection whose upgrade is done.
    fn adopt(&mut self, adopted: Adopted) {
        let Adopted { socket, answer, leftover, opening, carrier, admitted } = adopted;
        let (link, framing) = Link::of(carrier);
        let now = self.shared.clock.now();
        let key = SessionKey(self.slots.vacant_key() as u32);
        let mut socket = socket.into_mio();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(key.0 as usize);
        let registered = self.poll.get_ref().registry();
        let registered = registered.register(socket.stream_mut(), token, interest);
        if let Err(error) = registered {
            tracing::warn!(%error, "a new connection could not be registered; it is dropped");
            return;
        }
        let slot = self.slot(key, link, framing, opening, admitted, now);
        let listens = slot.role.is_listener();
        let has_unread = socket.has_unread();
        self.enter(Slot { socket: Some(socket), ..slot });
        if !answer.is_empty()
            && let Some(slot) = self.slots.get_mut(key.0 as usize)
        {
            self.stage.push(key, slot, Chunk::new([answer], 0));
        }
        if listens {
            self.guarded(key, |worker| worker.with_session(key, now, Session::listen));
        }
        if !leftover.is_empty() {
            let mut leftover = leftover.to_vec();
            self.guarded(key, |worker| worker.feed(key, &mut leftover, now));
        }
        if has_unread {
            self.go_on(key);
        }
    }

    fn enter(&mut self, slot: Slot) {
        self.stats.entered(transport_of(&slot));
        let key = SessionKey(self.slots.vacant_key() as u32);
        self.traces.entered(key, &slot);
        self.sweep.has_come_late(Ticket { key, serial: slot.serial });
        self.slots.insert(slot);
    }

    /// What a connection begins with.
    fn slot(
        &mut self,
        key: SessionKey,
        link: Link,
        framing: Framing,
        opening: Opening,
        admitted: Admitted,
        now: Now,
    ) -> Slot {
        let id = opening.let_in().unwrap_or_else(|| self.ids.session(now));
        self.next_serial += 1;
        Slot {
            socket: None,
            link,
            role: match opening {
                Opening::Session(handshake, protocol) => {
                    Role::Session(Session::new(key, id, protocol, handshake, now))
                }
                Opening::Listener(handshake, listening) => {
                    Role::Session(Session::listener(key, id, listening, handshake, now))
                }
                Opening::Echo(echo) => Role::Echo(echo),
            },
            inbound: None,
            outbox: None,
            serial: self.next_serial,
            last_received_ms: now.mono_ms,
            last_sent_ms: now.mono_ms,
            phase: Phase::Open,
            framing,
            paused: false,
            queued: false,
            peer_ended: false,
            staged: None,
            admitted,
        }
    }

    /// Runs a step of a session with its context, then carries out what it asked for.
    fn with_session(
        &mut self,
        key: SessionKey,
        now: Now,
        step: impl FnOnce(&mut Session, &mut Cx),
    ) {
        self.step(key, now, step);
        self.carry_out(key, now);
    }

    fn step(&mut self, key: SessionKey, now: Now, step: impl FnOnce(&mut Session, &mut Cx)) {
        let Some(Slot { role: Role::Session(session), .. }) = self.slots.get_mut(key.0 as usize)
        else {
            return;
        };
        let mut cx = Cx {
            now,
            rules: &self.shared.rules,
            hub: &mut self.hub,
            consumers: &mut self.queues.consumers,
            ids: &mut self.ids,
            effects: &mut self.effects,
        };
        step(session, &mut cx);
    }

    fn carry_out(&mut self, key: SessionKey, now: Now) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                if let Some(done) = self.effect(key, effect, now) {
                    self.revoking.answered(key, &done);
                    self.step(key, now, |session, cx| session.on_done(cx, done));
                }
            }
        }
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        // It may just have become ready.
        slot.hand_over(now.mono_ms);
        if slot.paused && !slot.is_busy() {
            self.go_on(key);
        }
    }

    /// Polls `future` once and keeps it when it has to wait; `done` says what it came to.
    fn start<T: 'static>(
        &mut self,
        key: SessionKey,
        mut future: BoxFuture<'static, T>,
        done: fn(T) -> Done,
    ) -> Option<Done> {
        if let Some(outcome) = (&mut future).now_or_never() {
            return Some(done(outcome));
        }
        let serial = self.slots.get(key.0 as usize)?.serial;
        let ticket = Ticket { key, serial };
        self.work.push(future.map(move |outcome| (ticket, done(outcome))).boxed());
        None
    }

    fn on_done(&mut self, ticket: Ticket, done: Done) {
        if self.is_current(ticket) {
            let now = self.shared.clock.now();
            self.revoking.answered(ticket.key, &done);
            let done = self.unless_revoked(done, now);
            self.guarded(ticket.key, |worker| {
                worker.with_session(ticket.key, now, |session, cx| session.on_done(cx, done));
            });
        }
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        self.slots.get(ticket.key.0 as usize).is_some_and(|slot| slot.serial == ticket.serial)
    }

    fn stage_control(&mut self, key: SessionKey, opcode: Opcode, payload: &[u8]) {
        let mut out = Vec::with_capacity(payload.len() + 2);
        ws::frame(&mut out, opcode, payload);
        self.stage_bytes(key, out);
    }

    /// Stages one frame.
    fn stage_bytes(&mut self, key: SessionKey, frame: Vec<u8>) {
        if let Some(slot) = self.slots.get_mut(key.0 as usize) {
            self.stage.push(key, slot, Chunk::new([frame.into()], 1));
        }
    }

    /// Begins the end of a connection: the session is over, its close frame goes out behind what
    /// is queued, and the socket is dropped once the peer has closed too or a moment has passed.
    fn close(&mut self, key: SessionKey, reason: CloseReason, now: Now) {
        self.close_with_code(key, reason, reason.websocket_code(), now);
    }

    fn close_with_code(&mut self, key: SessionKey, reason: CloseReason, code: u16, now: Now) {
        if self.end_session(key, reason, now) {
            let slot = self.slots.get_mut(key.0 as usize);
            let last_word = slot.and_then(|slot| {
                let word = slot.link.last_word(slot.framing, reason, code);
                slot.hand_over(now.mono_ms);
                word
            });
            match last_word {
                Some(bytes) => self.stage_bytes(key, bytes),
                // What is still to be written ends it later.
                None => self.end_if_closed(key),
            }
        }
    }

    /// Drops a connection at once: there is nobody to say goodbye to.
    fn cut(&mut self, key: SessionKey, reason: CloseReason, now: Now) {
        self.end_session(key, reason, now);
        self.remove(key);
    }

    /// Ends what the connection carries; whether it was still open.
    fn end_session(&mut self, key: SessionKey, reason: CloseReason, now: Now) -> bool {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return false };
        if !slot.is_open() {
            return false;
        }
        let close_ms = match &slot.link {
            Link::Mailbox(mailbox) => mailbox.linger_ms(self.sweep.is_draining()),
            _ => CLOSE_TIME.as_millis() as u64,
        };
        let deadline_ms = now.mono_ms + close_ms;
        slot.phase = Phase::Closing { deadline_ms, peer_closed: false };
        let paused = slot.paused;
        self.stats.closed(reason);
        self.traces.closed(key, slot, reason);
        self.revoking.ended(key, reason);
        self.recovery.forget(key);
        self.conflation.conflation.forget(key);
        self.with_session(key, now, |session, cx| session.on_closed_for(cx, reason));
        if paused {
            // What it has sent meanwhile may hold its close frame, whose edge is over.
            self.go_on(key);
        }
        true
    }

    /// Ends a connection without a word. The socket closes when the slot drops.
    fn remove(&mut self, key: SessionKey) {
        let Some(mut slot) = self.slots.try_remove(key.0 as usize) else { return };
        self.stats.left(transport_of(&slot));
        if let Some(socket) = &mut slot.socket {
            let _ = self.poll.get_ref().registry().deregister(socket.stream_mut());
            // As far as it goes at once: a peer that knows our end need not wonder who cut it.
            let _ = socket.finish_tls();
        }
        if let Link::Mailbox(mailbox) = &slot.link
            && let Some(name) = mailbox.claim()
        {
            let handle = Handle { worker: self.id, slot: key.0, serial: slot.serial };
            self.shared.peers.release(name, handle);
        }
    }

    /// Sends what the tick has gathered: one system call for each connection.
    fn flush_stage(&mut self) {
        // Closing a slow consumer stages its last word, hence the loop; it ends because a closed
        // connection stages nothing more.
        while !self.stage.is_empty() {
            let now = self.shared.clock.now();
            let dirty = self.stage.take_dirty();
            let mut unsettled = Vec::new();
            for &(key, serial) in &dirty {
                let Some(slot) = self.slots.get_mut(key.0 as usize) else { continue };
                if slot.serial != serial {
                    continue;
                }
                self.stage.take(slot, &mut self.buffers.chunks);
                let limits = slot.limits(&self.shared);
                let chunks = &self.buffers.chunks;
                let (scratch, sent) = (&mut self.buffers.write, &mut self.stats.bytes_out);
                match slot.write_all(chunks, scratch, limits, now.mono_ms, sent) {
                    Written::Taken if slot.is_open() => {}
                    outcome => unsettled.push((key, outcome)),
                }
            }
            self.buffers.chunks.clear();
            self.stage.clear(dirty);
            for (key, outcome) in unsettled {
                self.on_unwritten(key, outcome, now);
            }
        }
    }

    /// What a connection comes to that could not be written to, or that is closing.
    fn on_unwritten(&mut self, key: SessionKey, outcome: Written, now: Now) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        match outcome {
            Written::Taken => self.end_if_closed(key),
            Written::Full { refused } if slot.is_open() => {
                self.stats.frames_dropped += u64::from(refused + slot.abandon_outbox());
                let message = "the connection did not keep up with its messages";
                self.fault(key, CloseReason::SlowConsumer, message, now);
            }
            // It is closed already, for another publication that it had no room for.
            Written::Full { refused } => self.stats.frames_dropped += u64::from(refused),
            Written::Lost => self.cut(key, CloseReason::ConnectionLost, now),
        }
    }

    /// Ends a session for a fault that its own protocol should be told of.
    fn fault(&mut self, key: SessionKey, reason: CloseReason, message: &str, now: Now) {
        self.with_session(key, now, |session, cx| session.close_with_error(cx, reason, message));
        // An echo has no session to end.
        self.close(key, reason, now);
    }
}

fn read_buffer() -> Box<[u8]> {
    vec![0; READ_BUFFER_BYTES].into()
}

const INBOX_BATCH: usize = 512;
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How long a peer has to answer a close frame.
const CLOSE_TIME: Duration = Duration::from_secs(2);
