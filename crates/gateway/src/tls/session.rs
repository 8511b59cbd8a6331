//! TLS of one connection over a non-blocking stream that the caller has: agreed on, then read and
//! written. While nothing moves it holds keys and no buffer.
//!
//! `rustls::ServerConnection` keeps 4 KiB for input as long as it lives; here one buffer of the
//! thread serves all, and a connection keeps only what is partial: the beginning of a record, what
//! was decrypted and not read, what the stream did not take. Each is less than two records, but in
//! the handshake, of which rustls takes messages of up to 64 KiB.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, ServerConfig};
use tokio::io::ReadBuf;

/// The server's side of TLS on one connection.
///
/// The stream is the same in each call. Where it would block, so does the call, and the caller
/// tries again when the stream is ready.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// The beginning of a record, or of a message of the handshake, whose end has not come.
    partial: Vec<u8>,
    /// What was decrypted and not read yet.
    plain: Rest,
    /// Records that the stream did not take yet.
    unsent: Rest,
    /// The stream had no more when it was last read.
    is_dry: bool,
    inward: Inward,
    /// Our `close_notify` is written, or at least queued.
    ended: bool,
}

/// What is still to come from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inward {
    Open,
    /// Its `close_notify` has come.
    Ended,
    /// The stream has ended without one.
    Cut,
    /// It broke the protocol: nothing goes either way.
    Broken,
}

