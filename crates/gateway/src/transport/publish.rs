//! `POST /publish`: for clients that only listen or poll, under the same rules as SEND.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use fanlight_engine::broker::{Published, Reach};
use fanlight_engine::ids::Ids;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::{Alone, Unpublished};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::door::Caller;
use super::{Station, cors, door};
use crate::accept::Peer;
use crate::client_address::client_address;
use crate::hooks::Wish;
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
        Ok(told) => ([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response(),
        Err(problem) => problem.into_response(),
    };
    cors::with(allowed, response)
}

async fn published(
    station: &Station,
    peer: std::net::SocketAddr,
    request: Request,
) -> Result<Told, Box<Problem>> {
    let node = &*station.node;
    let (parts, body) = request.into_parts();
    if node.is_draining() {
        return Err(door::unavailable("draining", "this node is draining; ask another").into());
    }
    let visitor = door::visit(node, peer, &parts.headers, &parts.uri)?;
    let caller = door::let_in(node, &visitor, None, "publish").await?;
    if caller.is_none() && !node.rules.policy.allows_anonymous() {
        return Err(door::unauthorized("a token is needed").into());
    }
    let now = node.clock.now();
    let payer = if let Some(principal) = &caller {
        Payer::User(Arc::clone(&principal.user))
    } else {
        let proxies = &node.config.listen.trusted_proxies;
        Payer::Address(client_address(peer.ip(), &parts.headers, proxies))
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
    let alone =
        Alone::read(&node.rules, &mut ids, now, caller.as_ref(), text).map_err(door::refused)?;
    let outcome = begin(node, &parts.headers, alone, caller).await;
    Ok(outcome.map_err(|error| door::refused(error.into()))?.into())
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
    let watch = move |publish| match traced {
        Some(publishing) => publishing.watch(publish),
        None => publish,
    };
    let permit = match right.permit() {
        Ok(permit) => permit,
        Err(right) => {
            let wish = Wish { right, publication, once: key, session: None, principal };
            return node.hooks.publish(wish, Arc::clone(&node.broker), watch);
        }
    };
    let publish = match key {
        Some(key) => node.broker.publish_once(permit, publication, key),
        None => node.broker.publish(permit, publication),
    };
    watch(publish).map(|outcome| outcome.map_err(Into::into)).boxed()
}

/// The span of a publication that is traced. What its own headers say comes before those of the
/// request.
fn traced(node: &Node, headers: &HeaderMap, publication: &mut Publication) -> Option<Publishing> {
    let tracer = node.tracer.as_ref()?;
    let of_request = || traces::Context::parse(headers.get(TRACEPARENT)?.to_str().ok()?);
    if traces::Context::of(publication).is_none()
        && let Some(context) = of_request()
    {
        context.put(publication);
    }
    let publishing = tracer.publish(publication, "http", None)?;
    let namespaces = node.rules.policy.namespaces();
    Some(publishing.within(namespaces.name_of(&publication.destination)))
}
