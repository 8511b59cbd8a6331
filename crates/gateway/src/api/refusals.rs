//! How operations fail, as the document says it: of each the codes it may answer with, their
//! statuses, and what to do.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Codes that come together.
type Codes = &'static [&'static str];

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: [$($codes:expr),+];)+) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses(&[$($codes),+])
            }
        }
    )+};
}

refusals! {
    /// Of what only reads what the node knows.
    OfNode: [ANY];
    /// Of a history that is read.
    OfHistory: [ANY, DESTINATION, &["bad_query", "bad_position", "no_history", "unavailable"]];
    /// Of a history that is removed.
    OfRemoval: [ANY, DESTINATION, &["bad_query", "no_history", "unavailable"]];
    /// Of who is at a destination.
    OfPresence: [ANY, DESTINATION, &["bad_query", "bad_cursor", "unavailable"]];
    /// Of one message.
    OfMessage: [ANY, BODY, MESSAGE, PUBLISHED];
    /// Of one message to whom the path names.
    OfMessageTo: [ANY, BODY, PATH, MESSAGE, PUBLISHED, &["bad_query"]];
    /// Of one message to many destinations, of which each has an outcome of its own.
    OfBroadcast: [ANY, BODY, MESSAGE];
    /// Of many messages, of which each has an outcome of its own.
    OfBatch: [ANY, BODY, &["bad_key"]];
    /// Of the sessions of users.
    OfUsers: [ANY, BODY, &["bad_request", "unavailable"]];
    /// Of the sessions of one user.
    OfUser: [ANY, PATH, &["bad_request", "unavailable"]];
    /// Of one session.
    OfSession: [ANY, PATH, &["bad_session", "no_session", "unavailable"]];
    /// Of what a user's sessions are to subscribe to, or not any more.
    OfSubscription: [ANY, BODY, PATH, DESTINATION, &["bad_request", "unavailable"]];
    /// Of what a user's sessions are to do.
    OfUserOrder: [ANY, BODY, PATH, &["bad_request", "unavailable"]];
    /// Of what one session is to do.
    OfSessionOrder: [ANY, BODY, PATH, &["bad_request", "bad_session", "unavailable"]];
    /// Of a revocation.
    OfRevocation: [ANY, BODY, &["bad_request", "bad_session", "unavailable", "full"]];
}

const ANY: Codes =
    &["host", "unauthorized", "forbidden", "foreign_origin", "rate_limited", "head_too_large"];
const BODY: Codes = &["bad_body", "request_timeout", "too_large"];
const PATH: Codes = &["bad_path"];
const DESTINATION: Codes = &["bad_destination", "no_handler"];
const MESSAGE: Codes = &[
    "protocol_error",
    "limit_exceeded",
    "bad_destination",
    "no_handler",
    "bad_header",
    "bad_key",
    "bad_session",
    "bad_exclusion",
    "bad_capability",
];
const PUBLISHED: Codes = &["key_reused", "unavailable", "overloaded", "queue_full", "unknown"];

/// Each code with its status and what to do.
pub(super) const ALL: [(&str, u16, &str); 33] = [
    ("bad_body", 400, "the body is not the JSON that it must be: mend it where `detail` says"),
    ("bad_capability", 400, "a backend publishes by its key: leave the `token` out"),
    ("bad_cursor", 400, "the `cursor` is not good any more: begin again without one"),
    ("bad_destination", 400, "this is no destination, or none for this: see `detail`"),
    ("bad_exclusion", 400, "a backend has no session to exclude: leave `exclude_self` out"),
    ("bad_header", 400, "a header of the message is the server's own: choose another name"),
    (
        "bad_key",
        400,
        "an idempotency key has 1 to 128 bytes, a message one only, and a batch none: use a UUID",
    ),
    ("bad_path", 400, "the path has what is not UTF-8: escape the name in it"),
    ("bad_position", 400, "`since` is a position as it was told before, `epoch:offset`"),
    ("bad_query", 400, "a parameter is missing, unknown or out of its bounds: see `detail`"),
    ("bad_request", 400, "a name or a number is out of its bounds: see `detail`"),
    ("bad_session", 400, "a session is named by its id, a UUID, and only some of a user's can be"),
    ("host", 400, "a request of HTTP/1.1 has one `Host`"),
    ("limit_exceeded", 400, "a name is too long, or there are too many headers: see `detail`"),
    ("protocol_error", 400, "the message is not as it must be: mend it where `detail` says"),
    ("unauthorized", 401, "send a key of `api.keys`"),
    ("forbidden", 403, "the key lacks the scope or the destination, or no namespace has it"),
    ("foreign_origin", 403, "a web page may not ask: have its backend ask"),
    ("no_handler", 403, "`/app` is between clients and backends: name another destination"),
    ("no_history", 403, "the namespace keeps no history: give it `history`"),
    ("not_found", 404, "there is no such path: see `paths`"),
    ("no_session", 404, "no connected session has this id: it has ended, or never was"),
    ("method_not_allowed", 405, "the path has other methods: see `Allow`"),
    ("request_timeout", 408, "the body did not come in time: send it again"),
    (
        "too_large",
        413,
        "send less at once (`api.max_body`), or smaller messages (`limits.message`)",
    ),
    ("key_reused", 422, "the key names another message: give each message a key of its own"),
    ("rate_limited", 429, "wait for `Retry-After`: the key's rate is spent, or no good key came"),
    ("head_too_large", 431, "the request has too many headers, or too long ones: send fewer"),
    ("overloaded", 503, "too much waits for the broker, nothing was published: try again"),
    ("queue_full", 503, "the queue is full, nothing was published: try again once it is shorter"),
    ("unavailable", 503, "Redis or a node can't be reached, nothing was published: try again"),
    ("unknown", 504, "it may have been published: try again with the same idempotency key"),
    ("full", 507, "as much is revoked as `limits.revocations` allows: raise it, or wait"),
];

/// Problem details of these codes, by status.
fn responses(codes: &[Codes]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for &code in codes.iter().copied().flatten() {
        by_status.entry(status_of(code)).or_default().push(code);
    }
    let response = |(status, codes): (u16, Vec<&str>)| {
        let examples = codes.iter().map(|code| {
            let example = Ref::new(format!("#/components/examples/{code}"));
            (*code, RefOr::<Example>::Ref(example))
        });
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .examples_from_iter(examples)
            .build();
        let named: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
        let mut response = ResponseBuilder::new()
            .description(named.join(", "))
            .content("application/problem+json", problem);
        if matches!(status, 429 | 503) {
            response = response.header("Retry-After", retry_after());
        }
        (status.to_string(), RefOr::T(response.build()))
    };
    by_status.into_iter().map(response).collect()
}

/// An example of each, under its code.
pub(super) fn examples() -> impl Iterator<Item = (String, RefOr<Example>)> {
    ALL.into_iter().map(|(code, status, meaning)| {
        let title = http::StatusCode::from_u16(status).ok().and_then(|own| own.canonical_reason());
        let value = json!({ "code": code, "status": status, "title": title, "detail": meaning });
        let example = ExampleBuilder::new().summary(meaning).value(Some(value));
        (code.to_owned(), RefOr::T(example.build()))
    })
}

fn retry_after() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer);
    HeaderBuilder::new()
        .schema(Some(seconds.build()))
        .description(Some("When to try again, in seconds"))
        .build()
}

fn status_of(code: &str) -> u16 {
    let known = ALL.into_iter().find(|(known, ..)| *known == code);
    known.expect("a test looks at all codes").1
}
