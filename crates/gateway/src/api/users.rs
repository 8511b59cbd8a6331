//! Users: who is online, and ending their sessions.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::caller::Caller;
use super::{Api, parse};
use crate::config::Scope;
use crate::problem::Problem;
use crate::registry::api::{self as registry, DisconnectAnswer, StatusAnswer, UserAnswer};

/// Whose sessions to read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusRequest {
    /// 1 to 1000 users.
    users: Vec<String>,
}

/// How to end sessions.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DisconnectRequest {
    /// What the clients are told: a line of at most 200 bytes.
    reason: Option<String>,
}

/// Reads which of many users are online, and their sessions.
#[utoipa::path(
    post, path = "/users/status", tag = "users", request_body = StatusRequest,
    responses(
        (status = 200, description = "In the order asked", body = StatusAnswer),
        (status = "4XX", description = "Not allowed, or a bad request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "It can't be read now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn status(
    State(api): State<Api>,
    caller: Caller,
    body: Body,
) -> Result<Json<StatusAnswer>, Problem> {
    caller.may(Scope::Users)?;
    let StatusRequest { users } = api.read(body).await?;
    registry::status(&api.node, users).await.map(Json)
}

/// Reads whether a user is online, and the user's sessions.
#[utoipa::path(
    get, path = "/users/{user}", tag = "users",
    params(("user" = String, Path, description = "The user's name")),
    responses(
        (status = 200, description = "Online or not", body = UserAnswer),
        (status = "4XX", description = "Not allowed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "It can't be read now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn user(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Json<UserAnswer>, Problem> {
    caller.may(Scope::Users)?;
    let StatusAnswer { users } = registry::status(&api.node, vec![user]).await?;
    let user = users.into_iter().next();
    user.map(Json).ok_or_else(registry::unavailable)
}

/// Ends all sessions of a user, wherever they are.
#[utoipa::path(
    post, path = "/users/{user}/disconnect", tag = "users", request_body = Option<DisconnectRequest>,
    params(("user" = String, Path, description = "The user's name")),
    responses(
        (status = 200, description = "Who was told", body = DisconnectAnswer),
        (status = "4XX", description = "Not allowed, or a bad request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nobody was told; try again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn disconnect_user(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<String>,
    body: Body,
) -> Result<Json<DisconnectAnswer>, Problem> {
    caller.may(Scope::Disconnect)?;
    let reason = reason(&api.body(body).await?)?;
    registry::disconnect(&api.node, registry::user(user)?, reason).await.map(Json)
}

/// Ends one session, wherever it is.
#[utoipa::path(
    post, path = "/sessions/{session}/disconnect", tag = "users", request_body = Option<DisconnectRequest>,
    params(("session" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "Who was told", body = DisconnectAnswer),
        (status = "4XX", description = "Not allowed, or a bad request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nobody was told; try again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn disconnect_session(
    State(api): State<Api>,
    caller: Caller,
    Path(session): Path<String>,
    body: Body,
) -> Result<Json<DisconnectAnswer>, Problem> {
    caller.may(Scope::Disconnect)?;
    let reason = reason(&api.body(body).await?)?;
    registry::disconnect(&api.node, registry::session(&session)?, reason).await.map(Json)
}

fn reason(body: &Bytes) -> Result<Option<String>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    Ok(parse::<DisconnectRequest>(body)?.reason)
}
