//! Publishing: to one destination, to many, to a user, many messages at once.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use fanlight_engine::broker::Published;
use fanlight_engine::ids::Ids;
use fanlight_engine::session::{Alone, Letter, Refusal, Sender, Unpublished};
use fanlight_proto::Destination;
use futures_util::future::{BoxFuture, join_all};
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::parts::{Asked, Segment};
use super::refusals::{OfBatch, OfBroadcast, OfMessage, OfMessageTo};
use super::{Api, parse};
use crate::config::Scope;
use crate::problem::Problem;
use crate::registry::api as registry;
use crate::transport::door;
use crate::transport::publish::{Told, begin};

/// A message. What is no JSON travels as base64, with its type.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it documents what the protocol crate reads")]
pub(super) struct Message {
    /// Where it goes: `/topic/orders.42`, or `/user/ann/queue/alerts`.
    #[schema(example = "/topic/orders.42")]
    to: String,
    /// The body: any JSON; with another `content_type` a text with the bytes as base64, or what
    /// `encoding` says.
    data: serde_json::Value,
    /// What the body is. Absent: JSON.
    content_type: Option<String>,
    /// How `data` is to be read: `json`, as it is; `text`, a string; `base64`. What is JSON by its
    /// type is always `json`.
    encoding: Option<String>,
    /// Headers that subscribers get, too.
    headers: Option<std::collections::BTreeMap<String, String>>,
    /// Its name: within five minutes, only the first with it is published. In place of the header
    /// `Idempotency-Key`.
    key: Option<String>,
    /// Of a user's sessions, the only one to get it.
    session: Option<String>,
}

/// A message to many destinations.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast<'b> {
    /// Where it goes: at most 1000 destinations.
    to: Vec<String>,
    /// The body: any JSON; with another `content_type` a text with the bytes as base64, or what
    /// `encoding` says.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    data: &'b RawValue,
    /// What the body is. Absent: JSON.
    content_type: Option<String>,
    /// How `data` is to be read: `json`, as it is; `text`, a string; `base64`. What is JSON by its
    /// type is always `json`.
    encoding: Option<String>,
    /// Headers that subscribers get, too.
    #[serde(borrow)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<&'b RawValue>,
    /// Its name, at each destination: within five minutes, only the first with it is published.
    key: Option<String>,
}

/// Many messages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch<'b> {
    /// The messages, at most 1000. Those to one destination are published in this order.
    #[serde(borrow)]
    #[schema(value_type = Vec<Message>)]
    messages: Vec<&'b RawValue>,
}

/// How each of many went, in the order asked.
#[derive(Serialize, ToSchema)]
pub(super) struct Outcomes {
    /// How many were published.
    published: usize,
    /// What became of each.
    outcomes: Vec<Outcome>,
}

/// What became of one message.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// It is published.
    Published(Told),
    /// It is not, or that is not known.
    Refused {
        /// Why.
        error: Problem,
    },
}

/// Publishes a message.
#[utoipa::path(
    post, path = "/publish", tag = "messages", request_body = Message,
    params(("Idempotency-Key" = Option<String>, Header, description = "In place of the message's `key`")),
    responses(
        (status = 200, description = "The broker has accepted it", body = Told),
        OfMessage,
    ),
)]
pub(super) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Told>, Problem> {
    let desk = Desk::new(&api, &caller, &headers)?;
    desk.publish_one(body, |to| Ok(to.to_owned())).await.map(Json)
}

