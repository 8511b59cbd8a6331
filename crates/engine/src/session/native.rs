//! The native protocol: what each client message asks for, and the messages that answer.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::native::{
    self, ClientMessage, Confirmed, NativeError, RequestId, ServerMessage, SessionLimits, is_json,
};
use fanlight_proto::{CloseReason, Destination};

use super::backlog::Input;
use super::connect::Connecting;
use super::headers;
use super::heartbeat::Beats;
use super::live::{Answer, Draft, Note, Work};
use super::presence::Page;
use super::queue::Consuming;
use super::recovery::Wanted;
use super::{Cx, Effect, Fault, Session};
use crate::auth::{Credentials, Token};
use crate::hook::Renewal;
use crate::hub::Wire;
use crate::limits::Limits;
use crate::queue::AckMode;
use crate::timeline::Start;

impl Session {
    pub(super) fn native_input(&mut self, cx: &mut Cx<'_>, text: &str) {
        let mut messages = native::parse(text);
        while !self.is_busy() && !self.is_closed() {
            let Some(message) = messages.next() else {
                return;
            };
            self.native_message(cx, message);
        }
        if self.is_busy() {
            let rest: VecDeque<_> = messages.map(|message| message.map(into_owned)).collect();
            if !rest.is_empty() {
                self.keep(Input::Native(rest));
            }
        }
    }

    pub(super) fn native_message(
        &mut self,
        cx: &mut Cx<'_>,
        message: Result<ClientMessage<'_>, NativeError>,
    ) {
        let (id, outcome) = match message {
            Ok(message) => (request_id(&message), self.native_request(cx, message)),
            Err(error) => {
                let id = error.request_id().cloned();
                let admitted = self.live_mut().map_or(Ok(()), |live| live.admit(cx, false));
                (id, admitted.and(Err(error.into())))
            }
        };
        if let Err(fault) = outcome {
            // Who has not connected gets no second try.
            let fault = if self.is_connected() { fault } else { fault.fatal() };
            self.native_fail(cx, &fault, id);
        }
    }

    fn native_admit(&mut self, cx: &Cx<'_>, is_send: bool) -> Result<(), Fault> {
        self.live_mut().ok_or_else(Fault::not_connected)?.admit(cx, is_send)
    }

