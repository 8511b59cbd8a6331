//! Reading: histories, who is where, namespaces, nodes.

use std::ops::RangeInclusive;

use axum::Json;
use axum::extract::State;
use fanlight_engine::encode::message_of;
use fanlight_engine::history::{HistoryRange, Lost};
use fanlight_engine::policy::{Denied, HistoryPermit, Namespaces, PresencePermit, RemovalPermit};
use fanlight_engine::presence::{MembersPage, MembersQuery};
use fanlight_engine::session::Refusal;
use fanlight_proto::destination::DestinationKind;
use fanlight_proto::{Destination, DestinationError, Position};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::caller::Caller;
use super::parts::Asked;
use super::refusals::{OfHistory, OfNode, OfPresence, OfRemoval};
use crate::config::{Mode, Scope, Span};
use crate::problem::Problem;
use crate::registry::api::ClusterAnswer;
use crate::transport::door;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// The destination; a user's in full, as in `/user/ann/queue/alerts`.
    destination: String,
    /// The oldest after this position, `epoch:offset`. Absent: the newest.
    since: Option<String>,
    /// At most so many, 1 to 1000; 100 if not given.
    limit: Option<u32>,
}

/// Messages of a destination, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct HistoryAnswer {
    /// As in the native protocol's `message`.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Box<RawValue>>,
    /// The position after these messages, `epoch:offset`, to go on from.
    position: String,
    /// Whether there are newer ones.
    more: bool,
    /// Why what followed `since` can't be given in whole: `epoch_changed`, `position_too_old`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<&'static str>,
}

/// Reads what a destination has kept.
#[utoipa::path(
    get, path = "/history", tag = "destinations", params(HistoryQuery),
    responses(
        (status = 200, description = "Messages, oldest first", body = HistoryAnswer),
        OfHistory,
    ),
)]
pub(super) async fn history(
    State(api): State<Api>,
    caller: Caller,
    Asked(HistoryQuery { destination, since, limit }): Asked<HistoryQuery>,
) -> Result<Json<HistoryAnswer>, Problem> {
    caller.may(Scope::History)?;
    let (ask, of) = (HistoryPermit::for_backend, HistoryPermit::destination);
    let permit = permitted(&api, &caller, &destination, ask, of)?;
    let since: Option<Position> = since.map(|since| since.parse()).transpose().map_err(|_| {
        door::bad_request("bad_position", "`since` is a position, epoch:offset, as was told before")
    })?;
    let limit = limit.unwrap_or(HISTORY_LIMIT);
    check_limit(limit, 1..=HISTORY_MAX)?;
    let range = since.map_or(HistoryRange::Newest, HistoryRange::After);
    let page = api.node.broker.history(permit.into_query(range, limit)).await;
    let page = page.map_err(|error| door::refused(error.into()))?;
    let (mut messages, mut bytes, mut position) = (Vec::new(), 0, page.top);
    let mut more = !page.is_last();
    for publication in &page.publications {
        let message = message_of(publication);
        bytes += message.len();
        if bytes > PAGE_BYTES && !messages.is_empty() {
            more = true;
            break;
        }
        messages.push(RawValue::from_string(message).expect("a native message is JSON"));
        position = publication.position.unwrap_or(position);
    }
    if !more {
        position = page.top;
    }
    let position = position.to_string();
    Ok(Json(HistoryAnswer { messages, position, more, lost: page.lost.map(Lost::code) }))
}

/// That a history was removed.
#[derive(Serialize, ToSchema)]
pub(super) struct RemovedAnswer {
    /// How many messages that were.
    removed: u64,
    /// Up to where, `epoch:offset`. Who comes with this position misses nothing; an earlier one is
    /// too old.
    position: String,
}

