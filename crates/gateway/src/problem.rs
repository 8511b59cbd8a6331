//! Refusals over HTTP as problem details (RFC 9457), each with its remedy.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

/// A refusal: what is wrong and what to do about it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    #[serde(skip)]
    status_code: StatusCode,
    /// The stable code that clients switch on.
    code: &'static str,
    /// The status of HTTP.
    status: u16,
    /// What that status means.
    title: &'static str,
    /// What is wrong, where, and the remedy.
    detail: String,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    /// A refusal with `status`; `code` is stable, `detail` says what, where and the remedy.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status_code: status,
            code,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Refused"),
            detail: detail.into(),
            headers: Vec::new(),
            retry_after: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: &'static str) -> Self {
        self.with_value(name, HeaderValue::from_static(value))
    }

    /// Adds a header whose value is made.
    #[must_use]
    pub fn with_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when it may be tried again; `Retry-After` counts whole seconds, and not fewer than that.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        let seconds = HeaderValue::from(whole_seconds(after));
        self.headers.push((header::RETRY_AFTER, seconds));
        self
    }

    /// When it may be tried again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What is wrong and what to do about it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

/// As `Retry-After` counts: none too few, and at least one.
pub fn whole_seconds(after: Duration) -> u64 {
    (after.as_millis().div_ceil(1000) as u64).max(1)
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let headers = std::mem::take(&mut self.headers);
        let mut response = (self.status_code, Json(self)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(headers);
        response
    }
}
