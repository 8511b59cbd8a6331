//! A connection as its worker keeps it: a socket, its session, and nothing else while idle.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use fanlight_engine::encode::Framing;
use fanlight_engine::outbox::{Chunk, Outbox, OutboxLimits, fill_slices};
use fanlight_engine::publication::SessionId;
use fanlight_engine::session::Session;
use fanlight_proto::cursor::Cursor;
use fanlight_proto::ws::{self, Decoder, Opcode};
use fanlight_proto::{CloseReason, sockjs};
use mio::net::TcpStream;

use super::WorkerShared;
use super::inbox::{Carrier, Echo};
use super::mailbox::Mailbox;
use crate::admission::Admitted;
use crate::socket::Socket;

/// A connection of a worker.
///
/// This is what an idle connection costs, so every field is looked at twice: no buffer, no timer
/// and no task belongs here.
pub(super) struct Slot {
    /// Absent where requests come and go.
    pub socket: Option<Socket<TcpStream>>,
    pub link: Link,
    pub role: Role,
    /// Messages behind the one that the session is busy with, where they come in arrays.
    #[expect(clippy::box_collection, reason = "it is seldom there, and 24 bytes smaller so")]
    pub inbound: Option<Box<VecDeque<Box<str>>>>,
    /// What the socket did not take yet; `None` while it keeps up.
    pub outbox: Option<Box<Outbox>>,
    /// Tells this connection from the next one in the same slot.
    pub serial: u64,
    pub last_received_ms: u64,
    pub last_sent_ms: u64,
    pub phase: Phase,
    pub framing: Framing,
    /// Reading waits for the session (it is busy) or for the outbox (echo).
    pub paused: bool,
    /// It has a place in the worker's queue of those that go on: nothing is read before its turn.
    pub queued: bool,
    /// The peer's FIN has come, behind whatever is still to be read. Its edge does not come again.
    pub peer_ended: bool,
    /// The first and last of this slot's chunks in the worker's stage.
    pub staged: Option<(u32, u32)>,
    /// Gives back the connection's place in the limits when it ends.
    pub admitted: Admitted,
}

/// How bytes become a session's messages, and back.
pub(super) enum Link {
    /// WebSocket messages (RFC 6455).
    WebSocket(Decoder),
    /// The protocol's own frames, as they come: STOMP over TCP.
    Stream,
    /// Server-sent events: nothing comes in.
    Events {
        /// Whether as chunks of an HTTP/1.1 body.
        chunked: bool,
    },
    /// Requests that come and go.
    Mailbox(Box<Mailbox>),
}

impl Link {
    /// What `carrier` needs, and how frames go out on it.
    pub(super) fn of(carrier: Carrier) -> (Self, Framing) {
        match carrier {
            Carrier::WebSocket { compression } => {
                let framing =
                    if compression { Framing::WebSocketDeflate } else { Framing::WebSocket };
                (Self::WebSocket(Decoder::new(ws::Role::Server, compression)), framing)
            }
            Carrier::SockJs => {
                (Self::WebSocket(Decoder::new(ws::Role::Server, false)), Framing::SockJs)
            }
            Carrier::Stream => (Self::Stream, Framing::Stream),
            Carrier::Events { chunked } => {
                let framing = if chunked { Framing::Chunked } else { Framing::Stream };
                (Self::Events { chunked }, framing)
            }
        }
    }

    /// What tells the peer that nothing more comes, apart from the end of the stream itself.
    pub(super) fn last_word(
        &mut self,
        framing: Framing,
        reason: CloseReason,
        code: u16,
    ) -> Option<Vec<u8>> {
        match self {
            Self::WebSocket(_) => {
                let mut out = Vec::new();
                if framing == Framing::SockJs {
                    let mut frame = Vec::new();
                    sockjs::frame::close(&mut frame, &reason.into());
                    ws::frame(&mut out, Opcode::Text, &frame);
                }
                let text = if reason == CloseReason::ClientClosed { "" } else { reason.code() };
                ws::close_frame(&mut out, code, text);
                Some(out)
            }
            // The last chunk and no trailers (RFC 9112 §7.1).
            Self::Events { chunked: true } => Some(b"0\r\n\r\n".to_vec()),
            Self::Events { chunked: false } | Self::Stream => None,
            Self::Mailbox(mailbox) => {
                mailbox.end(reason.into());
                None
            }
        }
    }
}

