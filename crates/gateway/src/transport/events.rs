//! Server-sent events: one response that never ends, its socket handed to the worker.
//!
//! `GET /events?destination=...&destination=...`, or POST with a JSON body for many. What a client
//! has is told by `Last-Event-ID`, which is a cursor over all of its destinations in their order.

use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use fanlight_engine::session::{Form, Handshake, Listening};
use fanlight_proto::sse;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Deserialize;

use super::door::{self, Caller, bad_request};
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
#[derive(Debug, Default, Deserialize)]
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
    /// How long a poll waits.
    wait: Option<String>,
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
        let caller = door::authenticate(node, &parts.headers, &parts.uri)?;
        let body = door::body(node, body).await?;
        let wanted = Wanted::read(&parts.method, parts.uri.query(), &parts.headers, &body)?;
        let listening = wanted.permitted(node, &caller, Form::Events)?;
        Ok::<_, Box<Problem>>((admitted, caller, listening))
    };
    let opened = opened.await;
    let outcome = opened.as_ref().map_or_else(|problem| problem.code(), |_| "accepted");
    door::count_handshake(parts.version, outcome);
    let (admitted, caller, listening) = match opened {
        Ok(opened) => opened,
        Err(problem) => return cors::with(allowed, problem.into_response()),
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
            opening: Opening::Listener(Handshake { principal: caller }, listening),
            carrier: Carrier::Events { chunked },
            admitted,
        };
        state.worker.send(Inbox::Adopt(Box::new(adopted))).await;
    });
    carried.await
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
                    "the body must be JSON with \"destinations\", and may have \"cursor\" and \
                     \"presence\": {error}"
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
        let uri = format!("/?{query}").parse().map_err(|_| bad_request("bad_query", "no query"))?;
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&uri);
        let Query(pairs) = pairs.map_err(|error| bad_request("bad_query", error.to_string()))?;
        for (name, value) in pairs {
            match &*name {
                "destination" => self.destinations.push(value.into()),
                "cursor" | "last_event_id" if !value.is_empty() => self.cursor = Some(value),
                "wait" => self.wait = Some(value),
                "presence" => self.presence = value == "true",
                _ => {}
            }
        }
        Ok(())
    }

    /// How long to wait, as in `25s` or `25`.
    pub(super) fn wait(&self) -> Result<Option<Duration>, Box<Problem>> {
        let Some(text) = &self.wait else { return Ok(None) };
        let seconds = text.parse().map(Duration::from_secs);
        match seconds.or_else(|_| humantime::parse_duration(text)) {
            Ok(wait) => Ok(Some(wait)),
            Err(_) => Err(bad_request("bad_wait", "wait is a time, as in 25s; 0 waits not").into()),
        }
    }

    /// Takes the mailbox off the cursor; both.
    pub(super) fn split_cursor(&mut self) -> (Option<Box<str>>, Option<Box<str>>) {
        let Some(text) = self.cursor.take() else { return (None, None) };
        let (positions, mailbox) = match text.split_once('~') {
            Some((positions, mailbox)) => (positions, Some(mailbox.into())),
            None => (&*text, None),
        };
        self.cursor = Some(positions.to_owned());
        (Some(positions.into()), mailbox)
    }

    /// The same once it is known that it may be: so a refusal is a status, which a stream that
    /// has begun could not have.
    pub(super) fn permitted(
        self,
        node: &Node,
        caller: &Caller,
        form: Form,
    ) -> Result<Listening, Box<Problem>> {
        let Self { mut destinations, cursor, presence, .. } = self;
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
        let listening = Listening::new(destinations, cursor.as_deref(), presence, form)
            .map_err(|error| bad_request("bad_cursor", error.to_string()))?;
        listening.check(&node.rules, caller.as_deref()).map_err(door::refused)?;
        Ok(listening)
    }
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
