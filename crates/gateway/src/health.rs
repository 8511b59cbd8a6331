//! `/livez`, `/readyz` and `/startupz`, the same on both listeners.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::node::{Node, Readiness};
use crate::problem::Problem;

/// The health routes.
pub fn routes<S: Clone + Send + Sync + 'static>(node: &Arc<Node>) -> Router<S> {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/startupz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Arc::clone(node))
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    let refuse = |code, detail| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
            .with_header(header::RETRY_AFTER, "1")
            .into_response()
    };
    node.note_watcher();
    match node.readiness() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::Draining => refuse("draining", "this node is draining".into()),
        _ if node.was_ready_lately() => "ready, but for its broker\n".into_response(),
        Readiness::NotLeased => refuse("not_leased", NOT_LEASED.into()),
        Readiness::RevocationsUnknown => refuse("revocations_unknown", REVOCATIONS_UNKNOWN.into()),
        Readiness::BrokerUnhealthy(why) => refuse("broker_unhealthy", why),
    }
}

/// What [`Readiness::NotLeased`] means.
pub const NOT_LEASED: &str = "this node has no lease in Redis; it tries again by itself";

/// What [`Readiness::RevocationsUnknown`] means.
pub const REVOCATIONS_UNKNOWN: &str =
    "this node has not read yet which tokens are revoked; it tries again by itself";
