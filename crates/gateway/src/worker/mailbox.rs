//! Sessions without a connection of their own: what is for them waits in the slot's outbox until a
//! request receives it, and what they send comes by requests too.

use bytes::Bytes;
use fanlight_engine::hub::SessionKey;
use fanlight_engine::outbox::{Chunk, Outbox};
use fanlight_engine::peers::ClaimName;
use fanlight_engine::registry::Handle;
use fanlight_engine::session::Incoming;
use fanlight_engine::time::Now;
use fanlight_proto::CloseReason;
use fanlight_proto::sockjs::{Close, frame};
use tokio::sync::oneshot;

use super::Worker;
use super::slot::{Link, Slot};
use crate::mail::{Mail, MailReply, MailRequest, Wish};

/// How mailboxes look after time.
#[derive(Debug, Clone, Copy)]
pub struct MailboxTimes {
    /// How often a receiver that waits is given something, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a session lives without a receiver, in milliseconds.
    pub disconnect_ms: u64,
}

/// What a slot has in place of a socket.
pub(super) struct Mailbox {
    /// What the session is claimed by.
    name: ClaimName,
    /// Who opened it: nobody else receives or sends.
    caller: Option<Box<str>>,
    /// Whether somebody was told that it is open.
    is_open: bool,
    /// Whether the claim is this session's to give up.
    is_claimed: bool,
    receiver: Option<Receiver>,
    /// Since when nobody receives.
    idle_since_ms: u64,
    /// Requests whose messages are not all handed over.
    sending: Vec<oneshot::Sender<MailReply>>,
    /// What everybody is told who receives once all else is received.
    last: Option<Bytes>,
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
    since_ms: u64,
}

impl Mailbox {
    /// One that nobody has received from yet.
    pub(super) fn new(name: ClaimName, caller: Option<Box<str>>, now_ms: u64) -> Self {
        Self {
            name,
            caller,
            is_open: false,
            is_claimed: true,
            receiver: None,
            idle_since_ms: now_ms,
            sending: Vec::new(),
            last: None,
        }
    }

    /// Gives what waits in `outbox` to whoever waits for it.
    pub(super) fn hand_over(&mut self, outbox: &mut Option<Box<Outbox>>, now_ms: u64) {
        self.forget_gone(now_ms);
        let Some(receiver) = &mut self.receiver else { return };
        let Some(max_bytes) = receiver.waiting.as_ref().map(|waiting| waiting.max_bytes) else {
            return;
        };
        let reply = if !self.is_open {
            self.is_open = true;
            MailReply::Frame(Bytes::from_static(frame::OPEN))
        } else if let Some(waiting) = outbox {
            let chunks = waiting.take(max_bytes);
            if waiting.is_empty() {
                *outbox = None;
            }
            MailReply::Frame(messages(&chunks))
        } else if let Some(last) = &self.last {
            MailReply::Last(last.clone())
        } else {
            return;
        };
        self.answer(reply, now_ms);
    }

    /// Answers the receiver that waits.
    fn answer(&mut self, reply: MailReply, now_ms: u64) {
        let Some(receiver) = &mut self.receiver else { return };
        if let Some(waiting) = receiver.waiting.take() {
            // Who has gone in this very moment has lost a frame, as by a cut connection.
            let _ = waiting.reply.send(reply);
        }
        receiver.seen_ms = now_ms;
        if !receiver.stays {
            self.receiver = None;
        }
        self.idle_since_ms = now_ms;
    }

    /// Forgets a receiver that has gone without a word.
    fn forget_gone(&mut self, now_ms: u64) {
        let is_gone = self.receiver.as_ref().is_some_and(|receiver| match &receiver.waiting {
            Some(waiting) => waiting.reply.is_closed(),
            None => now_ms.saturating_sub(receiver.seen_ms) > BETWEEN_MS,
        });
        if is_gone {
            self.receiver = None;
            self.idle_since_ms = now_ms;
        }
    }

