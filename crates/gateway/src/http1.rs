//! A connection that speaks HTTP/1, until a request takes its socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;

use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use hyper::server::conn::http1::{self, Parts};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::accept::{CONNECTION_TIME, HttpServer, MAX_HEAD_BYTES, Peer};
use crate::problem::Problem;
use crate::socket::Socket;
use crate::takeover::{Then, Wanted};

impl HttpServer {
    /// Serves until the end, or until a request takes the socket.
    pub(crate) async fn serve_http1(self, socket: Socket<TcpStream>, peer: Peer) {
        let (server, head_time) = (&self, self.head_time);
        let wanted = Wanted::default();
        let takeover = wanted.takeover();
        let service = hyper::service::service_fn(move |request: http::Request<_>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(takeover.clone());
            let answer = checked(&request).map(|()| server.router.clone().oneshot(request));
            let leaving = &server.leaving;
            async move {
                let mut response = match answer {
                    Ok(answer) => answer.await?,
                    Err(problem) => problem.into_response(),
                };
                if leaving.is_cancelled() {
                    // The next request is to come to another node.
                    response.headers_mut().insert(header::CONNECTION, CLOSE);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_time)
            .max_headers(READ_HEADERS)
            .max_buf_size(READ_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), service);
        let ended = tokio::select! {
            taken = served(&mut connection, &wanted) => Some(taken),
            () = self.idle_end() => None,
            // Whoever asks without reading the answers would stay for ever.
            () = tokio::time::sleep(CONNECTION_TIME) => None,
        };
        let taken = if let Some(taken) = ended {
            taken
        } else {
            Pin::new(&mut connection).graceful_shutdown();
            let rest = served(&mut connection, &wanted);
            tokio::time::timeout(head_time, rest).await.ok().flatten()
        };
        let Some(then) = taken else { return };
        let Parts { io, read_buf, .. } = connection.into_parts();
        // A copy, because a slice would pin hyper's whole read buffer.
        let leftover = Bytes::copy_from_slice(&read_buf);
        drop(read_buf);
        match io.into_inner().into_std() {
            Ok(socket) => then(socket, leftover).await,
            Err(error) => tracing::warn!(%error, "a socket could not be taken; it is dropped"),
        }
    }
}

/// Polls a connection until it ends, or until a request of it takes the socket.
async fn served<C: Future + Unpin>(connection: &mut C, wanted: &Wanted) -> Option<Then> {
    poll_fn(|context| match Pin::new(&mut *connection).poll(context) {
        // An error here is the peer's: a reset, a timeout, not HTTP. There is nobody to tell.
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => wanted.taken().map_or(Poll::Pending, |then| Poll::Ready(Some(then))),
    })
    .await
}

/// What hyper lets pass and is refused all the same.
fn checked(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let own_bytes =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let target_bytes = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let bytes = target_bytes + headers.iter().map(own_bytes).sum::<usize>();
    if bytes > MAX_HEAD_BYTES || headers.len() > MAX_HEADERS {
        let detail = format!(
            "a request's head may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers; are there \
             cookies that could be left out?"
        );
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Problem::new(status, "head_too_large", detail));
    }
    // RFC 9112 §3.2.
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        let detail = "a request of HTTP/1.1 has one `Host` (RFC 9112 §3.2)";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "host", detail));
    }
    Ok(())
}

const MAX_HEADERS: usize = 64;
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// More is read than is let in, because what hyper does not read it refuses without a word. More
/// headers than these it would not keep on its stack.
const READ_HEADERS: usize = 100;
const READ_HEAD_BYTES: usize = 4 * MAX_HEAD_BYTES;
