//! How operations fail, as the document says it: one list for those that read or tell, and one for
//! those that publish.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Of what may be asked again.
pub(super) struct Refusals;

/// Of a publication.
pub(super) struct Unpublished;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        all(&[
            ("4XX", "It is not allowed, or not asked for as it must be; `code` says which"),
            ("503", "It can't be done now; try again"),
        ])
    }
}

impl IntoResponses for Unpublished {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        all(&[
            ("4XX", "It was refused; `code` says why"),
            ("503", "Nothing was published; try again"),
            ("504", "It may have been published; try again with a key"),
        ])
    }
}

/// Problem details, by status and what that means.
fn all(refusals: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let problem = || ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = |description: &str| {
        let response = ResponseBuilder::new().description(description);
        response.content("application/problem+json", problem()).build()
    };
    let refusals = refusals
        .iter()
        .map(|(status, description)| ((*status).to_owned(), RefOr::T(response(description))));
    refusals.collect()
}