    /// Looks after time; whether nobody has received for so long that nobody will.
    fn sweep(&mut self, now_ms: u64, times: MailboxTimes) -> bool {
        self.forget_gone(now_ms);
        let waiting = self.receiver.as_ref().and_then(|receiver| receiver.waiting.as_ref());
        match waiting {
            Some(waiting) => {
                // Early rather than late: the next sweep may be a whole interval away.
                if now_ms.saturating_sub(waiting.since_ms) + SWEEP_MS >= times.heartbeat_ms {
                    self.answer(MailReply::Frame(Bytes::from_static(frame::HEARTBEAT)), now_ms);
                }
                false
            }
            None => now_ms.saturating_sub(self.idle_since_ms) >= times.disconnect_ms,
        }
    }

    /// From now on there is nothing but this close frame.
    pub(super) fn close(&mut self, close: &Close) {
        let mut out = Vec::new();
        frame::close(&mut out, close);
        self.last = Some(out.into());
    }

    /// Whether somebody receives, so that it is not silent.
    pub(super) fn is_attended(&self) -> bool {
        self.receiver.is_some()
    }

    /// The claim to give up at the end.
    pub(super) fn claim(&self) -> Option<ClaimName> {
        self.is_claimed.then(|| self.name.clone())
    }
}

impl Worker {
    /// Serves a request for a mailbox of this worker.
    pub(super) fn on_mail(&mut self, mail: Mail) {
        let Mail { handle, request: MailRequest { caller, what }, reply } = mail;
        let now = self.shared.clock.now();
        let key = SessionKey(handle.slot);
        let Some(mailbox) = self.mailbox(handle).filter(|mailbox| mailbox.caller == caller) else {
            let _ = reply.send(MailReply::NotHere);
            return;
        };
        match what {
            Wish::Receive { receiver, stays, max_bytes } => {
                mailbox.forget_gone(now.mono_ms);
                if mailbox.receiver.as_ref().is_some_and(|other| other.id != receiver) {
                    let mut out = Vec::new();
                    frame::close(&mut out, &Close::ANOTHER_CONNECTION);
                    let _ = reply.send(MailReply::Last(out.into()));
                    return;
                }
                let max_bytes = max_bytes as usize;
                let waiting = Some(Waiting { reply, max_bytes, since_ms: now.mono_ms });
                let seen_ms = now.mono_ms;
                mailbox.receiver = Some(Receiver { id: receiver, stays, waiting, seen_ms });
                self.guarded(key, |worker| worker.on_received(key, now));
            }
            Wish::Send { messages } => {
                if mailbox.last.is_some() || !mailbox.is_open {
                    let _ = reply.send(MailReply::NotHere);
                    return;
                }
                mailbox.sending.push(reply);
                if let Some(slot) = self.slots.get_mut(key.0 as usize) {
                    slot.last_received_ms = now.mono_ms;
                    slot.inbound.get_or_insert_default().extend(messages);
                }
                self.guarded(key, |worker| worker.feed_inbound(key, now));
            }
        }
    }

    /// Somebody waits for a mailbox's next frame.
    fn on_received(&mut self, key: SessionKey, now: Now) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        slot.last_received_ms = now.mono_ms;
        let waited = slot.outbox.is_some();
        slot.hand_over(now.mono_ms);
        if waited && slot.outbox.is_none() {
            self.queues.consumers.unhold();
            self.give_on(key);
        }
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

    /// Looks after a mailbox's time; whether it is to end, as nobody comes any more.
    pub(super) fn sweep_mailbox(&mut self, key: SessionKey, now: Now) -> bool {
        let times = self.shared.mailbox_times;
        match self.slots.get_mut(key.0 as usize).map(|slot| &mut slot.link) {
            Some(Link::Mailbox(mailbox)) => mailbox.sweep(now.mono_ms, times),
            _ => false,
        }
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

/// A frame of messages, each of which has a comma before it.
fn messages(chunks: &[Chunk]) -> Bytes {
    let bytes: usize = chunks.iter().map(Chunk::len).sum();
    let mut out = Vec::with_capacity(bytes + 2);
    out.extend_from_slice(b"a[");
    for piece in chunks.iter().flat_map(Chunk::pieces) {
        out.extend_from_slice(piece);
    }
    out.push(b']');
    // In place of the first comma.
    out.remove(2);
    out.into()
}

/// How long a receiver that stays may take from one frame to its next request.
const BETWEEN_MS: u64 = 5_000;
/// How far apart sweeps may be.
const SWEEP_MS: u64 = 1_000;
