//! Hooks: what backends are asked before something happens in a session, and what they answer.

mod identity;
mod principal;
mod verdict;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanlight_engine::auth::{AuthError, Claims, Credentials, Principal, Token};
use fanlight_engine::broker::{Broker, Published};
use fanlight_engine::history::IdempotencyKey;
use fanlight_engine::hook::{
    Claimant, HookError, Introduction, Renewal, SessionHooks, SubscribeQuestion,
};
use fanlight_engine::policy::{Action, PublishPermit, Right};
use fanlight_engine::publication::{Publication, SessionId};
use fanlight_engine::session::Unpublished;
use fanlight_engine::time::Now;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, HeaderName};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Clock;
use crate::config::Config;
use crate::jwt::Authenticator;
use crate::traces;
use crate::webhook::payload::{Body, Payload};
use crate::webhook::{CallOptions, Webhook, WebhookError, Webhooks};

use identity::Identity;
use verdict::{Connected, Decided, read, shown};

/// Asks backends about sessions.
pub struct Hooks {
    webhooks: Arc<Webhooks>,
    authenticator: Arc<Authenticator>,
    clock: Clock,
    connect: Option<Arc<Webhook>>,
    refresh: Option<Arc<Webhook>>,
    forward_headers: Box<[HeaderName]>,
    message_max_bytes: usize,
}

/// Where a session is to begin.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The session, if there is to be one.
    pub session: Option<SessionId>,
    /// By what it comes, as metrics call it.
    pub transport: &'static str,
}

/// Something to publish that a backend has a say in.
pub struct Wish {
    /// The right to it.
    pub right: Right<PublishPermit>,
    /// What it is.
    pub publication: Publication,
    /// The publisher's name for it.
    pub once: Option<IdempotencyKey>,
    /// The session that wants it, if there is one.
    pub session: Option<SessionId>,
    /// Who wants it.
    pub principal: Option<Arc<Principal>>,
    /// Its span, if it is traced.
    pub traced: Option<traces::Publishing>,
    /// Whether its session has been ended for a revocation since.
    pub standing: Standing,
}

/// What a worker and something that waits for a backend both know of a session: whether it stands,
/// or was ended since because its token was revoked. Any other end changes nothing for what it had
/// sent before.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<AtomicBool>);

impl Standing {
    /// The session is ended for a revocation.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A session, as backends are told of it.
#[derive(Debug, Serialize)]
struct Whose<'w> {
    #[serde(serialize_with = "simple")]
    session: Option<SessionId>,
    user: Option<&'w str>,
    roles: &'w [Box<str>],
}

#[derive(Serialize)]
struct ConnectFields<'f> {
    #[serde(serialize_with = "simple")]
    session: Option<SessionId>,
    transport: &'static str,
    address: Option<IpAddr>,
    user: Option<&'f str>,
    claims: Option<&'f Claims>,
    token: Option<&'f str>,
    login: Option<&'f str>,
    passcode: Option<&'f str>,
    headers: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct RefreshFields<'f> {
    #[serde(flatten)]
    whose: Whose<'f>,
    claims: Option<&'f Claims>,
    token: Option<&'f str>,
}

#[derive(Serialize)]
struct SubscribeFields<'f> {
    #[serde(flatten)]
    whose: Whose<'f>,
    destination: &'f str,
    action: &'static str,
}

#[derive(Serialize)]
struct PublishFields<'f> {
    #[serde(flatten)]
    whose: Whose<'f>,
    destination: &'f str,
    #[serde(flatten)]
    payload: Payload<'f>,
    headers: serde_json::Map<String, serde_json::Value>,
}

impl Hooks {
    /// Those of `config`, whose names are those of `webhooks`.
    pub fn new(
        config: &Config,
        webhooks: Arc<Webhooks>,
        authenticator: Arc<Authenticator>,
        clock: Clock,
    ) -> Self {
        let forwarded = config.hooks.forward_headers.iter();
        Self {
            // No webhook has an empty name.
            connect: webhooks.named(&config.hooks.connect),
            refresh: webhooks.named(&config.hooks.refresh),
            forward_headers: forwarded.filter_map(|name| name.parse().ok()).collect(),
            message_max_bytes: config.limits.message.as_bytes(),
            webhooks,
            authenticator,
            clock,
        }
    }

