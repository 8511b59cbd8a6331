//! Many client connections in one thread: raw sockets in one poll, frames counted.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Client connections that count the messages they get.
pub struct Swarm {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Box<[u8]>,
    inflater: Inflater,
    received: u64,
    last_message_bytes: usize,
    last_beat: Instant,
}

struct Client {
    socket: TcpStream,
    /// Absent where what comes is of no interest.
    decoder: Option<Decoder>,
    /// Whether it has promised heartbeats.
    beats: bool,
}

/// Which protocol the clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// `fanlight.v1.json`
    Native,
    /// STOMP 1.2
    Stomp,
}

impl Protocol {
    fn subprotocol(self) -> &'static str {
        match self {
            Self::Native => "fanlight.v1.json",
            Self::Stomp => "v12.stomp",
        }
    }

    fn connect(self) -> &'static str {
        match self {
            Self::Native => r#"{"type":"connect"}"#,
            Self::Stomp => "CONNECT\naccept-version:1.2\nheart-beat:20000,20000\n\n\0",
        }
    }

    fn subscribe(self, destination: &str) -> String {
        match self {
            Self::Native => format!(r#"{{"type":"subscribe","to":"{destination}","id":1}}"#),
            Self::Stomp => {
                format!("SUBSCRIBE\nid:sub-0\nreceipt:r\ndestination:{destination}\n\n\0")
            }
        }
    }

    fn send(self, destination: &str, body: &str) -> String {
        match self {
            Self::Native => {
                format!(r#"{{"type":"send","to":"{destination}","data":"{body}"}}"#)
            }
            Self::Stomp => {
                format!("SEND\ndestination:{destination}\ncontent-type:text/plain\n\n{body}\0")
            }
        }
    }
}

impl Swarm {
    /// A swarm without clients.
    pub fn new() -> Result<Self> {
        Ok(Self {
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
        let socket = std::net::TcpStream::connect(address)?;
        self.add(socket, false)
    }

    /// Adds a client: upgraded, authenticated by `token`, connected and, with a destination,
    /// subscribed.
    pub fn add_client(
        &mut self,
        address: SocketAddr,
        token: &str,
        protocol: Protocol,
        destination: Option<&str>,
    ) -> Result<()> {
        let mut socket = std::net::TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        upgrade(&mut socket, token, protocol)?;
        write_text(&mut socket, protocol.connect())?;
        let answer = read_text(&mut socket)?;
        ensure!(answer.to_lowercase().contains("connected"), "CONNECT was answered by {answer}");
        if let Some(destination) = destination {
            write_text(&mut socket, &protocol.subscribe(destination))?;
            let answer = read_text(&mut socket)?;
            let subscribed = answer.contains("\"ok\"") || answer.starts_with("RECEIPT");
            ensure!(subscribed, "SUBSCRIBE was answered by {answer}");
        }
        socket.set_read_timeout(None)?;
        self.beat()?;
        self.add(socket, protocol == Protocol::Stomp)
    }

    /// Adds a connection over which nothing is sent any more.
    pub fn add_listener(&mut self, socket: std::net::TcpStream) -> Result<()> {
        socket.set_read_timeout(None)?;
        self.add(socket, false)?;
        if let Some(client) = self.clients.last_mut() {
            client.decoder = None;
        }
        Ok(())
    }

    fn add(&mut self, socket: std::net::TcpStream, beats: bool) -> Result<()> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let token = Token(self.clients.len());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        let decoder = Some(Decoder::new(Role::Client, false));
        self.clients.push(Client { socket, decoder, beats });
        Ok(())
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.clients.len()
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

    /// Keeps what STOMP clients promised in their CONNECT.
    fn beat(&mut self) -> Result<()> {
        if self.last_beat.elapsed() < BEAT_INTERVAL {
            return Ok(());
        }
        self.last_beat = Instant::now();
        let mut beat = Vec::new();
        ws::frame_masked(&mut beat, Opcode::Text, b"\n", MASK);
        for client in self.clients.iter_mut().filter(|client| client.beats) {
            client.socket.write_all(&beat)?;
        }
        Ok(())
    }

    /// Answers what comes (pings) for a while.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.beat()?;
            self.poll.poll(&mut self.events, Some(left.min(Duration::from_secs(1))))?;
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                client.read(&mut self.buffer, &mut self.inflater)?;
            }
        }
        self.received = 0;
        Ok(())
    }
}

