//! What every transport checks of a request before it carries a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanlight_engine::auth::{AuthError, Capability, Principal, Token};
use fanlight_engine::hook::{Claimant, Introduction};
use fanlight_engine::ids::Ids;
use fanlight_engine::limits::RetryAfterMs;
use fanlight_engine::publication::SessionId;
use fanlight_engine::session::{Handshake, Refusal, usable};
use fanlight_proto::CloseReason;
use http::{HeaderMap, StatusCode, Uri, Version, header};

use crate::admission::{AddressKey, AdmissionError, Admitted};
use crate::body::{self, Unread};
use crate::client_address::client_address;
use crate::handshakes::Crowded;
use crate::hooks::Origin;
use crate::jwt::{self, TokenSource};
use crate::node::Node;
use crate::origin;
use crate::pacer::ComeBack;
use crate::problem::Problem;

/// Counts how a request for a session ended.
pub fn count_handshake(version: Version, result: &'static str) {
    let http = if version == Version::HTTP_2 { "2" } else { "1" };
    metrics::counter!("fanlight_handshakes_total", "result" => result, "http" => http).increment(1);
}

/// Counts how it went with a session that no one request is for.
pub fn count_session(result: &'static str) {
    metrics::counter!("fanlight_handshakes_total", "result" => result).increment(1);
}

/// Who a request is from: by its token, or nobody.
pub type Caller = Option<Arc<Principal>>;

/// The name of `caller`, who alone comes to what it has opened.
pub fn user_of(caller: &Caller) -> Option<Box<str>> {
    caller.as_ref().map(|caller| (*caller.user).into())
}

/// A place in the limits for a connection, unless the node's sessions are leaving. In the grace of a
/// drain they are not yet: a load balancer goes on sending clients until it has noticed.
pub fn admit(node: &Node, peer: SocketAddr, headers: &HeaderMap) -> Result<Admitted, Box<Problem>> {
    let address = client_address(peer.ip(), headers, &node.config.listen.trusted_proxies);
    let admitted = node.admission.admit(address);
    // Behind it: so who looks at what is left, once they are leaving, sees all that was let in.
    if node.leaving.is_cancelled() {
        let detail = "this node is draining; connect again, to another";
        return Err(unavailable("draining", detail).into());
    }
    admitted.map_err(|error| Box::new(not_admitted(error)))
}