    /// Which questions of sessions it answers.
    pub fn of_sessions(&self) -> SessionHooks {
        SessionHooks { connect: self.connect.is_some(), refresh: self.refresh.is_some() }
    }

    /// Whether a backend decides who connects: then a token that is none of ours is for it to
    /// check.
    pub fn decides_who_connects(&self) -> bool {
        self.connect.is_some()
    }

    /// What a backend is to be told of a request.
    pub fn introduction(
        &self,
        address: Option<IpAddr>,
        headers: &HeaderMap,
        token: Option<&str>,
    ) -> Option<Box<Introduction>> {
        self.connect.as_ref()?;
        let forwarded = self.forward_headers.iter().flat_map(|name| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.map(|value| (name.as_str().into(), value.into()))
        });
        let headers = forwarded.collect();
        Some(Box::new(Introduction { address, token: token.map(Token::new), headers }))
    }

    /// Whether a client may begin a session, and as whom; `None`: as nobody in particular.
    pub fn introduce(
        &self,
        claimant: Claimant,
        origin: Origin,
        now: Now,
    ) -> BoxFuture<'static, Result<Option<Arc<Principal>>, AuthError>> {
        let (authenticator, webhook) = (Arc::clone(&self.authenticator), self.connect.clone());
        async move {
            let identity = identity::of(&authenticator, &claimant, now).await?;
            // A service acts for many, and is let in by its passcode alone.
            let is_service = identity.principal.as_ref().is_some_and(|known| known.is_service);
            let Some(webhook) = webhook.filter(|_| !is_service) else {
                return Ok(identity.principal);
            };
            let introduction = claimant.introduction.unwrap_or_default();
            let fields = ConnectFields::of(origin, &identity, &introduction);
            let asked = webhook.call("connect", &fields, idempotent());
            drop(fields);
            let answer: Connected = read(asked.await, "connect").map_err(|_| UNAVAILABLE)?;
            let principal = principal::connected(answer, &identity, &authenticator)?;
            if principal.is_some() {
                // Of a user, all tokens may be revoked, and so whoever comes without one.
                authenticator.knows_revoked()?;
            }
            Ok(principal)
        }
        .boxed()
    }

    /// Whether a session may go on, and until when. Where no backend decides about that, the one
    /// that has let it in is asked anew, about the new token.
    pub fn renew(
        &self,
        renewal: Renewal,
        origin: Origin,
        now: Now,
    ) -> BoxFuture<'static, Result<Arc<Principal>, AuthError>> {
        let Renewal { principal: former, token } = renewal;
        let Some(webhook) = self.refresh.clone() else {
            let Some(token) = token else { return ready(Err(AuthError::Expired)).boxed() };
            return self.introduce_anew(token, origin, now);
        };
        let authenticator = Arc::clone(&self.authenticator);
        async move {
            let identity = identity::by_token(&authenticator, token.as_ref(), now).await?;
            let fields = RefreshFields {
                whose: Whose::of(origin.session, Some(&former)),
                claims: identity.claims.as_ref(),
                token: identity.token.as_ref().map(Token::as_str),
            };
            let asked = webhook.call("refresh", &fields, idempotent());
            let answer: Connected = read(asked.await, "refresh").map_err(|_| UNAVAILABLE)?;
            principal::renewed(answer, &former, &identity, &authenticator)
        }
        .boxed()
    }

    /// Asks about the client of a session as if it came anew, by another token. What its handshake
    /// said is not kept.
    fn introduce_anew(
        &self,
        token: Token,
        origin: Origin,
        now: Now,
    ) -> BoxFuture<'static, Result<Arc<Principal>, AuthError>> {
        let credentials = Some(Credentials::Token(token));
        let claimant = Claimant { credentials, principal: None, introduction: None };
        let introduced = self.introduce(claimant, origin, now);
        async move {
            let nobody = || AuthError::Rejected {
                reason: Some("the token is nobody's; connect again to change the user".into()),
            };
            introduced.await?.ok_or_else(nobody)
        }
        .boxed()
    }

    /// Whether a session may subscribe, or read what subscribers get. What is asked about together
    /// has to be agreed to together, and a refusal says what it is of.
    pub fn subscribe(
        &self,
        question: &SubscribeQuestion,
    ) -> BoxFuture<'static, Result<(), HookError>> {
        let SubscribeQuestion { hook, actions, session, principal, destination } = question;
        let Some(webhook) = self.webhooks.named(hook) else {
            return ready(Err(unavailable(None))).boxed();
        };
        let asked = actions.iter().map(|action| {
            let whose = Whose::of(Some(*session), principal.as_ref());
            let fields = SubscribeFields { whose, destination, action: name_of(action) };
            (action, webhook.call("subscribe", &fields, idempotent()))
        });
        let (asked, are_several): (Vec<_>, _) = (asked.collect(), actions.count() > 1);
        async move {
            for (action, answer) in asked {
                let consent = consent(answer.await, "subscribe").map(drop);
                let is_told = are_several && action != Action::Subscribe;
                consent.map_err(|error| if is_told { told_of(action, error) } else { error })?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Publishes once the backend agrees that has a say in it, in the way that it wants; unless its
    /// publisher's session or token, or the capability it came with, was revoked meanwhile.
    pub fn publish(
        &self,
        wish: Wish,
        broker: Arc<dyn Broker>,
    ) -> BoxFuture<'static, Result<Published, Unpublished>> {
        let asking = wish.traced.as_ref().map(traces::Publishing::ask);
        let context = asking.as_ref().map(traces::Asking::context);
        let context = context.or_else(|| traces::Context::of(&wish.publication));
        let asked = self.ask_to_publish(&wish, context);
        let (authenticator, clock) = (Arc::clone(&self.authenticator), self.clock);
        let Wish { right, mut publication, once, traced, principal, standing, .. } = wish;
        async move {
            let answer = asked.await;
            if let Some(asking) = asking {
                asking.answered(traces::decision(&answer.as_ref()), answer.is_ok());
            }
            if let Ok(Some(Body { body, content_type, is_json })) = &answer {
                publication.body.clone_from(body);
                publication.content_type.clone_from(content_type);
                publication.is_json = *is_json;
            }
            let revoked = revoked_since(&authenticator, clock.now(), &right, principal, &standing);
            let decided = right.decided(answer.map(drop)).map_err(Unpublished::from);
            let permit = match decided.and_then(|permit| revoked.map(|()| permit)) {
                Ok(permit) => permit,
                Err(error) => {
                    if let Some(traced) = traced {
                        traced.refused(traces::refusal(&error));
                    }
                    return Err(error);
                }
            };
            let publishing = match once {
                Some(once) => broker.publish_once(permit, publication, once),
                None => broker.publish(permit, publication),
            };
            traces::watched(traced, publishing).await.map_err(Into::into)
        }
        .boxed()
    }

    /// With what the backend wants published instead, if anything.
    fn ask_to_publish(
        &self,
        Wish { right, publication, session, principal, .. }: &Wish,
        context: Option<traces::Context>,
    ) -> BoxFuture<'static, Result<Option<Body>, HookError>> {
        let Some(webhook) = right.hook().and_then(|hook| self.webhooks.named(hook)) else {
            return ready(Err(unavailable(None))).boxed();
        };
        let content_type = publication.content_type.clone();
        let payload = Payload::of(&publication.body, &publication.content_type);
        let encoding = payload.encoding();
        let fields = PublishFields {
            whose: Whose::of(*session, principal.as_ref()),
            destination: publication.destination.as_str(),
            payload,
            headers: as_object(&publication.headers),
        };
        let traceparent = context.map(|context| context.to_string().into());
        let options = CallOptions { traceparent, ..idempotent() };
        let asked = webhook.call("publish", &fields, options);
        let max_bytes = self.message_max_bytes;
        let rewritten = move |answer| {
            let Some(data) = consent(answer, "publish")? else { return Ok(None) };
            let body = Body::read(&data, encoding, &content_type);
            let body = body.map_err(|error| failed(&error, "publish"))?;
            if body.body.len() > max_bytes {
                let error = WebhookError::Malformed("its data exceeds limits.message".into());
                return Err(failed(&error, "publish"));
            }
            Ok(Some(body))
        };
        asked.map(rewritten).boxed()
    }
}

