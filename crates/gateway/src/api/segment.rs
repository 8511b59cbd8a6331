//! The one part of a path that names something.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::Api;
use crate::problem::Problem;
use crate::transport::door;

/// What a path names: a user or a session, decoded.
pub(super) struct Segment(pub(super) String);

impl FromRequestParts<Api> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, api).await;
        let Path(name) = path.map_err(|rejection| {
            let detail = format!("the path is not as it must be: {}", rejection.body_text());
            door::bad_request("bad_path", detail)
        })?;
        Ok(Self(name))
    }
}
