//! The accept loop: sockets in, HTTP/1.1 served with every bound set, upgrades let go.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::poll_fn;
use hyper::server::conn::http1::{self, Parts};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::admission::{Admission, Admitted};
use crate::takeover::{Taken, Takeover, Then};

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Listens on `address` without yet sharing it: fails when another process has the port, which
/// `SO_REUSEPORT` alone would hide.
pub fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    drop(bind(address, false)?);
    let socket = bind(address, true)?;
    let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, bound))
}

/// One more listener on an address that this process holds: the kernel spreads connections.
pub fn share(address: SocketAddr) -> io::Result<Socket> {
    bind(address, true)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// The next connection; `None` after the shutdown.
pub async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        match shutdown.run_until_cancelled(listener.accept()).await? {
            Ok(accepted) => return Some(accepted),
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors, mostly: the pause lets some go.
                tracing::warn!(%error, "a connection could not be accepted");
                metrics::counter!("fanlight_accept_errors_total").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How connections are served until they are upgraded.
#[derive(Clone)]
pub struct HttpServer {
    /// Answers the requests.
    pub router: Router,
    /// Owns the connections' tasks.
    pub tracker: TaskTracker,
    /// Ends accepting, and idle connections.
    pub shutdown: CancellationToken,
    /// How long a request's head may take, also on a connection that is kept alive.
    pub head_time: Duration,
    /// How many connections there may be until they are upgraded.
    pub admission: Arc<Admission>,
}

impl HttpServer {
    /// Accepts on `listener` until the shutdown.
    pub async fn run(self, listener: Socket) -> io::Result<()> {
        let listener = TcpListener::from_std(listener.into())?;
        while let Some((stream, peer)) = next(&listener, &self.shutdown).await {
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
        Ok(())
    }

    async fn serve(self, stream: TcpStream, peer: Peer, _admitted: Admitted) {
        let _ = stream.set_nodelay(true);
        let Self { router, shutdown, head_time, .. } = self;
        let takeover = Takeover::default();
        let for_requests = takeover.clone();
        let service = hyper::service::service_fn(move |request: http::Request<_>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(for_requests.clone());
            router.clone().oneshot(request)
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_time)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let ended = tokio::select! {
            taken = served(&mut connection, &takeover) => Some(taken),
            () = shutdown.cancelled() => None,
            // Whoever asks without reading the answers would stay for ever.
            () = tokio::time::sleep(CONNECTION_TIME) => None,
        };
        let taken = if let Some(taken) = ended {
            taken
        } else {
            Pin::new(&mut connection).graceful_shutdown();
            let rest = served(&mut connection, &takeover);
            tokio::time::timeout(head_time, rest).await.ok().flatten()
        };
        let Some(then) = taken else { return };
        let Parts { io, read_buf, .. } = connection.into_parts();
        // A copy, because a slice would pin hyper's whole read buffer.
        let leftover = Bytes::copy_from_slice(&read_buf);
        drop(read_buf);
        match io.into_inner().into_std() {
            Ok(socket) => then(Taken { socket, leftover }).await,
            Err(error) => tracing::warn!(%error, "a socket could not be taken; it is dropped"),
        }
    }
}

/// Polls a connection until it ends, or until a request of it takes the socket.
async fn served<C: Future + Unpin>(connection: &mut C, takeover: &Takeover) -> Option<Then> {
    poll_fn(|context| match Pin::new(&mut *connection).poll(context) {
        // An error here is the peer's: a reset, a timeout, not HTTP. There is nobody to tell.
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => takeover.taken().map_or(Poll::Pending, |then| Poll::Ready(Some(then))),
    })
    .await
}

const BACKLOG: i32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may be used for requests, before another one must be made.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 * 1024;
