//! Sessions without a connection of their own: what is for them waits in the slot's outbox until a
//! request receives it, and what they send comes by requests too.

use bytes::Bytes;
use fanlight_engine::encode::Framing;
use fanlight_engine::hub::SessionKey;
use fanlight_engine::outbox::{Chunk, Outbox};
use fanlight_engine::peers::ClaimName;
use fanlight_engine::registry::Handle;
use fanlight_engine::session::{Incoming, Session};
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use fanlight_proto::cursor::Cursor;
use fanlight_proto::sockjs::{Close, frame};
use tokio::sync::oneshot;

use super::inbox::Opened;
use super::slot::{Link, Slot};
use super::{CLOSE_TIME, Worker};
use crate::mail::{Mail, MailReply, MailRequest, Receive, Wish};

/// Who comes to a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailboxKind {
    /// Requests of SockJS, for its frames.
    SockJs,
    /// Polls, for JSON objects of messages and a cursor.
    Poll,
}

impl MailboxKind {
    /// How what waits is written.
    pub(super) fn framing(self) -> Framing {
        match self {
            Self::SockJs => Framing::Quoted,
            Self::Poll => Framing::Items,
        }
    }
}

/// What a mailbox is opened with.
#[derive(Debug)]
pub struct MailboxOptions {
    /// Who comes to it.
    pub kind: MailboxKind,
    /// What its session will be claimed by.
    pub name: ClaimName,
    /// Who opened it: nobody else receives or sends.
    pub caller: Option<Box<str>>,
    /// How long its session lives without a receiver, in milliseconds.
    pub linger_ms: u64,
    /// How the session has ended already, for conformance suites.
    pub ended: Option<Close>,
}

/// What a slot has in place of a socket.
pub(super) struct Mailbox {
    options: MailboxOptions,
    /// Whether somebody was told that it is open.
    is_open: bool,
    /// Whether the claim is this session's to give up.
    is_claimed: bool,
    receiver: Option<Receiver>,
    /// Since when nobody receives.
    idle_since_ms: u64,
    /// Requests whose messages are not all handed over.
    sending: Vec<oneshot::Sender<MailReply>>,
    /// Whether some of what waits was missed before: there is more once it is received.
    has_missed: bool,
    /// Where the listener was told that it stands.
    told: Option<Cursor>,
    /// How the session has ended: what everybody is told who receives once all else is received.
    ended: Option<Ended>,
}

/// The end of a mailbox's session.
struct Ended {
    close: Close,
    /// Whether it was the loss of its receiver: what waits comes too late.
    is_interrupted: bool,
    /// Whether somebody has heard of it.
    is_told: bool,
}

/// The connection that receives.
struct Receiver {
    id: u64,
    stays: bool,
    /// Absent between two of its requests.
    waiting: Option<Waiting>,
    seen_ms: u64,
}

struct Waiting {
    reply: oneshot::Sender<MailReply>,
    max_bytes: usize,
    until_ms: u64,
}

/// Where a mailbox's session stands, if it is a listener, and whether it is live on all it wants.
pub(super) type Standing<'s> = Option<(&'s Cursor, bool)>;

impl Mailbox {
    /// One that nobody has received from yet.
    pub(super) fn new(options: MailboxOptions, now_ms: u64) -> Self {
        Self {
            ended: options.ended.map(Ended::with),
            options,
            is_open: false,
            is_claimed: true,
            receiver: None,
            idle_since_ms: now_ms,
            sending: Vec::new(),
            has_missed: false,
            told: None,
        }
    }

    /// Who comes to it.
    pub(super) fn kind(&self) -> MailboxKind {
        self.options.kind
    }

    /// Gives what waits in `outbox` to whoever waits for it.
    pub(super) fn hand_over(
        &mut self,
        outbox: &mut Option<Box<Outbox>>,
        standing: Standing<'_>,
        now_ms: u64,
    ) {
        self.forget_gone(now_ms);
        let waiting = self.receiver.as_ref().and_then(|receiver| receiver.waiting.as_ref());
        let Some(waiting) = waiting else { return };
        let (max_bytes, until_ms) = (waiting.max_bytes, waiting.until_ms);
        let reply = match self.options.kind {
            MailboxKind::SockJs => self.frame(outbox, max_bytes, now_ms >= until_ms),
            MailboxKind::Poll => {
                // A first poll that waits for nothing else waits for the places to begin from.
                let is_ready = standing.is_some_and(|(_, is_ready)| is_ready);
                let over_ms = if is_ready { until_ms } else { until_ms + JOIN_MS };
                self.page(outbox, standing, now_ms >= over_ms)
            }
        };
        if let Some(reply) = reply {
            self.answer(reply, now_ms);
        }
    }

