//! Clients in a process of their own, as one has only so many descriptors: they connect, subscribe
//! and count what they get.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Which clients.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where they connect.
    #[arg(long)]
    address: SocketAddr,
    /// The address from which they do.
    #[arg(long)]
    source: Ipv4Addr,
    /// The number of the first; a client's number decides its room and its token.
    #[arg(long)]
    first: usize,
    /// How many.
    #[arg(long)]
    count: usize,
    /// Rooms over which all clients spread.
    #[arg(long)]
    rooms: usize,
    /// A file with a token in each line.
    #[arg(long)]
    tokens: PathBuf,
}

/// Connects, prints a line, then prints how many messages came whenever a line is read.
pub fn run(options: &Options) -> Result<()> {
    let tokens = fs::read_to_string(&options.tokens)?;
    let tokens: Vec<&str> = tokens.lines().collect();
    let mut crowd = Crowd::new()?;
    let mut answered = Instant::now();
    for number in options.first..options.first + options.count {
        let token = tokens[number % tokens.len()];
        let mut socket = connect(options.address, options.source)?;
        upgrade(&mut socket, token)?;
        subscribe(&mut socket, &room(number % options.rooms))?;
        crowd.add(socket)?;
        // Those who are there already have pings to answer.
        if answered.elapsed() >= ANSWER_EVERY {
            while crowd.receive(Duration::ZERO)? {}
            answered = Instant::now();
        }
    }
    println!("connected");
    let (asked, asks) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        lines.take_while(|_| asked.send(()).is_ok()).for_each(drop);
    });
    loop {
        crowd.receive(Duration::from_millis(100))?;
        match asks.try_recv() {
            Ok(()) => println!("{}", crowd.messages),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// The destination of a room.
pub fn room(number: usize) -> String {
    format!("/topic/room.{number}")
}

/// A session that is connected, to publish.
pub fn publisher(address: SocketAddr, token: &str) -> Result<std::net::TcpStream> {
    let mut socket = connect(address, Ipv4Addr::LOCALHOST)?;
    upgrade(&mut socket, token)?;
    socket.write_all(&text(r#"{"type":"connect"}"#))?;
    read_until(&mut socket, b"\"connected\"")?;
    Ok(socket)
}

/// A frame that publishes.
pub fn publication(destination: &str, body: &str) -> Vec<u8> {
    text(&format!(r#"{{"type":"send","to":"{destination}","data":"{body}"}}"#))
}

struct Crowd {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Box<[u8]>,
    inflater: Inflater,
    messages: u64,
}

struct Client {
    socket: mio::net::TcpStream,
    decoder: Decoder,
}

impl Crowd {
    fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            clients: Vec::new(),
            buffer: vec![0; 64 << 10].into(),
            inflater: Inflater::new(),
            messages: 0,
        })
    }

    fn add(&mut self, socket: std::net::TcpStream) -> Result<()> {
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        let token = Token(self.clients.len());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        self.clients.push(Client { socket, decoder: Decoder::new(Role::Client, false) });
        Ok(())
    }

    /// Takes what has come; whether there was any.
    fn receive(&mut self, wait: Duration) -> Result<bool> {
        self.poll.poll(&mut self.events, Some(wait))?;
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            self.messages += client.read(&mut self.buffer, &mut self.inflater)?;
        }
        Ok(!self.events.is_empty())
    }
}

impl Client {
    /// Reads until the socket is dry; the number of messages.
    fn read(&mut self, buffer: &mut [u8], inflater: &mut Inflater) -> Result<u64> {
        let mut messages = 0;
        loop {
            let bytes = match self.socket.read(buffer) {
                Ok(0) => bail!("the gateway closed a connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
                Err(error) => return Err(error).context("a connection broke"),
            };
            let mut input = &mut buffer[..bytes];
            while let Some(message) = self.decoder.next(&mut input, usize::MAX, inflater)? {
                match message {
                    Message::Text(_) | Message::Binary(_) => messages += 1,
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
    }
}

fn connect(address: SocketAddr, source: Ipv4Addr) -> Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    let socket = std::net::TcpStream::from(socket);
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}

fn upgrade(socket: &mut std::net::TcpStream, token: &str) -> Result<()> {
    write!(
        socket,
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: fanlight.v1.json\r\nAuthorization: Bearer {token}\r\n\r\n"
    )?;
    let head = read_until(socket, b"\r\n\r\n")?;
    ensure!(head.starts_with("HTTP/1.1 101"), "the handshake was refused: {head}");
    Ok(())
}

fn subscribe(socket: &mut std::net::TcpStream, destination: &str) -> Result<()> {
    let mut frames = text(r#"{"type":"connect"}"#);
    frames.extend(text(&format!(r#"{{"type":"subscribe","to":"{destination}","id":1}}"#)));
    socket.write_all(&frames)?;
    read_until(socket, b"\"ok\"").map(drop)
}

/// Reads until `end` was among it: nothing is sent to a client before it asks for more.
fn read_until(socket: &mut std::net::TcpStream, end: &[u8]) -> Result<String> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    while !read.windows(end.len()).any(|window| window == end) {
        let bytes = socket.read(&mut buffer).context("no answer from the gateway")?;
        ensure!(bytes > 0, "the gateway closed: {}", String::from_utf8_lossy(&read));
        read.extend(&buffer[..bytes]);
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    ws::frame_masked(&mut out, Opcode::Text, text.as_bytes(), MASK);
    out
}

const ANSWER_EVERY: Duration = Duration::from_millis(200);
/// Masks protect proxies from browsers (RFC 6455 §10.3); this is neither.
const MASK: [u8; 4] = [1, 2, 3, 4];
