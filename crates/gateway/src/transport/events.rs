//! Server-sent events: one response that never ends, its socket handed to the worker.
//!
//! `GET /events?destination=...&destination=...`, or POST with a JSON body for many. What a client
//! has is told by `Last-Event-ID`, which is a cursor over all of its destinations in their order.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use fanlight_engine::auth::Token;
use fanlight_engine::hook::{HookError, SubscribeQuestion};
use fanlight_engine::ids::Ids;
use fanlight_engine::publication::SessionId;
use fanlight_engine::session::{Form, Handshake, Listening, Refusal};
use fanlight_proto::sse;
use futures_util::FutureExt;
use futures_util::stream::{FuturesOrdered, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::door::{self, Caller, Visitor, bad_request};
use super::{Station, cors};
use crate::accept::Peer;
use crate::node::Node;
use crate::problem::Problem;
use crate::takeover::{Taken, Takeover};
use crate::worker::{Adopted, Carrier, Inbox, Opening};

/// The endpoint's routes.
pub fn routes(station: Station) -> Router {
    let methods = get(stream).head(cors::no_head).post(stream).options(cors::preflight);
    Router::new().route("/events", methods).with_state(station)
}

/// What a client asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Destinations or patterns.
    #[serde(default)]
    destinations: Vec<Box<str>>,
    /// Where the client stands in each of them.
    cursor: Option<String>,
    /// Whether to tell who comes and goes.
    #[serde(default)]
    presence: bool,
    /// A capability that allows it.
    #[serde(default, deserialize_with = "token")]
    token: Option<Token>,
    /// How long a poll waits: a text, or a number of seconds.
    wait: Option<Value>,
}

/// What a poll's cursor says of the mailbox that waits for it.
pub(super) struct Mailbox {
    /// The positions that the client has, as text.
    pub(super) from: Box<str>,
    pub(super) id: Box<str>,
}

async fn stream(
    State(state): State<Station>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(takeover): Extension<Takeover>,
    request: Request,
) -> Response {
    let node = &*state.node;
    let (parts, body) = request.into_parts();
    let allowed = cors::allowed(&parts.headers, &node.config.origin);
    let opened = async {
        let admitted = door::admit(node, peer, &parts.headers)?;
        let visitor = door::visit(node, peer, &parts.headers, &parts.uri).await?;
        let body = door::body(node, body).await?;
        let wanted = Wanted::read(&parts.method, parts.uri.query(), &parts.headers, &body)?;
        let (handshake, listening) =
            wanted.agreed(node, peer, &parts.headers, &visitor, Form::Events).await?;
        Ok::<_, Box<Problem>>((admitted, handshake, listening))
    };
    let opened = opened.await;
    let outcome = opened.as_ref().map_or_else(|problem| problem.code(), |_| "accepted");
    door::count_handshake(parts.version, outcome);
    let (admitted, handshake, listening) = match opened {
        Ok(opened) => opened,
        Err(problem) => return refuse(&parts.headers, allowed, *problem),
    };
    let headers = response_headers(allowed.as_ref());
    let version = parts.version;
    drop(parts);
    let carried = takeover.stream(version, headers, move |taken| async move {
        let Taken { socket, answer, chunked, .. } = taken;
        let adopted = Adopted {
            socket,
            answer: answer.into(),
            leftover: Bytes::new(),
            opening: Opening::Listener(handshake, listening),
            carrier: Carrier::Events { chunked },
            admitted,
        };
        state.worker.send(Inbox::Adopt(Box::new(adopted))).await;
    });
    carried.await
}

/// An `EventSource` gives up for good on any other status than 200: one that may come back is told
/// when by an empty stream. It keeps its own `Last-Event-ID`.
fn refuse(request: &HeaderMap, allowed: Option<cors::Allowed>, problem: Problem) -> Response {
    let accept = request.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let wants_events = accept.is_some_and(|accept| accept.contains(sse::CONTENT_TYPE));
    let Some(after) = problem.retry_after().filter(|_| wants_events) else {
        return cors::with(allowed, problem.into_response());
    };
    let mut body = Vec::new();
    sse::retry(&mut body, after.as_millis() as u64 + rand::random_range(0..RETRY_SPREAD_MS));
    sse::end(&mut body);
    (response_headers(allowed.as_ref()), body).into_response()
}

