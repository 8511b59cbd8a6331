//! The null server: the native protocol with the cheapest code there is, to know the tester's own
//! limits, and to do wrong what the tester must notice.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role, handshake};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// How it is started.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What it does wrong: `drop:N`, `duplicate:N` or `reorder:N`, to one subscriber and the Nth
    /// publication.
    #[arg(long)]
    fault: Option<Fault>,
}

/// Something wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    kind: FaultKind,
    publication: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    Drop,
    Duplicate,
    Reorder,
}

/// Serves until it is killed.
pub fn run(options: &Options) -> Result<()> {
    let mut hub = Hub::new(options)?;
    let mut events = Events::with_capacity(1024);
    loop {
        match hub.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => hub.accept()?,
                Token(index) => hub.ready(index),
            }
        }
    }
}

struct Hub {
    poll: Poll,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    rooms: HashMap<String, Vec<usize>>,
    buffer: Box<[u8]>,
    inflater: Inflater,
    published: u64,
    fault: Option<Fault>,
    /// What was held back, to be sent behind the next.
    held_back: Option<(String, Vec<u8>)>,
}

struct Peer {
    socket: TcpStream,
    /// Absent until the handshake is done.
    decoder: Option<Decoder>,
    head: Vec<u8>,
    out: Vec<u8>,
    room: Option<String>,
}

impl Hub {
    fn new(options: &Options) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(options.listen)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        println!("{}", listener.local_addr()?);
        Ok(Self {
            poll,
            listener,
            peers: Vec::new(),
            rooms: HashMap::new(),
            buffer: vec![0; 256 * 1024].into(),
            inflater: Inflater::new(),
            published: 0,
            fault: options.fault,
            held_back: None,
        })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            socket.set_nodelay(true)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(self.peers.len()), both)?;
            let (head, out) = (Vec::new(), Vec::new());
            self.peers.push(Some(Peer { socket, decoder: None, head, out, room: None }));
        }
    }

    fn ready(&mut self, index: usize) {
        if self.read(index).is_err() {
            let gone = self.peers[index].take();
            if let Some(room) = gone.and_then(|peer| peer.room) {
                self.rooms.entry(room).or_default().retain(|&member| member != index);
            }
        }
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let mut requests = Vec::new();
        let Some(peer) = self.peers[index].as_mut() else { return Ok(()) };
        peer.flush()?;
        loop {
            let bytes = match peer.socket.read(&mut self.buffer) {
                Ok(0) => bail!("gone"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            peer.take(&mut self.buffer[..bytes], &mut self.inflater, &mut requests)?;
        }
        for request in requests {
            self.answer(index, &request)?;
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, request: &str) -> Result<()> {
        let field = |name: &str| {
            let (_, rest) = request.split_once(name)?;
            Some(rest.split('"').next().unwrap_or_default().to_owned())
        };
        let answer = match field(r#""type":""#).as_deref() {
            Some("connect") => r#"{"type":"connected"}"#.to_owned(),
            Some("subscribe") => {
                let room = field(r#""to":""#).context("no destination")?;
                self.rooms.entry(room.clone()).or_default().push(index);
                if let Some(peer) = self.peers[index].as_mut() {
                    peer.room = Some(room);
                }
                r#"{"type":"ok","id":"s"}"#.to_owned()
            }
            Some("send") => {
                let room = field(r#""to":""#).context("no destination")?;
                let body = field(r#""data":""#).context("no body")?;
                self.publish(&room, &body);
                r#"{"type":"ok","id":0}"#.to_owned()
            }
            _ => bail!("unknown request {request}"),
        };
        if let Some(peer) = self.peers[index].as_mut() {
            peer.send(&frame(&answer))?;
        }
        Ok(())
    }

    fn publish(&mut self, room: &str, body: &str) {
        let frame = frame(&format!(r#"{{"type":"message","to":"{room}","data":"{body}"}}"#));
        let fault = self.fault.filter(|fault| fault.publication == self.published);
        self.published += 1;
        let members = self.rooms.get(room).map_or(&[][..], Vec::as_slice);
        for (at, &member) in members.iter().enumerate() {
            let Some(peer) = self.peers[member].as_mut() else { continue };
            // A broken connection is noticed when it is read.
            let mut send = |frame: &[u8]| drop(peer.send(frame));
            match fault.filter(|_| at == 0).map(|fault| fault.kind) {
                Some(FaultKind::Drop) => {}
                Some(FaultKind::Duplicate) => (0..2).for_each(|_| send(&frame)),
                Some(FaultKind::Reorder) => {
                    self.held_back = Some((room.to_owned(), frame.clone()));
                }
                None => {
                    send(&frame);
                    if at == 0
                        && let Some((_, late)) =
                            self.held_back.take_if(|(held_for, _)| held_for == room)
                    {
                        send(&late);
                    }
                }
            }
        }
    }
}

impl Peer {
    fn take(
        &mut self,
        mut input: &mut [u8],
        inflater: &mut Inflater,
        requests: &mut Vec<String>,
    ) -> Result<()> {
        let Some(decoder) = &mut self.decoder else {
            self.head.extend_from_slice(input);
            return if self.head.ends_with(b"\r\n\r\n") { self.upgrade() } else { Ok(()) };
        };
        while let Some(message) = decoder.next(&mut input, MOST_BYTES, inflater)? {
            match message {
                Message::Text(text) => requests.push(text.into_owned()),
                Message::Ping(_) | Message::Pong(_) => {}
                _ => bail!("gone"),
            }
        }
        Ok(())
    }

    fn upgrade(&mut self) -> Result<()> {
        let head = String::from_utf8(std::mem::take(&mut self.head))?;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .context("no upgrade")?;
        self.decoder = Some(Decoder::new(Role::Server, false));
        let accept = handshake::accept_key(key);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.send(answer.as_bytes())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.out.is_empty() {
            self.out.extend_from_slice(bytes);
            return Ok(());
        }
        match self.socket.write(bytes) {
            Ok(sent) => self.out.extend_from_slice(&bytes[sent..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.out.extend_from_slice(bytes);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, publication) = text.split_once(':').context("a fault is KIND:N")?;
        let kind = match kind {
            "drop" => FaultKind::Drop,
            "duplicate" => FaultKind::Duplicate,
            "reorder" => FaultKind::Reorder,
            _ => bail!("a fault is drop:N, duplicate:N or reorder:N"),
        };
        Ok(Self { kind, publication: publication.parse()? })
    }
}

fn frame(text: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    ws::frame(&mut frame, Opcode::Text, text.as_bytes());
    frame
}

const LISTENER: Token = Token(usize::MAX - 1);
const MOST_BYTES: usize = 1 << 24;