    fn native_request(&mut self, cx: &mut Cx<'_>, message: ClientMessage<'_>) -> Result<(), Fault> {
        if let ClientMessage::Connect { token } = &message
            && !self.is_connected()
        {
            let token = token.as_deref().map(|token| Credentials::Token(Token::new(token)));
            return self.connect(cx, token, Connecting { beats: Beats::pinged() });
        }
        match &message {
            ClientMessage::Ack { .. } | ClientMessage::Nack { .. } if self.is_connected() => {}
            _ => self.native_admit(cx, matches!(message, ClientMessage::Send { .. }))?,
        }
        let (message, token) = take_token(message);
        let Some(token) = token else { return self.native_carry_out(cx, message) };
        let kept = message.clone();
        match self.native_carry_out(cx, message) {
            // What its own right does not allow, the capability may.
            Err(fault) if fault.is_denied() => {
                self.authorize_native(cx, &token, into_owned(kept));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Does what a request asks for that is admitted.
    pub(super) fn native_carry_out(
        &mut self,
        cx: &mut Cx<'_>,
        message: ClientMessage<'_>,
    ) -> Result<(), Fault> {
        match message {
            ClientMessage::Connect { .. } => Err(Fault::already_connected()),
            ClientMessage::Subscribe {
                to, since, history, presence, ack, prefetch, id, ..
            } => {
                let start = match (since, history) {
                    (Some(since), _) => Start::After(since),
                    (None, Some(newest)) => Start::Newest(newest),
                    (None, None) => Start::Now,
                };
                let consuming = consuming(ack.as_deref(), prefetch)?;
                // A message names the destination that its subscriber asked for.
                let wire = Wire::Native { named: is_named_user(&to) };
                let answer = Answer::to(id);
                let headers = Box::default();
                let wanted = Wanted::new(wire, start, presence, consuming, headers);
                self.subscribe(cx, &to, &to, wanted, answer).map_err(|(fault, _)| fault)
            }
            ClientMessage::Unsubscribe { to, id } => {
                self.unsubscribe(cx, &to)?;
                self.confirm(cx, Answer::to(id), Note::default());
                Ok(())
            }
            message @ ClientMessage::Send { .. } => self.native_send(cx, &message),
            ClientMessage::History { to, since, limit, id } => {
                self.ask_history(cx, &to, since, limit, id)
            }
            ClientMessage::Presence { to, cursor, limit, id } => {
                self.ask_members(cx, id, &to, Page { cursor: cursor.as_deref(), limit })
            }
            ClientMessage::Refresh { token, id } => {
                if self.principal().is_none() {
                    return Err(Fault::anonymous_refresh());
                }
                let token = Token::new(&token);
                // What a backend has made of a session, no token undoes without its word.
                let is_decided = cx.rules.hooks.refresh || cx.rules.hooks.connect;
                let effect = match self.principal().filter(|_| is_decided) {
                    Some(principal) => {
                        let principal = Arc::clone(principal);
                        Effect::Renew(Box::new(Renewal { principal, token: Some(token) }))
                    }
                    None => Effect::Authenticate(Credentials::Token(token)),
                };
                self.start(cx, Work::Refresh { id }, effect);
                Ok(())
            }
            ClientMessage::Ack { ids, id } => self.native_ack(cx, &ids, true, Answer::to(id)),
            ClientMessage::Nack { ids, id } => self.native_ack(cx, &ids, false, Answer::to(id)),
            ClientMessage::Ping { id } => {
                write(cx, &ServerMessage::Pong { id });
                Ok(())
            }
        }
    }

    fn native_send(&mut self, cx: &mut Cx<'_>, message: &ClientMessage<'_>) -> Result<(), Fault> {
        let draft = draft_of(message, &cx.rules.limits)?;
        let sending = self.sending(cx, draft)?;
        self.publish(cx, [sending].into(), Vec::new(), Answer::to(request_id(message)));
        Ok(())
    }

    pub(super) fn native_connected(&mut self, cx: &mut Cx<'_>) {
        let message = connected(self, cx);
        write(cx, &message);
    }

    pub(super) fn native_fail(&mut self, cx: &mut Cx<'_>, fault: &Fault, id: Option<RequestId>) {
        if self.is_closed() {
            return;
        }
        let ends = fault.ends(false, cx.rules.on_forbidden);
        write(cx, &error(fault, id));
        if ends {
            self.end(cx, fault.reason);
        }
    }

    /// Tells that the subscription to `to` has ended, and why.
    pub(super) fn native_ended(&self, cx: &mut Cx<'_>, fault: &Fault, to: &str) {
        if !self.is_closed() {
            let mut told = error(fault, None);
            if let ServerMessage::Error { to: ended, .. } = &mut told {
                *ended = Some(to.to_owned());
            }
            write(cx, &told);
        }
    }

    pub(super) fn native_reconnect(&mut self, cx: &mut Cx<'_>, after_ms: u64, reason: CloseReason) {
        let message = ServerMessage::Reconnect { after_ms, reason: reason.code().into() };
        write(cx, &message);
        self.end(cx, reason);
    }
}

impl Answer {
    pub(super) fn to(id: Option<RequestId>) -> Self {
        id.map_or(Self::Nobody, Self::Request)
    }
}

/// What a `send` wants published.
pub(super) fn draft_of<'m>(
    message: &'m ClientMessage<'_>,
    limits: &Limits,
) -> Result<Draft<'m>, Fault> {
    let ClientMessage::Send { to, body, content_type, headers, key, session, exclude_self, .. } =
        message
    else {
        return Err(Fault::internal());
    };
    if let Some(content_type) = content_type {
        headers::check_length("content-type", content_type, limits)?;
    }
    for (name, value) in headers {
        headers::check(name, value, limits)?;
    }
    let headers = headers.iter().map(|(name, value)| ((**name).into(), (**value).into()));
    Ok(Draft {
        to,
        body: body.clone(),
        content_type: content_type.as_deref().unwrap_or("application/json").into(),
        // Then it is a piece of the request, which is JSON itself.
        is_json: is_json(content_type.as_deref()),
        headers: headers.collect(),
        key: key.as_deref(),
        session: session.as_deref(),
        exclude_self: *exclude_self,
    })
}

pub(super) fn request_id(message: &ClientMessage<'_>) -> Option<RequestId> {
    match message {
        ClientMessage::Connect { .. } => None,
        ClientMessage::Subscribe { id, .. }
        | ClientMessage::Unsubscribe { id, .. }
        | ClientMessage::Send { id, .. }
        | ClientMessage::Refresh { id, .. }
        | ClientMessage::Ack { id, .. }
        | ClientMessage::Nack { id, .. }
        | ClientMessage::Ping { id } => id.clone(),
        ClientMessage::History { id, .. } | ClientMessage::Presence { id, .. } => Some(id.clone()),
    }
}

/// That the session is open.
pub(super) fn connected(session: &Session, cx: &Cx<'_>) -> ServerMessage {
    let principal = session.principal();
    let limits = &cx.rules.limits;
    ServerMessage::Connected {
        session: session.id.to_string(),
        user: principal.map(|principal| principal.user.to_string()),
        expires: principal
            .and_then(|principal| principal.expires_unix_s)
            .map(|expires| expires.saturating_mul(1000)),
        heartbeat_ms: cx.rules.heartbeats.native_ms,
        limits: SessionLimits {
            message_bytes: limits.message_bytes as u64,
            subscriptions: u32::try_from(limits.subscriptions).unwrap_or(u32::MAX),
        },
    }
}

/// That a request was refused, or that the session ends.
pub(super) fn error(fault: &Fault, id: Option<RequestId>) -> ServerMessage {
    ServerMessage::Error {
        id,
        code: Cow::Borrowed(fault.code),
        message: fault.text(),
        retry_after_ms: fault.retry_after_ms,
        to: None,
    }
}

/// Tells that a request was done.
pub(super) fn ok(cx: &mut Cx<'_>, id: RequestId, note: Note) {
    write(cx, &ServerMessage::Ok(confirmed(id, note)));
}

/// That a request was done.
pub(super) fn confirmed(id: RequestId, note: Note) -> Confirmed {
    Confirmed {
        message_id: note.message_id.map(|id| id.to_string()),
        degraded: note.degraded,
        duplicate: note.duplicate,
        epoch: note.position.map(|position| position.epoch_text()),
        offset: note.position.map(|position| position.offset),
        recovered: note.recovered,
        reason: note.reason.map(|reason| reason.code().into()),
        count: note.count,
        ..Confirmed::new(id)
    }
}

pub(super) fn write(cx: &mut Cx<'_>, message: &ServerMessage) {
    let mut payload = Vec::new();
    message.write(&mut payload);
    cx.effects.push(Effect::Write { text: true, payload });
}

/// What `subscribe` says of acknowledging.
fn consuming(ack: Option<&str>, prefetch: Option<u16>) -> Result<Consuming, Fault> {
    let only_queues = ack.is_some() || prefetch.is_some();
    let mode = AckMode::named(ack.unwrap_or("auto")).ok_or_else(Fault::unknown_ack_mode)?;
    Ok(Consuming { mode, prefetch, only_queues })
}

/// Whether the client named a user, be it itself.
pub(super) fn is_named_user(to: &str) -> bool {
    to.parse::<Destination>().is_ok_and(|to| to.kind() == DestinationKind::NamedUser)
}

/// The capability that a message is given with, and the message without it.
fn take_token(mut message: ClientMessage<'_>) -> (ClientMessage<'_>, Option<Cow<'_, str>>) {
    let token = match &mut message {
        ClientMessage::Subscribe { token, .. } | ClientMessage::Send { token, .. } => token.take(),
        _ => None,
    };
    (message, token)
}

/// The message apart from the text that it was read from.
fn into_owned(message: ClientMessage<'_>) -> ClientMessage<'static> {
    let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    match message {
        ClientMessage::Connect { token } => ClientMessage::Connect { token: token.map(owned) },
        ClientMessage::Subscribe { to, since, history, presence, ack, prefetch, token, id } => {
            let (to, ack, token) = (owned(to), ack.map(owned), token.map(owned));
            ClientMessage::Subscribe { to, since, history, presence, ack, prefetch, token, id }
        }
        ClientMessage::Unsubscribe { to, id } => ClientMessage::Unsubscribe { to: owned(to), id },
        ClientMessage::Send {
            to,
            body,
            content_type,
            headers,
            key,
            session,
            exclude_self,
            token,
            id,
        } => {
            let headers = headers.into_iter().map(|(name, value)| (owned(name), owned(value)));
            ClientMessage::Send {
                to: owned(to),
                body,
                content_type: content_type.map(owned),
                headers: headers.collect(),
                key: key.map(owned),
                session: session.map(owned),
                exclude_self,
                token: token.map(owned),
                id,
            }
        }
        ClientMessage::History { to, since, limit, id } => {
            ClientMessage::History { to: owned(to), since, limit, id }
        }
        ClientMessage::Presence { to, cursor, limit, id } => {
            ClientMessage::Presence { to: owned(to), cursor: cursor.map(owned), limit, id }
        }
        ClientMessage::Refresh { token, id } => ClientMessage::Refresh { token: owned(token), id },
        ClientMessage::Ping { id } => ClientMessage::Ping { id },
        ClientMessage::Ack { ids, id } => {
            ClientMessage::Ack { ids: ids.into_iter().map(owned).collect(), id }
        }
        ClientMessage::Nack { ids, id } => {
            ClientMessage::Nack { ids: ids.into_iter().map(owned).collect(), id }
        }
    }
}
