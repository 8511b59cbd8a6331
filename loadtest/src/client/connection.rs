//! One connection of a client: from the dial to a live subscription, and what comes over it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use fanlight_proto::ws::deflate::Inflater;
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use super::figures::Figures;
use super::schedule::Schedule;
use crate::adapters::{Adapter, Incoming, Position, Session};
use crate::clock::{SECOND_NS, now_ns};
use crate::control::Phase;
use crate::sequence::{Seen, SequenceCheck};
use crate::stamp::Stamp;
use crate::wire::{Piece, Wire};

/// A connection, or what is left of it.
pub struct Connection {
    /// Absent while it is not connected.
    pub socket: Option<TcpStream>,
    wire: Wire,
    /// Everything but the bytes.
    pub client: Client,
}

/// What a client knows.
pub struct Client {
    adapter: &'static dyn Adapter,
    /// What it is for.
    pub role: Role,
    /// Its user's token.
    token: String,
    /// How far it is.
    pub state: State,
    out: Vec<u8>,
    host: String,
    /// When the dial was due.
    intended_ns: u64,
    asked_ns: u64,
    /// When the publications were due that are not answered.
    unanswered: VecDeque<u64>,
    published: u64,
    /// What it got.
    pub check: SequenceCheck,
    /// Whether it has been live before.
    pub was_live: bool,
    position: Option<Position>,
    /// Where the next request goes on from, where each message is asked for.
    cursor: Option<String>,
    /// How long the server advises to stay away once this connection is gone.
    pub advice_ms: Option<u64>,
    /// Since when it is live.
    live_ns: u64,
    /// When the storm was that disconnected it.
    pub storm_ns: Option<u64>,
    /// Attempts since it was last live.
    pub attempts: u32,
}

/// What a client is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It listens.
    Subscriber {
        /// To the destination with this number,
        destination: usize,
        /// of this name.
        name: Box<str>,
        /// Whether it stops reading under load.
        slow: bool,
    },
    /// It publishes.
    Publisher,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not connected, and nothing under way.
    Gone,
    /// Waiting for its turn to dial.
    Due,
    /// From the dial to the session.
    Dialling,
    /// The session is there; the subscription is asked for.
    Subscribing,
    /// Ready for load.
    Live,
}

/// What all connections of a process share.
pub struct Shared {
    /// What is counted.
    pub figures: Figures,
    /// What is published.
    pub schedule: Schedule,
    /// Whether a position is given back.
    pub recover: bool,
    /// Whether deliveries that were due before their client was live are timed apart.
    pub replays_apart: bool,
    /// Whether who comes and goes is asked for.
    pub presence: bool,
    /// What numbers sessions.
    pub sessions: u64,
    /// Connections that are between dial and session.
    pub dialling: usize,
    /// One for all: no server here compresses.
    pub inflater: Inflater,
}

impl Connection {
    /// One that is yet to be dialled.
    pub fn new(adapter: &'static dyn Adapter, role: Role, token: String) -> Self {
        let client = Client {
            adapter,
            role,
            token,
            state: State::Due,
            out: Vec::new(),
            host: String::new(),
            intended_ns: 0,
            asked_ns: 0,
            unanswered: VecDeque::new(),
            published: 0,
            check: SequenceCheck::default(),
            was_live: false,
            position: None,
            cursor: None,
            advice_ms: None,
            live_ns: 0,
            storm_ns: None,
            attempts: 0,
        };
        Self { socket: None, wire: Wire::new(adapter.framing()), client }
    }

    /// Begins to connect; the caller registers the socket.
    pub fn dial(
        &mut self,
        address: SocketAddr,
        source: Option<IpAddr>,
        intended_ns: u64,
        shared: &mut Shared,
    ) -> Result<&mut TcpStream> {
        let slow = matches!(self.client.role, Role::Subscriber { slow: true, .. });
        let socket = connect(address, source, slow)?;
        self.wire = Wire::new(self.client.adapter.framing());
        let client = &mut self.client;
        client.state = State::Dialling;
        client.intended_ns = intended_ns;
        client.attempts += 1;
        client.out.clear();
        client.unanswered.clear();
        client.advice_ms = None;
        client.live_ns = u64::MAX;
        client.host = address.to_string();
        shared.sessions += 1;
        let request = client.adapter.request(&client.session(shared));
        if client.role == Role::Publisher && matches!(self.wire, Wire::Answers(_)) {
            client.host = request;
            client.state = State::Live;
        } else {
            client.out.extend_from_slice(request.as_bytes());
            shared.dialling += 1;
        }
        Ok(self.socket.insert(socket))
    }

