//! Connections that count the messages they get, in one poll; and one that publishes, and waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{Decoder, Message, Role};
use mio::{Events, Interest, Poll, Token};

use crate::adapters::{Adapter, Incoming, Session};
use crate::client::mint;
use crate::stamp::Stamp;
use crate::wire::{Piece, Wire};

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
        self.add(TcpStream::connect(address)?, None)
    }

    /// Adds a client that is subscribed.
    pub fn add_client(&mut self, address: SocketAddr, secret: &str, to: &str) -> Result<()> {
        let (socket, wire) = connect(address, secret, self.adapter, Some(to))?;
        self.beat()?;
        self.add(socket, Some(wire))
    }

    fn add(&mut self, socket: TcpStream, wire: Option<Wire>) -> Result<()> {
        socket.set_nodelay(true)?;
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
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.received < messages {
            self.beat()?;
            self.poll.poll(&mut self.events, Some(Duration::from_millis(200)))?;
            ensure!(
                Instant::now() < deadline,
                "only {} of {messages} messages came within 30 s",
                self.received
            );
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                let (messages, bytes) = client.read(&mut self.buffer, &mut self.inflater)?;
                self.received += messages;
                self.last_message_bytes = bytes.unwrap_or(self.last_message_bytes);
            }
        }
        ensure!(self.received == messages, "{} messages came, not {messages}", self.received);
        self.received = 0;
        Ok(())
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
    /// Connects.
    pub fn connect(
        address: SocketAddr,
        secret: &str,
        adapter: &'static dyn Adapter,
        destination: String,
    ) -> Result<Self> {
        let (socket, wire) = connect(address, secret, adapter, None)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, wire, adapter, destination, published: 0 })
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

/// Connects, and subscribes if there is something to subscribe to.
fn connect(
    address: SocketAddr,
    secret: &str,
    adapter: &'static dyn Adapter,
    destination: Option<&str>,
) -> Result<(TcpStream, Wire)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let session = Session {
        host: &address.to_string(),
        token: &mint(secret, "floor")?,
        destination: destination.unwrap_or_default(),
        number: 0,
        since: None,
        presence: false,
    };
    let mut wire = Wire::new(adapter.framing());
    socket.write_all(adapter.request(&session).as_bytes())?;
    while matches!(wire, Wire::Head(..)) {
        let mut byte = [0];
        socket.read_exact(&mut byte).context("the gateway did not answer the handshake")?;
        wire.read(&mut byte, &mut Inflater::new(), &mut |_| Ok(()))?;
    }
    let mut ask = |text: Option<String>, answer: Incoming| {
        let Some(text) = text else { bail!("the protocol is not one that the floor is for") };
        let mut out = Vec::new();
        wire.write(&mut out, &text);
        socket.write_all(&out)?;
        wait_for(&mut socket, &mut wire, adapter, 1, &answer)
    };
    ask(adapter.connect(&session), Incoming::Connected)?;
    if destination.is_some() {
        let subscribed = Incoming::Subscribed { position: None, recovered: None };
        ask(adapter.subscribe(&session), subscribed)?;
    }
    socket.set_read_timeout(None)?;
    Ok((socket, wire))
}

/// Reads until the answer has come this many times.
fn wait_for(
    socket: &mut TcpStream,
    wire: &mut Wire,
    adapter: &dyn Adapter,
    times: usize,
    answer: &Incoming,
) -> Result<()> {
    let mut buffer = [0; 4096];
    let mut answers = 0;
    while answers < times {
        let bytes = socket.read(&mut buffer).context("no answer from the gateway")?;
        ensure!(bytes > 0, "the gateway closed the connection instead of answering");
        wire.read(&mut buffer[..bytes], &mut Inflater::new(), &mut |piece| {
            if let Piece::Text(text) = piece {
                adapter.read(text, &mut |incoming| answers += usize::from(incoming == *answer));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Within the 20 s that CONNECT promises.
const BEAT_INTERVAL: Duration = Duration::from_secs(15);
