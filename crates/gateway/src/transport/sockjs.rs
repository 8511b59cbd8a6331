//! SockJS 0.3.4 without sticky sessions: any request of a session may come to any node.
//!
//! A session that comes by requests is a mailbox of the worker that had its first one, whose node
//! has claimed its id. Every later request asks that node, be it this one or another.

mod receive;
mod reply;
mod send;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use fanlight_engine::peers::{Claim, ClaimName, Holder, PeerError};
use fanlight_engine::registry::Handle;
use fanlight_engine::session::Handshake;
use fanlight_proto::CloseReason;
use fanlight_proto::sockjs::{Close, GREETING, Iframe, Info, Route, Transport, headers};
use http::{HeaderMap, Method, StatusCode};

use super::Station;
use super::door::{self, Visitor};
use super::mailboxes::{peers_failed, through_outage};
use super::ws::{self, Endpoint};
use crate::accept::Peer;
use crate::mail::{MailReply, MailRequest, Wish};
use crate::node::Node;
use crate::problem::Problem;
use crate::takeover::Takeover;
use crate::worker::{Echo, MailboxKind, MailboxOptions, Opening};

/// What the endpoint needs.
#[derive(Clone)]
struct SockJsState {
    station: Station,
    base: Arc<str>,
    service: Service,
    iframe: Arc<Iframe>,
}

/// What is at a base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Fanlight's sessions.
    Sessions,
    /// For conformance suites: gives back what it gets.
    Echo,
    /// The same, without the transport `websocket`.
    DisabledWebSocketEcho,
    /// The same, with the cookie that sticky sessions would need.
    CookieNeededEcho,
    /// Closes at once.
    Close,
    /// Gives back much for little.
    Amplify,
}

/// The services for conformance suites, below `/conformance/sockjs`.
const CONFORMANCE: [(&str, Service); 5] = [
    ("echo", Service::Echo),
    ("disabled_websocket_echo", Service::DisabledWebSocketEcho),
    ("cookie_needed_echo", Service::CookieNeededEcho),
    ("close", Service::Close),
    ("amplify", Service::Amplify),
];

/// A request of a session.
struct Visit {
    state: SockJsState,
    peer: SocketAddr,
    takeover: Takeover,
    transport: Transport,
    name: ClaimName,
    visitor: Visitor,
}

/// What becomes of looking for a session.
enum Found {
    /// It is there.
    Holder(Holder),
    /// There is none, and this is what the client is told.
    Over(Close),
}

/// The endpoint's routes.
pub fn routes(station: &Station) -> Router {
    let config = &station.node.config.sockjs;
    let iframe = Arc::new(Iframe::new(&config.client_url));
    let mut services = vec![(config.path.clone(), Service::Sessions)];
    if station.node.conformance {
        let paths =
            CONFORMANCE.map(|(name, service)| (format!("/conformance/sockjs/{name}"), service));
        services.extend(paths);
    }
    let mut router = Router::new();
    for (base, service) in services {
        let (station, iframe) = (station.clone(), Arc::clone(&iframe));
        let state = SockJsState { station, base: base.as_str().into(), service, iframe };
        let own = Router::new()
            .route(&base, any(serve))
            .route(&format!("{base}/"), any(serve))
            .route(&format!("{base}/{{*rest}}"), any(serve))
            .with_state(state);
        router = router.merge(own);
    }
    router
}

async fn serve(
    State(state): State<SockJsState>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    let path = request.uri().path().strip_prefix(&*state.base).unwrap_or_default().to_owned();
    match Route::parse(&path) {
        None => reply::not_found(),
        Some(Route::Greeting) => reply::text(StatusCode::OK, GREETING),
        Some(Route::Info) => info(&state, peer, &request),
        Some(Route::Iframe) => reply::iframe(&state.iframe, request.headers()),
        Some(Route::RawWebSocket | Route::Session { transport: Transport::WebSocket, .. })
            if !state.service.has_websocket() =>
        {
            reply::not_found()
        }
        Some(Route::RawWebSocket) => {
            let endpoint = match state.service {
                Service::Sessions => Endpoint::Session,
                service => Endpoint::Raw(service),
            };
            ws::upgrade(state.station, peer, takeover, request, endpoint).await
        }
        // Whatever id it has: it comes by one connection.
        Some(Route::Session { transport: Transport::WebSocket, .. }) => {
            if let Some(refused) = refuse_plain(&request) {
                return refused;
            }
            let endpoint = Endpoint::SockJs(state.service);
            ws::upgrade(state.station, peer, takeover, request, endpoint).await
        }
        Some(Route::Session { session, transport, .. }) => {
            let session = session.to_owned();
            visit(state, peer, takeover, transport, &session, request).await
        }
    }
}

impl Service {
    fn has_websocket(self) -> bool {
        self != Self::DisabledWebSocketEcho
    }

    /// How much a streaming response carries.
    fn stream_bytes(self, node: &Node) -> usize {
        match self {
            Self::Sessions => node.config.sockjs.stream_bytes.as_bytes(),
            // As the protocol's suite wants it.
            _ => 4096,
        }
    }

    fn opening(self, handshake: Handshake) -> Opening {
        match self {
            Self::Sessions => Opening::Session(handshake, None),
            Self::Amplify => Opening::Echo(Echo::Amplified),
            _ => Opening::Echo(Echo::Same),
        }
    }
}

