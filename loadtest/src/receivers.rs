//! Connections that count the messages they get, in one poll; and one that publishes, and waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{Decoder, Message, Role};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::adapters::{Adapter, Incoming, Session};
use crate::stamp::Stamp;
use crate::wire::{Piece, Wire};

/// Where a client connects, and as whom.
#[derive(Clone, Copy)]
pub struct Dial<'a> {
    /// Where to.
    pub address: SocketAddr,
    /// Where from, when not from anywhere.
    pub source: Option<IpAddr>,
    /// Its user's token.
    pub token: &'a str,
    /// What it speaks.
    pub adapter: &'static dyn Adapter,
}

/// Connections that count the messages they get.
pub struct Receivers {
    adapter: &'static dyn Adapter,
    poll: Poll,
    events: Events,
    clients: Vec<Receiver>,
    buffer: Box<[u8]>,
    inflater: Inflater,
    received: u64,
    last_message_bytes: usize,
    last_beat: Instant,
}

struct Receiver {
    socket: mio::net::TcpStream,
    decoder: Decoder,
    /// What says heartbeats; a raw connection has promised none.
    wire: Option<Wire>,
}

impl Receivers {
    /// None yet.
    pub fn new(adapter: &'static dyn Adapter) -> Result<Self> {
        Ok(Self {
            adapter,
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            clients: Vec::new(),
            buffer: vec![0; 256 * 1024].into(),
            inflater: Inflater::new(),
            received: 0,
            last_message_bytes: 0,
            last_beat: Instant::now(),
        })
    }

    /// Adds a connection that needs no handshake, to the bare sender.
    pub fn add_raw(&mut self, address: SocketAddr) -> Result<()> {
        self.add(connect(address, None)?, None)
    }

    /// Adds a client that is subscribed.
    pub fn add_client(&mut self, dial: &Dial<'_>, to: &str) -> Result<()> {
        let (socket, wire) = dial.connect(Some(to))?;
        self.beat()?;
        self.add(socket, Some(wire))
    }

    fn add(&mut self, socket: TcpStream, wire: Option<Wire>) -> Result<()> {
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        let token = Token(self.clients.len());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        let decoder = Decoder::new(Role::Client, false);
        self.clients.push(Receiver { socket, decoder, wire });
        Ok(())
    }

    /// Receives until `messages` have come since the last call, whoever got them.
    pub fn receive(&mut self, messages: u64) -> Result<()> {
        let deadline = Instant::now() + ANSWER_TIME;
        while self.received < messages {
            self.read(Duration::from_millis(200))?;
            ensure!(
                self.received >= messages || Instant::now() < deadline,
                "only {} of {messages} messages came within {} s",
                self.received,
                ANSWER_TIME.as_secs()
            );
        }
        ensure!(self.received == messages, "{} messages came, not {messages}", self.received);
        self.received = 0;
        Ok(())
    }

    /// Takes what has come, or comes within `wait`; whether there was anything.
    pub fn read(&mut self, wait: Duration) -> Result<bool> {
        self.beat()?;
        self.poll.poll(&mut self.events, Some(wait))?;
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            let (messages, bytes) = client.read(&mut self.buffer, &mut self.inflater)?;
            self.received += messages;
            self.last_message_bytes = bytes.unwrap_or(self.last_message_bytes);
        }
        Ok(!self.events.is_empty())
    }

    /// How many messages have come and were not waited for.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The size of the last message, without its frame header.
    pub fn last_message_bytes(&self) -> usize {
        self.last_message_bytes
    }

    /// Keeps what clients have promised.
    fn beat(&mut self) -> Result<()> {
        let Some(beat) = self.adapter.heartbeat() else { return Ok(()) };
        if self.last_beat.elapsed() < BEAT_INTERVAL {
            return Ok(());
        }
        self.last_beat = Instant::now();
        for client in &mut self.clients {
            if let Some(wire) = &client.wire {
                let mut out = Vec::new();
                wire.write(&mut out, beat);
                client.socket.write_all(&out)?;
            }
        }
        Ok(())
    }
}

