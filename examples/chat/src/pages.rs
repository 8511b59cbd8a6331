//! The page's files, and who is at it.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::State;
use crate::message::Name;

/// Each file at its path; they are read when they are asked for, so that they can be edited.
pub fn routes() -> anyhow::Result<Router<Arc<State>>> {
    let web = PathBuf::from(env::var_os("WEB").unwrap_or_else(|| "../web".into()));
    let stomp = env::var_os("STOMPJS").context("the environment variable STOMPJS")?;
    Ok(Router::new()
        .route("/", file("index.html".into(), "text/html; charset=utf-8"))
        .route("/app.js", file("app.js".into(), SCRIPT))
        .route("/room.js", file("room.js".into(), SCRIPT))
        .route("/connection.js", file("connection.js".into(), SCRIPT))
        .route("/web/page.js", file(web.join("page.js"), SCRIPT))
        .route("/web/style.css", file(web.join("style.css"), "text/css; charset=utf-8"))
        .route("/stomp.js", file(stomp.into(), SCRIPT)))
}

fn file(path: PathBuf, kind: &'static str) -> MethodRouter<Arc<State>> {
    get(async move |Shared(state): Shared<Arc<State>>| {
        let host = state.gateway.trim_start_matches("http");
        let policy = format!("default-src 'self'; img-src data:; connect-src 'self' ws{host}");
        match tokio::fs::read(&path).await {
            Ok(bytes) => {
                let headers: [(HeaderName, String); 2] = [
                    (header::CONTENT_TYPE, kind.to_owned()),
                    (header::CONTENT_SECURITY_POLICY, policy),
                ];
                (headers, bytes).into_response()
            }
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    })
}

#[derive(Deserialize)]
pub struct Login {
    user: String,
}

/// A token for whoever says a name. A real application would ask for a password here.
pub async fn session(
    Shared(state): Shared<Arc<State>>,
    Query(login): Query<Login>,
) -> Result<Response, (StatusCode, String)> {
    let Some(name) = Name::parse(&login.user) else {
        let why = "a name has 1 to 32 letters, digits, `.`, `_` or `-`";
        return Err((StatusCode::BAD_REQUEST, why.to_owned()));
    };
    let token = state.token_key.mint(&name);
    let token = token.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let answer = json!({"user": name.as_str(), "token": token, "gateway": state.gateway});
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