    /// The next frame of SockJS.
    fn frame(
        &mut self,
        outbox: &mut Option<Box<Outbox>>,
        max_bytes: usize,
        is_over: bool,
    ) -> Option<MailReply> {
        if !self.is_open {
            self.is_open = true;
            return Some(MailReply::Frame(Bytes::from_static(frame::OPEN)));
        }
        if self.is_interrupted() {
            *outbox = None;
        }
        if let Some(chunks) = take(outbox, max_bytes) {
            let mut out = vec![b'a'];
            array(&mut out, &chunks);
            return Some(MailReply::Frame(out.into()));
        }
        if let Some(ended) = &self.ended {
            return Some(MailReply::Last(close_frame(&ended.close)));
        }
        is_over.then(|| MailReply::Frame(Bytes::from_static(frame::HEARTBEAT)))
    }

    /// All that waits, and the cursor behind it.
    fn page(
        &mut self,
        outbox: &mut Option<Box<Outbox>>,
        standing: Standing<'_>,
        is_over: bool,
    ) -> Option<MailReply> {
        let (cursor, is_ready) = standing?;
        // Before it is ready, the cursor lacks the places where destinations begin; but what was
        // missed is given piece by piece.
        let has_some = outbox.is_some() && (is_ready || self.has_missed);
        if !has_some && !is_over && self.ended.is_none() {
            return None;
        }
        self.is_open = true;
        self.has_missed = false;
        self.tell(cursor);
        let mut out = br#"{"messages":"#.to_vec();
        array(&mut out, &take(outbox, usize::MAX).unwrap_or_default());
        out.extend_from_slice(br#","cursor":""#);
        cursor.write(&mut out);
        if self.ended.is_none() {
            // A client that comes back to this mailbox goes on from here.
            let id = self.options.name.as_str().rsplit('/').next().unwrap_or_default();
            out.push(b'~');
            out.extend_from_slice(id.as_bytes());
        }
        out.extend_from_slice(br#""}"#);
        let page = Bytes::from(out);
        let is_last = self.ended.is_some();
        Some(if is_last { MailReply::Last(page) } else { MailReply::Frame(page) })
    }

    /// Answers the receiver that waits.
    fn answer(&mut self, reply: MailReply, now_ms: u64) {
        let Some(receiver) = &mut self.receiver else { return };
        let Some(waiting) = receiver.waiting.take() else { return };
        let is_last = matches!(reply, MailReply::Last(_));
        receiver.seen_ms = now_ms;
        if is_last || !receiver.stays {
            self.receiver = None;
        }
        self.idle_since_ms = now_ms;
        if waiting.reply.send(reply).is_err() {
            // Who has gone in this very moment has lost a frame.
            self.lose_receiver(now_ms);
        } else if let Some(ended) = self.ended.as_mut().filter(|_| is_last) {
            ended.is_told = true;
        }
    }

    /// A receiver's connection has ended without our doing. Who polls comes again, and says where
    /// it stands; of SockJS, frames may be lost on their way, so that its session is over.
    fn lose_receiver(&mut self, now_ms: u64) {
        self.receiver = None;
        self.idle_since_ms = now_ms;
        if self.options.kind == MailboxKind::SockJs && self.ended.is_none() {
            self.ended = Some(Ended { is_interrupted: true, ..Ended::with(Close::INTERRUPTED) });
        }
    }

    /// Forgets a receiver that has gone without a word.
    fn forget_gone(&mut self, now_ms: u64) {
        let is_gone = self.receiver.as_ref().is_some_and(|receiver| match &receiver.waiting {
            Some(waiting) => waiting.reply.is_closed(),
            None => now_ms.saturating_sub(receiver.seen_ms) > BETWEEN_MS,
        });
        if is_gone {
            self.lose_receiver(now_ms);
        }
    }

    /// Forgets a receiver that says that it goes, and whether its client's connection was lost.
    fn leave(&mut self, receiver: u64, is_lost: bool, now_ms: u64) {
        if self.receiver.as_ref().is_none_or(|own| own.id != receiver) {
            return;
        }
        if is_lost {
            self.lose_receiver(now_ms);
        } else {
            self.receiver = None;
            self.idle_since_ms = now_ms;
        }
    }

    /// Makes room for `receiver`, or tells that there is another: of those who poll, the newest is
    /// the client, and the one before is perhaps not known to be gone.
    fn make_room(&mut self, receiver: u64) -> Result<(), MailReply> {
        let is_other = |other: &mut Receiver| other.id != receiver;
        let Some(other) = self.receiver.take_if(is_other) else { return Ok(()) };
        let refused = MailReply::Last(close_frame(&Close::ANOTHER_CONNECTION));
        if self.options.kind == MailboxKind::SockJs {
            self.receiver = Some(other);
            return Err(refused);
        }
        if let Some(waiting) = other.waiting {
            let _ = waiting.reply.send(refused);
        }
        Ok(())
    }

    /// Whether nobody has received for so long that nobody will.
    fn is_abandoned(&mut self, now_ms: u64) -> bool {
        self.forget_gone(now_ms);
        self.receiver.is_none()
            && now_ms.saturating_sub(self.idle_since_ms) >= self.options.linger_ms
    }

    /// Notes where the listener is told that it stands.
    pub(super) fn tell(&mut self, cursor: &Cursor) {
        self.told = Some(cursor.clone());
    }

    /// Where the listener was told that it stands.
    pub(super) fn told(&self) -> Option<&Cursor> {
        self.told.as_ref()
    }

    /// Notes that some of what comes now was missed.
    pub(super) fn gives_missed(&mut self) {
        self.has_missed = true;
    }

    /// From now on there is nothing but what it ended with.
    pub(super) fn end(&mut self, close: Close) {
        self.ended.get_or_insert(Ended::with(close));
    }

    /// Whether somebody was told its end, so that a drain waits for nobody else.
    pub(super) fn has_told_end(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.is_told)
    }

    /// How long after its end was told a client may send without knowing it.
    pub(super) fn crossing_ms(&self) -> u64 {
        match self.options.kind {
            MailboxKind::SockJs => CROSSING_MS,
            MailboxKind::Poll => 0,
        }
    }

    /// Whether what comes now crosses the close of a session that goes to another node. It is lost, as with a WebSocket: a
    /// refusal might be there before the close, and be taken for why it ended.
    fn loses_what_is_sent(&self) -> bool {
        let goes_on = [CloseReason::Draining, CloseReason::Rebalanced].map(Close::from);
        self.ended.as_ref().is_some_and(|ended| goes_on.contains(&ended.close))
    }

    fn is_interrupted(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.is_interrupted)
    }

