//! Users: who is online, subscribing them, and ending their sessions.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use fanlight_engine::policy::{Principal, Subject, SubscribePermit};
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Command, Target};
use fanlight_proto::Destination;
use fanlight_proto::destination::DestinationKind;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::caller::Caller;
use super::parts::Segment;
use super::reads::{denied, named};
use super::refusals::{OfSessionOrder, OfSubscription, OfUser, OfUserOrder, OfUsers};
use super::{Api, parse};
use crate::config::Scope;
use crate::problem::Problem;
use crate::registry::api::{self as registry, StatusAnswer, ToldAnswer, UserAnswer};
use crate::transport::door;

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

/// To what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionRequest {
    /// One destination; the user's own as in `/user/queue/alerts`.
    #[schema(example = "/topic/room.7")]
    destination: String,
}

/// Reads which of many users are online, and their sessions.
#[utoipa::path(
    post, path = "/users/status", tag = "users", request_body = StatusRequest,
    responses((status = 200, description = "In the order asked", body = StatusAnswer), OfUsers),
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
    responses((status = 200, description = "Online or not", body = UserAnswer), OfUser),
)]
pub(super) async fn user(
    State(api): State<Api>,
    caller: Caller,
    Segment(user): Segment,
) -> Result<Json<UserAnswer>, Problem> {
    caller.may(Scope::Users)?;
    let StatusAnswer { users } = registry::status(&api.node, vec![user]).await?;
    let user = users.into_iter().next();
    user.map(Json).ok_or_else(registry::unavailable)
}

/// Subscribes all sessions that a user has now, wherever they are.
///
/// Native clients, events and polls are told by `subscribed`; the id of a STOMP subscription is
/// `server:` and the destination. It lasts as long as the session, or until it is ended.
#[utoipa::path(
    post, path = "/users/{user}/subscribe", tag = "users", request_body = SubscriptionRequest,
    params(("user" = String, Path, description = "The user's name")),
    responses((status = 200, description = "Who was told", body = ToldAnswer), OfSubscription),
)]
pub(super) async fn subscribe(
    State(api): State<Api>,
    caller: Caller,
    Segment(user): Segment,
    body: Body,
) -> Result<Json<ToldAnswer>, Problem> {
    change(&api, &caller, user, body, Command::Subscribe).await
}

/// Ends the subscriptions to a destination of all sessions that a user has now.
#[utoipa::path(
    post, path = "/users/{user}/unsubscribe", tag = "users", request_body = SubscriptionRequest,
    params(("user" = String, Path, description = "The user's name")),
    responses((status = 200, description = "Who was told", body = ToldAnswer), OfSubscription),
)]
pub(super) async fn unsubscribe(
    State(api): State<Api>,
    caller: Caller,
    Segment(user): Segment,
    body: Body,
) -> Result<Json<ToldAnswer>, Problem> {
    change(&api, &caller, user, body, Command::Unsubscribe).await
}

async fn change(
    api: &Api,
    caller: &Caller,
    user: String,
    body: Body,
    command: fn(Destination) -> Command,
) -> Result<Json<ToldAnswer>, Problem> {
    caller.may(Scope::Subscribe)?;
    let SubscriptionRequest { destination } = api.read(body).await?;
    let destination = named(&destination)?;
    let principal = Principal::of_user(&user);
    let target = registry::user(user)?;
    let subject = Subject::new(Some(&principal), SessionId(Uuid::nil()));
    let namespaces = api.node.rules.policy.namespaces();
    let permit = SubscribePermit::for_backend(namespaces, &subject, &destination);
    let permit = permit.map_err(|error| {
        // A key reaches a user's own destination by the name that has the user.
        let own = destination.resolve_for(&principal.user);
        denied(api, caller, own.as_ref().unwrap_or(&destination), error)
    })?;
    if permit.queue().is_some() {
        let detail = "this is a queue: whoever consumes it subscribes by itself";
        return Err(door::bad_request("bad_destination", detail));
    }
    if let fanlight_engine::hub::Target::Destination(absolute) = permit.target() {
        let is_private = absolute.kind() == DestinationKind::NamedUser;
        if is_private && absolute.user_name().as_deref() != Some(&*principal.user) {
            let detail = "this is another user's own: name the path's user, or leave the name out, \
                          as in /user/queue/alerts";
            return Err(door::bad_request("bad_destination", detail));
        }
        caller.reaches(absolute)?;
    }
    registry::order(&api.node, target, command(destination)).await.map(Json)
}

/// Ends all sessions of a user, wherever they are.
#[utoipa::path(
    post, path = "/users/{user}/disconnect", tag = "users", request_body = Option<DisconnectRequest>,
    params(("user" = String, Path, description = "The user's name")),
    responses((status = 200, description = "Who was told", body = ToldAnswer), OfUserOrder),
)]
pub(super) async fn disconnect_user(
    State(api): State<Api>,
    caller: Caller,
    Segment(user): Segment,
    body: Body,
) -> Result<Json<ToldAnswer>, Problem> {
    end(&api, &caller, registry::user(user), body).await
}

/// Ends one session, wherever it is.
#[utoipa::path(
    post, path = "/sessions/{session}/disconnect", tag = "users", request_body = Option<DisconnectRequest>,
    params(("session" = String, Path, description = "The session's id")),
    responses((status = 200, description = "Who was told", body = ToldAnswer), OfSessionOrder),
)]
pub(super) async fn disconnect_session(
    State(api): State<Api>,
    caller: Caller,
    Segment(session): Segment,
    body: Body,
) -> Result<Json<ToldAnswer>, Problem> {
    end(&api, &caller, registry::session(&session), body).await
}

async fn end(
    api: &Api,
    caller: &Caller,
    target: Result<Target, Problem>,
    body: Body,
) -> Result<Json<ToldAnswer>, Problem> {
    caller.may(Scope::Disconnect)?;
    let body = api.body(body).await?;
    let read: Option<DisconnectRequest> = if body.is_empty() { None } else { parse(&body)? };
    let DisconnectRequest { reason } = read.unwrap_or_default();
    registry::disconnect(&api.node, target?, reason).await.map(Json)
}
