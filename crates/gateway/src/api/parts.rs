//! What a request's path names, and what its query asks for.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::{Api, SEE_DOCUMENT};
use crate::problem::Problem;
use crate::transport::door;

/// The one part of a path that names something: a user or a session, decoded.
pub(super) struct Segment(pub(super) String);

/// What a query asks for.
pub(super) struct Asked<T>(pub(super) T);

impl FromRequestParts<Api> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, api).await;
        let Path(name) = path.map_err(|rejection| {
            let why = rejection.body_text();
            let detail = format!("the path is not as it must be: {why}; percent-encode the name");
            door::bad_request("bad_path", detail)
        })?;
        Ok(Self(name))
    }
}

impl<T: DeserializeOwned> FromRequestParts<Api> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, api).await;
        let Query(asked) = query.map_err(|rejection| {
            let detail = format!("{}; {SEE_DOCUMENT}", rejection.body_text());
            door::bad_request("bad_query", detail)
        })?;
        Ok(Self(asked))
    }
}
