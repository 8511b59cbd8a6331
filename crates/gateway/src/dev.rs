//! What `--dev` adds: a page to try the gateway on, and tokens for it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use fanlight_engine::auth::Claims;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use crate::jwt::{self, SigningKey};
use crate::node::Node;
use crate::problem::Problem;

/// The page and `/dev/token`.
pub fn routes(node: &Arc<Node>) -> Router {
    let page = ASSETS.iter().fold(Router::new(), |page, &(path, content_type, text)| {
        page.route(path, asset(content_type, text))
    });
    page.route("/dev/token", get(token)).with_state(Arc::clone(node))
}

#[derive(Deserialize)]
struct TokenQuery {
    user: String,
}

/// A token for `user`, signed with the first key that can sign.
async fn token(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    Query(TokenQuery { user }): Query<TokenQuery>,
) -> Response {
    if !is_own_name(&headers) {
        let detail = "tokens are made for this machine only; use localhost or its address";
        return Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail).into_response();
    }
    match mint(&node, &user) {
        Ok(token) => {
            let body = Json(serde_json::json!({ "token": token }));
            ([(header::CACHE_CONTROL, "no-store")], body).into_response()
        }
        Err(error) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no_token",
            format!("no token could be made: {error}"),
        )
        .into_response(),
    }
}

/// Whether the request was made to an address or to localhost. Any other name may be a foreign
/// page's own, pointed at this machine by its DNS, so that its browser lets it read the answer.
fn is_own_name(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

/// Signed with the key that `--dev` made, for an hour.
fn mint(node: &Node, user: &str) -> anyhow::Result<String> {
    let auth = &node.config.auth;
    let key = auth.keys.iter().find(|key| !key.secret.is_empty());
    let key = key.context("no key with a secret is configured")?;
    let signing = SigningKey::from_secret(key.algorithm, &key.secret)?.with_id(&key.id);
    let mut claims = Claims::new();
    claims.insert(auth.user_claim.clone(), user.into());
    claims.insert("exp".into(), (node.clock.now().unix_s() + TOKEN_TIME_S).into());
    Ok(jwt::mint(&signing, &claims)?)
}

/// The page's files: path, type, content.
const ASSETS: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/style.css", "text/css", include_str!("../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/app.js", JAVASCRIPT, include_str!("../web/app.js")),
    ("/connection.js", JAVASCRIPT, include_str!("../web/connection.js")),
    ("/dom.js", JAVASCRIPT, include_str!("../web/dom.js")),
    ("/frames.js", JAVASCRIPT, include_str!("../web/frames.js")),
    ("/inspector.js", JAVASCRIPT, include_str!("../web/inspector.js")),
    ("/protocols.js", JAVASCRIPT, include_str!("../web/protocols.js")),
    ("/raw.js", JAVASCRIPT, include_str!("../web/raw.js")),
    ("/room.js", JAVASCRIPT, include_str!("../web/room.js")),
    ("/transports.js", JAVASCRIPT, include_str!("../web/transports.js")),
    ("/transports/conversation.js", JAVASCRIPT, include_str!("../web/transports/conversation.js")),
    ("/transports/events.js", JAVASCRIPT, include_str!("../web/transports/events.js")),
    ("/transports/http.js", JAVASCRIPT, include_str!("../web/transports/http.js")),
    ("/transports/poll.js", JAVASCRIPT, include_str!("../web/transports/poll.js")),
    ("/transports/sockjs.js", JAVASCRIPT, include_str!("../web/transports/sockjs.js")),
    ("/transports/websocket.js", JAVASCRIPT, include_str!("../web/transports/websocket.js")),
];

const JAVASCRIPT: &str = "text/javascript";
const TOKEN_TIME_S: u64 = 3600;

/// Everything comes from this origin, and no script or style stands in the page itself.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; frame-ancestors 'none'";

fn asset(content_type: &'static str, text: &'static str) -> MethodRouter<Arc<Node>> {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    get(async move || (headers, text))
}
