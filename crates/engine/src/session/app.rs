//! What a session has handled by backends: sends and subscriptions to `/app/...`.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::native::{RequestId, ServerMessage};
use fanlight_proto::{CloseReason, Destination};
use serde::Serialize;

use super::headers;
use super::live::{Answer, Draft, Note, Publishing, Work};
use super::recovery::Wanted;
use super::{Codec, Cx, Effect, Fault, Rules, Session, native};
use crate::app::{AppBody, AppFailure, AppMessage, AppOutcome, KEY_MAX_BYTES};
use crate::auth::Principal;
use crate::broker::Channel;
use crate::history::Lost;
use crate::hub::Wire;
use crate::ids::Ids;
use crate::policy::{AppKind, Denied, Subject};
use crate::publication::{ContentType, Publication, PublicationId, SessionId};
use crate::time::Now;
use crate::timeline::Start;

/// What only this session is told, by no broker.
#[derive(Debug)]
pub struct Telling {
    /// What it is told.
    pub publication: Arc<Publication>,
    /// By which of its subscriptions.
    pub to: Told,
}

/// By which of its subscriptions a session is told something.
#[derive(Debug)]
pub enum Told {
    /// By those to the publication's destination, which comes on this channel.
    Subscribed(Channel),
    /// By one that is none: it has asked for this answer.
    Asked(AskedWire),
}

/// How a session wants an answer written.
#[derive(Debug)]
pub enum AskedWire {
    /// As native JSON.
    Native,
    /// As an event, or to who polls as native JSON.
    Events,
    /// As a MESSAGE.
    Stomp {
        /// The session's version.
        version: fanlight_proto::stomp::Version,
        /// What its client calls the subscription.
        id: Box<str>,
    },
}

/// A subscription to `/app/...` on its way to its answer.
#[derive(Debug)]
pub(super) struct Requesting {
    answer: Answer,
    message: PublicationId,
    to: Destination,
    wire: AskedWire,
    start: Start,
}

/// A message to `/app/...` that is being handled.
#[derive(Debug)]
pub(super) struct Handling {
    message: PublicationId,
    to: Destination,
    key: Option<Box<str>>,
}

/// What a backend did not do, by all that its client can tell it by.
struct Failed<'f> {
    to: &'f Destination,
    /// The client's name for the message.
    key: Option<&'f str>,
    /// What it calls the subscription that was to be answered.
    subscription: Option<&'f str>,
    /// Where it would be told that all went well.
    answer: &'f Answer,
}

/// The same as the client is told it; what it did not give is not there.
#[derive(Serialize)]
struct Failure<'f> {
    code: &'f str,
    message: String,
    destination: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'f RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// Whether a destination is a backend's.
pub(super) fn is_app(to: &str) -> bool {
    to.starts_with("/app/")
}

impl Session {
    /// The message that `draft` asks to have handled, if a route has it.
    pub(super) fn app_message(
        &self,
        cx: &mut Cx<'_>,
        kind: AppKind,
        draft: Draft<'_>,
    ) -> Result<AppMessage, Fault> {
        if draft.session.is_some() {
            return Err(Fault::not_for_one_session());
        }
        let sender = AppSender { subject: &self.subject(), principal: self.principal() };
        app_message(cx.rules, cx.ids, cx.now, &sender, kind, draft)
    }

    /// Asks for the one answer that a subscription to `/app/...` is.
    pub(super) fn request(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        to: &str,
        wanted: Wanted<Wire<'_>>,
        answer: Answer,
    ) -> Result<(), (Fault, Answer)> {
        let Wanted { wire, start, headers, consuming, presence, .. } = wanted;
        let wire = match wire {
            Wire::Native { .. } => AskedWire::Native,
            Wire::Stomp { version, id, .. } => AskedWire::Stomp { version, id: id.into() },
            Wire::Events { .. } => AskedWire::Events,
        };
        let draft = Draft {
            to,
            body: Bytes::new(),
            content_type: ContentType::Unspecified,
            is_json: false,
            headers,
            key: None,
            session: None,
            exclude_self: false,
        };
        let admitted = match self.live_mut() {
            None => Err(Fault::not_connected()),
            Some(_) if consuming.only_queues => Err(Fault::not_a_queue()),
            Some(_) if presence => Err(Denied::AppPresence.into()),
            Some(live) if live.subscriptions.contains(id) => Err(Fault::already_subscribed()),
            // It costs a backend what a message does.
            Some(live) => live.admit(cx, true),
        };
        let message = admitted.and_then(|()| self.app_message(cx, AppKind::Request, draft));
        let (message, answer) = answer.along(message)?;
        if let Some(live) = self.live_mut().filter(|_| !matches!(wire, AskedWire::Events)) {
            live.count_request();
        }
        let to = message.destination().clone();
        let requesting = Requesting { answer, message: message.id, to, wire, start };
        self.start(cx, Work::Request(requesting), Effect::App(Box::new(message)));
        Ok(())
    }

