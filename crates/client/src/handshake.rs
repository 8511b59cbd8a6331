//! The opening handshake (RFC 6455 §4.1): a TCP connection becomes a WebSocket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanlight_proto::native::SUBPROTOCOL;
use fanlight_proto::ws::handshake::accept_key;
use futures_util::future;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::LinkError;
use crate::options::Target;

/// Connects and upgrades. Gives the socket and what came after the response's head.
pub(crate) async fn open(
    target: &Target,
    token: Option<&str>,
) -> Result<(TcpStream, Bytes), LinkError> {
    let stream = TcpStream::connect(&target.address).await.map_err(|error| {
        LinkError::Unreachable { address: target.address.clone(), reason: error.to_string() }
    })?;
    stream.set_nodelay(true).map_err(|error| lost(&error))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let request = request(target, token, &key)?;
    // The connection must be driven while the exchange waits, and ends by handing out the socket.
    let exchange = exchange(sender, request, &key);
    let (_, upgraded) = future::join(connection.with_upgrades(), exchange).await;
    let parts = upgraded?.downcast::<TokioIo<TcpStream>>().map_err(|_| wrong("not plain TCP"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    key: &str,
) -> Result<hyper::upgrade::Upgraded, LinkError> {
    let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    check(response.headers(), key)?;
    hyper::upgrade::on(response).await.map_err(|error| lost(&error))
}

fn request(
    target: &Target,
    token: Option<&str>,
    key: &str,
) -> Result<Request<Empty<Bytes>>, LinkError> {
    let mut request = Request::get(&target.path)
        .header(HOST, &target.host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key)
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| LinkError::NoToken { reason: "it has characters that none has".into() })?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new()).map_err(|error| wrong(&error.to_string()))
}

/// RFC 6455 §4.1: what the client must verify of the response.
fn check(headers: &HeaderMap, key: &str) -> Result<(), LinkError> {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !value(UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(wrong("the response upgrades to something else"));
    }
    if !value(CONNECTION).split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return Err(wrong("the response does not upgrade the connection"));
    }
    if value(SEC_WEBSOCKET_ACCEPT).trim() != accept_key(key) {
        return Err(wrong("the response is not to our request (Sec-WebSocket-Accept)"));
    }
    if value(SEC_WEBSOCKET_PROTOCOL) != SUBPROTOCOL {
        return Err(wrong("the response does not choose our subprotocol"));
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err(wrong("the response uses an extension that was not offered"));
    }
    Ok(())
}

async fn refusal(response: Response<Incoming>) -> LinkError {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok());
    let body = Limited::new(response.into_body(), DETAIL_MAX_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // Fanlight answers with a problem (RFC 9457), a proxy with what it likes.
    let problem = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let detail = problem.and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    LinkError::Refused {
        status,
        detail,
        retry_after: retry_after.map(std::time::Duration::from_secs),
    }
}

pub(crate) fn lost(error: &dyn std::error::Error) -> LinkError {
    let reason = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    LinkError::Lost { reason }
}

fn wrong(what: &str) -> LinkError {
    LinkError::WrongProtocol { what: what.into() }
}

/// More of an error page is of no use.
const DETAIL_MAX_BYTES: usize = 2048;
