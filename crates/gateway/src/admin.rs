//! The admin listener: metrics, health, drain, the registry. It asks for no token, so it belongs to loopback.

use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Notify;

use crate::health;
use crate::node::Node;
use crate::problem::Problem;
use crate::registry;
use crate::telemetry::Metrics;

/// The admin routes; `drain` is notified when an operator asks for a drain.
pub fn routes(node: &Arc<Node>, metrics: Metrics, drain: Arc<Notify>) -> Router {
    let scrape = async move || {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    };
    let begin_drain = async move |headers: HeaderMap| {
        // Any web page can make its visitor's browser send a POST to loopback.
        if headers.contains_key(header::ORIGIN) {
            let detail = "a web page may not drain a node; use `curl -X POST`";
            return Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response();
        }
        drain.notify_one();
        (StatusCode::ACCEPTED, "draining\n").into_response()
    };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/drain", post(begin_drain))
        .merge(registry::api::routes(node))
        .merge(health::routes(node))
}
