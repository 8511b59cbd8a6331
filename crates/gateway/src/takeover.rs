//! Takes what a session needs of its connection away from hyper: over HTTP/1 the socket itself,
//! unanswered; over HTTP/2 the request's stream, joined to a socket pair.
//!
//! So a connection that streams over HTTP/1 is its socket, and nothing of hyper's is left: that
//! would be some ten KiB for as long as it lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::bridge::{self, Bridge};
use crate::problem::Problem;
use crate::repeated::Repeated;
use crate::socket::Socket;

/// What was taken.
pub struct Taken {
    /// The socket, non-blocking: the connection's own, or one that leads to its stream.
    pub socket: Socket,
    /// What is to be written to it before anything else.
    pub answer: Vec<u8>,
    /// What the client sent behind its request.
    pub leftover: Bytes,
    /// Whether a response is to be written as chunks of an HTTP/1.1 body.
    pub chunked: bool,
}

/// What is to be done with a taken socket, and with what the client sent behind its request.
pub(crate) type Then = Box<dyn FnOnce(Socket, Bytes) -> BoxFuture<'static, ()> + Send>;

/// A request's way to what carries it. Its body must have been read to its end before.
#[derive(Clone)]
pub struct Takeover(Way);

#[derive(Clone)]
enum Way {
    Socket(Wanted),
    Stream(Streams),
}

impl Takeover {
    /// Goes on with `then` as a WebSocket, after a response with these headers.
    pub async fn upgrade<F>(
        self,
        request: Request,
        mut headers: HeaderMap,
        then: impl FnOnce(Taken) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.0 {
            Way::Socket(wanted) => {
                drop(request);
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                let answer = head(StatusCode::SWITCHING_PROTOCOLS, &headers);
                wanted.take(answer, false, then).await
            }
            Way::Stream(streams) => streams.upgrade(request, headers, then).into_response(),
        }
    }

    /// Goes on with `then` as the body of a response with these headers, to a request of this
    /// version.
    pub async fn stream<F>(
        self,
        version: Version,
        mut headers: HeaderMap,
        then: impl FnOnce(Taken) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.0 {
            Way::Socket(wanted) => {
                // HTTP/1.0 knows no chunks: there the end of the connection is that of the body.
                let chunked = version >= Version::HTTP_11;
                if chunked {
                    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                // It ends with the body anyway: a client is not to send its next request on it.
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                wanted.take(head(StatusCode::OK, &headers), chunked, then).await
            }
            Way::Stream(streams) => streams.stream(headers, then).into_response(),
        }
    }
}

/// The head of a response (RFC 9112 §2.1).
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// What a request of an HTTP/1 connection wants to be done with its socket.
#[derive(Clone, Default)]
pub(crate) struct Wanted(Arc<Mutex<Option<Then>>>);

impl Wanted {
    pub(crate) fn takeover(&self) -> Takeover {
        Takeover(Way::Socket(self.clone()))
    }

    /// What is to be done, once a request wants it. A request runs within its connection's own
    /// poll, so this is known right behind that.
    pub(crate) fn taken(&self) -> Option<Then> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Does not return: the request ends here.
    async fn take<F>(
        self,
        answer: Vec<u8>,
        chunked: bool,
        then: impl FnOnce(Taken) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let then: Then = Box::new(move |socket, leftover| {
            Box::pin(then(Taken { socket, answer, leftover, chunked }))
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(then);
        std::future::pending().await
    }
}

/// The streams of an HTTP/2 connection that carry sessions.
#[derive(Clone)]
pub(crate) struct Streams {
    tasks: TaskTracker,
    /// Whether any response that is still being written has gone on since this was last asked.
    has_moved: Arc<AtomicBool>,
    /// How long a client may take nothing of what is written to it.
    patience: Duration,
}

impl Streams {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { tasks: TaskTracker::new(), has_moved: Arc::default(), patience }
    }

    pub(crate) fn takeover(&self) -> Takeover {
        Takeover(Way::Stream(self.clone()))
    }

    /// Whether any has lived since this was last asked.
    pub(crate) fn have_lived(&self) -> bool {
        self.has_moved.swap(false, Ordering::Relaxed) || !self.tasks.is_empty()
    }

    /// Waits for the end of their tasks; the connection has ended.
    pub(crate) async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// RFC 8441 §5.
    fn upgrade<F>(
        self,
        request: Request,
        headers: HeaderMap,
        then: impl FnOnce(Taken) -> F + Send + 'static,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (taken, bridge) = pair()?;
        let upgraded = hyper::upgrade::on(request);
        let Self { tasks, patience, .. } = self;
        tasks.clone().spawn(async move {
            // An error: the client has gone meanwhile.
            let Ok(stream) = upgraded.await else { return };
            tasks.spawn(then(taken));
            drop(tasks);
            bridge.carry(TokioIo::new(stream), patience).await;
        });
        Ok(with_headers(headers, Body::empty()))
    }

    fn stream<F>(
        self,
        headers: HeaderMap,
        then: impl FnOnce(Taken) -> F,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (taken, bridge) = pair()?;
        self.tasks.spawn(then(taken));
        let has_moved = self.has_moved;
        let body = bridge.into_stream().inspect(move |_| has_moved.store(true, Ordering::Relaxed));
        Ok(with_headers(headers, Body::from_stream(body)))
    }
}

static NO_PAIR: Repeated = Repeated::new();

fn pair() -> Result<(Taken, Bridge), Problem> {
    let (socket, bridge) = bridge::pair().map_err(|error| {
        if let Some(suppressed) = NO_PAIR.happened(Instant::now()) {
            tracing::warn!(%error, suppressed, "no socket pair could be made");
        }
        let detail = "this node has no room for more; another one may have";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "node_full", detail)
            .with_header(header::RETRY_AFTER, "1")
    })?;
    let socket = Socket::plain(socket);
    let taken = Taken { socket, answer: Vec::new(), leftover: Bytes::new(), chunked: false };
    Ok((taken, bridge))
}

fn with_headers(headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_head_has_a_line_for_each_value_and_ends_with_an_empty_one() {
        let mut headers = HeaderMap::new();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        headers.append(header::VARY, HeaderValue::from_static("cookie"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let head = String::from_utf8(head(StatusCode::SWITCHING_PROTOCOLS, &headers)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 101 Switching Protocols\r\nvary: origin\r\nvary: cookie\r\n\
             upgrade: websocket\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn a_stream_lives_while_it_moves_and_a_silent_one_does_not() {
        let streams = Streams::new(Duration::from_secs(1));
        assert!(!streams.have_lived());
        let (told, tell) = tokio::sync::oneshot::channel();
        let response = streams.clone().stream(HeaderMap::new(), |taken| async move {
            let _ = told.send(taken.socket);
        });
        let response = response.unwrap();
        let mut socket = tell.await.unwrap().into_tokio().unwrap();
        let mut body = response.into_body().into_data_stream();
        socket.write_all(b"x").await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "x");
        assert!(streams.have_lived());
        while !streams.tasks.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!streams.have_lived());
        drop(socket);
        assert!(body.next().await.is_none());
        streams.ended().await;
    }
}
