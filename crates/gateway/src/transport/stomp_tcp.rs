//! STOMP over TCP: accepts connections, with TLS where that is configured, and hands their sockets
//! to the worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::session::{Handshake, Protocol};
use fanlight_proto::stomp::{Command, Version, Writer};
use http::HeaderMap;
use rustls::ServerConfig;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::door;
use crate::accept;
use crate::admission::Admitted;
use crate::descriptors::Allowance;
use crate::node::Node;
use crate::problem::{Problem, whole_seconds};
use crate::socket;
use crate::worker::{Adopted, Carrier, Inbox, Opening, WorkerHandle};

/// One worker's listener for STOMP over TCP.
#[derive(Clone)]
pub struct StompServer {
    node: Arc<Node>,
    worker: WorkerHandle,
    tls: Option<Arc<ServerConfig>>,
    tracker: TaskTracker,
    refusals: Arc<Semaphore>,
}

impl StompServer {
    /// A server for `worker`; `tracker` owns the tasks that some of its connections need.
    pub fn new(
        node: Arc<Node>,
        worker: WorkerHandle,
        tls: Option<Arc<ServerConfig>>,
        tracker: TaskTracker,
    ) -> Self {
        Self { node, worker, tls, tracker, refusals: Arc::new(Semaphore::new(REFUSALS)) }
    }

    /// Accepts on `listener` until the shutdown.
    pub async fn run(self, listener: Socket, shutdown: CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(listener.into())?;
        let allowance = Allowance::AllButSpare;
        while let Some((stream, peer)) = accept::next(&listener, &shutdown, allowance).await {
            let none = HeaderMap::new();
            let admitted = door::admit(&self.node, peer, &none)
                .and_then(|admitted| door::pace(&self.node, peer, &none, &None).map(|()| admitted));
            match admitted {
                Ok(admitted) => self.welcome(stream, admitted, &shutdown).await,
                Err(problem) => self.refuse(stream, &problem),
            }
        }
        Ok(())
    }

    async fn welcome(&self, stream: TcpStream, admitted: Admitted, shutdown: &CancellationToken) {
        set_options(&stream, self.node.rules.heartbeats.native_ms);
        match &self.tls {
            None => self.hand_over(socket::Socket::plain(stream), admitted).await,
            Some(tls) => {
                let secured = self.clone().secure(tls.clone(), stream, admitted);
                self.tracker.spawn(shutdown.clone().run_until_cancelled_owned(secured));
            }
        }
    }

    /// Agrees on TLS before the session begins.
    async fn secure(self, tls: Arc<ServerConfig>, stream: TcpStream, admitted: Admitted) {
        let limits = &self.node.config.limits;
        let secured =
            match timeout(limits.connect_time.0, socket::Socket::accept(stream, tls)).await {
                Ok(Ok(secured)) => secured,
                // Whoever does not speak TLS would not understand why.
                Ok(Err(_)) => return door::count_session("tls_failed"),
                Err(_) => return door::count_session("tls_timeout"),
            };
        self.hand_over(secured, admitted).await;
    }

    async fn hand_over(&self, socket: socket::Socket<TcpStream>, admitted: Admitted) {
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a socket could not be taken; it is dropped");
                return;
            }
        };
        door::count_session("accepted");
        let protocol = Protocol::Stomp(Version::V12);
        let adopted = Adopted {
            socket,
            answer: Bytes::new(),
            leftover: Bytes::new(),
            opening: Opening::Session(Handshake::default(), Some(protocol)),
            carrier: Carrier::Stream,
            admitted,
        };
        self.worker.send(Inbox::Adopt(Box::new(adopted))).await;
    }

    /// Tells why, where that is cheap enough.
    fn refuse(&self, stream: TcpStream, problem: &Problem) {
        door::count_session(problem.code());
        if self.tls.is_some() {
            return;
        }
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let after = problem.retry_after().unwrap_or(RETRY_AFTER);
        let mut frame = Vec::new();
        Writer::new(&mut frame, Command::Error, Version::V10)
            .header("message", problem.detail())
            .header("code", problem.code())
            .header("retry-after", &whole_seconds(after).to_string())
            .end();
        self.tracker.spawn(async move {
            let _ = timeout(LAST_WORD_TIME, last_word(stream, frame)).await;
            drop(place);
        });
    }
}

/// Says it, then waits for the peer's end, so that no reset overtakes it.
async fn last_word(mut stream: TcpStream, frame: Vec<u8>) -> io::Result<()> {
    stream.write_all(&frame).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// Keep-alive stands in for the pings that a client without heartbeats gets on a WebSocket.
fn set_options(stream: &TcpStream, idle_ms: u32) {
    let _ = stream.set_nodelay(true);
    let idle = Duration::from_millis(idle_ms.max(1000).into());
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Connections that are told at once why they are refused; others are dropped without a word.
const REFUSALS: usize = 64;
/// Where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const LAST_WORD_TIME: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