    /// Whether somebody receives, so that it is not silent.
    pub(super) fn is_attended(&self) -> bool {
        self.receiver.is_some()
    }

    /// Whether a request waits for what comes next.
    pub(super) fn is_awaited(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.waiting.is_some())
    }

    /// How long it stays after its end, for those who have not heard of it: in a drain, no longer
    /// than a peer has to answer a close frame.
    pub(super) fn linger_ms(&self, is_draining: bool) -> u64 {
        let longest_ms = if is_draining { CLOSE_TIME.as_millis() as u64 } else { ENDED_MS };
        self.options.linger_ms.min(longest_ms)
    }

    /// The claim to give up at the end.
    pub(super) fn claim(&self) -> Option<ClaimName> {
        self.is_claimed.then(|| self.options.name.clone())
    }

    /// Whether a client that says so stands where it was told last.
    fn stands_at(&self, from: Option<&str>) -> bool {
        from.is_none_or(|from| self.told.as_ref().is_some_and(|told| told.to_string() == from))
    }
}

impl Ended {
    /// As others end it.
    fn with(close: Close) -> Self {
        Self { close, is_interrupted: false, is_told: false }
    }
}

impl Worker {
    /// Opens a session to which requests will come.
    pub(super) fn open(&mut self, opened: Opened) {
        let Opened { mailbox, opening, admitted, reply } = opened;
        let now = self.shared.clock.now();
        let key = SessionKey(self.slots.vacant_key() as u32);
        let framing = mailbox.kind.framing();
        let link = Link::Mailbox(Box::new(Mailbox::new(mailbox, now.mono_ms)));
        let mut slot = self.slot(key, link, framing, opening, admitted, now);
        slot.tell_beginning();
        let handle = Handle { worker: self.id, slot: key.0, serial: slot.serial };
        let listens = slot.role.is_listener();
        self.enter(slot);
        if listens {
            self.guarded(key, |worker| worker.with_session(key, now, Session::listen));
        }
        // Who asked for it may have gone: then nobody comes, and it ends by that.
        let _ = reply.send(handle);
    }

