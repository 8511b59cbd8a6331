//! Messages for a stream in Redis, which backends consume.

use fanlight_engine::app::{AppFailure, AppHandler, AppMessage, AppReply};
use fanlight_engine::publication::SessionId;
use fanlight_redis::AppStream;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

/// Appends messages to a stream. Nothing comes back that way: backends answer through the server
/// API.
pub(super) struct Stream {
    stream: AppStream,
    node: String,
}

impl Stream {
    pub(super) fn new(stream: AppStream, node: String) -> Self {
        Self { stream, node }
    }
}

impl AppHandler for Stream {
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>> {
        let fields = fields(&message, &self.node);
        let words: Vec<&[u8]> =
            fields.iter().flat_map(|(name, value)| [name.as_bytes(), &value[..]]).collect();
        let appended = self.stream.append(&words);
        async move {
            appended.await.map_err(AppFailure::Undelivered)?;
            Ok(AppReply::nothing())
        }
        .boxed()
    }
}

/// The entry of a message: what is not there has no field.
fn fields(message: &AppMessage, node: &str) -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let object = |pairs: &[(Box<str>, Box<str>)]| {
        let pairs = pairs.iter().map(|(name, value)| (name.to_string(), Value::from(&**value)));
        // Of a repeated header the first counts.
        let object: Map<String, Value> = pairs.rev().collect();
        Value::Object(object).to_string().into_bytes()
    };
    let mut fields = vec![
        ("type", text("message")),
        ("id", text(&message.id.to_string())),
        ("at", text(&message.at_unix_ms.to_string())),
        ("node", text(node)),
        ("destination", text(message.destination().as_str())),
        ("route", text(message.permit.pattern())),
    ];
    let session = |name, session: Option<SessionId>| Some((name, text(&session?.to_string())));
    fields.extend(session("session", message.session));
    fields.extend(session("answer_session", message.named_session()));
    fields.extend(message.user().map(|user| ("user", text(user))));
    if !message.roles().is_empty() {
        let roles = message.roles().iter().map(|role| Value::from(&**role)).collect();
        fields.push(("roles", Value::Array(roles).to_string().into_bytes()));
    }
    if !message.permit.variables().is_empty() {
        fields.push(("variables", object(message.permit.variables())));
    }
    if !message.headers.is_empty() {
        fields.push(("headers", object(&message.headers)));
    }
    fields.extend(message.key.as_ref().map(|key| ("key", text(key))));
    let content_type = message.content_type.as_str();
    fields.extend(content_type.map(|content_type| ("content_type", text(content_type))));
    fields.push(("data", message.body.to_vec()));
    fields
}
