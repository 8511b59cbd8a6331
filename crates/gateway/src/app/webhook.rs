//! Messages for a webhook: asked over HTTP, answered in the same request.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanlight_engine::app::{AppFailure, AppHandler, AppMessage, AppReply};
use fanlight_engine::policy::AppKind;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::answer;
use crate::traces::{Context, TRACEPARENT};
use crate::webhook::payload::Payload;
use crate::webhook::{CallOptions, Webhook, WebhookError};

/// Asks a webhook.
pub(super) struct ByWebhook(pub(super) Arc<Webhook>);

/// What it is asked.
#[derive(Serialize)]
struct Asked<'m> {
    session: Option<String>,
    /// What a request over HTTP names in its place, as far as `only` goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_session: Option<String>,
    user: Option<&'m str>,
    roles: &'m [Box<str>],
    destination: &'m str,
    route: &'m str,
    variables: BTreeMap<&'m str, &'m str>,
    headers: BTreeMap<&'m str, &'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'m str>,
    #[serde(flatten)]
    payload: Option<Payload<'m>>,
}

impl<'m> Asked<'m> {
    fn of(message: &'m AppMessage) -> Self {
        let map = |pairs: &'m [(Box<str>, Box<str>)]| {
            // Of a repeated header the first counts.
            pairs.iter().rev().map(|(name, value)| (&**name, &**value)).collect()
        };
        let has_body = message.kind() == AppKind::Message;
        Self {
            session: message.session.map(|session| session.to_string()),
            answer_session: message.named_session().map(|session| session.to_string()),
            user: message.user(),
            roles: message.roles(),
            destination: message.destination().as_str(),
            route: message.permit.pattern(),
            variables: map(message.permit.variables()),
            headers: map(&message.headers),
            key: message.key.as_deref(),
            payload: has_body.then(|| Payload::of(&message.body, &message.content_type)),
        }
    }
}

impl AppHandler for ByWebhook {
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>> {
        let kind = match message.kind() {
            AppKind::Message => "message",
            AppKind::Request => "request",
        };
        let named = message.headers.iter().find(|(name, _)| **name == *TRACEPARENT);
        let traceparent = named.filter(|(_, value)| Context::parse(value).is_some());
        let options = CallOptions {
            // A backend may have done what it did not get to say.
            idempotent: false,
            id: Some(message.id.to_string().into()),
            at_unix_ms: Some(message.at_unix_ms),
            traceparent: traceparent.map(|(_, value)| value.clone()),
        };
        let call = self.0.call(kind, &Asked::of(&message), options);
        async move {
            let answer = call.await.map_err(failure)?;
            answer::read(&answer.body)
        }
        .boxed()
    }
}

/// What its sender is told of an answer that is not there; the log has more of it.
fn failure(error: WebhookError) -> AppFailure {
    match error {
        WebhookError::Timeout(_) => AppFailure::Timeout,
        WebhookError::Overloaded => AppFailure::Overloaded,
        WebhookError::BreakerOpen(_)
        | WebhookError::Forbidden(_)
        | WebhookError::Connect(_)
        | WebhookError::Ended => AppFailure::Unavailable,
        WebhookError::Refused { body, .. } => answer::refusal(&body),
        WebhookError::Broken(_) | WebhookError::Redirect(_) | WebhookError::Status(_) => {
            AppFailure::Failed
        }
        error @ (WebhookError::TooLarge
        | WebhookError::Malformed(_)
        | WebhookError::Unwritable(_)) => AppFailure::BadAnswer(error.to_string()),
    }
}
