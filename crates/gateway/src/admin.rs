//! The admin listener: metrics, health, status, drain, the registry. It asks for no token, so it belongs to loopback.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use http::header;

use crate::node::Node;
use crate::telemetry::Metrics;
use crate::worker::WorkerShared;
use crate::{health, registry, status};

/// The admin routes.
pub fn routes(node: &Arc<Node>, shared: &Arc<WorkerShared>, metrics: Metrics) -> Router {
    let scrape = async move || {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    };
    Router::new()
        .route("/metrics", get(scrape))
        .merge(status::routes(node, shared))
        .merge(registry::api::routes(node))
        .merge(health::routes(node))
}
