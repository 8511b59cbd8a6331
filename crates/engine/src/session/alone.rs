//! A publication that comes by itself, without a session, under the same rules as one of a session.

use std::sync::Arc;

use fanlight_proto::native::{self, ClientMessage};
use fanlight_proto::{CloseReason, DestinationError};

use super::app::{AppSender, app_message, check_headers, is_app, session_to_answer};
use super::capability;
use super::live::{Draft, Outgoing, Publisher, outgoing};
use super::native::draft_of;
use super::{Fault, Rules, Unpublished};
use crate::app::{AppBody, AppMessage};
use crate::auth::{AuthError, Capability, Principal, Token};
use crate::broker::PublishError;
use crate::history::{HistoryError, IdempotencyKey};
use crate::hook::HookError;
use crate::ids::Ids;
use crate::policy::{AppKind, Denied, PublishPermit, Right, Subject};
use crate::presence::PresenceError;
use crate::publication::{Publication, SessionId};
use crate::time::Now;

/// A publication with the right to publish it.
#[derive(Debug)]
pub struct Alone {
    /// The right.
    pub permit: Right<PublishPermit>,
    /// The publication.
    pub publication: Publication,
    /// The publisher's name for it.
    pub key: Option<IdempotencyKey>,
}

/// What a client sends by itself, with the right to.
#[derive(Debug)]
pub enum Sent {
    /// To subscribers.
    Publication(Box<Alone>),
    /// To a backend.
    App(Box<AppMessage>),
}

/// What a backend wants published: read once, for any number of destinations. Backends may publish
/// wherever there is a namespace.
#[derive(Debug)]
pub struct Letter<'t>(ClientMessage<'t>);

/// The backend that publishes.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'s> {
    /// As what the keys of its publications count.
    pub name: &'s str,
    /// Its name for the publication, which may itself have the same one, or none.
    pub key: Option<&'s str>,
    /// Of a user's sessions, the only one to get it; then the publication itself names none.
    pub session: Option<&'s str>,
}

/// Why it is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code, as in the native protocol's `error`.
    pub code: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
    /// Whose fault it is, roughly.
    pub reason: CloseReason,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Sent {
    /// The capability that a `send` is given with.
    pub fn token_of(text: &str) -> Option<Token> {
        match native::parse_send(text) {
            Ok(ClientMessage::Send { token: Some(token), .. }) => Some(Token::new(&token)),
            _ => None,
        }
    }

    /// Reads the native protocol's `send`, whose `type` may be left out, of a client who is
    /// `principal` and may do what `capability` grants.
    pub fn read(
        rules: &Rules,
        ids: &mut Ids,
        now: Now,
        principal: Option<&Arc<Principal>>,
        capability: Option<&Arc<Capability>>,
        text: &str,
    ) -> Result<Self, Refusal> {
        let own = Subject::new(principal.map(|principal| &**principal), ids.session(now));
        let sender = Subject { capability: capability.map(|own| &own.grants), ..own };
        let mut read = || {
            let message = native::parse_send(text)?;
            let draft = draft_of(&message, &rules.limits)?;
            if is_app(draft.to) {
                let answer_session = session_to_answer(draft.session, principal)?;
                let sender = AppSender { subject: &sender, principal };
                let draft = Draft { session: None, ..draft };
                let message = app_message(rules, ids, now, &sender, AppKind::Message, draft)?;
                // It comes from no session, whichever it says is to be answered.
                let message = AppMessage { session: None, answer_session, ..message };
                return Ok(Self::App(Box::new(message)));
            }
            // Its session is no other request's, so the same key would be another one each time.
            if principal.is_none() && draft.key.is_some() {
                return Err(Fault::key_without_user());
            }
            if draft.exclude_self {
                return Err(Fault::exclude_self_without_session());
            }
            let outgoing = outgoing(rules, ids, now, Publisher::Client(&sender), draft)?;
            let permit = outgoing.permit.by(capability);
            Ok(Self::Publication(Box::new(Outgoing { permit, ..outgoing }.into())))
        };
        Ok(read()?)
    }
}

impl<'t> Letter<'t> {
    /// Reads the native protocol's `send`, whose `type` may be left out.
    pub fn read(rules: &Rules, text: &'t str) -> Result<Self, Refusal> {
        let message = native::parse_send(text).map_err(Fault::from)?;
        if let ClientMessage::Send { token: Some(_), .. } = &message {
            return Err(Fault::needless_capability().into());
        }
        let limit = rules.limits.message_bytes;
        if draft_of(&message, &rules.limits)?.body.len() > limit {
            return Err(Fault::message_too_large(limit).into());
        }
        Ok(Self(message))
    }

