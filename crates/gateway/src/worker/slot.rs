//! A connection as its worker keeps it: a socket, its session, and nothing else while idle.

use std::io::{self, IoSlice, Write};

use fanlight_engine::encode::Framing;
use fanlight_engine::outbox::{Chunk, Outbox, OutboxLimits, fill_slices};
use fanlight_engine::publication::SessionId;
use fanlight_engine::session::Session;
use fanlight_proto::ws::Decoder;
use mio::net::TcpStream;

use crate::admission::Admitted;

/// A connection of a worker.
///
/// This is what an idle connection costs, so every field is looked at twice: no buffer, no timer
/// and no task belongs here.
pub(super) struct Slot {
    pub socket: TcpStream,
    pub decoder: Decoder,
    pub role: Role,
    /// What the socket did not take yet; `None` while it keeps up.
    pub outbox: Option<Box<Outbox>>,
    /// Tells this connection from the next one in the same slot.
    pub serial: u64,
    pub last_received_ms: u64,
    pub last_sent_ms: u64,
    /// When the outbox last began to wait.
    pub blocked_since_ms: u64,
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
    pub _admitted: Admitted,
}

/// Who answers on this connection.
pub(super) enum Role {
    /// A session.
    Session(Session),
    /// The conformance echo.
    Echo,
}

impl Role {
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
    pub(super) fn unread(&self) -> Unread {
        match self.socket.peek(&mut [0]) {
            Ok(0) => Unread::Nothing,
            Ok(_) => Unread::Something,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Unread::Something,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Unread::Something,
            Err(_) => Unread::Lost,
        }
    }

    /// Writes `chunk`, or queues what the socket does not take.
    pub(super) fn write(&mut self, chunk: &Chunk, limits: OutboxLimits, now_ms: u64) -> Written {
        self.write_all(std::slice::from_ref(chunk), &mut Vec::new(), limits, now_ms)
    }

    /// Writes `chunks` by one system call where they fit one; `scratch` is for copying small ones
    /// together.
    pub(super) fn write_all(
        &mut self,
        chunks: &[Chunk],
        scratch: &mut Vec<u8>,
        limits: OutboxLimits,
        now_ms: u64,
    ) -> Written {
        let (mut left, mut done) = (chunks, 0);
        let waits = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        // Until the socket refuses: only then it tells when it is writable again, and only what it
        // refuses counts against the limits.
        while !waits && !left.is_empty() {
            match send(&mut self.socket, left, done, scratch) {
                Ok(written) => {
                    (left, done) = behind(left, done + written);
                    self.last_sent_ms = now_ms;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Written::Lost,
            }
        }
        if left.is_empty() {
            return Written::Taken;
        }
        let outbox = self.outbox.get_or_insert_default();
        if outbox.is_empty() {
            self.blocked_since_ms = now_ms;
        }
        for (at, chunk) in left.iter().enumerate() {
            if outbox.push(chunk.clone(), done, limits).is_err() {
                return Written::Full { refused: left[at..].iter().map(Chunk::frames).sum() };
            }
            done = 0;
        }
        Written::Taken
    }

    /// Writes what waits, now that the socket is writable.
    pub(super) fn flush(&mut self, now_ms: u64) -> Written {
        let Some(outbox) = &mut self.outbox else { return Written::Taken };
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = outbox.slices(&mut slices);
            match self.socket.write_vectored(&slices[..filled]) {
                Ok(0) => return Written::Lost,
                Ok(bytes) => {
                    outbox.advance(bytes);
                    self.last_sent_ms = now_ms;
                    self.blocked_since_ms = now_ms;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Written::Lost,
            }
        }
        self.outbox = None;
        Written::Taken
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_none() && self.staged.is_none()
    }

    /// Whether the connection still takes part.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it carries a session whose CONNECT was accepted, and that has not ended.
    pub(super) fn is_connected(&self) -> bool {
        matches!(&self.role, Role::Session(session) if session.is_connected())
    }

    /// Whether what comes in must wait.
    pub(super) fn is_busy(&self) -> bool {
        match &self.role {
            Role::Session(session) => session.is_busy(),
            Role::Echo => self.outbox.is_some(),
        }
    }

    /// Makes room for a last word to a slow consumer; the number of frames dropped.
    pub(super) fn abandon_outbox(&mut self) -> u32 {
        self.outbox.as_mut().map_or(0, |outbox| outbox.abandon())
    }

    /// Whether the outbox has waited longer than `send_time_ms`.
    pub(super) fn is_stuck(&self, now_ms: u64, send_time_ms: u64) -> bool {
        self.outbox.is_some() && now_ms.saturating_sub(self.blocked_since_ms) > send_time_ms
    }
}

/// One `send`, or `writev` where copying would cost more, of what comes behind the first `done`
/// bytes: as many of the chunks as fit.
fn send(
    socket: &mut TcpStream,
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
        assert!(size_of::<Slot>() <= 272, "{}", size_of::<Slot>());
    }
}