/// Publishes one message to many destinations.
#[utoipa::path(
    post, path = "/broadcast", tag = "messages", request_body = Broadcast<'_>,
    params(("Idempotency-Key" = Option<String>, Header, description = "In place of the message's `key`")),
    responses(
        (status = 200, description = "What became of it at each destination", body = Outcomes),
        OfBroadcast,
    ),
)]
pub(super) async fn broadcast(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Outcomes>, Problem> {
    let desk = Desk::new(&api, &caller, &headers)?;
    let body = api.body(body).await?;
    let asked: Broadcast<'_> = parse(&body)?;
    check_count(asked.to.len(), "destinations")?;
    let send = serde_json::to_vec(&Send::from(&asked)).expect("JSON was read from JSON");
    let letter = letter(&api, &send)?;
    let mut ids = Ids::new(rand::random());
    let alone = asked.to.iter().map(|to| desk.addressed(&letter, &mut ids, to)).collect();
    Ok(Json(desk.publish_all(alone).await))
}

/// Publishes many messages.
#[utoipa::path(
    post, path = "/batch", tag = "messages", request_body = Batch<'_>,
    responses(
        (status = 200, description = "What became of each", body = Outcomes),
        OfBatch,
    ),
)]
pub(super) async fn batch(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Outcomes>, Problem> {
    let desk = Desk::new(&api, &caller, &headers)?;
    if desk.sender.key.is_some() {
        let detail = "a batch has no key of its own; give each message its `key`";
        return Err(door::bad_request("bad_key", detail));
    }
    let body = api.body(body).await?;
    let Batch { messages } = parse(&body)?;
    check_count(messages.len(), "messages")?;
    let mut ids = Ids::new(rand::random());
    let alone = messages.iter().map(|message| {
        let letter = letter(&api, message.get().as_bytes())?;
        desk.addressed(&letter, &mut ids, letter.to())
    });
    Ok(Json(desk.publish_all(alone.collect()).await))
}

/// Publishes a message to a user, on whichever nodes the user is.
///
/// `to` is the user's own destination, as in `/user/queue/alerts`.
#[utoipa::path(
    post, path = "/users/{user}/messages", tag = "messages", request_body = Message,
    params(
        ("user" = String, Path, description = "The user's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "In place of the message's `key`"),
    ),
    responses(
        (status = 200, description = "The broker has accepted it", body = Told),
        OfMessageTo,
    ),
)]
pub(super) async fn send_to_user(
    State(api): State<Api>,
    caller: Caller,
    Segment(user): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Told>, Problem> {
    let desk = Desk::new(&api, &caller, &headers)?;
    desk.publish_one(body, |to| of_user(&user, to)).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionQuery {
    /// Whose session it is. Absent: nobody's, that of a client without a token.
    user: Option<String>,
}

/// Publishes a message to one session, on whichever node it is.
///
/// `to` is the session's own destination, as in `/user/queue/alerts`. No history keeps it.
#[utoipa::path(
    post, path = "/sessions/{session}/messages", tag = "messages", request_body = Message,
    params(
        ("session" = String, Path, description = "The session's id"),
        SessionQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "In place of the message's `key`"),
    ),
    responses(
        (status = 200, description = "The broker has accepted it", body = Told),
        OfMessageTo,
    ),
)]
pub(super) async fn send_to_session(
    State(api): State<Api>,
    caller: Caller,
    Segment(session): Segment,
    Asked(SessionQuery { user }): Asked<SessionQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Told>, Problem> {
    let mut desk = Desk::new(&api, &caller, &headers)?;
    let session = registry::session_id(&session)?.to_string();
    let to = |to: &str| match &user {
        Some(user) => of_user(user, to),
        None => Ok(format!("/user/~{session}{}", own_path(to)?)),
    };
    // A private destination has only one session anyhow.
    desk.sender.session = user.is_some().then_some(&*session);
    desk.publish_one(body, to).await.map(Json)
}

/// The destination of `user` that is the user's own `to`.
fn of_user(user: &str, to: &str) -> Result<String, Problem> {
    let to = Destination::for_user(user, own_path(to)?);
    Ok(to.map_err(|error| door::refused(error.into()))?.as_str().to_owned())
}

/// What follows `/user` in somebody's own destination.
fn own_path(to: &str) -> Result<&str, Problem> {
    let is_own = |path: &&str| path.starts_with("/queue/") || path.starts_with("/topic/");
    to.strip_prefix("/user").filter(is_own).ok_or_else(|| {
        let detail = "`to` is one of the user's own destinations, as in \"/user/queue/alerts\"; whose, \
                      the path of the request says";
        door::bad_request("bad_destination", detail)
    })
}

/// The native protocol's `send`, as far as a broadcast has it.
#[derive(Serialize)]
struct Send<'b> {
    to: &'b str,
    data: &'b RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'b str>,
}

