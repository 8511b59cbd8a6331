//! A connection that speaks HTTP/2: each stream is a request, and may become a session.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::accept::{CONNECTION_TIME, HttpServer, MAX_HEAD_BYTES, Peer};
use crate::admission::{Admission, AdmissionError, Admitted};
use crate::body::Lent;
use crate::problem::Problem;
use crate::takeover::Streams;

/// Whether a connection begins as HTTP/2 does with prior knowledge (RFC 9113 §3.3). Nothing of it
/// is read, so that nothing has to be kept for HTTP/1.
pub(crate) async fn is_begun_on(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    let mut pause = FIRST_PAUSE;
    loop {
        let bytes = stream.peek(&mut seen).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen[..bytes] != PREFACE[..bytes] {
            return Ok(false);
        }
        if bytes == PREFACE.len() {
            return Ok(true);
        }
        // Nothing tells when there is more than what was seen already.
        sleep(pause).await;
        pause *= 2;
    }
}

impl HttpServer {
    /// Serves until the end: of the client's own accord, by the shutdown, or after a while in which
    /// no stream carried a session.
    pub(crate) async fn serve_http2<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let streams = Streams::new(self.patience);
        let requests = Requests {
            router: self.router,
            admission: self.admission,
            streams: streams.clone(),
            peer,
            under_way: Arc::default(),
        };
        // Boxed, so that a stream's task keeps nothing of it once there is a response.
        let service = service_fn(move |request| Box::pin(requests.clone().answer(request)));
        {
            let io = TokioIo::new(stream);
            let connection = builder(self.tracker, self.max_streams).serve_connection(io, service);
            let mut connection = pin!(connection);
            let mut is_told = false;
            loop {
                tokio::select! {
                    // An error is the peer's: a reset, a timeout, not HTTP.
                    _ = &mut connection => break,
                    // It carries no new session, so the client is to make another connection.
                    () = self.leaving.cancelled(), if !is_told => {
                        is_told = true;
                        connection.as_mut().graceful_shutdown();
                        continue;
                    }
                    () = self.shutdown.cancelled() => {}
                    () = sleep(CONNECTION_TIME) => if streams.have_lived() { continue },
                }
                connection.as_mut().graceful_shutdown();
                let _ = timeout(self.head_time, connection).await;
                break;
            }
        }
        streams.ended().await;
    }
}

fn builder(tasks: TaskTracker, max_streams: u32) -> http2::Builder<StreamTasks> {
    let mut builder = http2::Builder::new(StreamTasks(tasks));
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        // What hyper does by itself against rapid resets, said here so that it stays.
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Where hyper's tasks for streams belong.
#[derive(Clone)]
struct StreamTasks(TaskTracker);

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// What the requests of a connection need.
#[derive(Clone)]
struct Requests {
    router: Router,
    admission: Arc<Admission>,
    streams: Streams,
    peer: Peer,
    /// The connection has one of these, and each request under way.
    under_way: Arc<()>,
}

impl Requests {
    async fn answer(self, request: http::Request<Incoming>) -> Result<Response, Infallible> {
        let (parts, body) = request.into_parts();
        let body = Lent::new(body);
        let request = Request::from_parts(parts, Body::new(body.clone()));
        Ok(body.answered(self.respond(request).await))
    }

    async fn respond(self, request: Request) -> Response {
        let Ok(_place) = self.place() else {
            metrics::counter!("fanlight_http_connections_refused_total").increment(1);
            let detail = "too many requests at a time, of this address or of all";
            let problem =
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_requests", detail)
                    .with_header(header::RETRY_AFTER, "1");
            return problem.into_response();
        };
        let mut request = match checked(request) {
            Ok(request) => request,
            Err(problem) => return problem.into_response(),
        };
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.streams.takeover());
        let answered = timeout(CONNECTION_TIME, self.router.oneshot(request)).await;
        let Ok(Ok(response)) = answered else {
            let detail = "the request did not come to its end in time";
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
            return problem.into_response();
        };
        response
    }

    /// Until it is answered a request counts like a connection, which it would be over HTTP/1. The
    /// connection's own place is for one of them.
    fn place(&self) -> Result<Option<Admitted>, AdmissionError> {
        let is_alone = Arc::strong_count(&self.under_way) <= 2;
        (!is_alone).then(|| self.admission.admit(self.peer.0.ip())).transpose()
    }
}

/// The request as it would be over HTTP/1, where that is possible.
fn checked(mut request: Request) -> Result<Request, Problem> {
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    if request.method() == Method::CONNECT && protocol != Some("websocket") {
        let detail = "CONNECT is for WebSockets only: `:protocol` must be `websocket` (RFC 8441)";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "connect_protocol", detail));
    }
    let Some(authority) = request.uri().authority() else { return Ok(request) };
    // Without what names a user (RFC 9113 §8.3.1), which a browser never sends.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(host).map_err(|_| other_host())?;
    let is_same = |own: &HeaderValue| own.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    if !request.headers().get_all(header::HOST).iter().all(is_same) {
        return Err(other_host());
    }
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// RFC 9113 §8.3.1.
fn other_host() -> Problem {
    let detail = "`Host` must be what `:authority` is, or be left out";
    Problem::new(StatusCode::BAD_REQUEST, "host", detail)
}

/// RFC 9113 §3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What a client may send on one stream, and on all, before it is read. A stream whose session is
/// busy holds at most a thirty-second of what there is for all.
const STREAM_WINDOW_BYTES: u32 = 32 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What one stream may have in its buffer before the client takes it.
const SEND_BYTES: usize = 32 * 1024;
/// A client that does not answer a ping is gone, with all its streams.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// More streams that were reset before they were looked at end the connection (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// The same for streams that we had to reset for an error of the client.
const MAX_ERROR_RESETS: usize = 1024;

#[cfg(test)]
mod tests;