/// Who answers on this connection.
pub(super) enum Role {
    /// A session.
    Session(Session),
    /// A service for conformance suites.
    Echo(Echo),
}

impl Role {
    /// Where a listener stands.
    pub(super) fn cursor(&mut self) -> Option<&mut Cursor> {
        match self {
            Self::Session(session) => session.cursor_mut(),
            Self::Echo(_) => None,
        }
    }

    /// Whether it is a session that says by itself what it wants.
    pub(super) fn is_listener(&self) -> bool {
        matches!(self, Self::Session(session) if session.listens_from().is_some())
    }

    /// Whether it is this session.
    pub(super) fn is_session(&self, id: SessionId) -> bool {
        matches!(self, Self::Session(session) if session.id() == id)
    }
}

/// How far a connection is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Our close frame is queued; what comes in is only read to see the peer's.
    Closing {
        deadline_ms: u64,
        peer_closed: bool,
    },
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it is with the kernel, or waits in the outbox.
    Taken,
    /// The outbox is full.
    Full {
        /// How many frames it had no room for.
        refused: u32,
    },
    /// The connection is gone.
    Lost,
}

/// What a peer that has ended its side left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It sent more before its end; that has its turn.
    Something,
    /// Nothing: only its end is still to be read.
    Nothing,
    /// The connection is gone.
    Lost,
}

impl Slot {
    /// Looks at what is to be read without reading it.
    pub(super) fn unread(&mut self) -> Unread {
        let Some(socket) = &mut self.socket else { return Unread::Something };
        match socket.peek() {
            Ok(false) => Unread::Nothing,
            Ok(true) => Unread::Something,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Unread::Something,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Unread::Something,
            Err(_) => Unread::Lost,
        }
    }

    /// Writes `chunk`, or queues what the socket does not take; `sent` counts the bytes written.
    pub(super) fn write(
        &mut self,
        chunk: &Chunk,
        limits: OutboxLimits,
        now_ms: u64,
        sent: &mut u64,
    ) -> Written {
        self.write_all(std::slice::from_ref(chunk), &mut Vec::new(), limits, now_ms, sent)
    }

