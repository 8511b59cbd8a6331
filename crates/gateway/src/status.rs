//! `/status` and `/drain` on the admin listener: what a node says of itself to operators.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use fanlight_engine::broker::BrokerHealth;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::config::BrokerKind;
use crate::drain::{Report, Trigger};
use crate::node::{Node, Readiness};
use crate::problem::Problem;
use crate::registry::api::ClusterAnswer;
use crate::worker::WorkerShared;

/// What a node is, and how it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// Which node.
    pub node: Identity,
    /// Whether it wants connections.
    pub state: State,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Connections, of every transport.
    pub connections: u64,
    /// Sessions whose CONNECT was accepted, up to a second old.
    pub sessions: u64,
    /// Threads that carry connections.
    pub workers: u64,
    /// How far its drain is.
    pub drain: Report,
    /// What carries messages between nodes.
    pub broker: BrokerStatus,
    /// The nodes that it knows of.
    pub cluster: ClusterAnswer,
}

/// Which node it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// What operators call it.
    pub name: String,
    /// Names this life of it; absent until Redis knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Whether a node wants connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet: it has not been ready since its start.
    Starting,
    /// It does.
    Ready,
    /// It is leaving.
    Draining,
    /// Not now.
    NotReady,
}

/// How the broker is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// `redis` or `memory`.
    pub kind: BrokerKind,
    /// Whether it delivers.
    pub healthy: bool,
    /// Why not, where, and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the node's lease stands; true for a node that is alone.
    pub has_lease: bool,
}

/// `GET /status`, `GET /drain`, `POST /drain`.
pub fn routes(node: &Arc<Node>, shared: &Arc<WorkerShared>) -> Router {
    let (of_status, shared) = (Arc::clone(node), Arc::clone(shared));
    let status = async move || {
        let sessions = shared.sessions.load(Ordering::Relaxed);
        Json(Status::of(&of_status, sessions))
    };
    let asked = Arc::clone(node);
    let progress = async move || {
        let connections = asked.admission.connections() as u64;
        Json(asked.drain.asked(connections, asked.clock.now().mono_ms))
    };
    let drained = Arc::clone(node);
    let drain = async move |headers: HeaderMap| begin_drain(&drained, &headers);
    Router::new().route("/status", get(status)).route("/drain", get(progress).post(drain))
}

fn begin_drain(node: &Node, headers: &HeaderMap) -> Response {
    // Any web page can make its visitor's browser send a POST to loopback.
    if headers.contains_key(header::ORIGIN) {
        let detail = "a web page may not drain a node; use `fanlight drain` or `curl -X POST`";
        return Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response();
    }
    node.begin_drain(Trigger::Admin);
    (StatusCode::ACCEPTED, Json(node.drain_report())).into_response()
}

impl Status {
    fn of(node: &Node, sessions: u64) -> Self {
        let nodes = node.registry.nodes();
        let (state, reason) = State::of(node);
        let (healthy, problem) = match node.broker.health() {
            BrokerHealth::Healthy => (true, None),
            BrokerHealth::Unhealthy(why) => (false, Some(why)),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            node: Identity {
                name: node.config.node_name(),
                id: nodes.iter().find(|node| node.is_self).map(|node| node.id.to_string()),
            },
            state,
            reason,
            uptime_s: node.clock.now().mono_ms / 1000,
            connections: node.admission.connections() as u64,
            sessions,
            workers: node.config.worker_count() as u64,
            drain: node.drain_report(),
            broker: BrokerStatus {
                kind: node.config.broker.kind,
                healthy,
                problem,
                has_lease: node.has_lease(),
            },
            cluster: ClusterAnswer::of(&nodes),
        }
    }
}

impl State {
    fn of(node: &Node) -> (Self, Option<String>) {
        let not_ready = if node.has_been_ready() { Self::NotReady } else { Self::Starting };
        match node.readiness() {
            Readiness::Ready => (Self::Ready, None),
            Readiness::Draining => {
                let began = node.drain_report().begun.map_or("nobody", |own| own.trigger.name());
                (Self::Draining, Some(format!("a drain that {began} began")))
            }
            Readiness::NotLeased => (not_ready, Some(crate::health::NOT_LEASED.into())),
            Readiness::RevocationsUnknown => {
                (not_ready, Some(crate::health::REVOCATIONS_UNKNOWN.into()))
            }
            Readiness::BrokerUnhealthy(why) => (not_ready, Some(why)),
        }
    }

    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::NotReady => "not_ready",
        }
    }
}