/// What the protocol answers to requests that don't begin a WebSocket. CONNECT does (RFC 8441).
fn refuse_plain(request: &Request) -> Option<Response> {
    match *request.method() {
        Method::GET if !ws::is_upgrade(request.headers()) => {
            let detail = "this is for WebSockets; connect with a WebSocket client";
            Some(door::bad_request("not_websocket", detail).into_response())
        }
        Method::GET | Method::CONNECT => None,
        _ => Some(reply::not_allowed(Transport::WebSocket.methods())),
    }
}

fn info(state: &SockJsState, peer: SocketAddr, request: &Request) -> Response {
    let cors = reply::Cors::of(request.headers());
    match *request.method() {
        Method::GET => {
            // A client that fails here comes back later; at a transport it would try the next one.
            if state.service == Service::Sessions
                && let Some(problem) = door::crowded(&state.station.node, peer, request.headers())
            {
                return cors.on_problem(problem);
            }
            let base_url = &*state.station.node.config.sockjs.base_url;
            let base_url = Some(base_url).filter(|url| !url.is_empty());
            let info = Info::new(state.service.has_websocket(), rand::random())
                .with_cookie_needed(state.service == Service::CookieNeededEcho)
                .with_base_url(base_url.filter(|_| state.service == Service::Sessions));
            cors.on(reply::with(StatusCode::OK, headers::JSON, info.to_json()))
        }
        Method::OPTIONS => cors.preflight(headers::INFO_METHODS),
        _ => reply::not_allowed(headers::INFO_METHODS),
    }
}

async fn visit(
    state: SockJsState,
    peer: SocketAddr,
    takeover: Takeover,
    transport: Transport,
    session: &str,
    request: Request,
) -> Response {
    let cors = reply::Cors::of(request.headers());
    if request.method() == Method::OPTIONS && transport.is_cors() {
        return cors.preflight(transport.methods());
    }
    if request.method() != transport.method() {
        return reply::not_allowed(transport.methods());
    }
    let (node, service) = (&state.station.node, state.service);
    let visitor = match service {
        Service::Sessions => door::visit(node, peer, request.headers(), request.uri()).await,
        _ => Ok(Visitor::default()),
    };
    let visitor = match visitor {
        Ok(visitor) => visitor,
        Err(problem) => return cors.on_problem(*problem),
    };
    let cors = cors.with_cookie(service == Service::CookieNeededEcho, request.headers());
    // The service is part of the name, so that another one's sessions are others.
    let Ok(name) = ClaimName::new("sockjs", &[&*state.base, session]) else {
        return reply::not_found();
    };
    let visit = Visit { state, peer, takeover, transport, name, visitor };
    if transport.is_send() {
        visit.send(request, cors).await
    } else {
        visit.receive(request, cors).await
    }
}

impl Visit {
    /// The session, opened here if there is none.
    async fn find_or_open(&self, headers: &HeaderMap) -> Result<Found, Box<Problem>> {
        let peers = &self.state.station.node.peers;
        match self.holder().await {
            Ok(Some(holder)) => return Ok(Found::Holder(holder)),
            Ok(None) => {}
            // It was on a node that is dead.
            Err(PeerError::Gone) => return Ok(Found::Over(Close::INTERRUPTED)),
            Err(error) => return Err(peers_failed(error).into()),
        }
        let node = &self.state.station.node;
        if self.state.service == Service::Sessions
            && let Err(problem) = door::pace(node, self.peer, headers, &self.visitor.caller)
        {
            door::count_session(problem.code());
            return Ok(Found::Over(close_for(&problem)));
        }
        let handle = self.open(headers).await?;
        match through_outage(|| peers.claim(self.name.clone(), handle)).await {
            // What is not claimed ends by itself, as nobody comes.
            Ok(Claim::Ours(holder) | Claim::Theirs(holder)) => Ok(Found::Holder(holder)),
            Ok(Claim::TakenOver(_)) => {
                peers.release(self.name.clone(), handle);
                Ok(Found::Over(Close::INTERRUPTED))
            }
            Err(error) => Err(peers_failed(error).into()),
        }
    }

    async fn holder(&self) -> Result<Option<Holder>, PeerError> {
        through_outage(|| self.state.station.node.peers.holder(self.name.clone())).await
    }

    async fn open(&self, headers: &HeaderMap) -> Result<Handle, Box<Problem>> {
        let station = &self.state.station;
        let admitted = station.admit(self.peer, headers)?;
        let mailbox = MailboxOptions {
            kind: MailboxKind::SockJs,
            name: self.name.clone(),
            caller: self.visitor.owner(),
            linger_ms: station.node.config.sockjs.disconnect_delay.as_ms(),
            ended: (self.state.service == Service::Close).then_some(Close::GO_AWAY),
        };
        let opening = self.state.service.opening(self.visitor.handshake());
        station.open(admitted, mailbox, opening).await
    }

    async fn ask(&self, holder: &Holder, what: Wish) -> Result<MailReply, PeerError> {
        let request = MailRequest { caller: self.visitor.owner(), what };
        let wait = self.state.station.node.config.sockjs.heartbeat.0;
        self.state.station.ask(holder, request, wait).await
    }
}

/// What a session that has to come back later is told, whatever its transport: a client whom that
/// is refused tries all other transports at once, and after a close its application decides.
pub(super) fn close_for(paced: &Problem) -> Close {
    Close { code: CloseReason::Unavailable.websocket_code(), reason: paced.code() }
}