    /// Writes `chunks` by one system call where they fit one; `scratch` is for copying small ones
    /// together.
    pub(super) fn write_all(
        &mut self,
        chunks: &[Chunk],
        scratch: &mut Vec<u8>,
        limits: OutboxLimits,
        now_ms: u64,
        sent: &mut u64,
    ) -> Written {
        let (mut left, mut done) = (chunks, 0);
        let waits = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        let Some(socket) = &mut self.socket else {
            let written = self.keep(chunks, 0, limits, now_ms);
            // The next request takes it.
            *sent += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            self.hand_over(now_ms);
            return written;
        };
        // Until the socket refuses: only then it tells when it is writable again, and only what it
        // refuses counts against the limits.
        while !waits && !left.is_empty() {
            match send(socket, left, done, scratch) {
                Ok(written) => {
                    (left, done) = behind(left, done + written);
                    *sent += written as u64;
                    self.last_sent_ms = now_ms;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Written::Lost,
            }
        }
        if left.is_empty() && !socket.has_unsent() {
            return Written::Taken;
        }
        self.keep(left, done, limits, now_ms)
    }

    /// Queues `chunks`, of whose first `done` bytes are written. None at all are queued where TLS has
    /// taken what the socket has not.
    fn keep(
        &mut self,
        chunks: &[Chunk],
        mut done: usize,
        limits: OutboxLimits,
        now_ms: u64,
    ) -> Written {
        let outbox = self.outbox.get_or_insert_default();
        if outbox.is_empty() {
            outbox.waits_from(now_ms);
        }
        for (at, chunk) in chunks.iter().enumerate() {
            if outbox.push(chunk.clone(), done, limits).is_err() {
                return Written::Full { refused: chunks[at..].iter().map(Chunk::frames).sum() };
            }
            done = 0;
        }
        Written::Taken
    }

    /// Gives what waits to the request that waits for it.
    pub(super) fn hand_over(&mut self, now_ms: u64) {
        // What is staged comes before an end, and a cursor may be past it already.
        if self.staged.is_some() {
            return;
        }
        if let Link::Mailbox(mailbox) = &mut self.link {
            let standing = match &self.role {
                Role::Session(session) => session.listens_from(),
                Role::Echo(_) => None,
            };
            mailbox.hand_over(&mut self.outbox, standing, now_ms);
        }
    }

    /// Writes what waits, now that the socket is writable.
    pub(super) fn flush(&mut self, now_ms: u64, sent: &mut u64) -> Written {
        let (Some(outbox), Some(socket)) = (&mut self.outbox, &mut self.socket) else {
            return Written::Taken;
        };
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = outbox.slices(&mut slices);
            match socket.write_vectored(&slices[..filled]) {
                Ok(0) => return Written::Lost,
                Ok(bytes) => {
                    outbox.advance(bytes);
                    *sent += bytes as u64;
                    self.last_sent_ms = now_ms;
                    outbox.waits_from(now_ms);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Written::Lost,
            }
        }
        match socket.flush() {
            Ok(()) => self.outbox = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Written::Lost,
        }
        Written::Taken
    }

    /// Tells a peer that nothing more comes, unless it is to close a WebSocket first: everything is
    /// written, and a reset must not overtake it.
    pub(super) fn finish(&mut self) {
        let waits = matches!(
            (&self.link, self.phase),
            (Link::WebSocket(_), Phase::Closing { peer_closed: false, .. })
        );
        if let Some(socket) = &mut self.socket
            && !waits
            && socket.finish().is_err()
            && socket.has_unsent()
        {
            self.outbox.get_or_insert_default();
        }
    }

    /// Whether the socket has nothing more to do once all is said.
    pub(super) fn may_be_dropped(&self) -> bool {
        self.socket.as_ref().is_none_or(Socket::may_be_dropped)
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_none() && self.staged.is_none()
    }

    /// Whether what is written now has to wait: for the socket, or for the next request.
    pub(super) fn is_blocked(&self) -> bool {
        self.outbox.is_some()
            || matches!(&self.link, Link::Mailbox(mailbox) if !mailbox.is_awaited())
    }

    /// Whether something that could have come earlier may be written now: it does not wait for a
    /// socket, nor make what waits for a request more than about `most_bytes` larger than that.
    pub(super) fn takes_more(&self, most_bytes: usize) -> bool {
        let waiting_bytes = self.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        match &self.link {
            Link::Mailbox(mailbox) => mailbox.is_awaited() && waiting_bytes <= most_bytes,
            _ => self.outbox.is_none(),
        }
    }

    /// Whether somebody receives from the mailbox that this is.
    pub(super) fn is_attended(&self) -> bool {
        matches!(&self.link, Link::Mailbox(mailbox) if mailbox.is_attended())
    }

    /// Whether it is a mailbox that has told somebody its end.
    pub(super) fn has_told_end(&self) -> bool {
        matches!(&self.link, Link::Mailbox(mailbox) if mailbox.has_told_end())
    }

    /// How long a mailbox that has told its end is still of use in a drain.
    pub(super) fn stays_after_its_end_ms(&self) -> Option<u64> {
        match &self.link {
            Link::Mailbox(mailbox) if mailbox.has_told_end() => Some(mailbox.crossing_ms()),
            _ => None,
        }
    }

    /// What its outbox may hold.
    pub(super) fn limits(&self, shared: &WorkerShared) -> OutboxLimits {
        match (self.phase, &self.link) {
            // A last word is taken whatever waits already.
            (Phase::Closing { .. }, _) => OutboxLimits { bytes: usize::MAX, frames: u32::MAX },
            (Phase::Open, Link::Mailbox(_)) => shared.mailbox_limits,
            (Phase::Open, _) => shared.outbox_limits,
        }
    }

    /// Whether the connection still takes part.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it carries a session whose CONNECT was accepted, and that has not ended.
    pub(super) fn is_connected(&self) -> bool {
        matches!(&self.role, Role::Session(session) if session.is_connected())
    }

    /// Whether it carries a session that may be sent to another node, and was not yet. Services over
    /// TCP may not: one such as Spring's relay ends its own client for it, and what spreads them
    /// knows nothing of how many a node has.
    pub(super) fn is_movable(&self) -> bool {
        self.is_open()
            && !matches!(self.link, Link::Stream)
            && matches!(&self.role, Role::Session(session) if session.stays())
    }

    /// Whether what comes in must wait.
    pub(super) fn is_busy(&self) -> bool {
        match &self.role {
            Role::Session(session) => session.is_busy(),
            // Who sends by requests receives by others, so those must not wait for these.
            Role::Echo(_) => self.socket.is_some() && self.outbox.is_some(),
        }
    }

    /// Notes where a listener begins: it has been told so by whoever told it its cursor.
    pub(super) fn tell_beginning(&mut self) {
        if let (Link::Mailbox(mailbox), Some(cursor)) = (&mut self.link, self.role.cursor()) {
            mailbox.tell(cursor);
        }
    }

    /// Makes room for a last word to a slow consumer; the number of frames dropped.
    pub(super) fn abandon_outbox(&mut self) -> u32 {
        // Who polls has received none of it: it begins again from where it was told that it stands.
        if let (Link::Mailbox(mailbox), Some(cursor)) = (&self.link, self.role.cursor())
            && let Some(told) = mailbox.told()
        {
            cursor.clone_from(told);
        }
        self.outbox.as_mut().map_or(0, |outbox| outbox.abandon())
    }

    /// Whether the outbox has waited longer than `send_time_ms`.
    pub(super) fn is_stuck(&self, now_ms: u64, send_time_ms: u64) -> bool {
        // A mailbox has other ways to find out that nobody takes anything.
        let outbox = self.outbox.as_ref().filter(|_| self.socket.is_some());
        outbox.is_some_and(|outbox| outbox.waits_ms(now_ms) > send_time_ms)
    }
}

/// One `send`, or `writev` where copying would cost more, of what comes behind the first `done`
/// bytes: as many of the chunks as fit.
fn send(
    socket: &mut Socket<TcpStream>,
    chunks: &[Chunk],
    done: usize,
    scratch: &mut Vec<u8>,
) -> io::Result<usize> {
    loop {
        let result = match chunks {
            [chunk] if chunk.pieces().len() == 1 => socket.write(&chunk.pieces()[0][done..]),
            _ => {
                let mut bytes = 0;
                let mut fits = |chunk: &&Chunk| {
                    bytes += chunk.len();
                    bytes <= COPY_MAX_BYTES
                };
                let copied = chunks.iter().take_while(&mut fits).count();
                if copied == chunks.len() || copied > MAX_SLICES {
                    scratch.clear();
                    let pieces = chunks[..copied].iter().flat_map(Chunk::pieces);
                    pieces.for_each(|piece| scratch.extend_from_slice(piece));
                    socket.write(&scratch[done..])
                } else {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let filled = fill_slices(chunks, done, &mut slices);
                    socket.write_vectored(&slices[..filled])
                }
            }
        };
        match result {
            // Nothing was taken of something: no socket that lives does so.
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What is left of `chunks` once `written` bytes are, and how much of the first is.
fn behind(chunks: &[Chunk], mut written: usize) -> (&[Chunk], usize) {
    let mut whole = 0;
    while let Some(chunk) = chunks.get(whole)
        && written >= chunk.len()
    {
        written -= chunk.len();
        whole += 1;
    }
    (&chunks[whole..], written)
}

/// Up to here, pieces are copied together for one `send`.
const COPY_MAX_BYTES: usize = 16 * 1024;
const MAX_SLICES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Slot>() <= 264, "{}", size_of::<Slot>());
    }
}