impl Client {
    /// Reads until the socket is dry; the number of data messages and the size of the last one.
    fn read(&mut self, buffer: &mut [u8], inflater: &mut Inflater) -> Result<(u64, Option<usize>)> {
        let mut messages = 0;
        let mut last_bytes = None;
        loop {
            let bytes = match self.socket.read(buffer) {
                Ok(0) => bail!("the gateway closed a connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a connection broke"),
            };
            let Some(decoder) = &mut self.decoder else { continue };
            let mut input = &mut buffer[..bytes];
            while let Some(message) = decoder.next(&mut input, usize::MAX, inflater)? {
                match message {
                    // A STOMP heartbeat is no message.
                    Message::Text(text) if text == "\n" => {}
                    Message::Text(text) => {
                        messages += 1;
                        last_bytes = Some(text.len());
                    }
                    Message::Binary(bytes) => {
                        messages += 1;
                        last_bytes = Some(bytes.len());
                    }
                    Message::Ping(payload) => {
                        let mut pong = Vec::new();
                        ws::frame_masked(&mut pong, Opcode::Pong, &payload, MASK);
                        self.socket.write_all(&pong)?;
                    }
                    Message::Pong(_) => {}
                    Message::Close(frame) => bail!("the gateway closed a connection: {frame:?}"),
                }
            }
        }
        Ok((messages, last_bytes))
    }
}

/// A client that publishes, on a blocking socket of its own.
pub struct Publisher {
    socket: std::net::TcpStream,
    protocol: Protocol,
}

impl Publisher {
    /// Connects with `token`.
    pub fn connect(address: SocketAddr, token: &str, protocol: Protocol) -> Result<Self> {
        let mut socket = std::net::TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        upgrade(&mut socket, token, protocol)?;
        write_text(&mut socket, protocol.connect())?;
        read_text(&mut socket)?;
        Ok(Self { socket, protocol })
    }

    /// Publishes `burst` messages by one write.
    pub fn publish(&mut self, destination: &str, body: &str, burst: usize) -> Result<()> {
        let mut out = Vec::new();
        let message = self.protocol.send(destination, body);
        for _ in 0..burst {
            ws::frame_masked(&mut out, Opcode::Text, message.as_bytes(), MASK);
        }
        Ok(self.socket.write_all(&out)?)
    }
}

fn upgrade(socket: &mut std::net::TcpStream, token: &str, protocol: Protocol) -> Result<()> {
    let subprotocol = protocol.subprotocol();
    write!(
        socket,
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).context("the gateway did not answer the handshake")?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101"), "the handshake was refused: {head}");
    Ok(())
}

fn write_text(socket: &mut std::net::TcpStream, text: &str) -> Result<()> {
    let mut out = Vec::new();
    ws::frame_masked(&mut out, Opcode::Text, text.as_bytes(), MASK);
    Ok(socket.write_all(&out)?)
}

/// Reads the one message that answers a request.
fn read_text(socket: &mut std::net::TcpStream) -> Result<String> {
    let mut decoder = Decoder::new(Role::Client, false);
    let mut inflater = Inflater::new();
    let mut buffer = [0; 4096];
    loop {
        let bytes = socket.read(&mut buffer).context("no answer from the gateway")?;
        ensure!(bytes > 0, "the gateway closed the connection instead of answering");
        let mut input = &mut buffer[..bytes];
        if let Some(message) = decoder.next(&mut input, usize::MAX, &mut inflater)? {
            match message {
                Message::Text(text) => return Ok(text.into_owned()),
                other => bail!("an answer was expected, not {other:?}"),
            }
        }
    }
}

/// Within the 20 s that the CONNECT promises.
const BEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Masks protect proxies from browsers (RFC 6455 §10.3); this is neither.
const MASK: [u8; 4] = [1, 2, 3, 4];
