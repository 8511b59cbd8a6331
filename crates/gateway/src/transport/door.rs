//! What every transport checks of a request before it carries a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use fanlight_engine::auth::Principal;
use fanlight_engine::limits::RetryAfterMs;
use fanlight_engine::session::Refusal;
use fanlight_proto::CloseReason;
use http::{HeaderMap, StatusCode, Uri, Version, header};

use crate::admission::{AddressKey, AdmissionError, Admitted};
use crate::body::{self, Unread};
use crate::client_address::client_address;
use crate::handshakes::Crowded;
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

/// A place in the limits for a connection, unless the node drains.
pub fn admit(node: &Node, peer: SocketAddr, headers: &HeaderMap) -> Result<Admitted, Box<Problem>> {
    if node.is_draining() {
        let detail = "this node is draining; connect again, to another";
        return Err(unavailable("draining", detail).into());
    }
    let address = client_address(peer.ip(), headers, &node.config.listen.trusted_proxies);
    node.admission.admit(address).map_err(|error| Box::new(not_admitted(error)))
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
    let user = caller.as_ref().map(|caller| &caller.user);
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

fn counted_address(node: &Node, peer: SocketAddr, headers: &HeaderMap) -> Option<AddressKey> {
    let proxies = &node.config.listen.trusted_proxies;
    AddressKey::unless_proxy(client_address(peer.ip(), headers, proxies), proxies)
}

/// Whether the request's page may ask, and who asks.
pub fn authenticate(node: &Node, headers: &HeaderMap, uri: &Uri) -> Result<Caller, Box<Problem>> {
    let token = jwt::token_from(headers, uri, &node.config.auth);
    let by_cookie = matches!(&token, Some((_, TokenSource::Cookie)));
    origin::check(headers, &node.config.origin, by_cookie).map_err(|error| {
        Problem::new(StatusCode::FORBIDDEN, "foreign_origin", error.to_string())
    })?;
    let Some((token, _)) = token else { return Ok(None) };
    let principal = node.authenticator.authenticate(&token, node.clock.now());
    Ok(Some(principal.map_err(|error| unauthorized(&error.to_string()))?))
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
        "unknown" => StatusCode::GATEWAY_TIMEOUT,
        _ => match refusal.reason {
            CloseReason::Forbidden => StatusCode::FORBIDDEN,
            CloseReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            CloseReason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            CloseReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    };
    Problem::new(status, refusal.code, refusal.message)
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
