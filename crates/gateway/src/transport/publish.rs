//! `POST /publish`: for clients that only listen or poll, under the same rules as SEND.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use fanlight_engine::broker::{Published, Reach};
use fanlight_engine::ids::Ids;
use fanlight_engine::session::Alone;
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Station, cors, door};
use crate::accept::Peer;
use crate::client_address::client_address;
use crate::problem::Problem;
use crate::rates::Payer;

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
    let caller = door::authenticate(node, &parts.headers, &parts.uri)?;
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
    let Alone { permit, publication, key } =
        Alone::read(&node.rules, &mut ids, now, caller.as_ref(), text).map_err(door::refused)?;
    let outcome = match key {
        Some(key) => node.broker.publish_once(permit, publication, key).await,
        None => node.broker.publish(permit, publication).await,
    };
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