impl Wanted {
    /// What a request asks for, whichever way it says so.
    pub(super) fn read(
        method: &Method,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Box<Problem>> {
        let mut wanted = if method == Method::POST {
            serde_json::from_slice(body).map_err(|error| {
                let detail = format!(
                    "the body must be JSON with \"destinations\", and may have \"cursor\", \
                     \"presence\" and \"token\": {error}"
                );
                bad_request("bad_body", detail)
            })?
        } else {
            Self::default()
        };
        wanted.add_query(query.unwrap_or_default())?;
        if let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) {
            let id = id.to_str().map_err(|_| bad_request("bad_cursor", "it is not text"))?;
            // What an EventSource has seen by now is newer than the address it was made with.
            wanted.cursor = Some(id.to_owned());
        }
        Ok(wanted)
    }

    fn add_query(&mut self, query: &str) -> Result<(), Box<Problem>> {
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What can't be read is none of these.
            let Some(name) = decoded(name) else { continue };
            let value = || {
                let detail = format!("{name} is not UTF-8, once its escapes are decoded");
                decoded(value).ok_or_else(|| bad_request("bad_query", detail))
            };
            match &*name {
                "destination" => self.destinations.push(value()?.into()),
                "cursor" | "last_event_id" => {
                    let cursor = value()?;
                    if !cursor.is_empty() {
                        self.cursor = Some(cursor);
                    }
                }
                "wait" => self.wait = Some(value()?.into()),
                "presence" => self.presence = value()? == "true",
                "token" => self.token = Some(Token::new(&value()?)),
                _ => {}
            }
        }
        Ok(())
    }

    /// How long to wait, as in `25s` or `25`.
    pub(super) fn wait(&self) -> Result<Option<Duration>, Box<Problem>> {
        let seconds = |text: &str| text.parse().map(Duration::from_secs).ok();
        let wait = match &self.wait {
            None => return Ok(None),
            Some(Value::String(text)) => {
                seconds(text).or_else(|| humantime::parse_duration(text).ok())
            }
            Some(other) => other.as_u64().map(Duration::from_secs),
        };
        Ok(Some(wait.ok_or_else(bad_wait)?))
    }

    /// Takes the mailbox off the cursor, if that names one.
    pub(super) fn take_mailbox(&mut self) -> Result<Option<Mailbox>, Box<Problem>> {
        let cursor = self.cursor.as_deref().unwrap_or_default();
        let Some((positions, id)) = cursor.split_once('~') else { return Ok(None) };
        if !is_mailbox(id) {
            let detail = "what follows the ~ names no mailbox; give the cursor back as it came";
            return Err(bad_request("bad_cursor", detail).into());
        }
        let mailbox = Mailbox { from: positions.into(), id: id.into() };
        self.cursor = Some(positions.to_owned());
        Ok(Some(mailbox))
    }

    /// A session that listens to it, once the policy and all backends have agreed that have a say
    /// in it: so a refusal is a status, which a stream that has begun could not have.
    pub(super) async fn agreed(
        self,
        node: &Node,
        peer: SocketAddr,
        headers: &HeaderMap,
        visitor: &Visitor,
        form: Form,
    ) -> Result<(Handshake, Listening), Box<Problem>> {
        let transport = match form {
            Form::Events => "sse",
            Form::Items => "poll",
        };
        let mut handshake = door::listener(node, peer, headers, visitor, transport).await?;
        let (caller, let_in) = (&handshake.principal, handshake.let_in);
        let id = let_in.unwrap_or_else(|| new_id(node));
        let (listening, questions) = self.permitted(node, caller, form, id).await?;
        // Behind the policy, as what that refuses takes nobody's turn; what a backend is asked
        // costs more than one.
        if let_in.is_none() {
            door::pace(node, peer, headers, caller)?;
        }
        if questions.is_empty() {
            return Ok((handshake, listening));
        }
        ask(node, questions).await?;
        handshake.let_in = Some(id);
        Ok((handshake, listening.agreed()))
    }

    /// Refuses what the policy does not allow.
    pub(super) async fn check(
        self,
        node: &Node,
        caller: &Caller,
        form: Form,
    ) -> Result<(), Box<Problem>> {
        self.permitted(node, caller, form, new_id(node)).await.map(drop)
    }

    /// What the policy allows, with what backends are to be asked about it, as the session `id`.
    async fn permitted(
        self,
        node: &Node,
        caller: &Caller,
        form: Form,
        id: SessionId,
    ) -> Result<(Listening, Vec<SubscribeQuestion>), Box<Problem>> {
        let Self { mut destinations, cursor, presence, token, .. } = self;
        let limit = node.rules.limits.subscriptions;
        if destinations.is_empty() {
            let detail = "name what to listen to: ?destination=/topic/news";
            return Err(bad_request("missing_destination", detail).into());
        }
        if destinations.len() > limit {
            let detail = format!("at most {limit} destinations (limits.subscriptions)");
            return Err(bad_request("limit_exceeded", detail).into());
        }
        if caller.is_none() && !node.rules.policy.allows_anonymous() {
            return Err(door::unauthorized("a token is needed").into());
        }
        destinations.shrink_to_fit();
        let capability = door::authorize(node, caller, token.as_ref()).await?;
        let listening = Listening::new(destinations, cursor.as_deref(), presence, form)
            .map_err(|error| bad_request("bad_cursor", error.to_string()))?
            .with_capability(capability);
        let questions = listening.check(&node.rules, caller.as_ref(), id).map_err(door::refused)?;
        Ok((listening, questions))
    }
}