    pub(super) fn on_answered(
        &mut self,
        cx: &mut Cx<'_>,
        requesting: Requesting,
        result: Result<Option<AppBody>, AppFailure>,
    ) {
        let Requesting { answer, message, to, wire, start } = requesting;
        let reply = match result {
            Ok(reply) => reply,
            Err(failure) => {
                let subscription = match &wire {
                    AskedWire::Native | AskedWire::Events => None,
                    AskedWire::Stomp { id, .. } => Some(&**id),
                };
                let failed = Failed { to: &to, key: None, subscription, answer: &answer };
                return self.app_failed(cx, &failure, &failed);
            }
        };
        if let Some(body) = reply {
            let publication = Arc::new(body.publication(message, to, cx.now));
            let to = Told::Asked(wire);
            cx.effects.push(Effect::Tell(Box::new(Telling { publication, to })));
        }
        let asks_for_more = start != Start::Now;
        let note = Note {
            recovered: matches!(start, Start::After(_) | Start::Resume(_)).then_some(false),
            reason: asks_for_more.then_some(Lost::NoHistory),
            count: asks_for_more.then_some(0),
            ..Note::default()
        };
        self.confirm(cx, answer, note);
    }

    pub(super) fn on_handled(
        &mut self,
        cx: &mut Cx<'_>,
        mut publishing: Publishing,
        result: Result<Option<AppBody>, AppFailure>,
    ) {
        let Some(Handling { message, to, key }) = publishing.handling.take() else {
            return self.refuse(cx, &Fault::internal(), &publishing.answer);
        };
        let failed =
            Failed { to: &to, key: key.as_deref(), subscription: None, answer: &publishing.answer };
        match result {
            Ok(_) => {
                publishing.published += 1;
                let note = Note { message_id: Some(message), ..Note::default() };
                self.publish_next(cx, publishing, note);
            }
            Err(failure) if publishing.is_alone() => {
                self.app_failed(cx, &failure, &failed);
            }
            Err(failure) => {
                self.tell_failure(cx, &failure, &failed);
                let fault = Fault::commit_not_handled(&failure, publishing.published);
                self.refuse(cx, &fault, &publishing.answer);
            }
        }
    }

    /// Tells that a backend did not do what was asked. STOMP's ERROR would end the connection, so
    /// it gets no frame of its own, and no RECEIPT.
    fn app_failed(&mut self, cx: &mut Cx<'_>, failure: &AppFailure, failed: &Failed<'_>) {
        self.tell_failure(cx, failure, failed);
        let id = match failed.answer {
            Answer::Request(id) => Some(id.clone()),
            Answer::Nobody => None,
            Answer::Joined(index) => Some(u64::from(*index).into()),
            Answer::Receipt(_) | Answer::ByServer(_) => return,
        };
        let error = ServerMessage::Error {
            id,
            code: failure.code().to_owned().into(),
            message: failure.to_string(),
            retry_after_ms: failure.retry_after_ms(),
            to: None,
        };
        match self.codec {
            Codec::Native => native::write(cx, &error),
            Codec::Events(_) => {
                let is_refused = matches!(failure, AppFailure::Refused(_));
                let reason =
                    if is_refused { CloseReason::Forbidden } else { CloseReason::Unavailable };
                self.events_end(cx, &error, reason);
            }
            Codec::Stomp { .. } | Codec::Undecided => {}
        }
    }

