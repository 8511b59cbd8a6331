//! The registry over HTTP, on the admin listener: nodes, who is online, disconnecting.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{
    Command, NodeStatus, RegistryUnavailable, SessionKind, SessionStatus, Target, Told, UserStatus,
};
use fanlight_proto::CloseReason;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::Node;
use crate::problem::Problem;
use crate::transport::door;

/// `GET /cluster`, `POST /users/status`, `POST /users/disconnect`.
pub fn routes(node: &Arc<Node>) -> Router {
    let cluster = Arc::clone(node);
    let cluster = async move || Json(ClusterAnswer::of(&cluster.registry.nodes()));
    let of_users = Arc::clone(node);
    let users = async move |headers: HeaderMap, body: Bytes| {
        answer(match parse(&headers, &body) {
            Ok(StatusRequest { users }) => status(&of_users, users).await,
            Err(problem) => Err(problem),
        })
    };
    let of_disconnects = Arc::clone(node);
    let end = async move |headers: HeaderMap, body: Bytes| {
        let asked = parse(&headers, &body).and_then(|asked| {
            let DisconnectRequest { user, session, reason } = asked;
            Ok((target(user, session)?, reason))
        });
        answer(match asked {
            Ok((target, reason)) => disconnect(&of_disconnects, target, reason).await,
            Err(problem) => Err(problem),
        })
    };
    Router::new()
        .route("/cluster", get(cluster))
        .route("/users/status", post(users))
        .route("/users/disconnect", post(end))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusRequest {
    users: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisconnectRequest {
    user: Option<String>,
    session: Option<String>,
    reason: Option<String>,
}

/// The nodes that this one knows of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterAnswer {
    /// Sessions of all of them.
    pub sessions: u64,
    /// Each.
    pub nodes: Vec<NodeAnswer>,
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeAnswer {
    /// Names this life of it.
    pub id: String,
    /// What operators call it.
    pub name: String,
    /// Where its clients connect.
    pub address: String,
    /// When it started, in Unix milliseconds.
    pub started_unix_ms: u64,
    /// How many sessions it last said to have.
    pub sessions: u64,
    /// How long its lease still ran when that was last looked at, in milliseconds.
    pub lease_left_ms: u64,
    /// Whether it is the one that was asked.
    pub is_self: bool,
}

/// The sessions of users, in the order asked.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatusAnswer {
    pub(crate) users: Vec<UserAnswer>,
}

/// A user's sessions.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserAnswer {
    user: String,
    online: bool,
    /// Oldest first.
    sessions: Vec<SessionAnswer>,
}

/// A session of a user.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionAnswer {
    session: String,
    /// The id of the node that has it.
    node: String,
    since_unix_ms: u64,
    /// `websocket`, `sockjs_websocket`, `sockjs_http`, `sse`, `poll` or `stomp_tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    /// `native` or `stomp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
}

/// Who was told.
#[derive(Serialize, ToSchema)]
pub(crate) struct ToldAnswer {
    /// How many sessions, where that is known: for a single session, every node is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<usize>,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// How many nodes have not heard it, though they may have such sessions: they are just losing
    /// or finding Redis. To be asked for again.
    #[serde(skip_serializing_if = "is_none")]
    pub(crate) unheard: usize,
}

/// The sessions of `users`.
pub(crate) async fn status(node: &Node, users: Vec<String>) -> Result<StatusAnswer, Problem> {
    if users.is_empty() || users.len() > USERS_MAX {
        return Err(bad(format!("ask for 1 to {USERS_MAX} users, not {}", users.len())));
    }
    users.iter().try_for_each(|user| check_user(user))?;
    let users = users.into_iter().map(Arc::from).collect();
    let users = node.registry.status(users).await.map_err(|RegistryUnavailable| unavailable())?;
    Ok(StatusAnswer { users: users.into_iter().map(UserAnswer::of).collect() })
}