/// Asks backends; the first that does not agree, in this order, is an answer to all.
async fn ask(node: &Node, questions: Vec<SubscribeQuestion>) -> Result<(), Box<Problem>> {
    let (mut questions, mut asked) = (questions.into_iter(), FuturesOrdered::new());
    loop {
        while asked.len() < ASKED_AT_ONCE
            && let Some(question) = questions.next()
        {
            let answer = node.hooks.subscribe(&question);
            let told = move |error| not_agreed(error, &question.destination);
            asked.push_back(answer.map(|answer| answer.map_err(told)));
        }
        let Some(answer) = asked.next().await else { return Ok(()) };
        answer?;
    }
}

fn not_agreed(error: HookError, to: &str) -> Problem {
    match error {
        // Unlike a message, it may be asked for again.
        HookError::Timeout => door::unavailable("timeout", &format!("{to}: {error}")),
        error => door::refused(Refusal::by_hook(error, to)),
    }
}

/// For a session that is to begin.
fn new_id(node: &Node) -> SessionId {
    Ids::new(rand::random()).session(node.clock.now())
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Token>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|token| Token::new(&token)))
}

/// A name or a value of a query.
fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(Into::into)
}

/// Whether a mailbox may have this name: 128 bits, as the node writes them.
fn is_mailbox(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn bad_wait() -> Problem {
    let detail =
        "wait is a time, as in \"25s\", or a number of seconds; with 0 nothing is waited for";
    bad_request("bad_wait", detail)
}

/// `X-Accel-Buffering` keeps nginx from holding events back.
fn response_headers(allowed: Option<&cors::Allowed>) -> HeaderMap {
    let own = [
        (header::CONTENT_TYPE, sse::CONTENT_TYPE),
        (header::CACHE_CONTROL, sse::CACHE_CONTROL),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let own = own.map(|(name, value)| (name, HeaderValue::from_static(value)));
    own.into_iter().chain(allowed.map(cors::Allowed::headers).into_iter().flatten()).collect()
}

/// Of one request's destinations, so many are asked about together: it is not to take all turns of
/// a webhook.
const ASKED_AT_ONCE: usize = 16;
/// Also those do not come back together who were told the same.
const RETRY_SPREAD_MS: u64 = 1000;