/// What has been revoked of what something was to be published by.
fn revoked_since(
    authenticator: &Authenticator,
    now: Now,
    right: &Right<PublishPermit>,
    principal: Option<Arc<Principal>>,
    standing: &Standing,
) -> Result<(), Unpublished> {
    if standing.is_revoked() || principal.is_some_and(|own| authenticator.is_revoked(&own, now)) {
        return Err(Unpublished::Revoked);
    }
    match right.capability() {
        Some(own) if authenticator.is_capability_revoked(own, now) => {
            Err(Unpublished::CapabilityRevoked)
        }
        _ => Ok(()),
    }
}

impl<'w> Whose<'w> {
    fn of(session: Option<SessionId>, principal: Option<&'w Arc<Principal>>) -> Self {
        Self {
            session,
            user: principal.map(|principal| &*principal.user),
            roles: principal.map_or(&[], |principal| &*principal.roles),
        }
    }
}

impl<'f> ConnectFields<'f> {
    fn of(origin: Origin, identity: &'f Identity, introduction: &Introduction) -> Self {
        Self {
            session: origin.session,
            transport: origin.transport,
            address: introduction.address,
            user: identity.principal.as_ref().map(|principal| &*principal.user),
            claims: identity.claims.as_ref(),
            token: identity.token.as_ref().map(Token::as_str),
            login: identity.login.as_deref(),
            passcode: identity.passcode.as_ref().map(Token::as_str),
            headers: as_object(&introduction.headers),
        }
    }
}