impl<'b> From<&'b Broadcast<'b>> for Send<'b> {
    fn from(asked: &'b Broadcast<'b>) -> Self {
        Self {
            to: asked.to.first().map_or("", String::as_str),
            data: asked.data,
            content_type: asked.content_type.as_deref(),
            encoding: asked.encoding.as_deref(),
            headers: asked.headers,
            key: asked.key.as_deref(),
        }
    }
}

/// Where one request's messages are handed in.
struct Desk<'d> {
    api: &'d Api,
    caller: &'d Caller,
    sender: Sender<'d>,
    headers: &'d HeaderMap,
}

type Publishing = BoxFuture<'static, Result<Published, Unpublished>>;

impl<'d> Desk<'d> {
    fn new(api: &'d Api, caller: &'d Caller, headers: &'d HeaderMap) -> Result<Self, Problem> {
        caller.may(Scope::Publish)?;
        let key = headers.get(&IDEMPOTENCY_KEY).map(|key| key.to_str());
        let key = key.transpose().map_err(|_| {
            door::bad_request("bad_key", "Idempotency-Key must be visible ASCII characters")
        })?;
        Ok(Self {
            api,
            caller,
            sender: Sender { name: caller.name(), key, session: None },
            headers,
        })
    }

    /// Publishes the message in `body` to where `destination` makes of what it says.
    async fn publish_one(
        &self,
        body: Body,
        destination: impl FnOnce(&str) -> Result<String, Problem>,
    ) -> Result<Told, Problem> {
        let body = self.api.body(body).await?;
        let letter = letter(self.api, &body)?;
        let to = destination(letter.to())?;
        let alone = self.addressed(&letter, &mut Ids::new(rand::random()), &to)?;
        settled(self.publish(alone).await)
    }

    fn addressed(&self, letter: &Letter<'_>, ids: &mut Ids, to: &str) -> Result<Alone, Problem> {
        let node = &*self.api.node;
        let alone = letter.addressed(&node.rules, ids, node.clock.now(), &self.sender, to);
        let alone = alone.map_err(door::refused)?;
        self.caller.reaches(alone.permit.destination())?;
        Ok(alone)
    }

    fn publish(&self, alone: Alone) -> Publishing {
        begin(&self.api.node, self.headers, alone, None)
    }

    /// In their order, and not all at once: so there is room in the broker's queue for others.
    async fn publish_all(&self, messages: Vec<Result<Alone, Problem>>) -> Outcomes {
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while messages.len() > 0 {
            let begun = messages.by_ref().take(AT_ONCE);
            let begun: Vec<_> =
                begun.map(|message| message.map(|alone| self.publish(alone))).collect();
            let ended = begun.into_iter().map(async |publishing| match publishing {
                Ok(publishing) => settled(publishing.await),
                Err(problem) => Err(problem),
            });
            outcomes.extend(join_all(ended).await.into_iter().map(|outcome| match outcome {
                Ok(told) => Outcome::Published(told),
                Err(error) => Outcome::Refused { error },
            }));
        }
        let is_published = |outcome: &&Outcome| matches!(outcome, Outcome::Published(_));
        Outcomes { published: outcomes.iter().filter(is_published).count(), outcomes }
    }
}

fn letter<'b>(api: &Api, body: &'b [u8]) -> Result<Letter<'b>, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|_| door::bad_request("bad_body", "the body must be JSON, in UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        let detail = "a message is a JSON object with `to` and `data`";
        return Err(door::bad_request("bad_body", detail));
    }
    Letter::read(&api.node.rules, text).map_err(|refusal| match refusal.code {
        "protocol_error" => door::bad_request("bad_body", refusal.message),
        _ => door::refused(refusal),
    })
}

fn settled(outcome: Result<Published, Unpublished>) -> Result<Told, Problem> {
    outcome.map(Told::from).map_err(|error| door::refused(Refusal::from(error)))
}

fn check_count(count: usize, what: &str) -> Result<(), Problem> {
    if (1..=MANY_MAX).contains(&count) {
        return Ok(());
    }
    let detail = format!("1 to {MANY_MAX} {what} at once, not {count}");
    Err(door::bad_request("bad_body", detail))
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MANY_MAX: usize = 1000;
/// Messages of one request under way.
const AT_ONCE: usize = 64;