    /// Serves a request for a mailbox of this worker.
    pub(super) fn on_mail(&mut self, mail: Mail) {
        let Mail { handle, request: MailRequest { caller, what }, reply } = mail;
        let now = self.shared.clock.now();
        let key = SessionKey(handle.slot);
        let mailbox = self.mailbox(handle).filter(|mailbox| mailbox.options.caller == caller);
        let Some(mailbox) = mailbox else {
            let _ = reply.send(MailReply::NotHere);
            return;
        };
        mailbox.forget_gone(now.mono_ms);
        match what {
            Wish::Receive(receive) => {
                if !mailbox.stands_at(receive.from.as_deref()) {
                    // An answer was lost; a new session gets what was in it from the history.
                    let _ = reply.send(MailReply::NotHere);
                    self.guarded(key, |worker| worker.cut(key, CloseReason::ConnectionLost, now));
                    return;
                }
                self.guarded(key, |worker| worker.on_receive(key, &receive, reply, now));
            }
            Wish::Leave { receiver, is_lost } => {
                mailbox.leave(receiver, is_lost, now.mono_ms);
                let _ = reply.send(MailReply::Sent);
            }
            Wish::Send { messages } => {
                if mailbox.loses_what_is_sent() {
                    let _ = reply.send(MailReply::Sent);
                } else if mailbox.ended.is_some() || !mailbox.is_open {
                    let _ = reply.send(MailReply::NotHere);
                } else if mailbox.sending.len() >= SENDS_MAX {
                    let _ = reply.send(MailReply::Full);
                } else {
                    mailbox.sending.push(reply);
                    if let Some(slot) = self.slots.get_mut(key.0 as usize) {
                        slot.last_received_ms = now.mono_ms;
                        slot.inbound.get_or_insert_default().extend(messages);
                    }
                    self.guarded(key, |worker| worker.feed_inbound(key, now));
                }
            }
        }
        self.guarded(key, |worker| _ = worker.end_if_interrupted(key, now));
    }

