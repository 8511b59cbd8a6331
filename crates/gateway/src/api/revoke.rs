//! Revoking tokens: they are refused from now on, and the sessions that have come by them end.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use fanlight_engine::registry::Command;
use fanlight_engine::revocation::{Revocation, RevokeError, Revoked};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::refusals::OfRevocation;
use crate::config::Scope;
use crate::jwt::TOKEN_ID_MAX_BYTES;
use crate::problem::Problem;
use crate::registry::api::{self as registry, check_user};
use crate::transport::door;

/// What to revoke: one of `token`, `user` and `session`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeRequest {
    /// A token, by its claim `jti`.
    #[schema(example = "9f0c2a7e")]
    token: Option<String>,
    /// All tokens of this user that were issued until now; those without `iat` too.
    user: Option<String>,
    /// The token by which the session with this id has come.
    session: Option<String>,
    /// For how long, in seconds, up to a year: at least as long as such tokens are good.
    #[schema(example = 86400)]
    ttl_s: u64,
    /// Of a user, in place of now: Unix seconds.
    issued_until: Option<u64>,
}

/// That it is revoked.
#[derive(Serialize, ToSchema)]
pub(super) struct RevokeAnswer {
    /// Until when, in Unix seconds.
    until: u64,
    /// Of a session, how many nodes were told to revoke its token, if they have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<usize>,
}

/// Refuses tokens on every node, also on those that start later, and ends the sessions that have
/// come by them.
#[utoipa::path(
    post, path = "/revoke", tag = "users", request_body = RevokeRequest,
    responses((status = 200, description = "It is stored", body = RevokeAnswer), OfRevocation),
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    body: Body,
) -> Result<Json<RevokeAnswer>, Problem> {
    caller.may(Scope::Revoke)?;
    let RevokeRequest { token, user, session, ttl_s, issued_until } = api.read(body).await?;
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        let detail = format!("`ttl_s` is 1 to {TTL_MAX_S}, not {ttl_s}");
        return Err(door::bad_request("bad_body", detail));
    }
    if issued_until.is_some() && user.is_none() {
        let detail = "`issued_until` goes with a `user`";
        return Err(door::bad_request("bad_body", detail));
    }
    let now = api.node.clock.now();
    let until_unix_ms = now.unix_ms + ttl_s * 1000;
    let (kind, nodes) = match (token, user, session) {
        (Some(id), None, None) => {
            store(&api, Revoked::Token(token_id(id)?), until_unix_ms).await?;
            ("token", None)
        }
        (None, Some(user), None) => {
            check_user(&user)?;
            let issued_until_unix_s = issued_until.unwrap_or_else(|| now.unix_s());
            let what = Revoked::User { user: user.into(), issued_until_unix_s };
            store(&api, what, until_unix_ms).await?;
            ("user", None)
        }
        (None, None, Some(session)) => {
            let target = registry::session(&session)?;
            let command = Command::Revoke { until_unix_ms };
            let told = registry::order(&api.node, target, command).await?;
            if told.unheard > 0 {
                // It may be one of these that has the session.
                let detail = format!("{} nodes have not heard it; try again", told.unheard);
                return Err(door::unavailable("unavailable", &detail));
            }
            ("session", Some(told.nodes))
        }
        _ => {
            let detail = "name one of `token`, `user` and `session`";
            return Err(door::bad_request("bad_body", detail));
        }
    };
    metrics::counter!("fanlight_revoked_total", "kind" => kind).increment(1);
    Ok(Json(RevokeAnswer { until: until_unix_ms / 1000, nodes }))
}

async fn store(api: &Api, what: Revoked, until_unix_ms: u64) -> Result<(), Problem> {
    let revoked = api.node.revocations.revoke(Revocation { what, until_unix_ms }).await;
    revoked.map_err(|error| match error {
        RevokeError::Full => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "full", error.to_string())
        }
        RevokeError::Unavailable => door::unavailable("unavailable", &error.to_string()),
    })
}

fn token_id(id: String) -> Result<Box<str>, Problem> {
    if (1..=TOKEN_ID_MAX_BYTES).contains(&id.len()) {
        return Ok(id.into());
    }
    let detail = format!("a token's id has 1 to {TOKEN_ID_MAX_BYTES} bytes");
    Err(door::bad_request("bad_body", detail))
}

const TTL_MAX_S: u64 = 366 * 24 * 3600;