    /// Sends what waits; reads all that has come. An error: the connection is of no more use.
    pub fn ready(&mut self, buffer: &mut [u8], shared: &mut Shared) -> Result<()> {
        self.flush()?;
        let Self { socket: Some(socket), wire, client } = self else { return Ok(()) };
        loop {
            let bytes = match socket.read(buffer) {
                Ok(0) => bail!("the server ended the connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // What mio says until a dial has succeeded.
                Err(error) if error.kind() == ErrorKind::NotConnected => break,
                Err(error) => return Err(error).context("the connection broke"),
            };
            let mut inflater = std::mem::take(&mut shared.inflater);
            let mut replies = Vec::new();
            let read = wire.read(&mut buffer[..bytes], &mut inflater, &mut |piece| {
                client.take(&piece, shared, &mut replies)
            });
            shared.inflater = inflater;
            for reply in replies {
                match reply {
                    Reply::Text(text) => wire.write(&mut client.out, &text),
                    Reply::Pong(payload) => Wire::write_pong(&mut client.out, &payload),
                }
            }
            read?;
        }
        self.flush()
    }

    /// Publishes; an error as in [`ready`](Self::ready).
    pub fn publish(&mut self, to: &str, stamp: &Stamp, shared: &mut Shared) -> Result<()> {
        let client = &mut self.client;
        let text = client.adapter.publish(to, &stamp.body(), client.published);
        client.published += 1;
        if matches!(self.wire, Wire::Answers(_)) {
            client.out.extend_from_slice(client.host.as_bytes());
        }
        self.wire.write(&mut client.out, &text);
        if client.adapter.is_answered() {
            client.unanswered.push_back(stamp.intended_ns);
        }
        shared.figures.counts.published += 1;
        shared.figures.took(Phase::Lag, stamp.intended_ns, now_ns());
        self.flush()
    }

    /// Says what keeps the session alive.
    pub fn beat(&mut self) -> Result<()> {
        if let (State::Live, Some(beat)) = (self.client.state, self.client.adapter.heartbeat()) {
            self.wire.write(&mut self.client.out, beat);
            self.flush()?;
        }
        Ok(())
    }

    /// Whether everything is sent and answered.
    pub fn is_answered(&self) -> bool {
        self.client.out.is_empty() && self.client.unanswered.is_empty()
    }

    fn flush(&mut self) -> Result<()> {
        let Self { socket: Some(socket), client: Client { out, .. }, .. } = self else {
            return Ok(());
        };
        let mut sent = 0;
        while sent < out.len() {
            match socket.write(&out[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(error).context("the connection broke"),
            }
        }
        out.drain(..sent);
        if out.is_empty() && out.capacity() > KEPT_BYTES {
            *out = Vec::new();
        }
        Ok(())
    }
}

/// What is to be said in answer.
enum Reply {
    Text(String),
    Pong(Vec<u8>),
}

impl Client {
    fn session<'a>(&'a self, shared: &Shared) -> Session<'a> {
        let destination = match &self.role {
            Role::Subscriber { name, .. } => name,
            Role::Publisher => "",
        };
        Session {
            host: &self.host,
            token: &self.token,
            destination,
            number: shared.sessions,
            since: self.position.as_ref().filter(|_| shared.recover),
            cursor: self.cursor.as_deref(),
            presence: shared.presence,
        }
    }

    fn take(
        &mut self,
        piece: &Piece<'_>,
        shared: &mut Shared,
        replies: &mut Vec<Reply>,
    ) -> Result<()> {
        match *piece {
            Piece::Opened => {
                if !self.adapter.is_greeted() {
                    replies.extend(self.adapter.connect(&self.session(shared)).map(Reply::Text));
                }
                Ok(())
            }
            Piece::Ping(payload) => {
                replies.push(Reply::Pong(payload.to_vec()));
                Ok(())
            }
            Piece::Text(text) => {
                let mut result = Ok(());
                let asked = self.position.clone();
                let not_recovered = shared.figures.counts.not_recovered;
                self.adapter.read(text, &mut |incoming| {
                    if result.is_ok() {
                        result = self.act(incoming, shared, replies);
                    }
                });
                if shared.figures.counts.not_recovered > not_recovered {
                    shared.figures.blame(|| format!("{asked:?} was answered by {text:?}"));
                }
                result
            }
        }
    }

