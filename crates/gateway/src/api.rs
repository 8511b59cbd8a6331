//! The server API: what backends ask of the cluster, over HTTP and with a key (design §9).

mod caller;
#[expect(unused_qualifications, reason = "as the macros of the document write them")]
mod messages;
mod parts;
#[expect(unused_qualifications, reason = "as the macros of the document write them")]
mod reads;
mod refusals;
mod revoke;
mod sessions;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body;
use crate::node::Node;
use crate::problem::Problem;
use crate::transport::door;

pub use caller::Keys;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    node: Arc<Node>,
    keys: Arc<Keys>,
}

/// The API's routes, for who has one of `keys`.
pub fn routes(node: &Arc<Node>, keys: Keys) -> Router {
    let (router, document) = documented();
    let document = Bytes::from(document);
    let document = async move || ([(header::CONTENT_TYPE, "application/json")], document);
    let api = Api { node: Arc::clone(node), keys: Arc::new(keys) };
    router
        .route("/api/v1/openapi.json", get(document))
        .route_layer(middleware::from_fn(count))
        .fallback(async || {
            let detail = "there is nothing here; /api/v1/openapi.json tells what there is";
            Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
        })
        .method_not_allowed_fallback(async || {
            let detail = "not with this method; /api/v1/openapi.json tells with which";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .with_state(api)
}

/// The `OpenAPI` document, as it is served.
pub fn document() -> String {
    documented().1
}

fn documented() -> (Router<Api>, String) {
    let operations = OpenApiRouter::new()
        .routes(routes!(messages::publish))
        .routes(routes!(messages::broadcast))
        .routes(routes!(messages::batch))
        .routes(routes!(messages::send_to_user))
        .routes(routes!(messages::send_to_session))
        .routes(routes!(reads::history, reads::remove_history))
        .routes(routes!(reads::presence))
        .routes(routes!(reads::presence_stats))
        .routes(routes!(reads::namespaces))
        .routes(routes!(reads::cluster))
        .routes(routes!(users::status))
        .routes(routes!(users::user))
        .routes(routes!(users::subscribe))
        .routes(routes!(users::unsubscribe))
        .routes(routes!(users::disconnect_user))
        .routes(routes!(users::disconnect_session))
        .routes(routes!(sessions::session))
        .routes(routes!(revoke::revoke));
    let router = OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", operations);
    let (router, document) = router.split_for_parts();
    let text = document.to_pretty_json().expect("a document of texts and numbers is JSON");
    (router, text + "\n")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fanlight server API",
        description = "What backends ask of a Fanlight cluster. Every node answers for all of them. \
                       Errors are problem details (RFC 9457), whose `code` is stable. What is not \
                       here is answered with 404 `not_found`, and what is here, but not with the \
                       method, with 405 `method_not_allowed`.",
        license(name = "Apache-2.0 OR MIT"),
        contact(),
    ),
    components(schemas(Problem)),
    modifiers(&Components),
    security(("key" = [])),
)]
struct Document;

/// The key that every operation needs, and an example of each refusal.
struct Components;

impl Modify for Components {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let description = "One of `api.keys`; `X-API-Key` does as well.";
        let bearer =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(bearer.build()));
        components.examples.extend(refusals::examples());
    }
}

async fn count(path: MatchedPath, request: Request, next: Next) -> Response {
    let method = match *request.method() {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    };
    let response = next.run(request).await;
    let result = match response.status().as_u16() {
        200..300 => "2xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let path = path.as_str().to_owned();
    let labels = [("path", path), ("method", method.into()), ("result", result.into())];
    metrics::counter!("fanlight_api_requests_total", &labels).increment(1);
    response
}

impl Api {
    /// The body of a request, in whole.
    async fn body(&self, body: axum::body::Body) -> Result<Bytes, Problem> {
        let (limit, time) = (&self.node.config.api.max_body, &self.node.config.limits);
        let read = body::read(body, limit.as_bytes(), time.request_body_time.0).await;
        read.map_err(|unread| match unread {
            body::Unread::TooLarge => {
                let detail = "the body exceeds api.max_body; send less at once";
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            other => door::unread_body(other),
        })
    }

    /// The same as a value of JSON.
    async fn read<T: DeserializeOwned>(&self, body: axum::body::Body) -> Result<T, Problem> {
        parse(&self.body(body).await?)
    }
}

fn parse<'b, T: serde::Deserialize<'b>>(body: &'b [u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        let detail = format!("the body is not as it must be: {at}{inner}; {SEE_DOCUMENT}");
        door::bad_request("bad_body", detail)
    })?;
    json.end().map_err(|error| {
        door::bad_request("bad_body", format!("the body is not one JSON value: {error}"))
    })?;
    Ok(value)
}

/// Where it says what an operation takes.
const SEE_DOCUMENT: &str = "/api/v1/openapi.json has what it takes";

#[cfg(test)]
mod tests;