/// Ends sessions, wherever they are.
pub(crate) async fn disconnect(
    node: &Node,
    target: Target,
    reason: Option<String>,
) -> Result<ToldAnswer, Problem> {
    let message = reason.unwrap_or_else(|| "disconnected by an operator".to_owned());
    if message.len() > REASON_BYTES || message.contains(char::is_control) {
        let detail = format!("the reason must be a line of at most {REASON_BYTES} bytes");
        return Err(bad(detail));
    }
    let command = Command::End { reason: CloseReason::Disconnected, message: message.into() };
    order(node, target, command).await
}

/// Tells sessions what to do, wherever they are.
pub(crate) async fn order(
    node: &Node,
    target: Target,
    command: Command,
) -> Result<ToldAnswer, Problem> {
    let told = node.registry.order(target, command).await;
    let told = told.map_err(|RegistryUnavailable| unavailable())?;
    let Told { sessions, nodes, unheard } = told;
    Ok(ToldAnswer { sessions, nodes, unheard })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// All sessions of this user.
pub(crate) fn user(user: String) -> Result<Target, Problem> {
    check_user(&user)?;
    Ok(Target::User(user.into()))
}

/// The session with this id.
pub(crate) fn session(id: &str) -> Result<Target, Problem> {
    session_id(id).map(Target::Session)
}

/// The id that a session is named by.
pub(crate) fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse()
        .map_err(|_| door::bad_request("bad_session", "a session is named by its id, a UUID"))
}

/// The registry can't be asked.
pub(crate) fn unavailable() -> Problem {
    door::unavailable("unavailable", &RegistryUnavailable.to_string())
}

fn target(user_name: Option<String>, id: Option<String>) -> Result<Target, Problem> {
    match (user_name, id) {
        (Some(name), None) => user(name),
        (None, Some(id)) => session(&id),
        _ => Err(bad(r#"name either a "user" or a "session""#)),
    }
}

fn parse<'b, T: Deserialize<'b>>(headers: &HeaderMap, body: &'b [u8]) -> Result<T, Problem> {
    // Any web page can make its visitor's browser send a POST to loopback.
    if headers.contains_key(header::ORIGIN) {
        let detail = "a web page may not ask this; use `curl`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
    }
    serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not as it must be: {error}")))
}

pub(crate) fn check_user(user: &str) -> Result<(), Problem> {
    if user.is_empty() || user.len() > USER_BYTES {
        return Err(bad(format!("a user's name has 1 to {USER_BYTES} bytes")));
    }
    Ok(())
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

fn answer<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem.into_response(),
    }
}

impl ClusterAnswer {
    /// As the registry sees them.
    pub fn of(nodes: &[NodeStatus]) -> Self {
        let node = |node: &NodeStatus| NodeAnswer {
            id: node.id.to_string(),
            name: node.name.clone(),
            address: node.address.clone(),
            started_unix_ms: node.started_unix_ms,
            sessions: node.sessions,
            lease_left_ms: node.lease_left_ms,
            is_self: node.is_self,
        };
        Self {
            sessions: nodes.iter().map(|node| node.sessions).sum(),
            nodes: nodes.iter().map(node).collect(),
        }
    }
}

impl UserAnswer {
    fn of(status: UserStatus) -> Self {
        let answer = |SessionStatus { session, node, since_unix_ms, kind }: SessionStatus| {
            SessionAnswer::new(session, &node, since_unix_ms, kind)
        };
        let sessions: Vec<_> = status.sessions.into_iter().map(answer).collect();
        Self { user: status.user.to_string(), online: !sessions.is_empty(), sessions }
    }
}

impl SessionAnswer {
    pub(crate) fn new(
        session: SessionId,
        node: &str,
        since_unix_ms: u64,
        kind: Option<SessionKind>,
    ) -> Self {
        Self {
            session: session.to_string(),
            node: node.to_owned(),
            since_unix_ms,
            transport: kind.map(|kind| kind.transport.name()),
            protocol: kind.map(SessionKind::protocol),
        }
    }
}

/// Users in one call.
const USERS_MAX: usize = 1000;
const USER_BYTES: usize = 1024;
const REASON_BYTES: usize = 200;
/// A thousand users of the longest names, and a little more.
const BODY_BYTES: usize = 2 << 20;
