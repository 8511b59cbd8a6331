//! The accept loop: sockets in, TLS and the version of HTTP found out, every bound set.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::ServerConfig;
use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Admitted};
use crate::descriptors::Allowance;
use crate::repeated::Repeated;
use crate::{http2, socket, tls};

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The next connection; `None` after the shutdown.
pub async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    allowance: Allowance,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        match shutdown.run_until_cancelled(listener.accept()).await? {
            Ok(accepted) if allowance.covers(&accepted.0) => return Some(accepted),
            // Dropped at once, so that it tries another node, instead of waiting for nothing.
            Ok(_) => tell(&"its file descriptor would be one of the last"),
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors, mostly: the pause lets some go.
                tell(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a connection that was not accepted, and says so now and then.
fn tell(error: &dyn Display) {
    metrics::counter!("fanlight_accept_errors_total").increment(1);
    if let Some(suppressed) = NOT_ACCEPTED.happened(Instant::now()) {
        tracing::warn!(%error, suppressed, "a connection could not be accepted");
    }
}

/// Of all listeners together.
static NOT_ACCEPTED: Repeated = Repeated::new();

/// How connections are served until they are upgraded.
#[derive(Clone)]
pub struct HttpServer {
    /// Answers the requests.
    pub router: Router,
    /// Owns the connections' tasks.
    pub tracker: TaskTracker,
    /// Ends accepting, and soon after it idle connections.
    pub shutdown: CancellationToken,
    /// How long a request's head may take, also on a connection that is kept alive.
    pub head_time: Duration,
    /// How many connections there may be until they are upgraded, and requests over HTTP/2.
    pub admission: Arc<Admission>,
    /// How TLS is agreed on, if there is any.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long a client may take nothing of what is written to it.
    pub patience: Duration,
    /// How many streams an HTTP/2 connection may have at a time.
    pub max_streams: u32,
    /// The sessions are leaving: clients are to make their new ones, and requests, over other
    /// connections.
    pub leaving: CancellationToken,
    /// Which file descriptors connections may take.
    pub allowance: Allowance,
}

impl HttpServer {
    /// Accepts on `listener` until the shutdown.
    pub async fn run(self, listener: Socket) -> io::Result<()> {
        let listener = TcpListener::from_std(listener.into())?;
        while let Some((stream, peer)) = next(&listener, &self.shutdown, self.allowance).await {
            self.begin(stream, peer);
        }
        // A client takes those for accepted that still wait for it.
        let listener = listener.into_std()?;
        while let Ok((stream, peer)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.begin(TcpStream::from_std(stream)?, peer);
        }
        Ok(())
    }

    fn begin(&self, stream: TcpStream, peer: SocketAddr) {
        match self.admission.admit(peer.ip()) {
            Ok(admitted) => {
                let server = self.clone();
                self.tracker.spawn(server.serve(stream, Peer(peer), admitted));
            }
            // It is dropped: an answer would need what there is too little of.
            Err(_) => {
                metrics::counter!("fanlight_http_connections_refused_total").increment(1);
            }
        }
    }

    /// The end of idle connections. A request may be on its way when the shutdown begins, and a
    /// proxy does not send one a second time that is not known to be harmless.
    pub(crate) async fn idle_end(&self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(LAST_REQUEST_TIME).await;
    }

    async fn serve(self, stream: TcpStream, peer: Peer, _admitted: Admitted) {
        let _ = stream.set_nodelay(true);
        if let Some(tls) = self.tls.clone() {
            return Box::pin(self.serve_tls(tls, stream, peer)).await;
        }
        let begun = timeout(self.head_time, http2::is_begun_on(&stream));
        let begun = tokio::select! {
            begun = begun => begun,
            () = self.idle_end() => return,
        };
        let Ok(Ok(is_http2)) = begun else { return };
        if is_http2 {
            // Boxed, because the task of every connection would be as large.
            Box::pin(self.serve_http2(stream, peer)).await;
        } else {
            self.serve_http1(socket::Socket::plain(stream), peer).await;
        }
    }

    async fn serve_tls(self, config: Arc<ServerConfig>, stream: TcpStream, peer: Peer) {
        let accepted = socket::Socket::accept(stream, config);
        let accepted = tokio::select! {
            accepted = timeout(self.head_time, accepted) => accepted,
            () = self.idle_end() => return,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            // Whoever does not speak TLS would not understand why.
            Ok(Err(_)) => return tls::count_failure("tls_failed"),
            Err(_) => return tls::count_failure("tls_timeout"),
        };
        if stream.alpn_protocol() == Some(tls::HTTP2) {
            return self.serve_http2(stream, peer).await;
        }
        self.serve_http1(stream, peer).await;
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long after the shutdown a connection may still bring a request.
const LAST_REQUEST_TIME: Duration = Duration::from_millis(300);
/// How long a connection may be used for requests, before another one must be made.
pub(crate) const CONNECTION_TIME: Duration = Duration::from_secs(300);
pub(crate) const MAX_HEAD_BYTES: usize = 16 * 1024;