impl Session {
    /// Before the handshake.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            partial: Vec::new(),
            plain: Rest::default(),
            unsent: Rest::default(),
            is_dry: false,
            inward: Inward::Open,
            ended: false,
        })
    }

    /// Goes on with the handshake until it is done, and its last message written.
    pub fn handshake(&mut self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        while self.connection.is_handshaking() {
            self.flush(stream)?;
            self.fill(stream, &mut ReadBuf::new(&mut []))?;
        }
        self.flush(stream)
    }

    /// The protocol that was agreed on (RFC 7301).
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Reads into `out`; nothing at the peer's proper end, its `close_notify`. A stream that ends
    /// without one is an unexpected end: somebody may have cut it.
    pub fn read(
        &mut self,
        stream: &mut (impl Read + Write),
        out: &mut ReadBuf<'_>,
    ) -> io::Result<()> {
        let filled = out.filled().len();
        while self.plain.is_empty() && self.inward != Inward::Ended {
            self.fill(stream, out)?;
            if out.filled().len() > filled {
                return Ok(());
            }
        }
        self.plain.move_to(out);
        Ok(())
    }

    /// Whether anything can be read, before the peer's end.
    pub fn peek(&mut self, stream: &mut (impl Read + Write)) -> io::Result<bool> {
        self.read(stream, &mut ReadBuf::new(&mut []))?;
        Ok(self.has_unread())
    }

    /// Whether something is decrypted and not read: no readiness of the stream tells of it.
    pub fn has_unread(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Whether the last read took all there was, so that the stream tells of what comes next.
    pub fn is_dry(&self) -> bool {
        self.is_dry && self.plain.is_empty()
    }

    /// Whether nothing more comes from the peer.
    pub fn has_heard_all(&self) -> bool {
        self.inward != Inward::Open
    }

    /// Writes the beginning of `data` as one record; how much that is. What the stream does not
    /// take of it is kept, and has to be flushed: nothing else is taken before.
    pub fn write(&mut self, stream: &mut (impl Read + Write), data: &[u8]) -> io::Result<usize> {
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.flush(stream)?;
        let data = &data[..data.len().min(MAX_PLAIN_BYTES)];
        if data.is_empty() {
            return Ok(0);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let bytes = self.encrypt(|traffic| traffic.encrypt(data, scratch))?;
            self.send(stream, &scratch[..bytes])
        })?;
        Ok(data.len())
    }

    /// The same with data in pieces. Small ones become one record together.
    pub fn write_vectored(
        &mut self,
        stream: &mut (impl Read + Write),
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut pieces = pieces.iter().filter(|piece| !piece.is_empty()).peekable();
        let Some(first) = pieces.next() else { return Ok(0) };
        if first.len() >= MAX_PLAIN_BYTES || pieces.peek().is_none() {
            return self.write(stream, first);
        }
        GATHERED.with_borrow_mut(|gathered| {
            gathered.clear();
            for piece in std::iter::once(first).chain(pieces) {
                let room = MAX_PLAIN_BYTES - gathered.len();
                gathered.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            self.write(stream, gathered)
        })
    }

    /// Writes what the stream did not take before.
    pub fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match stream.write(self.unsent.bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.unsent.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the stream did not take all yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Says that nothing more is written: sends `close_notify`.
    pub fn close(&mut self, stream: &mut impl Write) -> io::Result<()> {
        if !self.ended && self.inward != Inward::Broken && !self.connection.is_handshaking() {
            self.ended = true;
            let mut record = [0; MAX_ALERT_BYTES];
            let bytes = self.encrypt(|traffic| traffic.queue_close_notify(&mut record))?;
            self.unsent.push(&record[..bytes]);
        }
        self.flush(stream)
    }

    /// Reads from the stream once and decrypts what is whole, into `out` as far as there is room.
    fn fill(&mut self, stream: &mut (impl Read + Write), out: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.inward == Inward::Broken {
            return Err(broken(Error::General("TLS has failed on this connection".to_owned())));
        }
        let outcome = SCRATCH.with_borrow_mut(|scratch| {
            let bytes = loop {
                match stream.read(scratch) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            if bytes == 0 {
                self.inward = Inward::Cut;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.is_dry = bytes < scratch.len();
            let outcome = if self.partial.is_empty() {
                let input = &mut scratch[..bytes];
                let (done, outcome) = self.process(input, out, |_| ());
                self.partial = input[done..].to_vec();
                outcome
            } else {
                self.partial.extend_from_slice(&scratch[..bytes]);
                self.process_partial(out, |_| ())
            };
            outcome.map_err(broken)
        });
        if outcome.is_err() || self.has_unsent() {
            // An alert, or another answer. Where it can't go at once, it goes before the next
            // record; the error is the peer's own, and the first.
            let _ = self.flush(stream);
        }
        outcome
    }

    /// What `write` makes in a state that lets us write.
    fn encrypt(
        &mut self,
        write: impl FnOnce(&mut Traffic<'_>) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        if self.inward == Inward::Broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = None;
        self.process_partial(&mut ReadBuf::new(&mut []), |traffic| written = Some(write(traffic)))
            .map_err(broken)?;
        match written {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(io::Error::other(error.to_string())),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends behind what waits.
    fn send(&mut self, stream: &mut impl Write, mut record: &[u8]) -> io::Result<()> {
        while self.unsent.is_empty() && !record.is_empty() {
            match stream.write(record) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => record = &record[bytes..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.push(record);
        match self.flush(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    fn process_partial(
        &mut self,
        out: &mut ReadBuf<'_>,
        write: impl FnOnce(&mut Traffic<'_>),
    ) -> Result<(), Error> {
        let mut input = std::mem::take(&mut self.partial);
        let (done, outcome) = self.process(&mut input, out, write);
        input.drain(..done);
        if done > 0 {
            input.shrink_to_fit();
        }
        self.partial = input;
        outcome
    }

    /// Takes whole records off `input`, until it needs more or may write; how much it took.
    fn process(
        &mut self,
        input: &mut [u8],
        out: &mut ReadBuf<'_>,
        write: impl FnOnce(&mut Traffic<'_>),
    ) -> (usize, Result<(), Error>) {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut input[done..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let (now, later) =
                            record.payload.split_at(out.remaining().min(record.payload.len()));
                        out.put_slice(now);
                        self.plain.push(later);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.unsent.encode(&mut data);
                }
                // What is encoded is ours to send.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.inward = Inward::Ended,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    write(&mut traffic);
                    return (self.taken(input, done + discard), Ok(()));
                }
                // More is needed, or both sides have ended. Nothing that comes early is accepted.
                Ok(_) => return (self.taken(input, done + discard), Ok(())),
                Err(error) => {
                    self.fail();
                    return (input.len(), Err(error));
                }
            }
            done += discard;
        }
    }

    /// How much of `input` is done with: what comes behind a `close_notify` is ignored
    /// (RFC 8446 §6.1).
    fn taken(&self, input: &[u8], done: usize) -> usize {
        if self.inward == Inward::Ended { input.len() } else { done }
    }

    /// Keeps the alert that tells the peer what it did.
    fn fail(&mut self) {
        self.inward = Inward::Broken;
        while self.connection.wants_write() {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            self.unsent.encode(&mut data);
        }
    }
}

type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

/// What is left of some bytes; nothing is allocated while there are none.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    done: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn encode(&mut self, data: &mut EncodeTlsData<'_, ServerConnectionData>) {
        use rustls::unbuffered::EncodeError::{AlreadyEncoded, InsufficientSize};
        let before = self.bytes.len();
        // It says by an error how much room it needs.
        loop {
            match data.encode(&mut self.bytes[before..]) {
                Err(InsufficientSize(error)) => self.bytes.resize(before + error.required_size, 0),
                Ok(_) | Err(AlreadyEncoded) => return,
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        if self.done == self.bytes.len() {
            *self = Self::default();
        }
    }

    fn move_to(&mut self, out: &mut ReadBuf<'_>) {
        let bytes = self.bytes();
        let bytes = &bytes[..bytes.len().min(out.remaining())];
        out.put_slice(bytes);
        self.advance(bytes.len());
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What one record carries (RFC 8446 §5.1).
const MAX_PLAIN_BYTES: usize = 16 * 1024;
/// A record of TLS 1.2, the larger kind (RFC 5246 §6.2.3); a key update fits beside one of ours.
const MAX_RECORD_BYTES: usize = 5 + MAX_PLAIN_BYTES + 2048;
/// An alert, and a key update before it.
const MAX_ALERT_BYTES: usize = 256;

thread_local! {
    /// Records of whichever connection reads or writes.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_RECORD_BYTES].into());
    /// Small pieces that go out together.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
