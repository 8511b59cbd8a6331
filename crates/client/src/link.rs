//! One connection: messages in, texts out, until it ends.

use std::time::Duration;

use fanlight_proto::native::{ServerMessage, SessionLimits};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{Decoder, Message, Opcode, Role, WsError, frame_masked};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::LinkError;
use crate::handshake;
use crate::options::ConnectOptions;
use crate::outgoing::Outgoing;

/// What the server says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub session: String,
    /// The user, unless anonymous.
    pub user: Option<String>,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub expires_unix_ms: Option<u64>,
    /// How often something is heard of the server.
    pub heartbeat: Duration,
    /// What the client must keep to.
    pub limits: SessionLimits,
}

/// An open WebSocket with a native session in it.
pub(crate) struct Link {
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    message_max_bytes: usize,
    scratch: Vec<u8>,
    unsent: Vec<u8>,
    sent: usize,
    /// The server's last error that answers no request: it says more than the close frame.
    last_error: Option<String>,
    /// What ended the connection, told after the messages before it.
    ended: Option<LinkError>,
}

enum Io {
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
}

impl Link {
    /// Connects and opens a session, within the connect timeout.
    pub(crate) async fn open(
        options: &ConnectOptions,
        token: Option<&str>,
    ) -> Result<(Self, SessionInfo, Vec<ServerMessage>), LinkError> {
        let limit = options.connect_timeout;
        timeout(limit, Self::open_at_leisure(options, token)).await.unwrap_or_else(|_| {
            let address = options.target.address.clone();
            Err(LinkError::TimedOut { address, timeout: limit })
        })
    }

    async fn open_at_leisure(
        options: &ConnectOptions,
        token: Option<&str>,
    ) -> Result<(Self, SessionInfo, Vec<ServerMessage>), LinkError> {
        let (stream, early) = handshake::open(&options.target, token).await?;
        let mut link = Self {
            stream,
            decoder: Decoder::new(Role::Client, false),
            inflater: Inflater::new(),
            message_max_bytes: options.message_max_bytes,
            scratch: vec![0; SCRATCH_BYTES],
            unsent: Vec::new(),
            sent: 0,
            last_error: None,
            ended: None,
        };
        link.send(&Outgoing::Connect.to_text());
        let mut heard = Vec::new();
        link.read(&mut early.to_vec(), &mut heard);
        loop {
            let opened = heard.iter().position(|m| matches!(m, ServerMessage::Connected { .. }));
            if let Some(at) = opened
                && let ServerMessage::Connected { session, user, expires, heartbeat_ms, limits } =
                    heard.remove(at)
            {
                let heartbeat = Duration::from_millis(heartbeat_ms.into());
                let expires_unix_ms = expires;
                let info = SessionInfo { session, user, expires_unix_ms, heartbeat, limits };
                return Ok((link, info, heard));
            }
            link.receive(&mut heard).await?;
        }
    }

    /// Queues a text message.
    pub(crate) fn send(&mut self, text: &str) {
        frame_masked(&mut self.unsent, Opcode::Text, text.as_bytes(), rand::random());
    }

    /// Whether so much waits to be sent that no more should be queued.
    pub(crate) fn is_congested(&self) -> bool {
        self.unsent.len() - self.sent > UNSENT_MAX_BYTES
    }

    /// Sends what is queued and waits for messages. Nothing is lost when it is not polled to its
    /// end.
    pub(crate) async fn receive(
        &mut self,
        heard: &mut Vec<ServerMessage>,
    ) -> Result<(), LinkError> {
        loop {
            if let Some(error) = self.ended.take() {
                return Err(error);
            }
            let (mut reader, mut writer) = self.stream.split();
            let unsent = &self.unsent[self.sent..];
            let io = tokio::select! {
                wrote = writer.write(unsent), if !unsent.is_empty() => Io::Wrote(wrote),
                read = reader.read(&mut self.scratch) => Io::Read(read),
            };
            match io {
                Io::Wrote(Ok(bytes)) => self.wrote(bytes),
                Io::Read(Ok(0)) => {
                    return Err(LinkError::Lost { reason: "the server closed the socket".into() });
                }
                Io::Read(Ok(bytes)) => {
                    let mut scratch = std::mem::take(&mut self.scratch);
                    self.read(&mut scratch[..bytes], heard);
                    self.scratch = scratch;
                    return Ok(());
                }
                Io::Wrote(Err(error)) | Io::Read(Err(error)) => {
                    return Err(handshake::lost(&error));
                }
            }
        }
    }

    /// Says goodbye and sends what is still queued, for a moment only.
    pub(crate) async fn close(mut self) {
        let normal_closure = 1000_u16.to_be_bytes();
        frame_masked(&mut self.unsent, Opcode::Close, &normal_closure, rand::random());
        let unsent = &self.unsent[self.sent..];
        let _ = timeout(GOODBYE, self.stream.write_all(unsent)).await;
    }

    fn wrote(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.unsent.len() {
            self.unsent.clear();
            self.sent = 0;
        }
    }

    fn read(&mut self, mut input: &mut [u8], heard: &mut Vec<ServerMessage>) {
        while self.ended.is_none() {
            let next = self.decoder.next(&mut input, self.message_max_bytes, &mut self.inflater);
            match next {
                Ok(None) => return,
                Ok(Some(Message::Text(text))) => {
                    if let Err(error) = understand(&text, heard) {
                        self.ended = Some(error);
                    }
                    self.remember_error(heard);
                }
                Ok(Some(Message::Ping(payload))) => {
                    frame_masked(&mut self.unsent, Opcode::Pong, &payload, rand::random());
                }
                Ok(Some(Message::Pong(_))) => {}
                Ok(Some(Message::Binary(_))) => {
                    let what = "a binary message".into();
                    self.ended = Some(LinkError::Protocol { what });
                }
                Ok(Some(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((NO_CODE, String::new()), |frame| (frame.code, frame.reason));
                    let reason = self.last_error.take().unwrap_or(reason);
                    self.ended = Some(LinkError::Closed { code, reason });
                }
                Err(error) => self.ended = Some(broken(error)),
            }
        }
    }

    fn remember_error(&mut self, heard: &[ServerMessage]) {
        if let Some(ServerMessage::Error { id: None, message, .. }) = heard.last() {
            self.last_error = Some(message.clone());
        }
    }
}

/// One message, or an array of them.
fn understand(text: &str, heard: &mut Vec<ServerMessage>) -> Result<(), LinkError> {
    let parsed = if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<_>>(text).map(|messages| heard.extend(messages))
    } else {
        serde_json::from_str(text).map(|message| heard.push(message))
    };
    parsed.map_err(|error| LinkError::Protocol { what: error.to_string() })
}

fn broken(error: WsError) -> LinkError {
    LinkError::Protocol { what: error.to_string() }
}

/// Small, as a process may have many links.
const SCRATCH_BYTES: usize = 16 * 1024;
const UNSENT_MAX_BYTES: usize = 256 * 1024;
const GOODBYE: Duration = Duration::from_secs(1);
/// RFC 6455 §7.4.1: what is reported for a close frame without a code.
const NO_CODE: u16 = 1005;
