//! Single sessions, by their ids.

use axum::Json;
use axum::extract::State;
use fanlight_engine::registry::SessionKind;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::parts::Segment;
use super::refusals::OfSession;
use crate::config::Scope;
use crate::problem::Problem;
use crate::registry::api::{self as registry, SessionAnswer};
use crate::session_lookup::{self, Found};
use crate::transport::door;

/// A session, and whose it is.
#[derive(Serialize, ToSchema)]
pub(super) struct WholeSessionAnswer {
    #[serde(flatten)]
    session: SessionAnswer,
    /// Absent for a session without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// From where its client comes: an IPv4 address, or the /64 of an IPv6 address. Absent behind a
    /// trusted proxy that does not say so, and for services.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// How many subscriptions it has.
    subscriptions: usize,
}

/// Reads a session, on whichever node it is.
///
/// Every node is asked for it.
#[utoipa::path(
    get, path = "/sessions/{session}", tag = "users",
    params(("session" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "It is connected", body = WholeSessionAnswer),
        OfSession,
    ),
)]
pub(super) async fn session(
    State(api): State<Api>,
    caller: Caller,
    Segment(session): Segment,
) -> Result<Json<WholeSessionAnswer>, Problem> {
    caller.may(Scope::Users)?;
    let id = registry::session_id(&session)?;
    let found = session_lookup::find(&api.node, id).await;
    let found = found.map_err(|error| door::unavailable("unavailable", &error.to_string()))?;
    let (node, found) = found.ok_or_else(|| {
        let detail = "no connected session has this id: it has ended, or never was";
        Problem::new(StatusCode::NOT_FOUND, "no_session", detail)
    })?;
    let Found { user, since_unix_ms, transport, protocol, address, subscriptions } = found;
    let kind = SessionKind::named(&transport, &protocol);
    let session = SessionAnswer::new(id, &node, since_unix_ms, kind);
    Ok(Json(WholeSessionAnswer { session, user, address, subscriptions }))
}
