//! The WebSocket endpoint: checks a handshake, of HTTP/1.1 (RFC 6455) or HTTP/2 (RFC 8441), and
//! hands its socket to the worker.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use fanlight_engine::session::Protocol;
use fanlight_proto::native;
use fanlight_proto::sockjs::{self, Close};
use fanlight_proto::stomp::Version as StompVersion;
use fanlight_proto::ws::{self, Opcode, deflate, handshake};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Station;
use super::door::{self, Visitor, bad_request};
use super::sockjs::{Service, close_for as sockjs_close};
use crate::accept::Peer;
use crate::admission::Admitted;
use crate::node::Node;
use crate::problem::Problem;
use crate::socket::Socket;
use crate::takeover::{Taken, Takeover};
use crate::worker::{Adopted, Carrier, Echo, Inbox, Opening};

/// The endpoint's routes.
pub fn routes(state: Station) -> Router {
    let path = state.node.config.websocket.path.clone();
    let mut router = Router::new().route(&path, any(upgrade_session));
    if state.node.conformance {
        router = router.route("/conformance/echo", any(upgrade_echo));
    }
    router.with_state(state)
}

async fn upgrade_session(
    State(state): State<Station>,
    Extension(peer): Extension<Peer>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    upgrade(state, peer.0, takeover, request, Endpoint::Session).await
}

async fn upgrade_echo(
    State(state): State<Station>,
    Extension(peer): Extension<Peer>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    upgrade(state, peer.0, takeover, request, Endpoint::Echo).await
}

/// What a WebSocket leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Session,
    /// A SockJS service, whose messages come in frames.
    SockJs(Service),
    /// A SockJS service for conformance suites, without frames.
    Raw(Service),
    Echo,
}

/// What was agreed on in a handshake.
struct Agreed {
    /// Proves that the handshake was understood; HTTP/2 has other ways.
    accept_key: Option<String>,
    protocol: Option<(Protocol, &'static str)>,
    compression: Option<String>,
    visitor: Visitor,
}

impl Agreed {
    fn opening(self, endpoint: Endpoint) -> Opening {
        let protocol = self.protocol.map(|(protocol, _)| protocol);
        match endpoint {
            Endpoint::Session | Endpoint::SockJs(Service::Sessions) => {
                Opening::Session(self.visitor.handshake(), protocol)
            }
            Endpoint::SockJs(Service::Amplify) | Endpoint::Raw(Service::Amplify) => {
                Opening::Echo(Echo::Amplified)
            }
            Endpoint::Echo | Endpoint::SockJs(_) | Endpoint::Raw(_) => Opening::Echo(Echo::Same),
        }
    }
}

/// Agrees on a WebSocket and hands its socket to the worker.
pub(super) async fn upgrade(
    state: Station,
    peer: SocketAddr,
    takeover: Takeover,
    request: Request,
    endpoint: Endpoint,
) -> Response {
    let asked = Asked {
        version: request.version(),
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        has_body: !request.body().is_end_stream(),
    };
    let agreed = agree(&state.node, peer, asked, endpoint).await;
    let outcome = agreed.as_ref().map_or_else(|problem| problem.code(), |_| "accepted");
    door::count_handshake(request.version(), outcome);
    let (agreed, admitted) = match agreed {
        Ok(agreed) => agreed,
        Err(problem) if door::is_paced(problem.code()) && endpoint.is_framed() => {
            return turn_away(takeover, request, sockjs_close(&problem)).await;
        }
        Err(problem) => return problem.into_response(),
    };
    let headers = response_headers(&agreed);
    let carried = takeover.upgrade(request, headers, move |taken| async move {
        let Taken { socket, mut answer, leftover, .. } = taken;
        let carrier = match endpoint {
            Endpoint::SockJs(service) => {
                ws::frame(&mut answer, Opcode::Text, sockjs::frame::OPEN);
                if service == Service::Close {
                    let mut frame = Vec::new();
                    sockjs::frame::close(&mut frame, &Close::GO_AWAY);
                    ws::frame(&mut answer, Opcode::Text, &frame);
                    return say_goodbye(socket, answer, Close::GO_AWAY).await;
                }
                Carrier::SockJs
            }
            Endpoint::Raw(Service::Close) => {
                return say_goodbye(socket, answer, Close::GO_AWAY).await;
            }
            _ => Carrier::WebSocket { compression: agreed.compression.is_some() },
        };
        let adopted = Adopted {
            socket,
            answer: answer.into(),
            leftover,
            carrier,
            opening: agreed.opening(endpoint),
            admitted,
        };
        state.worker.send(Inbox::Adopt(Box::new(adopted))).await;
    });
    carried.await
}

impl Endpoint {
    /// Whether it is more than a service for conformance suites.
    fn is_for_sessions(self) -> bool {
        matches!(self, Self::Session | Self::SockJs(Service::Sessions))
    }

