//! `POST /publish`: for clients that only listen or poll, under the same rules as SEND.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use fanlight_engine::app::AppFailure;
use fanlight_engine::broker::{Published, Reach};
use fanlight_engine::encode::message_of;
use fanlight_engine::ids::Ids;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::{Alone, Sent, Unpublished};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::door::Caller;
use super::{Station, cors, door};
use crate::accept::Peer;
use crate::client_address::client_address;
use crate::hooks::{Standing, Wish};
use crate::node::Node;
use crate::problem::Problem;
use crate::rates::Payer;
use crate::traces::{self, Publishing, TRACEPARENT};

/// The endpoint's routes.
pub fn routes(station: Station) -> Router {
    Router::new().route("/publish", post(publish).options(cors::preflight)).with_state(station)
}

async fn publish(
    State(station): State<Station>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let allowed = cors::allowed(request.headers(), &station.node.config.origin);
    let response = match published(&station, peer, request).await {
        Ok(told) => ([(header::CACHE_CONTROL, "no-store")], told).into_response(),
        Err(problem) => problem.into_response(),
    };
    cors::with(allowed, response)
}

async fn published(
    station: &Station,
    peer: std::net::SocketAddr,
    request: Request,
) -> Result<Response, Box<Problem>> {
    let node = &*station.node;
    // A node that drains publishes to its end: nobody need ask again for that.
    let (parts, body) = request.into_parts();
    let visitor = door::visit(node, peer, &parts.headers, &parts.uri).await?;
    let caller = door::let_in(node, &visitor, None, "publish").await?;
    if caller.is_none() && !node.rules.policy.allows_anonymous() {
        return Err(door::unauthorized("a token is needed").into());
    }
    let now = node.clock.now();
    let payer = if let Some(principal) = &caller {
        Payer::User(Arc::clone(&principal.user))
    } else {
        let proxies = &node.config.listen.trusted_proxies;
        Payer::from(client_address(peer.ip(), &parts.headers, proxies))
    };
    node.publish_rates.admit(payer, now.mono_ms, node.rules.limits.messages).map_err(|retry| {
        let detail = format!("too many messages; try again in {} ms", retry.0);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
            .with_header(header::RETRY_AFTER, "1")
    })?;
    let body = door::body(node, body).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| door::bad_request("bad_body", "the body must be JSON, in UTF-8"))?;
    let mut ids = Ids::new(rand::random());
    let capability = door::authorize(node, &caller, Sent::token_of(text).as_ref()).await?;
    let capability = capability.as_ref();
    let sent = Sent::read(&node.rules, &mut ids, now, caller.as_ref(), capability, text);
    match sent.map_err(door::refused)? {
        Sent::Publication(alone) => {
            let outcome = begin(node, &parts.headers, *alone, caller).await;
            let published = outcome.map_err(|error| match error {
                Unpublished::Revoked => door::unauthorized(&error.to_string()),
                error => door::refused(error.into()),
            })?;
            Ok(Json(Told::from(published)).into_response())
        }
        Sent::App(mut message) => {
            let message_id = message.id.to_string();
            adopt_trace(&parts.headers, &mut message.headers);
            let tracer = node.tracer.as_ref();
            let handling = tracer.and_then(|tracer| tracer.handle(&mut message, "http", None));
            let handled = match node.app.handle_surely(*message, handling).await {
                Ok(handled) => handled,
                Err(failure) => return Ok(not_handled(&failure)),
            };
            let messages = handled.for_caller.iter().map(message_of).map(RawValue::from_string);
            let messages = messages.collect::<Result<_, _>>().unwrap_or_default();
            Ok(Json(ToldByApp { message_id, messages }).into_response())
        }
    }
}

/// What a backend has handled.
#[derive(Debug, Serialize)]
struct ToldByApp {
    /// The message's id.
    message_id: String,
    /// What the backend answers to the sender alone, which has named no session for it: native
    /// messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Box<RawValue>>,
}