impl Receiver {
    /// Reads until the socket is dry; the number of data messages and the size of the last one.
    fn read(&mut self, buffer: &mut [u8], inflater: &mut Inflater) -> Result<(u64, Option<usize>)> {
        let mut messages = 0;
        let mut last_bytes = None;
        loop {
            let bytes = match self.socket.read(buffer) {
                Ok(0) => bail!("the gateway closed a connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a connection broke"),
            };
            let mut input = &mut buffer[..bytes];
            while let Some(message) = self.decoder.next(&mut input, usize::MAX, inflater)? {
                match message {
                    // A STOMP heartbeat is no message.
                    Message::Text(text) if text == "\n" => {}
                    Message::Text(text) => {
                        messages += 1;
                        last_bytes = Some(text.len());
                    }
                    Message::Ping(payload) => {
                        let mut pong = Vec::new();
                        Wire::write_pong(&mut pong, &payload);
                        self.socket.write_all(&pong)?;
                    }
                    Message::Binary(_) | Message::Pong(_) => {}
                    Message::Close(frame) => bail!("the gateway closed a connection: {frame:?}"),
                }
            }
        }
        Ok((messages, last_bytes))
    }
}

/// A client that publishes, on a blocking socket of its own.
pub struct Publisher {
    socket: TcpStream,
    wire: Wire,
    adapter: &'static dyn Adapter,
    destination: String,
    published: u64,
}

impl Publisher {
    /// Connects, to publish to `destination`.
    pub fn connect(dial: &Dial<'_>, destination: String) -> Result<Self> {
        let (socket, wire) = dial.connect(None)?;
        Ok(Self { socket, wire, adapter: dial.adapter, destination, published: 0 })
    }

    /// Publishes `burst` messages by one write, and waits until they are accepted.
    pub fn publish(&mut self, body_bytes: usize, burst: usize) -> Result<()> {
        let mut out = Vec::new();
        for _ in 0..burst {
            let stamp = Stamp {
                destination: 0,
                sequence: self.published,
                intended_ns: 0,
                body_bytes: body_bytes as u32,
            };
            let text = self.adapter.publish(&self.destination, &stamp.body(), self.published);
            self.wire.write(&mut out, &text);
            self.published += 1;
        }
        self.socket.write_all(&out)?;
        wait_for(&mut self.socket, &mut self.wire, self.adapter, burst, &Incoming::Published)
    }
}

impl Dial<'_> {
    /// Connects, and subscribes if there is something to subscribe to.
    pub fn connect(&self, destination: Option<&str>) -> Result<(TcpStream, Wire)> {
        let adapter = self.adapter;
        let session = Session {
            host: &self.address.to_string(),
            token: self.token,
            destination: destination.unwrap_or_default(),
            number: 0,
            since: None,
            cursor: None,
            presence: false,
        };
        let mut socket = connect(self.address, self.source)?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        let mut wire = Wire::new(adapter.framing());
        socket.write_all(adapter.request(&session).as_bytes())?;
        while matches!(wire, Wire::Head(..)) {
            read_some(&mut socket, &mut wire, &mut |_| Ok(()))?;
        }
        let (asked, answer) = match destination {
            None => (vec![adapter.connect(&session)], Incoming::Connected),
            Some(_) => (
                vec![adapter.connect(&session), adapter.subscribe(&session)],
                Incoming::Subscribed { position: None, recovered: None },
            ),
        };
        let mut out = Vec::new();
        for text in asked {
            let text = text.context("this protocol has no requests for it")?;
            wire.write(&mut out, &text);
        }
        socket.write_all(&out)?;
        wait_for(&mut socket, &mut wire, adapter, 1, &answer)?;
        socket.set_read_timeout(None)?;
        Ok((socket, wire))
    }
}

fn connect(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&address.into()).with_context(|| format!("dialling {address}"))?;
    Ok(socket.into())
}

/// Reads until the answer has come this many times.
fn wait_for(
    socket: &mut TcpStream,
    wire: &mut Wire,
    adapter: &dyn Adapter,
    times: usize,
    answer: &Incoming,
) -> Result<()> {
    let mut answers = 0;
    while answers < times {
        read_some(socket, wire, &mut |piece| {
            if let Piece::Text(text) = piece {
                adapter.read(text, &mut |incoming| answers += usize::from(incoming == *answer));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits for some bytes, and tells what they mean.
fn read_some(
    socket: &mut TcpStream,
    wire: &mut Wire,
    tell: &mut dyn FnMut(Piece<'_>) -> Result<()>,
) -> Result<()> {
    let mut buffer = [0; 4096];
    let bytes = socket.read(&mut buffer).context("no answer from the gateway")?;
    ensure!(bytes > 0, "the gateway closed the connection instead of answering");
    wire.read(&mut buffer[..bytes], &mut Inflater::new(), tell)
}

/// Within the 20 s that CONNECT promises.
const BEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Longer than any answer takes on a loaded machine.
const ANSWER_TIME: Duration = Duration::from_secs(30);