    fn act(
        &mut self,
        incoming: Incoming,
        shared: &mut Shared,
        replies: &mut Vec<Reply>,
    ) -> Result<()> {
        match incoming {
            Incoming::Delivery { stamp, offset } => self.deliver(stamp, offset, shared),
            Incoming::Published => {
                shared.figures.counts.accepted += 1;
                if let Some(intended_ns) = self.unanswered.pop_front() {
                    shared.figures.took(Phase::Publish, intended_ns, now_ns());
                }
            }
            Incoming::Greeting => {
                replies.extend(self.adapter.connect(&self.session(shared)).map(Reply::Text));
            }
            // Each answer says so of what is asked for one by one.
            Incoming::Connected if self.state != State::Dialling => {}
            Incoming::Connected => self.connected(shared, replies),
            Incoming::Subscribed { position, recovered } => {
                if recovered == Some(false) {
                    shared.figures.counts.not_recovered += 1;
                }
                let goes_on = shared.recover && recovered == Some(true);
                self.position = position.filter(|_| shared.recover);
                self.live(goes_on, shared);
            }
            Incoming::Reply(text) => replies.push(Reply::Text(text.into())),
            Incoming::Presence => shared.figures.counts.presence += 1,
            Incoming::Leaving { after_ms } => self.advice_ms = after_ms.or(self.advice_ms),
            Incoming::Retry { after_ms } => self.advice_ms = Some(after_ms),
            Incoming::Answered { cursor } => {
                self.cursor = Some(cursor);
                if self.state != State::Live {
                    self.live(true, shared);
                }
                if self.advice_ms.is_some() {
                    bail!("the server advises to come again");
                }
                replies.push(Reply::Text(self.adapter.request(&self.session(shared))));
            }
            Incoming::Refused { after_ms, answer } => {
                self.advice_ms = after_ms;
                bail!("refused by {answer}");
            }
            Incoming::Fault(what) => {
                shared.figures.counts.faults += 1;
                shared.figures.blame(|| what.clone());
                self.unanswered.pop_front();
                if self.state != State::Live {
                    bail!("{what}");
                }
            }
        }
        Ok(())
    }

    fn connected(&mut self, shared: &mut Shared, replies: &mut Vec<Reply>) {
        shared.dialling -= 1;
        shared.figures.counts.connected += 1;
        self.asked_ns = now_ns();
        shared.figures.took(Phase::Connect, self.intended_ns, self.asked_ns);
        self.state = State::Subscribing;
        if self.role == Role::Publisher {
            self.state = State::Live;
            return;
        }
        replies.extend(self.adapter.subscribe(&self.session(shared)).map(Reply::Text));
        if !self.adapter.is_answered() {
            self.live(false, shared);
        }
    }

    fn live(&mut self, goes_on: bool, shared: &mut Shared) {
        let Role::Subscriber { destination, .. } = self.role else { return };
        let now_ns = now_ns();
        if self.adapter.is_answered() {
            shared.figures.took(Phase::Subscribe, self.asked_ns, now_ns);
        }
        if let Some(storm_ns) = self.storm_ns.take() {
            shared.figures.took(Phase::Recover, storm_ns, now_ns);
            shared.figures.counts.recovered += 1;
        }
        if !goes_on {
            // Where nothing says when a subscription is live, it must be after a while.
            let grace_ns = if self.adapter.is_answered() { 0 } else { SECOND_NS };
            let due_from = if self.was_live {
                shared.schedule.first_due_from(destination, now_ns + grace_ns)
            } else {
                shared.schedule.published(destination)
            };
            self.check = SequenceCheck::due_from(due_from);
        }
        self.was_live = true;
        self.live_ns = now_ns;
        self.attempts = 0;
        self.state = State::Live;
    }

    fn deliver(&mut self, stamp: Stamp, offset: Option<u64>, shared: &mut Shared) {
        let Role::Subscriber { destination, slow, .. } = self.role else { return };
        let counts = &mut shared.figures.counts;
        counts.delivered += 1;
        if slow {
            return;
        }
        if stamp.destination as usize != destination {
            counts.faults += 1;
            shared.figures.blame(|| format!("{destination} got what was for {stamp:?}"));
            return;
        }
        match self.check.see(stamp.sequence) {
            Seen::New => {}
            Seen::Reordered => {
                counts.reordered += 1;
                shared.figures.blame(|| format!("{stamp:?} came late"));
            }
            Seen::Duplicate => {
                counts.duplicates += 1;
                shared.figures.blame(|| format!("{stamp:?} came again"));
            }
        }
        if let (Some(position), Some(offset)) = (&mut self.position, offset) {
            position.offset = offset;
        }
        let is_replay = shared.replays_apart && stamp.intended_ns < self.live_ns;
        let phase = if is_replay { Phase::Replay } else { Phase::Deliver };
        shared.figures.took(phase, stamp.intended_ns, now_ns());
    }
}

fn connect(address: SocketAddr, source: Option<IpAddr>, slow: bool) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
    }
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => {
            return Err(error).with_context(|| format!("dialling {address}"));
        }
        _ => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Of a client that does not read, so that it is the server that has to hold what is for it.
const SLOW_BUFFER_BYTES: usize = 4096;
/// Output larger than this is freed once sent.
const KEPT_BYTES: usize = 4096;
/// `EINPROGRESS`: the dial is under way.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