/// A turn among those who want a session: of its address, of its user, and of the node. It comes
/// behind all other checks, so that what is refused anyhow takes nobody's.
pub fn pace(
    node: &Node,
    peer: SocketAddr,
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<(), Box<Problem>> {
    let (now_ms, spread) = (node.clock.now().mono_ms, rand::random_range(0.0..1.0));
    let user = user_to_pace(caller);
    let address = counted_address(node, peer, headers);
    let admitted = node.handshakes.admit(address, user, now_ms, spread);
    admitted.map_err(|crowded| Box::new(told_to_wait(crowded)))
}

/// The answer to who would get no turn now, as far as its address tells.
pub fn crowded(node: &Node, peer: SocketAddr, headers: &HeaderMap) -> Option<Problem> {
    let address = counted_address(node, peer, headers);
    let is_full = node.handshakes.is_full(address, node.clock.now().mono_ms);
    is_full.then(|| told_to_wait(Crowded::Node(ComeBack(Duration::from_secs(1)))))
}

/// Whether a refusal with this code is for a time only, and by a rate of handshakes.
pub fn is_paced(code: &str) -> bool {
    [PACED, ADDRESS_RATE, USER_RATE].contains(&code)
}

fn told_to_wait(crowded: Crowded) -> Problem {
    let (status, code, detail, after) = match crowded {
        Crowded::Node(ComeBack(after)) => {
            let detail = "too many connect to this node at once; come back when `Retry-After` says";
            (StatusCode::SERVICE_UNAVAILABLE, PACED, detail, after)
        }
        Crowded::Address(RetryAfterMs(after_ms)) => {
            let detail = "this address connects too often; come back when `Retry-After` says, \
                          and keep connections open (limits.handshakes_per_second_per_ip)";
            (StatusCode::TOO_MANY_REQUESTS, ADDRESS_RATE, detail, Duration::from_millis(after_ms))
        }
        Crowded::User(RetryAfterMs(after_ms)) => {
            let detail = "this user connects too often; come back when `Retry-After` says, and \
                          keep connections open (limits.handshakes_per_second_per_user)";
            (StatusCode::TOO_MANY_REQUESTS, USER_RATE, detail, Duration::from_millis(after_ms))
        }
    };
    Problem::new(status, code, detail).with_retry_after(after)
}

/// Services have a session for each of their own clients, and no rate.
fn user_to_pace(caller: &Caller) -> Option<&Arc<str>> {
    caller.as_ref().filter(|caller| !caller.is_service).map(|caller| &caller.user)
}

fn counted_address(node: &Node, peer: SocketAddr, headers: &HeaderMap) -> Option<AddressKey> {
    let proxies = &node.config.listen.trusted_proxies;
    AddressKey::unless_proxy(client_address(peer.ip(), headers, proxies), proxies)
}

/// Who makes a request, as far as it is known before a backend is asked.
#[derive(Debug, Default)]
pub struct Visitor {
    /// Whose token it carries, which is good.
    pub caller: Caller,
    /// What a backend is told, where one decides.
    introduction: Option<Box<Introduction>>,
}

impl Visitor {
    /// Who alone comes to what it has opened: the caller, or where a backend knows who that is,
    /// whoever has the same token.
    pub fn owner(&self) -> Option<Box<str>> {
        let token = || self.introduction.as_ref()?.token.as_ref();
        // No user is called so.
        let of_token = |token: &Token| {
            let digest = digest::digest(&digest::SHA256, token.as_str().as_bytes());
            format!("\u{1}{}", STANDARD.encode(digest)).into()
        };
        user_of(&self.caller).or_else(|| token().map(of_token))
    }

    /// With what a session of it begins.
    pub fn handshake(&self) -> Handshake {
        Handshake {
            principal: self.caller.clone(),
            introduction: self.introduction.clone(),
            let_in: None,
        }
    }
}

/// Whether the request's page may ask, and who asks.
pub async fn visit(
    node: &Node,
    peer: SocketAddr,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Visitor, Box<Problem>> {
    let token = jwt::token_from(headers, uri, &node.config.auth);
    let by_cookie = matches!(&token, Some((_, TokenSource::Cookie)));
    origin::check(headers, &node.config.origin, by_cookie).map_err(|error| {
        Problem::new(StatusCode::FORBIDDEN, "foreign_origin", error.to_string())
    })?;
    let token = token.map(|(token, _)| token);
    let address = client_address(peer.ip(), headers, &node.config.listen.trusted_proxies);
    let introduction = node.hooks.introduction(Some(address), headers, token.as_deref());
    let Some(token) = token else { return Ok(Visitor { caller: None, introduction }) };
    match node.authenticator.authenticate(&token, node.clock.now()).await {
        Ok(principal) => Ok(Visitor { caller: Some(principal), introduction }),
        // It is for the backend to check.
        Err(AuthError::Malformed | AuthError::UnknownKey) if introduction.is_some() => {
            Ok(Visitor { caller: None, introduction })
        }
        Err(error) => Err(not_authenticated(&error).into()),
    }
}

/// Whether a visitor may begin a session, or do something without one, and as whom: where a backend
/// decides about that, it is asked.
pub async fn let_in(
    node: &Node,
    visitor: &Visitor,
    session: Option<SessionId>,
    transport: &'static str,
) -> Result<Caller, Box<Problem>> {
    if !node.hooks.decides_who_connects() {
        return Ok(visitor.caller.clone());
    }
    let now = node.clock.now();
    // What has no session comes again and again.
    let introduction = visitor.introduction.as_deref().filter(|_| session.is_none());
    let question = node.decisions.question(introduction);
    if let Some(known) = question.and_then(|question| node.decisions.of(question, now)) {
        return not_revoked(node, known);
    }
    let Handshake { principal, introduction, .. } = visitor.handshake();
    let claimant = Claimant { credentials: None, principal, introduction };
    let decided = node.hooks.introduce(claimant, Origin { session, transport }, now).await;
    let caller = decided.map_err(|error| not_authenticated(&error))?;
    if let Some(question) = question {
        node.decisions.keep(question, &caller, node.clock.now());
    }
    not_revoked(node, caller)
}

/// A caller that is not among those whose tokens are revoked, whoever has said who it is.
fn not_revoked(node: &Node, caller: Caller) -> Result<Caller, Box<Problem>> {
    let now = node.clock.now();
    let known = node.revocations.known();
    if caller.as_ref().is_some_and(|caller| known.covers(caller, now)) {
        return Err(not_authenticated(&AuthError::Revoked).into());
    }
    Ok(caller)
}

/// A session of this visitor that only listens, let in: it has had its turn then, where a backend
/// was asked.
pub async fn listener(
    node: &Node,
    peer: SocketAddr,
    headers: &HeaderMap,
    visitor: &Visitor,
    transport: &'static str,
) -> Result<Handshake, Box<Problem>> {
    if !node.hooks.decides_who_connects() {
        return Ok(visitor.handshake());
    }
    // What the backend is asked costs more than a turn.
    pace(node, peer, headers, &visitor.caller)?;
    let id = Ids::new(rand::random()).session(node.clock.now());
    let principal = let_in(node, visitor, Some(id), transport).await?;
    let user = user_to_pace(&principal);
    if let Some(user) = user.filter(|user| user_to_pace(&visitor.caller) != Some(user)) {
        // Only the backend has told who it is.
        let admitted = node.handshakes.admit_user(user, node.clock.now().mono_ms);
        admitted.map_err(|retry| Box::new(told_to_wait(Crowded::User(retry))))?;
    }
    Ok(Handshake { principal, introduction: None, let_in: Some(id) })
}

/// What the capability grants that a request was given with, if it was.
pub async fn authorize(
    node: &Node,
    caller: &Caller,
    token: Option<&Token>,
) -> Result<Option<Arc<Capability>>, Box<Problem>> {
    let Some(token) = token else { return Ok(None) };
    let now = node.clock.now();
    let capability = node.authenticator.authorize(token.as_str(), now).await;
    Ok(Some(usable(capability, caller.as_deref(), now).map_err(refused)?))
}

fn not_authenticated(error: &AuthError) -> Problem {
    match error {
        AuthError::KeysUnavailable => unavailable("keys_unavailable", &error.to_string()),
        AuthError::RevocationsUnknown => unavailable("revocations_unknown", &error.to_string()),
        AuthError::BackendUnavailable => unavailable("unavailable", &error.to_string()),
        _ => unauthorized(&error.to_string()),
    }
}

/// A request's body, no larger than a message may be.
pub async fn body(node: &Node, body: Body) -> Result<Bytes, Box<Problem>> {
    let limits = &node.config.limits;
    let read = body::read(body, limits.message.as_bytes(), limits.request_body_time.0).await;
    read.map_err(|unread| Box::new(unread_body(unread)))
}

/// A body that was not read to its end.
pub fn unread_body(unread: Unread) -> Problem {
    match unread {
        Unread::TooLarge => {
            let detail = "the body exceeds limits.message; send less at once";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        }
        Unread::Late => {
            let detail = "the body did not come within limits.request_body_time";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
        }
        Unread::Cut => bad_request("bad_body", "the body broke off; send it again"),
    }
}

/// A request that can't be served as it is.
pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}

/// What the engine refuses as a status, with the code that other protocols have for it too.
pub fn refused(refusal: Refusal) -> Problem {
    let status = match refusal.code {
        "unavailable" | "overloaded" | "queue_full" => StatusCode::SERVICE_UNAVAILABLE,
        // It may have been published: not to be repeated without a key.
        "unknown" | "timeout" => StatusCode::GATEWAY_TIMEOUT,
        "key_reused" => StatusCode::UNPROCESSABLE_ENTITY,
        _ => match refusal.reason {
            CloseReason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            CloseReason::Forbidden => StatusCode::FORBIDDEN,
            CloseReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            CloseReason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            CloseReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    };
    let problem = Problem::new(status, refusal.code, refusal.message);
    match refusal.retry_after_ms {
        Some(after_ms) => problem.with_retry_after(Duration::from_millis(after_ms)),
        None => problem,
    }
}

/// A request without a good token.
pub fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .with_header(header::WWW_AUTHENTICATE, "Bearer")
}

fn not_admitted(error: AdmissionError) -> Problem {
    match error {
        AdmissionError::NodeFull { .. } => unavailable("node_full", &error.to_string()),
        AdmissionError::AddressFull { .. } => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "address_full", error.to_string())
                .with_retry_after(Duration::from_secs(10))
        }
    }
}

/// A request that may be made again.
pub fn unavailable(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        .with_retry_after(Duration::from_secs(1))
}

/// The code of those who have to come back when there is a turn for them.
const PACED: &str = "paced";
/// The code where an address connects too often.
const ADDRESS_RATE: &str = "address_rate";
/// The code where a user does; sessions have it too.
pub const USER_RATE: &str = "user_rate";