    /// Whether its messages come in the frames of SockJS.
    fn is_framed(self) -> bool {
        matches!(self, Self::SockJs(_))
    }
}

/// Accepts a WebSocket of SockJS to say that it is to come back: see [`sockjs_close`].
async fn turn_away(takeover: Takeover, request: Request, close: Close) -> Response {
    // Over HTTP/2 there is none.
    let accept_key = check_upgrade(request.method(), request.headers()).ok();
    let visitor = Visitor::default();
    let agreed = Agreed { accept_key, protocol: None, compression: None, visitor };
    let carried = takeover.upgrade(request, response_headers(&agreed), move |taken| async move {
        let Taken { socket, mut answer, .. } = taken;
        let mut frame = Vec::new();
        sockjs::frame::close(&mut frame, &close);
        ws::frame(&mut answer, Opcode::Text, &frame);
        say_goodbye(socket, answer, close).await;
    });
    carried.await
}

/// What the protocol's `close` service does.
async fn say_goodbye(socket: Socket, mut answer: Vec<u8>, close: Close) {
    ws::close_frame(&mut answer, close.code, close.reason);
    let Ok(mut socket) = socket.into_tokio() else { return };
    let talk = async {
        socket.write_all(&answer).await?;
        socket.flush().await?;
        // Its own close frame, and its end; what else it says is of no interest.
        while socket.read(&mut [0; 256]).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(GOODBYE_TIME, talk).await;
}

/// What a handshake asks by. A request itself can't be lent while a token is checked.
#[derive(Clone, Copy)]
struct Asked<'r> {
    version: Version,
    method: &'r Method,
    uri: &'r Uri,
    headers: &'r HeaderMap,
    has_body: bool,
}

/// Every check of a handshake, cheapest first.
async fn agree(
    node: &Node,
    peer: SocketAddr,
    Asked { version, method, uri, headers, has_body }: Asked<'_>,
    endpoint: Endpoint,
) -> Result<(Agreed, Admitted), Box<Problem>> {
    let accept_key = if version == Version::HTTP_2 {
        check_connect(method, headers)?;
        None
    } else {
        Some(check_upgrade(method, headers)?)
    };
    if has_body {
        // Its bytes would be read as frames.
        return Err(bad_request("body", "a WebSocket handshake has no body").into());
    }
    let admitted = door::admit(node, peer, headers)?;
    let offered_compression: Vec<&str> = values(headers, &header::SEC_WEBSOCKET_EXTENSIONS);
    let is_wanted = match endpoint {
        Endpoint::Session => node.config.websocket.compression,
        Endpoint::SockJs(_) => false,
        Endpoint::Raw(_) | Endpoint::Echo => true,
    };
    let compression = is_wanted
        .then(|| deflate::negotiate(&offered_compression))
        .flatten()
        .map(|accepted| accepted.header_value().to_string());
    if !endpoint.is_for_sessions() {
        let visitor = Visitor::default();
        let agreed = Agreed { accept_key, protocol: None, compression, visitor };
        return Ok((agreed, admitted));
    }
    let visitor = door::visit(node, peer, headers, uri).await?;
    let protocol = choose_protocol(headers)?;
    // Last: what is refused anyhow takes nobody's turn.
    door::pace(node, peer, headers, &visitor.caller)?;
    Ok((Agreed { accept_key, protocol, compression, visitor }, admitted))
}

/// RFC 8441 §5. That it is a CONNECT for a WebSocket is known already, if it is one.
fn check_connect(method: &Method, headers: &HeaderMap) -> Result<(), Box<Problem>> {
    if method != Method::CONNECT {
        let detail = "this is a WebSocket endpoint; over HTTP/2 connect by an extended CONNECT \
                      (RFC 8441), or use HTTP/1.1";
        return Err(bad_request("not_websocket", detail).into());
    }
    if !is_version_13(headers) {
        let problem = bad_request("websocket_version", ONLY_VERSION_13)
            .with_header(header::SEC_WEBSOCKET_VERSION, "13");
        return Err(problem.into());
    }
    Ok(())
}

fn is_version_13(headers: &HeaderMap) -> bool {
    headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
}

/// RFC 6455 §4.2.1; the key to answer with.
fn check_upgrade(method: &Method, headers: &HeaderMap) -> Result<String, Box<Problem>> {
    if method != Method::GET || !is_upgrade(headers) {
        return Err(Box::new(
            Problem::new(
                StatusCode::UPGRADE_REQUIRED,
                "not_websocket",
                "this is a WebSocket endpoint; connect with a WebSocket client",
            )
            .with_header(header::UPGRADE, "websocket")
            .with_header(header::CONNECTION, "upgrade"),
        ));
    }
    if headers.get_all(header::HOST).iter().count() != 1 {
        let detail = "a request has one Host header (RFC 9112 §3.2)";
        return Err(bad_request("host", detail).into());
    }
    if !is_version_13(headers) {
        return Err(Box::new(
            Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket_version", ONLY_VERSION_13)
                .with_header(header::UPGRADE, "websocket")
                .with_header(header::CONNECTION, "upgrade")
                .with_header(header::SEC_WEBSOCKET_VERSION, "13"),
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .filter(|key| handshake::is_valid_key(key))
        .ok_or_else(|| {
            bad_request(
                "websocket_key",
                "Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 §4.1)",
            )
        })?;
    Ok(handshake::accept_key(key))
}

/// Whether a request asks to go on as a WebSocket.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        values(headers, &name).iter().any(|value| value.eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The first offered subprotocol that is spoken here; none when none was offered, and then the
/// first message decides.
fn choose_protocol(headers: &HeaderMap) -> Result<Option<(Protocol, &'static str)>, Box<Problem>> {
    let offered = values(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = offered.iter().find_map(|name| {
        SUBPROTOCOLS.iter().find(|(known, _)| known == name).map(|&(known, p)| (p, known))
    });
    if chosen.is_none() && !offered.is_empty() {
        let known = SUBPROTOCOLS.map(|(name, _)| name).join(", ");
        let detail =
            format!("none of the offered subprotocols is spoken here; offer one of: {known}");
        return Err(bad_request("subprotocol", detail).into());
    }
    Ok(chosen)
}

/// What was agreed on (RFC 6455 §4.2.2).
fn response_headers(agreed: &Agreed) -> HeaderMap {
    let protocol = agreed.protocol.map(|(_, name)| name);
    [
        (header::SEC_WEBSOCKET_ACCEPT, agreed.accept_key.as_deref()),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol),
        (header::SEC_WEBSOCKET_EXTENSIONS, agreed.compression.as_deref()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value?).ok()?)))
    .collect()
}

/// The values of a comma-separated header, over all its lines.
fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect()
}

const ONLY_VERSION_13: &str = "only version 13 of the WebSocket protocol is spoken here (RFC 6455)";
/// How long a peer has to end after a goodbye.
const GOODBYE_TIME: Duration = Duration::from_secs(2);
const SUBPROTOCOLS: [(&str, Protocol); 4] = [
    ("v12.stomp", Protocol::Stomp(StompVersion::V12)),
    ("v11.stomp", Protocol::Stomp(StompVersion::V11)),
    ("v10.stomp", Protocol::Stomp(StompVersion::V10)),
    (native::SUBPROTOCOL, Protocol::Native),
];