    /// Where it says that it goes.
    pub fn to(&self) -> &str {
        match &self.0 {
            ClientMessage::Send { to, .. } => to,
            _ => "",
        }
    }

    /// One copy of it, for the destination `to`.
    pub fn addressed(
        &self,
        rules: &Rules,
        ids: &mut Ids,
        now: Now,
        sender: &Sender<'_>,
        to: &str,
    ) -> Result<Alone, Refusal> {
        let draft = draft_of(&self.0, &rules.limits)?;
        if is_app(to) {
            return Err(Refusal::of_app(to));
        }
        if draft.session.is_some() && sender.session.is_some() {
            return Err(Fault::session_named_twice().into());
        }
        if let (Some(of_request), Some(of_message)) = (sender.key, draft.key)
            && of_request != of_message
        {
            return Err(Fault::two_keys(of_request, of_message).into());
        }
        let (key, session) = (draft.key.or(sender.key), draft.session.or(sender.session));
        let draft = Draft { to, key, session, ..draft };
        let outgoing = outgoing(rules, ids, now, Publisher::Backend(sender.name), draft);
        Ok(outgoing.map_err(|fault| Refusal::of(fault, to))?.into())
    }
}

/// What `principal` may use of a capability, or why it may use nothing.
pub fn usable(
    capability: Result<Arc<Capability>, AuthError>,
    principal: Option<&Principal>,
    now: Now,
) -> Result<Arc<Capability>, Refusal> {
    let usable = capability.and_then(|known| capability::check(known, principal, now));
    usable.map_err(|error| Fault::bad_capability(&error).into())
}

/// Refuses headers that a handler may not set.
pub(crate) fn check_headers_of_app(body: &AppBody, rules: &Rules) -> Result<(), Refusal> {
    Ok(check_headers(body, rules)?)
}

/// What a handler sends to `to`, which is absolute, and of a user's sessions only to `session`.
pub(crate) fn addressed_by_app(
    rules: &Rules,
    ids: &mut Ids,
    now: Now,
    to: &str,
    session: Option<SessionId>,
    body: AppBody,
) -> Result<(PublishPermit, Publication), Refusal> {
    let session = session.map(|session| session.to_string());
    let draft = Draft {
        to,
        body: body.body,
        content_type: body.content_type,
        is_json: body.is_json,
        headers: body.headers,
        key: None,
        session: session.as_deref(),
        exclude_self: false,
    };
    let outgoing = outgoing(rules, ids, now, Publisher::Backend("app"), draft);
    let Outgoing { permit, publication, .. } = outgoing.map_err(|fault| Refusal::of(fault, to))?;
    // No hook is asked about what a backend sends.
    let permit = permit.permit().map_err(|_| Fault::internal())?;
    Ok((permit, publication))
}

impl From<Outgoing> for Alone {
    fn from(Outgoing { permit, publication, key }: Outgoing) -> Self {
        Self { permit, publication, key }
    }
}

impl Refusal {
    /// That a backend has not agreed to something with `to`.
    pub fn by_hook(error: HookError, to: &str) -> Self {
        Self::of(error.into(), to)
    }

    /// Of what a backend asks of the destination `to`, which is in `/app`.
    pub fn of_app(to: &str) -> Self {
        Self::of(Fault::app_of_backend(), to)
    }

    /// One that says which destination it is about, as far as that is of a sensible length.
    pub(super) fn of(fault: Fault, to: &str) -> Self {
        let shown: String = to.chars().take(SHOWN_MAX).collect();
        let refusal = Self::from(fault);
        Self { message: format!("{shown}: {}", refusal.message), ..refusal }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code,
            message: fault.text(),
            reason: fault.reason,
            retry_after_ms: fault.retry_after_ms,
        }
    }
}

macro_rules! refused_as_in_a_session {
    ($($error:ty),+) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Fault::from(error).into()
            }
        })+
    };
}
refused_as_in_a_session!(
    PublishError,
    Unpublished,
    HistoryError,
    PresenceError,
    Denied,
    DestinationError
);

/// How much of a destination a message shows.
const SHOWN_MAX: usize = 200;
