//! The protocol's own answers, with the headers that it asks for.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use fanlight_proto::sockjs::{Iframe, Transport, headers};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// What a browser must be told, so that a page of another origin sees the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Cors {
    origin: Option<HeaderValue>,
    requested_headers: Option<HeaderValue>,
    cookie: Option<String>,
}

impl Cors {
    /// What `request` asks for.
    pub(super) fn of(request: &HeaderMap) -> Self {
        Self {
            origin: request.get(header::ORIGIN).cloned(),
            requested_headers: request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            cookie: None,
        }
    }

    /// Also with the cookie of sticky sessions, if it is `needed`: the request's own, if it has one.
    pub(super) fn with_cookie(self, needed: bool, request: &HeaderMap) -> Self {
        let lines = request.get_all(header::COOKIE).into_iter();
        let mut pairs =
            lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
        let own = pairs.find_map(|pair| pair.trim().strip_prefix("JSESSIONID="));
        let cookie = format!("JSESSIONID={}; Path=/", own.unwrap_or("dummy"));
        Self { cookie: needed.then_some(cookie), ..self }
    }

    /// The headers of every answer to it.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let text = |value: &Option<HeaderValue>| Some(value.as_ref()?.to_str().ok()?.to_owned());
        let (origin, requested) = (text(&self.origin), text(&self.requested_headers));
        let headers = headers::cors(origin.as_deref(), requested.as_deref());
        let cookie = self.cookie.iter().map(|cookie| ("set-cookie", cookie.clone()));
        headers.map(|(name, value)| (name, value.to_owned())).chain(cookie).collect()
    }

    /// Adds them.
    pub(super) fn on(&self, mut response: Response) -> Response {
        for (name, value) in self.headers() {
            set(&mut response, name, &value);
        }
        response
    }

    pub(super) fn on_problem(&self, problem: Problem) -> Response {
        self.on(problem.into_response())
    }

    /// The answer to OPTIONS.
    pub(super) fn preflight(&self, methods: &'static str) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        for (name, value) in headers::preflight(methods) {
            set(&mut response, name, value);
        }
        self.on(response)
    }
}

/// An answer of one of the transports.
pub(super) fn of(transport: Transport, status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    for (name, value) in transport.headers() {
        set(&mut response, name, value);
    }
    response
}

/// An answer of that type, which nobody is to keep.
pub(super) fn with(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    set(&mut response, "content-type", content_type);
    set(&mut response, "cache-control", headers::NO_CACHE);
    response
}

pub(super) fn text(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    set(&mut response, "content-type", headers::TEXT);
    response
}

pub(super) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "")
}

pub(super) fn not_allowed(methods: &'static str) -> Response {
    let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
    set(&mut response, "allow", methods);
    response
}

pub(super) fn iframe(page: &Iframe, request: &HeaderMap) -> Response {
    let known = request.get(header::IF_NONE_MATCH).and_then(|etag| etag.to_str().ok());
    let mut response = if known.is_some_and(|etag| page.is_known_to(etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(page.html.clone().into());
        set(&mut response, "content-type", headers::HTML);
        response
    };
    set(&mut response, "etag", &page.etag);
    for (name, value) in headers::CACHED {
        set(&mut response, name, value);
    }
    response
}

fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