    /// Somebody waits for a mailbox's next frame.
    fn on_receive(
        &mut self,
        key: SessionKey,
        receive: &Receive,
        reply: oneshot::Sender<MailReply>,
        now: Now,
    ) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let Link::Mailbox(mailbox) = &mut slot.link else { return };
        if let Err(refused) = mailbox.make_room(receive.receiver) {
            let _ = reply.send(refused);
            return;
        }
        let waiting = Waiting {
            reply,
            max_bytes: receive.max_bytes as usize,
            until_ms: now.mono_ms + u64::from(receive.wait_ms),
        };
        mailbox.receiver = Some(Receiver {
            id: receive.receiver,
            stays: receive.stays,
            waiting: Some(waiting),
            seen_ms: now.mono_ms,
        });
        slot.last_received_ms = now.mono_ms;
        let has_waited = slot.outbox.is_some();
        self.give_all_latest(key);
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        slot.hand_over(now.mono_ms);
        if has_waited && slot.outbox.is_none() {
            self.queues.consumers.unhold();
            self.give_on(key);
        }
        self.end_if_closed(key);
    }

    /// Ends the session of a mailbox that has lost its receiver; whether it has just ended.
    fn end_if_interrupted(&mut self, key: SessionKey, now: Now) -> bool {
        let slot = self.slots.get(key.0 as usize).filter(|slot| slot.is_open());
        let is_interrupted = slot.is_some_and(
            |slot| matches!(&slot.link, Link::Mailbox(mailbox) if mailbox.is_interrupted()),
        );
        if is_interrupted {
            self.close(key, CloseReason::ConnectionLost, now);
        }
        is_interrupted
    }

    /// Hands the messages that wait to the session, as far as it takes them.
    pub(super) fn feed_inbound(&mut self, key: SessionKey, now: Now) {
        loop {
            let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
            let is_open = slot.is_open();
            if is_open && slot.is_busy() && slot.inbound.is_some() {
                slot.paused = true;
                return;
            }
            let next = slot.inbound.as_mut().and_then(|inbound| inbound.pop_front());
            match next {
                Some(message) if is_open => self.on_data(key, Incoming::Text(&message), now),
                Some(_) => {}
                None => {
                    slot.inbound = None;
                    if let Link::Mailbox(mailbox) = &mut slot.link {
                        for reply in std::mem::take(&mut mailbox.sending) {
                            let _ = reply.send(MailReply::Sent);
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Another session has this one's name, or may have it.
    pub(super) fn on_unclaimed(&mut self, handle: Handle) {
        let Some(mailbox) = self.mailbox(handle) else { return };
        mailbox.is_claimed = false;
        let now = self.shared.clock.now();
        let key = SessionKey(handle.slot);
        self.guarded(key, |worker| worker.close(key, CloseReason::ConnectionLost, now));
    }

    /// Looks after a mailbox's time; whether it has ended, as nobody comes any more.
    pub(super) fn sweep_mailbox(&mut self, key: SessionKey, now: Now) -> bool {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return false };
        let early_ms = match &slot.link {
            Link::Mailbox(mailbox) if mailbox.options.kind == MailboxKind::SockJs => SWEEP_MS,
            _ => 0,
        };
        slot.hand_over(now.mono_ms + early_ms);
        let is_abandoned = match &mut slot.link {
            Link::Mailbox(mailbox) => mailbox.is_abandoned(now.mono_ms),
            _ => return false,
        };
        if self.end_if_interrupted(key, now) {
            return true;
        }
        if is_abandoned {
            self.cut(key, CloseReason::ConnectionLost, now);
        }
        is_abandoned
    }

    fn mailbox(&mut self, handle: Handle) -> Option<&mut Mailbox> {
        let slot = self.slots.get_mut(handle.slot as usize)?;
        match slot {
            Slot { serial, link: Link::Mailbox(mailbox), .. } if *serial == handle.serial => {
                Some(mailbox)
            }
            _ => None,
        }
    }
}

/// The oldest of what waits, no more than about `max_bytes`.
fn take(outbox: &mut Option<Box<Outbox>>, max_bytes: usize) -> Option<Vec<Chunk>> {
    let waiting = outbox.as_mut()?;
    let chunks = waiting.take(max_bytes);
    if waiting.is_empty() {
        *outbox = None;
    }
    Some(chunks)
}

/// Appends an array of items, each of which has a comma before it.
fn array(out: &mut Vec<u8>, chunks: &[Chunk]) {
    let bytes: usize = chunks.iter().map(Chunk::len).sum();
    out.reserve(bytes + 2);
    let begin = out.len();
    for piece in chunks.iter().flat_map(Chunk::pieces) {
        out.extend_from_slice(piece);
    }
    match out.get_mut(begin) {
        Some(first_comma) => *first_comma = b'[',
        None => out.push(b'['),
    }
    out.push(b']');
}

fn close_frame(close: &Close) -> Bytes {
    let mut out = Vec::new();
    frame::close(&mut out, close);
    out.into()
}

/// Requests with messages that wait for a session, whoever made them may have gone since. A client
/// of SockJS makes one at a time.
const SENDS_MAX: usize = 4;
/// How long a receiver that stays may take from one frame to its next request: longer than a
/// client may take to read a frame.
const BETWEEN_MS: u64 = 15_000;
/// For so long a client that was told the end of its session may not know it.
const CROSSING_MS: u64 = 500;
/// For so long an end is told again to whoever asks.
const ENDED_MS: u64 = 5_000;
/// How much longer than it wants a poll waits until all that it wants is joined.
const JOIN_MS: u64 = 4_000;
/// How far apart sweeps may be: a heartbeat is early rather than late.
const SWEEP_MS: u64 = 1_000;