/// What a backend wants published instead, if it agrees.
fn consent(
    answer: Result<crate::webhook::Answer, WebhookError>,
    kind: &'static str,
) -> Result<Option<Box<RawValue>>, HookError> {
    let decided: Decided = read(answer, kind).map_err(|error| failed_quietly(&error))?;
    if decided.allow {
        Ok(decided.data)
    } else {
        Err(HookError::Refused { reason: shown(decided.reason) })
    }
}

/// What backends know an action as.
fn name_of(action: Action) -> &'static str {
    match action {
        Action::Presence => "presence",
        Action::History => "history",
        Action::Subscribe | Action::Publish => "subscribe",
    }
}

/// A refusal that says what of several things it is of.
fn told_of(action: Action, error: HookError) -> HookError {
    match error {
        HookError::Refused { .. } => {
            HookError::Refused { reason: Some(format!("{}: {error}", name_of(action)).into()) }
        }
        error => error,
    }
}

fn failed(error: &WebhookError, kind: &'static str) -> HookError {
    tracing::warn!(kind, %error, "what a webhook has answered can't be used");
    failed_quietly(error)
}

/// That a backend has not decided. It has been logged.
fn failed_quietly(error: &WebhookError) -> HookError {
    match error {
        WebhookError::Timeout(_) => HookError::Timeout,
        error => unavailable(error.retry_after().map(|after| after.as_millis() as u64)),
    }
}

fn unavailable(retry_after_ms: Option<u64>) -> HookError {
    HookError::Unavailable { retry_after_ms: retry_after_ms.unwrap_or(RETRY_AFTER_MS) }
}

fn idempotent() -> CallOptions {
    CallOptions { idempotent: true, ..CallOptions::default() }
}

/// Names and values; of a name that comes several times, its values with commas between.
fn as_object(headers: &[(Box<str>, Box<str>)]) -> serde_json::Map<String, serde_json::Value> {
    let mut object = serde_json::Map::new();
    for (name, value) in headers {
        match object.get_mut(&**name) {
            Some(serde_json::Value::String(before)) => {
                before.push_str(if &**name == "cookie" { "; " } else { ", " });
                before.push_str(value);
            }
            _ => {
                object.insert(name.to_string(), value.to_string().into());
            }
        }
    }
    object
}

#[expect(clippy::ref_option, reason = "as serde passes it")]
fn simple<S: serde::Serializer>(id: &Option<SessionId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

const UNAVAILABLE: AuthError = AuthError::BackendUnavailable;
/// Where nothing better is known.
const RETRY_AFTER_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_name_are_one_value() {
        let header = |name: &str, value: &str| (name.into(), value.into());
        let headers =
            [header("cookie", "a=1"), header("cookie", "b=2"), header("x", "1"), header("x", "2")];
        let object = serde_json::to_string(&as_object(&headers)).unwrap();
        assert_eq!(object, r#"{"cookie":"a=1; b=2","x":"1, 2"}"#);
    }
}