    /// Where Spring's clients look for it: `/user/queue/errors` of the session that asked.
    fn tell_failure(&self, cx: &mut Cx<'_>, failure: &AppFailure, failed: &Failed<'_>) {
        let own = cx.rules.policy.own(&self.subject(), ERRORS);
        let Some((destination, channel)) = own else { return };
        let (receipt, request) = match failed.answer {
            Answer::Receipt(receipt) => (Some(&**receipt), None),
            Answer::Request(id) => (None, Some(id)),
            Answer::Nobody | Answer::Joined(_) | Answer::ByServer(_) => (None, None),
        };
        let told = Failure {
            code: failure.code(),
            message: failure.to_string(),
            destination: failed.to.as_str(),
            key: failed.key,
            receipt,
            id: request,
            subscription: failed.subscription,
            retry_after_ms: failure.retry_after_ms(),
        };
        let body = serde_json::to_string(&told).expect("it has no maps, and its id is JSON");
        let id = cx.ids.publication(cx.now);
        let publication = Arc::new(AppBody::of_json(body).publication(id, destination, cx.now));
        let to = Told::Subscribed(channel);
        cx.effects.push(Effect::Tell(Box::new(Telling { publication, to })));
    }
}

/// Who sends something to `/app/...`.
pub(super) struct AppSender<'s> {
    pub(super) subject: &'s Subject<'s>,
    pub(super) principal: Option<&'s Arc<Principal>>,
}

/// The message that `draft` asks to have handled, if a route has it and the session `sender` may use
/// it.
pub(super) fn app_message(
    rules: &Rules,
    ids: &mut Ids,
    now: Now,
    sender: &AppSender<'_>,
    kind: AppKind,
    draft: Draft<'_>,
) -> Result<AppMessage, Fault> {
    if draft.exclude_self {
        return Err(Fault::exclude_self_in_app());
    }
    let destination = read_destination(rules, draft.to)?;
    let permit = rules.policy.app(sender.subject, kind, &destination)?;
    if draft.key.is_some_and(|key| key.is_empty() || key.len() > KEY_MAX_BYTES) {
        return Err(Fault::bad_key(KEY_MAX_BYTES));
    }
    Ok(AppMessage {
        permit,
        id: ids.publication(now),
        session: Some(sender.subject.session),
        answer_session: Some(sender.subject.session),
        principal: sender.principal.cloned(),
        body: draft.body,
        content_type: draft.content_type,
        is_json: draft.is_json,
        headers: draft.headers,
        key: draft.key.map(Into::into),
        at_unix_ms: now.unix_ms,
    })
}

/// Whether `subject` may have a backend answer a subscription to `to`.
pub(super) fn may_ask(
    rules: &Rules,
    subject: &Subject<'_>,
    to: &str,
    presence: bool,
) -> Result<(), Fault> {
    if presence {
        return Err(Denied::AppPresence.into());
    }
    let destination = read_destination(rules, to)?;
    rules.policy.app(subject, AppKind::Request, &destination)?;
    Ok(())
}

fn read_destination(rules: &Rules, to: &str) -> Result<Destination, Fault> {
    let limit = rules.limits.destination_bytes;
    if to.len() > limit {
        return Err(Fault::destination_too_long(limit));
    }
    Ok(to.parse::<Destination>()?)
}

/// The session that a request over HTTP names to be answered. Only a user's request may: what is
/// sent there goes to the user's own destinations, where no other user's session listens.
pub(super) fn session_to_answer(
    text: Option<&str>,
    principal: Option<&Arc<Principal>>,
) -> Result<Option<SessionId>, Fault> {
    match text {
        None => Ok(None),
        Some(_) if principal.is_none() => Err(Fault::session_without_user()),
        Some(text) => text.parse().map(Some).map_err(|_| Fault::bad_session()),
    }
}

/// Checks the headers of what a handler sends.
pub(super) fn check_headers(body: &AppBody, rules: &Rules) -> Result<(), Fault> {
    let limits = &rules.limits;
    if body.headers.len() > limits.headers {
        return Err(Fault::too_many_headers(limits.headers));
    }
    if let Some(content_type) = body.content_type.as_str() {
        headers::check_length("content-type", content_type, limits)?;
    }
    body.headers.iter().try_for_each(|(name, value)| headers::check(name, value, limits))
}

impl Handling {
    pub(super) fn of(message: &AppMessage) -> Self {
        Self { message: message.id, to: message.destination().clone(), key: message.key.clone() }
    }
}

impl AppOutcome {
    /// Whether nothing comes of it.
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.for_caller.is_empty() && self.reply.is_none()
    }
}

/// The path of the destination that errors go to.
const ERRORS: &str = "/queue/errors";
