//! A WebSocket to a gateway that may die at any moment: nothing here panics or waits forever.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::wire::{Incoming, Protocol};

/// An open session.
pub struct Connection {
    socket: TcpStream,
    protocol: Protocol,
    decoder: Decoder,
    inflater: Inflater,
    /// What was read and not decoded yet.
    pending: Vec<u8>,
    /// The session's id, hexadecimal without hyphens.
    pub session: String,
}

impl Connection {
    /// Connects, upgrades and opens a session.
    pub async fn open(node: SocketAddr, protocol: Protocol, token: &str) -> anyhow::Result<Self> {
        let open = async {
            let socket = TcpStream::connect(node).await?;
            Self::upgrade(socket, node, protocol, token).await
        };
        timeout(OPEN_MAX, open).await.context("opening")?
    }

    /// The same over a connection of which the kernels keep less: a node notices sooner when nothing
    /// is read.
    pub async fn open_narrow(
        node: SocketAddr,
        protocol: Protocol,
        token: &str,
    ) -> anyhow::Result<Self> {
        let open = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(NARROW_BUFFER_BYTES)?;
            // The sender's buffer grows with what a segment holds, else 64 KiB on loopback.
            SockRef::from(&socket).set_tcp_mss(NARROW_SEGMENT_BYTES)?;
            Self::upgrade(socket.connect(node).await?, node, protocol, token).await
        };
        timeout(OPEN_MAX, open).await.context("opening")?
    }

    async fn upgrade(
        mut socket: TcpStream,
        node: SocketAddr,
        protocol: Protocol,
        token: &str,
    ) -> anyhow::Result<Self> {
        socket.set_nodelay(true)?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {node}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
            protocol.name()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let mut connection = Self {
            socket,
            protocol,
            decoder: Decoder::new(Role::Client, false),
            inflater: Inflater::new(),
            pending: Vec::new(),
            session: String::new(),
        };
        connection.send(&protocol.connect()).await?;
        let answer = connection.next().await?;
        let Some(Incoming::Connected { session }) = answer.first() else { bail!("{answer:?}") };
        connection.session.clone_from(session);
        Ok(connection)
    }

    pub async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        let mut out = Vec::new();
        ws::frame_masked(&mut out, Opcode::Text, text.as_bytes(), [7, 1, 9, 4]);
        timeout(SEND_MAX, self.socket.write_all(&out)).await.context("sending")??;
        Ok(())
    }

    /// What the next message says. May be dropped while it waits: nothing is lost then.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Incoming>> {
        loop {
            if let Some(text) = self.decode()? {
                return self.protocol.read(&text).with_context(|| format!("in {text:?}"));
            }
            self.pending.reserve(16 * 1024);
            let read = self.socket.read_buf(&mut self.pending).await?;
            ensure!(read > 0, "the connection ended");
        }
    }

    /// The next whole text message, if there is one.
    fn decode(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            let mut taken = std::mem::take(&mut self.pending);
            let mut input = taken.as_mut_slice();
            let decoded = self.decoder.next(&mut input, MESSAGE_MAX, &mut self.inflater);
            let message = decoded.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            let message = message.map(Message::into_owned);
            self.pending = input.to_vec();
            match message {
                Some(Message::Text(text)) => return Ok(Some(text.into_owned())),
                // Silence is measured by our own pings, so these need no answer in a short life.
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(frame)) => {
                    bail!("closed with {:?}", frame.map(|frame| frame.code));
                }
                Some(Message::Binary(_)) => bail!("a binary message"),
                None => return Ok(None),
            }
        }
    }
}

/// Longer than a node is ever paused for would hide the pause; a client goes elsewhere instead.
const OPEN_MAX: Duration = Duration::from_secs(3);
const NARROW_BUFFER_BYTES: u32 = 4096;
const NARROW_SEGMENT_BYTES: u32 = 536;
const SEND_MAX: Duration = Duration::from_secs(3);
const MESSAGE_MAX: usize = 1 << 20;