/// That a backend has not handled a message, with the code that other protocols have for it too.
fn not_handled(failure: &AppFailure) -> Response {
    let (status, code) = match failure {
        AppFailure::Refused(_) => return refused(failure),
        AppFailure::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        AppFailure::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        AppFailure::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        AppFailure::Failed => (StatusCode::BAD_GATEWAY, "unavailable"),
        AppFailure::BadAnswer(_) => (StatusCode::BAD_GATEWAY, "bad_answer"),
        AppFailure::Undelivered(error) => return door::refused((*error).into()).into_response(),
        AppFailure::Unpublished(error) => (StatusCode::BAD_GATEWAY, error.code()),
        AppFailure::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    let problem = Problem::new(status, code, failure.to_string());
    match failure.retry_after_ms() {
        Some(after) => problem.with_retry_after(Duration::from_millis(after)).into_response(),
        None => problem.into_response(),
    }
}

/// The problem that a backend tells of, with its own code.
fn refused(failure: &AppFailure) -> Response {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let problem = json!({
        "code": failure.code(),
        "status": status.as_u16(),
        "title": status.canonical_reason(),
        "detail": failure.to_string(),
    });
    let content_type = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, content_type)], problem.to_string()).into_response()
}

/// What the broker has accepted, as in the native protocol's `ok`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Told {
    /// The publication's id.
    message_id: String,
    /// Where its destination keeps history: the epoch of its position.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// The same: its offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// It went to this node's own subscribers only, as the broker can't be reached.
    #[serde(skip_serializing_if = "is_false")]
    degraded: bool,
    /// It had been published before, under the same key.
    #[serde(skip_serializing_if = "is_false")]
    duplicate: bool,
}

impl From<Published> for Told {
    fn from(Published { id, position, reach }: Published) -> Self {
        Self {
            message_id: id.to_string(),
            epoch: position.map(|position| position.epoch_text()),
            offset: position.map(|position| position.offset),
            degraded: reach == Reach::ThisNode,
            duplicate: reach == Reach::Duplicate,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Publishes what a request brought, as a span where that is traced. The order of the calls is the
/// order of publication, whenever the answers are awaited, but for what a backend is asked about
/// first.
pub fn begin(
    node: &Node,
    headers: &HeaderMap,
    Alone { permit: right, mut publication, key }: Alone,
    principal: Caller,
) -> BoxFuture<'static, Result<Published, Unpublished>> {
    let traced = traced(node, headers, &mut publication);
    let permit = match right.permit() {
        Ok(permit) => permit,
        Err(right) => {
            let (once, session) = (key, None);
            let standing = Standing::default();
            let wish = Wish { right, publication, once, session, principal, traced, standing };
            return node.hooks.publish(wish, Arc::clone(&node.broker));
        }
    };
    let publish = match key {
        Some(key) => node.broker.publish_once(permit, publication, key),
        None => node.broker.publish(permit, publication),
    };
    traces::watched(traced, publish).map(|outcome| outcome.map_err(Into::into)).boxed()
}

/// Makes what a request brings part of the request's trace. What its own headers say comes first.
fn adopt_trace(headers: &HeaderMap, own: &mut traces::Headers) {
    let of_request = || traces::Context::parse(headers.get(TRACEPARENT)?.to_str().ok()?);
    if traces::Context::within(own).is_none()
        && let Some(context) = of_request()
    {
        context.put_within(own);
    }
}

/// The span of a publication that is traced.
fn traced(node: &Node, headers: &HeaderMap, publication: &mut Publication) -> Option<Publishing> {
    let tracer = node.tracer.as_ref()?;
    adopt_trace(headers, &mut publication.headers);
    let publishing = tracer.publish(publication, "http", None)?;
    let namespaces = node.rules.policy.namespaces();
    Some(publishing.within(namespaces.name_of(&publication.destination)))
}
