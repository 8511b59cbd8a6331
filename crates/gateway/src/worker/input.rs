//! From a readable socket to the session: read, decode, hand over, in order and without waiting.

use std::borrow::Cow;
use std::io;

use fanlight_engine::encode::Framing;
use fanlight_engine::hub::SessionKey;
use fanlight_engine::session::Incoming;
use fanlight_engine::time::Now;
use fanlight_proto::native::MAX_BATCH;
use fanlight_proto::ws::{Message, Opcode, WsError};
use fanlight_proto::{CloseReason, sockjs};
use mio::event::Event;

use super::inbox::Echo;
use super::slot::{Link, Phase, Role, Slot, Written};
use super::{Inbox, Ticket, Worker};

impl Worker {
    pub(super) fn on_socket(&mut self, key: SessionKey, event: &Event) {
        let now = self.shared.clock.now();
        if event.is_writable() {
            self.on_writable(key, now);
        }
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        slot.peer_ended |= event.is_read_closed() || event.is_error();
        // Who waits for its turn has it before more is read: what a client sends while its
        // messages wait stays with the kernel, which slows it down.
        if !slot.queued && (event.is_readable() || slot.peer_ended) {
            self.on_readable(key, now);
        }
    }

    fn on_writable(&mut self, key: SessionKey, now: Now) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        if slot.outbox.is_none() {
            return;
        }
        if slot.flush(now.mono_ms, &mut self.stats.bytes_out) == Written::Lost {
            self.on_unwritten(key, Written::Lost, now);
            return;
        }
        if slot.outbox.is_none() {
            self.queues.consumers.unhold();
            self.give_on(key);
        }
        let Some(slot) = self.slots.get(key.0 as usize) else { return };
        // An echo reads on once it is written.
        if slot.paused && !slot.is_busy() {
            self.go_on(key);
        }
        self.end_if_closed(key);
    }

    /// Reads until the socket is dry, the session is busy, or others should have their turn.
    fn on_readable(&mut self, key: SessionKey, now: Now) {
        let mut buffer = std::mem::take(&mut self.buffers.read);
        for _ in 0..READS_PER_TURN {
            let Some(slot) = self.slots.get_mut(key.0 as usize) else { break };
            if slot.is_open() && slot.is_busy() {
                slot.paused = true;
                break;
            }
            let Some(socket) = &mut slot.socket else {
                self.buffers.read = buffer;
                return;
            };
            match socket.read(&mut buffer) {
                Ok(0) => {
                    self.on_peer_ended(key, now);
                    self.buffers.read = buffer;
                    return;
                }
                Ok(bytes) => {
                    slot.last_received_ms = now.mono_ms;
                    let dry = socket.is_dry(bytes, buffer.len()) && !slot.peer_ended;
                    self.stats.bytes_in += bytes as u64;
                    self.feed(key, &mut buffer[..bytes], now);
                    // The socket was dry when it gave less than was asked for (epoll(7)), and
                    // tells of what comes next; but a FIN that it has told of is still to be read.
                    if dry {
                        self.buffers.read = buffer;
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    slot.peer_ended = false;
                    self.buffers.read = buffer;
                    return;
                }
                Err(_) => {
                    self.cut(key, CloseReason::ConnectionLost, now);
                    break;
                }
            }
        }
        self.buffers.read = buffer;
        if self.slots.get(key.0 as usize).is_some_and(|slot| !slot.paused) {
            self.go_on(key);
        }
    }

    /// Gives a connection a place among those whose unread input can go on, if it has none.
    pub(super) fn go_on(&mut self, key: SessionKey) {
        if let Some(slot) = self.slots.get_mut(key.0 as usize) {
            slot.paused = false;
            if !std::mem::replace(&mut slot.queued, true) {
                self.resumed.push_back(Ticket { key, serial: slot.serial });
            }
        }
    }

    /// Goes on with connections whose input had to wait, each once.
    pub(super) async fn resume(&mut self, inbox: &mut Vec<Inbox>) {
        for _ in 0..self.resumed.len() {
            let Some(ticket) = self.resumed.pop_front() else { return };
            if !self.is_current(ticket) {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(ticket.key.0 as usize) {
                slot.queued = false;
            }
            let now = self.shared.clock.now();
            self.guarded(ticket.key, |worker| {
                worker.feed(ticket.key, &mut [], now);
                worker.on_readable(ticket.key, now);
            });
            self.relieve(inbox).await;
        }
    }

    /// Decodes `input` and hands each message over; what can't be taken yet is held.
    pub(super) fn feed(&mut self, key: SessionKey, input: &mut [u8], now: Now) {
        let mut rest = input;
        loop {
            self.feed_inbound(key, now);
            let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
            let is_busy = slot.is_open() && slot.is_busy();
            slot.paused |= is_busy;
            let decoder = match &mut slot.link {
                Link::WebSocket(decoder) => decoder,
                Link::Stream => return self.on_stream(key, rest, now),
                // Whoever listens has nothing to say.
                Link::Events { .. } | Link::Mailbox(_) => return,
            };
            if is_busy {
                if !rest.is_empty() {
                    decoder.hold(rest);
                }
                return;
            }
            let max_bytes = match &slot.role {
                Role::Session(session) => session.max_message_bytes(&self.shared.rules),
                Role::Echo(_) => ECHO_MAX_BYTES,
            };
            match decoder.next(&mut rest, max_bytes, &mut self.inflater) {
                Ok(Some(message)) => self.on_message(key, message, now),
                Ok(None) => return,
                Err(error) => {
                    self.on_malformed(key, &error, now);
                    return;
                }
            }
        }
    }

    /// Hands over what came on a stream. All that was read is one message: what can't be taken yet
    /// waits with the session, which is not asked for more meanwhile.
    fn on_stream(&mut self, key: SessionKey, input: &[u8], now: Now) {
        let is_open = self.slots.get(key.0 as usize).is_some_and(Slot::is_open);
        if is_open && !input.is_empty() {
            self.on_data(key, Incoming::Binary(input), now);
        }
    }

    fn on_message(&mut self, key: SessionKey, message: Message<'_>, now: Now) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        if let Phase::Closing { peer_closed, .. } = &mut slot.phase {
            // Only the peer's own close matters now.
            *peer_closed |= matches!(message, Message::Close(_));
            self.end_if_closed(key);
            return;
        }
        match message {
            Message::Text(text) if slot.framing == Framing::SockJs => {
                self.on_sockjs(key, &text, now);
            }
            Message::Text(text) => self.on_data(key, Incoming::Text(&text), now),
            Message::Binary(bytes) => self.on_data(key, Incoming::Binary(&bytes), now),
            Message::Ping(payload) => self.stage_control(key, Opcode::Pong, &payload),
            Message::Pong(_) => {}
            Message::Close(frame) => self.on_peer_close(key, frame.map(|frame| frame.code), now),
        }
    }

    /// A WebSocket message of SockJS: any number of the session's.
    fn on_sockjs(&mut self, key: SessionKey, text: &str, now: Now) {
        let bytes = text.len();
        let limits = sockjs::Limits { bytes, messages: MAX_BATCH };
        match sockjs::read_message(text, &limits) {
            Ok(messages) => {
                let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
                let messages = messages.into_iter().map(|message| message.into_owned().into());
                slot.inbound.get_or_insert_default().extend(messages);
                self.feed_inbound(key, now);
            }
            Err(error) => self.fault(key, error.close_reason(), &error.to_string(), now),
        }
    }

    pub(super) fn on_data(&mut self, key: SessionKey, message: Incoming<'_>, now: Now) {
        self.stats.messages_in += 1;
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        match slot.role {
            Role::Session(_) => {
                self.with_session(key, now, |session, cx| session.on_message(cx, message));
            }
            Role::Echo(echo) => {
                let (text, payload) = match message {
                    Incoming::Text(text) => (true, text.as_bytes()),
                    Incoming::Binary(bytes) => (false, bytes),
                };
                let payload = &*match echo {
                    Echo::Same => Cow::Borrowed(payload),
                    Echo::Amplified => amplified(payload).into(),
                };
                let chunk = self.encoder.frame(text, payload, slot.framing);
                self.stage.push(key, slot, chunk);
                // An echo that is not read must not pile up: what is staged goes out first.
                slot.paused = true;
                self.flush_stage();
                if let Some(slot) = self.slots.get_mut(key.0 as usize) {
                    slot.paused = slot.is_busy();
                }
            }
        }
    }

    /// The peer began the closing handshake: it gets its answer (RFC 6455 §5.5.1).
    fn on_peer_close(&mut self, key: SessionKey, code: Option<u16>, now: Now) {
        let code = code.unwrap_or(CloseReason::ClientClosed.websocket_code());
        self.close_with_code(key, CloseReason::ClientClosed, code, now);
        self.after_peer(key);
    }

    /// The peer sends nothing more. It may still read: it gets what it is owed.
    pub(super) fn on_peer_ended(&mut self, key: SessionKey, now: Now) {
        self.end_session(key, CloseReason::ConnectionLost, now);
        self.after_peer(key);
    }

    /// The peer's half of the end is done; ours is once everything is written.
    fn after_peer(&mut self, key: SessionKey) {
        if let Some(Slot { phase: Phase::Closing { peer_closed, .. }, .. }) =
            self.slots.get_mut(key.0 as usize)
        {
            *peer_closed = true;
        }
        self.flush_stage();
        self.end_if_closed(key);
    }

    fn on_malformed(&mut self, key: SessionKey, error: &WsError, now: Now) {
        let Some(slot) = self.slots.get(key.0 as usize) else { return };
        if slot.is_open() {
            self.fault(key, error.close_reason(), &error.to_string(), now);
        }
    }

    /// Drops a connection whose closing handshake is complete and written, and in a drain soon a
    /// mailbox that has told its end: it would be there only to tell it again.
    pub(super) fn end_if_closed(&mut self, key: SessionKey) {
        let is_draining = self.sweep.is_draining();
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let rest_ms = slot.stays_after_its_end_ms().filter(|_| is_draining);
        let (is_flushed, may_be_dropped) = (slot.is_flushed(), slot.may_be_dropped());
        let Phase::Closing { peer_closed, deadline_ms } = &mut slot.phase else { return };
        if rest_ms == Some(0) || (*peer_closed && is_flushed && may_be_dropped) {
            self.remove(key);
        } else if let Some(rest_ms) = rest_ms {
            *deadline_ms = (self.shared.clock.now().mono_ms + rest_ms).min(*deadline_ms);
        } else if is_flushed {
            slot.finish();
        }
    }
}

/// What the protocol's `amplify` service answers.
fn amplified(payload: &[u8]) -> Vec<u8> {
    let number = std::str::from_utf8(payload).ok().and_then(|text| text.trim().parse().ok());
    vec![b'x'; 1 << number.unwrap_or(1_u32).min(AMPLIFY_MAX)]
}

/// Half a mebibyte.
const AMPLIFY_MAX: u32 = 19;
/// How often one connection is read before others get their turn. What it can publish in one turn
/// must fit the worker's inbox.
const READS_PER_TURN: usize = 2;
/// The conformance echo takes what public suites send.
const ECHO_MAX_BYTES: usize = 64 * 1024 * 1024;
