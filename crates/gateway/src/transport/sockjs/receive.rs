//! The transports that receive: one frame for each request, or many on one response, whose socket
//! is then all that is left of it.

use std::io;
use std::time::Duration;

use axum::extract::{Query, Request};
use axum::response::Response;
use bytes::Bytes;
use fanlight_engine::peers::Holder;
use fanlight_proto::sockjs::{
    Callback, CallbackError, Close, Receiver, Transport, frame, headers as names,
};
use http::{HeaderValue, StatusCode, Uri, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::reply::{self, Cors};
use super::{Found, Visit};
use crate::mail::{MailReply, Receive, Wish};
use crate::socket::Socket;
use crate::takeover::Taken;

impl Visit {
    pub(super) async fn receive(self, request: Request, cors: Cors) -> Response {
        let receiver = match receiver(self.transport, request.uri()) {
            Ok(receiver) => receiver,
            Err(error) => {
                let body = error.to_string();
                return reply::with(StatusCode::INTERNAL_SERVER_ERROR, names::TEXT, body);
            }
        };
        let found = match self.find_or_open(request.headers()).await {
            Ok(found) => found,
            Err(problem) => return cors.on_problem(*problem),
        };
        if self.transport.is_streaming() {
            return self.stream(found, receiver, request.version(), &cors).await;
        }
        let next = match &found {
            Found::Holder(holder) => self.next(holder, rand::random(), false).await,
            Found::Over(close) => Err(closing(close)),
        };
        let (Ok(frame) | Err(frame)) =
            next.map(|frame| frame.unwrap_or(Bytes::from_static(frame::HEARTBEAT)));
        let mut body = Vec::new();
        receiver.frame(&mut body, &frame);
        cors.on(reply::of(self.transport, StatusCode::OK, body))
    }

    /// The next frame; `Err` when it is the last. `None`: the client is to come again, to another
    /// node.
    async fn next(
        &self,
        holder: &Holder,
        receiver: u64,
        stays: bool,
    ) -> Result<Option<Bytes>, Bytes> {
        let next = self.try_next(holder, receiver, stays).await;
        if next.as_ref().is_err_and(|last| *last == closing(&Close::ANOTHER_CONNECTION)) {
            // That it was cut, and its client is here again, may just not be known yet.
            tokio::time::sleep(NOTICE_TIME).await;
            return self.try_next(holder, receiver, stays).await;
        }
        next
    }

    async fn try_next(
        &self,
        holder: &Holder,
        receiver: u64,
        stays: bool,
    ) -> Result<Option<Bytes>, Bytes> {
        let receive = Receive {
            receiver,
            stays,
            max_bytes: MAX_BYTES,
            wait_ms: self.state.station.node.config.sockjs.heartbeat.as_ms() as u32,
            from: None,
        };
        let caller = self.visitor.owner();
        match self.state.station.receive(holder, caller, receive).await {
            Some(Ok(MailReply::Frame(frame))) => Ok(Some(frame)),
            Some(Ok(MailReply::Last(frame))) => Err(frame),
            // It is gone; or its answer is lost, and with it what that held.
            Some(Ok(MailReply::Sent | MailReply::NotHere | MailReply::Full) | Err(_)) => {
                Err(interrupted())
            }
            None => Ok(None),
        }
    }

    /// Takes the socket: what streams needs no more of hyper.
    async fn stream(
        self,
        found: Found,
        receiver: Receiver,
        version: Version,
        cors: &Cors,
    ) -> Response {
        let head = cors.on(reply::of(self.transport, StatusCode::OK, ""));
        let mut headers = head.into_parts().0.headers;
        // It keeps nginx from holding frames back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        let takeover = self.takeover.clone();
        let carried = takeover.stream(version, headers, move |taken| async move {
            let Taken { socket, answer, chunked, .. } = taken;
            let Ok(socket) = socket.into_tokio() else { return };
            let stream = Stream { socket, receiver, chunked };
            // An error is the peer's end: whoever waits is told by the request that is dropped.
            let _ = stream.run(&self, found, answer).await;
        });
        carried.await
    }
}

/// A response that carries frames until it is long enough.
struct Stream {
    socket: Socket<TcpStream>,
    receiver: Receiver,
    chunked: bool,
}

impl Stream {
    async fn run(mut self, visit: &Visit, found: Found, head: Vec<u8>) -> io::Result<()> {
        let id = rand::random();
        let carried = self.carry(visit, &found, id, head).await;
        if let (Found::Holder(holder), Ok(false) | Err(_)) = (&found, &carried) {
            // Before the client sees the end, because it comes back at once.
            let leave = Wish::Leave { receiver: id, is_lost: carried.is_err() };
            let _ = visit.ask(holder, leave).await;
        }
        carried?;
        if self.chunked {
            self.socket.write_all(b"0\r\n\r\n").await?;
        }
        self.socket.shutdown().await?;
        // What a client says at its own end, as within TLS, must not make a reset that overtakes it.
        let _ = timeout(LINGER, gone(&mut self.socket)).await;
        Ok(())
    }

    /// Writes frames until it is long enough; whether the last was the session's last.
    async fn carry(
        &mut self,
        visit: &Visit,
        found: &Found,
        id: u64,
        head: Vec<u8>,
    ) -> io::Result<bool> {
        let mut prelude = Vec::new();
        self.receiver.prelude(&mut prelude);
        self.write(head, &prelude).await?;
        let station = &visit.state.station;
        let limit = visit.state.service.stream_bytes(&station.node);
        let mut sent = 0;
        while sent < limit {
            let next = match found {
                Found::Holder(holder) => {
                    tokio::select! {
                        next = visit.next(holder, id, true) => next,
                        () = gone(&mut self.socket) => return Err(io::ErrorKind::NotConnected.into()),
                    }
                }
                Found::Over(close) => Err(closing(close)),
            };
            let is_last = next.is_err();
            let (Ok(Some(frame)) | Err(frame)) = next else { return Ok(false) };
            let mut body = Vec::new();
            self.receiver.frame(&mut body, &frame);
            sent += body.len();
            self.write(Vec::new(), &body).await?;
            if is_last {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn write(&mut self, mut out: Vec<u8>, body: &[u8]) -> io::Result<()> {
        if self.chunked && !body.is_empty() {
            out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(body);
        }
        let written = async {
            self.socket.write_all(&out).await?;
            self.socket.flush().await
        };
        match timeout(WRITE_TIME, written).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Waits until the client has closed; what it sends meanwhile is of no interest.
async fn gone(socket: &mut Socket<TcpStream>) {
    while socket.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes > 0) {}
}

fn receiver(transport: Transport, uri: &Uri) -> Result<Receiver, CallbackError> {
    let callback = || {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let pairs = query.map(|Query(pairs)| pairs).unwrap_or_default();
        let value =
            |name: &str| pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        Callback::from_query(value("c"), value("callback"))
    };
    Ok(match transport {
        Transport::XhrStreaming => Receiver::XhrStreaming,
        Transport::EventSource => Receiver::EventSource,
        Transport::HtmlFile => Receiver::HtmlFile(callback()?),
        Transport::Jsonp => Receiver::Jsonp(callback()?),
        _ => Receiver::Xhr,
    })
}

fn interrupted() -> Bytes {
    closing(&Close::INTERRUPTED)
}

fn closing(close: &Close) -> Bytes {
    let mut out = Vec::new();
    frame::close(&mut out, close);
    out.into()
}

/// The most bytes of messages in one frame: another node's answer has room for no more.
const MAX_BYTES: u32 = 128 * 1024;
/// How long it may take until a connection that was cut is known to be.
const NOTICE_TIME: Duration = Duration::from_millis(200);
/// How long a client has to close once its response has ended.
const LINGER: Duration = Duration::from_millis(500);
/// How long a client may take to read a frame.
const WRITE_TIME: Duration = Duration::from_secs(10);
