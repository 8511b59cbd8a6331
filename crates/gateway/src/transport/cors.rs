//! What browsers must be told before a page of another origin sees an answer (Fetch, "CORS
//! protocol"). Who is let in is `origin.allow`, as for every transport.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::Station;
use crate::config::Origin;
use crate::problem::Problem;

/// A page's origin that may see the answer.
#[derive(Debug, Clone)]
pub struct Allowed(HeaderValue);

/// The page that asks, if it may see the answer.
pub fn allowed(headers: &HeaderMap, origin: &Origin) -> Option<Allowed> {
    let page = headers.get(header::ORIGIN)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.admits(page.to_str().ok()?, host).then(|| Allowed(page.clone()))
}

impl Allowed {
    /// What every answer to that page has.
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 3] {
        [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone()),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
            (header::VARY, HeaderValue::from_static("Origin")),
        ]
    }
}

/// Lets the page see `response`.
pub fn with(allowed: Option<Allowed>, mut response: Response) -> Response {
    if let Some(allowed) = allowed {
        response.headers_mut().extend(allowed.headers());
    }
    response
}

/// Answers HEAD where GET is more than reading: it would open a session, or take messages.
pub async fn no_head() -> Response {
    other_method().await.with_header(header::ALLOW, "GET, POST, OPTIONS").into_response()
}

/// Answers what is not for a path; the router tells in `Allow` what is.
pub async fn other_method() -> Problem {
    let detail = "this path does not take that method; `Allow` names those that it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// Answers a preflight request.
pub async fn preflight(State(state): State<Station>, headers: HeaderMap) -> Response {
    let Some(allowed) = allowed(&headers, &state.node.config.origin) else {
        let detail = "`Origin` is missing, or names a page that origin.allow does not admit";
        return Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response();
    };
    let response = (
        StatusCode::NO_CONTENT,
        [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, last-event-id"),
            (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        ],
    );
    with(Some(allowed), response.into_response())
}