/// Removes what a destination has kept, on all nodes. Offsets go on.
#[utoipa::path(
    delete, path = "/history", tag = "destinations", params(DestinationQuery),
    responses(
        (status = 200, description = "Nobody is given any of it any more", body = RemovedAnswer),
        OfRemoval,
    ),
)]
pub(super) async fn remove_history(
    State(api): State<Api>,
    caller: Caller,
    Asked(DestinationQuery { destination }): Asked<DestinationQuery>,
) -> Result<Json<RemovedAnswer>, Problem> {
    caller.may(Scope::HistoryRemove)?;
    let (ask, of) = (RemovalPermit::for_backend, RemovalPermit::destination);
    let permit = permitted(&api, &caller, &destination, ask, of)?;
    let removed = api.node.broker.remove_history(permit).await;
    let removed = removed.map_err(|error| door::refused(error.into()))?;
    let position = removed.position.to_string();
    Ok(Json(RemovedAnswer { removed: removed.publications, position }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PresenceQuery {
    /// The destination; a user's in full, as in `/user/ann/queue/alerts`.
    destination: String,
    /// Where the page before ended.
    cursor: Option<String>,
    /// About how many members, 0 to 1000; 100 if not given. 0 asks for the count only.
    limit: Option<u32>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DestinationQuery {
    /// The destination; a user's in full, as in `/user/ann/queue/alerts`.
    destination: String,
}

/// Some of who is at a destination.
#[derive(Serialize, ToSchema)]
pub(super) struct PresenceAnswer {
    /// How many there are just now.
    count: u64,
    /// Some of them, in no order.
    members: Vec<MemberAnswer>,
    /// What to ask for the next page with; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// Somebody at a destination.
#[derive(Serialize, ToSchema)]
pub(super) struct MemberAnswer {
    /// The user; absent for a session without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// With how many sessions.
    sessions: u32,
}

/// How many are at a destination.
#[derive(Serialize, ToSchema)]
pub(super) struct StatsAnswer {
    /// Users, and sessions without one.
    count: u64,
}

/// Reads who is at a destination, a page at a time.
#[utoipa::path(
    get, path = "/presence", tag = "destinations", params(PresenceQuery),
    responses(
        (status = 200, description = "Some of the members", body = PresenceAnswer),
        OfPresence,
    ),
)]
pub(super) async fn presence(
    State(api): State<Api>,
    caller: Caller,
    Asked(PresenceQuery { destination, cursor, limit }): Asked<PresenceQuery>,
) -> Result<Json<PresenceAnswer>, Problem> {
    let page = members(&api, &caller, &destination, cursor, limit).await?;
    let members = page.members.into_iter().map(|present| MemberAnswer {
        user: present.user.map(|user| user.to_string()),
        sessions: present.sessions,
    });
    Ok(Json(PresenceAnswer { count: page.count, members: members.collect(), cursor: page.cursor }))
}

/// Reads how many are at a destination.
#[utoipa::path(
    get, path = "/presence/stats", tag = "destinations", params(DestinationQuery),
    responses(
        (status = 200, description = "How many", body = StatsAnswer),
        OfPresence,
    ),
)]
pub(super) async fn presence_stats(
    State(api): State<Api>,
    caller: Caller,
    Asked(DestinationQuery { destination }): Asked<DestinationQuery>,
) -> Result<Json<StatsAnswer>, Problem> {
    let page = members(&api, &caller, &destination, None, Some(0)).await?;
    Ok(Json(StatsAnswer { count: page.count }))
}

async fn members(
    api: &Api,
    caller: &Caller,
    destination: &str,
    cursor: Option<String>,
    limit: Option<u32>,
) -> Result<MembersPage, Problem> {
    caller.may(Scope::Presence)?;
    let (ask, of) = (PresencePermit::for_backend, PresencePermit::destination);
    let permit = permitted(api, caller, destination, ask, of)?;
    check_limit(limit.unwrap_or_default(), 0..=MembersQuery::MAX_LIMIT)?;
    let query = permit.into_query(cursor.map(Into::into), limit);
    api.node.presence.members(query).await.map_err(|error| door::refused(error.into()))
}

/// The permit for a destination that the caller's key reaches; `of` tells which one that is.
fn permitted<P>(
    api: &Api,
    caller: &Caller,
    destination: &str,
    for_backend: impl FnOnce(&Namespaces, &Destination) -> Result<P, Denied>,
    of: impl FnOnce(&P) -> &Destination,
) -> Result<P, Problem> {
    let destination = named(destination)?;
    let permit = for_backend(api.node.rules.policy.namespaces(), &destination);
    let permit = permit.map_err(|error| denied(api, caller, &destination, error))?;
    caller.reaches(of(&permit))?;
    Ok(permit)
}

/// Why the policy gives no permit for `destination`; a backend is told its namespace, too, if its
/// key reaches that far.
pub(super) fn denied(
    api: &Api,
    caller: &Caller,
    destination: &Destination,
    denied: Denied,
) -> Problem {
    if let Err(problem) = caller.reaches(destination) {
        return problem;
    }
    let refusal = Refusal::from(denied);
    let namespace = api.node.rules.policy.namespaces().name_of(destination);
    let namespace = namespace.map(|name| format!(" (namespace {name:?})")).unwrap_or_default();
    let message = format!("{}{namespace}: {}", destination.as_str(), refusal.message);
    door::refused(Refusal { message, ..refusal })
}

fn check_limit(limit: u32, bounds: RangeInclusive<u32>) -> Result<(), Problem> {
    if bounds.contains(&limit) {
        return Ok(());
    }
    let (from, to) = bounds.into_inner();
    let detail = format!("`limit` is {from} to {to}, not {limit}; read the rest page by page");
    Err(door::bad_request("bad_query", detail))
}

/// The namespaces, in the order in which they are looked at.
#[derive(Serialize, ToSchema)]
pub(super) struct NamespacesAnswer {
    /// The first whose pattern matches has a destination.
    namespaces: Vec<NamespaceAnswer>,
}

/// What the destinations of a pattern are like.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "they are options that have nothing in common")]
pub(super) struct NamespaceAnswer {
    /// Its name.
    name: String,
    /// Its destinations.
    #[serde(rename = "match")]
    pattern: String,
    /// `topic` or `queue`.
    mode: String,
    /// Whether clients may subscribe to patterns.
    patterns: bool,
    /// Whether sessions without a user may use it.
    anonymous: bool,
    /// Whether it is kept who is there.
    presence: bool,
    /// Whether subscriptions are recorded as events.
    events: bool,
    /// What is kept of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<KeptAnswer>,
    /// How often a subscriber gets a message of one key at most, in milliseconds; absent: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    conflate_ms: Option<u64>,
    /// The header that is the key then, beside the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    conflate_key: Option<String>,
    /// The webhook that is asked who may subscribe.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribe_hook: Option<String>,
    /// The webhook that is asked who may publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    publish_hook: Option<String>,
    /// The webhook that is told which destinations have subscribers.
    #[serde(skip_serializing_if = "Option::is_none")]
    occupancy: Option<String>,
}

/// What is kept of each destination's messages.
#[derive(Serialize, ToSchema)]
pub(super) struct KeptAnswer {
    /// The most messages.
    size: u32,
    /// How long they outlive the newest, in milliseconds.
    ttl_ms: u64,
}

/// Reads the namespaces of this node's configuration.
#[utoipa::path(
    get, path = "/namespaces", tag = "cluster",
    responses(
        (status = 200, description = "In the order in which they are looked at", body = NamespacesAnswer),
        OfNode,
    ),
)]
pub(super) async fn namespaces(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<NamespacesAnswer>, Problem> {
    caller.may(Scope::Cluster)?;
    let namespaces = api.node.config.namespaces.iter().map(|namespace| NamespaceAnswer {
        name: namespace.name.clone(),
        pattern: namespace.pattern.to_string(),
        mode: if namespace.mode == Mode::Queue { "queue" } else { "topic" }.into(),
        patterns: namespace.patterns,
        anonymous: namespace.anonymous,
        presence: namespace.presence,
        events: namespace.events,
        history: namespace
            .history
            .map(|kept| KeptAnswer { size: kept.size, ttl_ms: kept.ttl.as_ms() }),
        conflate_ms: namespace.conflate.map(Span::as_ms),
        conflate_key: Some(namespace.conflate_key.clone()).filter(|key| !key.is_empty()),
        subscribe_hook: namespace.subscribe_hook.clone(),
        publish_hook: namespace.publish_hook.clone(),
        occupancy: namespace.occupancy.clone(),
    });
    Ok(Json(NamespacesAnswer { namespaces: namespaces.collect() }))
}

/// Reads the nodes of the cluster.
#[utoipa::path(
    get, path = "/cluster", tag = "cluster",
    responses(
        (status = 200, description = "The nodes that this one knows", body = ClusterAnswer),
        OfNode,
    ),
)]
pub(super) async fn cluster(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<ClusterAnswer>, Problem> {
    caller.may(Scope::Cluster)?;
    Ok(Json(ClusterAnswer::of(&api.node.registry.nodes())))
}

/// The destination that a query names.
pub(super) fn named(text: &str) -> Result<Destination, Problem> {
    let parsed = text.parse().map_err(|error: DestinationError| door::refused(error.into()));
    let destination: Destination = parsed?;
    if destination.kind() == DestinationKind::App {
        return Err(door::refused(Refusal::of_app(text)));
    }
    Ok(destination)
}

const HISTORY_LIMIT: u32 = 100;
const HISTORY_MAX: u32 = 1000;
/// A page ends before it would exceed this, unless with its first message.
const PAGE_BYTES: usize = 4 << 20;
