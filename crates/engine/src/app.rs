//! What clients say to a backend: messages to `/app/...`, who handles them, and what comes of it.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::Destination;
use fanlight_proto::destination::DestinationKind;
use futures_util::future::BoxFuture;

use crate::auth::Principal;
use crate::broker::PublishError;
use crate::history::IdempotencyKey;
use crate::ids::Ids;
use crate::policy::{AppKind, AppPermit, PublishPermit};
use crate::publication::{ContentType, Publication, PublicationId, SessionId};
use crate::session::{Refusal, Rules, addressed_by_app, check_headers_of_app};
use crate::time::Now;

/// Handles what clients send to the destinations of a route, or subscribe to.
///
/// Of one session it is asked one thing at a time, in the order in which the client asked; the
/// client's next request waits for the answer. A client that goes away ends nothing: what was begun
/// is carried out.
pub trait AppHandler: Send + Sync + 'static {
    /// Handles one message; what is to be sent for it.
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>>;
}

/// A message to `/app/...`, with the right to have it handled.
#[derive(Debug, Clone)]
pub struct AppMessage {
    /// That a route has it, and its sender may use it.
    pub permit: AppPermit,
    /// Its id, unique over the cluster.
    pub id: PublicationId,
    /// Which session sent it; `None` for a request over HTTP, which has none.
    pub session: Option<SessionId>,
    /// Where answers go that are for one session: the one that sent it, or the one that a request
    /// over HTTP names. That may be any: it counts as one of the sender's user only, so that it
    /// reaches nobody else's.
    pub answer_session: Option<SessionId>,
    /// Who sent it; `None` for an anonymous session.
    pub principal: Option<Arc<Principal>>,
    /// The body, as it was sent; empty where somebody subscribes.
    pub body: Bytes,
    /// What the body is.
    pub content_type: ContentType,
    /// Whether the body was found to be JSON.
    pub is_json: bool,
    /// The sender's headers, those left out that only servers may set.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// The sender's name for the message, by which one that comes again can be told.
    pub key: Option<Box<str>>,
    /// When it came, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// What a handler wants sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppReply {
    /// What is published, in this order; at most [`AppReply::MAX_SENDS`].
    pub sends: Vec<AppSend>,
    /// To a subscription: its answer. To a message: published where its route says.
    pub reply: Option<AppBody>,
}

/// One message of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSend {
    /// A topic, a queue, or a user's destination: `/user/queue/...` is that of the sender.
    pub to: Box<str>,
    /// Whether, of the sender's sessions, only the one gets it that asked.
    pub only_session: bool,
    /// What is sent.
    pub body: AppBody,
}

/// What a handler sends, without where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppBody {
    /// The bytes.
    pub body: Bytes,
    /// What they are.
    pub content_type: ContentType,
    /// Whether they are surely JSON.
    pub is_json: bool,
    /// Headers that subscribers get, too.
    pub headers: Box<[(Box<str>, Box<str>)]>,
}

/// That a handler does not do what was asked: its sender is told so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AppError {
    code: Box<str>,
    message: Box<str>,
    replaced: Option<Box<str>>,
}

/// Why a message to `/app/...` was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppFailure {
    /// The handler does not do it.
    #[error("{}", .0.message)]
    Refused(AppError),
    /// The handler did not answer in time.
    #[error("the backend did not answer in time; it may or may not have done what was asked")]
    Timeout,
    /// The handler can't be reached; it was not asked.
    #[error("the backend can't be asked now; try again later")]
    Unavailable,
    /// The handler was asked, and has failed.
    #[error("the backend has failed; it may or may not have done what was asked")]
    Failed,
    /// Too much waits for the handler; it was not asked.
    #[error("too much waits for the backend; slow down and try again")]
    Overloaded,
    /// The handler has answered with what can't be sent. The text is for operators.
    #[error("the backend's answer can't be used")]
    BadAnswer(String),
    /// The handler has answered, but what it wants sent was not accepted.
    #[error("the backend's answer was not sent: {0}")]
    Unpublished(PublishError),
    /// It could not be handed over, as Redis did not take it.
    #[error("{0}")]
    Undelivered(PublishError),
    /// The handler has panicked.
    #[error("something went wrong here, not on your side")]
    Internal,
}

/// What comes of a message once its handler has answered.
#[derive(Debug, Default)]
pub struct AppOutcome {
    /// What is to be published, in this order.
    pub publish: Vec<(PublishPermit, Publication)>,
    /// What is for the sender alone, who has no session that it could go to: only a request over
    /// HTTP has none, and gets it with its answer.
    pub for_caller: Vec<Publication>,
    /// The answer to a subscription.
    pub reply: Option<AppBody>,
}

impl AppMessage {
    /// Whether it is a message, or somebody subscribes.
    pub fn kind(&self) -> AppKind {
        self.permit.kind()
    }

    /// Where it was sent.
    pub fn destination(&self) -> &Destination {
        self.permit.destination()
    }

    /// What a variable of its route stands for.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.permit.variables().iter();
        variables.find(|(own, _)| **own == *name).map(|(_, value)| &**value)
    }

    /// The sender's user.
    pub fn user(&self) -> Option<&str> {
        self.principal.as_ref().map(|principal| &*principal.user)
    }

    /// The sender's roles.
    pub fn roles(&self) -> &[Box<str>] {
        self.principal.as_ref().map_or(&[], |principal| &principal.roles)
    }

    /// The session that a request over HTTP names, to be answered. It did not send the message, and
    /// need not be there, nor its user's.
    pub fn named_session(&self) -> Option<SessionId> {
        self.answer_session.filter(|_| self.session.is_none())
    }

    /// What comes of it, by its handler's answer.
    pub fn outcome(
        &self,
        rules: &Rules,
        ids: &mut Ids,
        now: Now,
        AppReply { sends, reply }: AppReply,
    ) -> Result<AppOutcome, AppFailure> {
        if sends.len() > AppReply::MAX_SENDS {
            let (count, most) = (sends.len(), AppReply::MAX_SENDS);
            return Err(AppFailure::BadAnswer(format!("it sends {count} messages, of {most}")));
        }
        let mut outcome = AppOutcome::default();
        for (at, send) in sends.into_iter().enumerate() {
            let what = format!("send[{at}]");
            self.address(rules, ids, now, &what, send, &mut outcome)?;
        }
        match (reply, self.kind()) {
            (None, _) => {}
            (Some(body), AppKind::Request) => {
                check_size(rules, "reply", &body)?;
                outcome.reply = Some(body);
            }
            (Some(body), AppKind::Message) => {
                let to = self.permit.send_to().ok_or_else(|| {
                    let fault =
                        "its route has no send_to, so a reply goes nowhere; set it, or use send";
                    AppFailure::BadAnswer(format!("reply: {fault}"))
                })?;
                let only_session = self.permit.is_for_one_session();
                let send = AppSend { to, only_session, body };
                self.address(rules, ids, now, "reply", send, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    /// Gives one message of the handler its destination and the right to go there.
    fn address(
        &self,
        rules: &Rules,
        ids: &mut Ids,
        now: Now,
        what: &str,
        send: AppSend,
        outcome: &mut AppOutcome,
    ) -> Result<(), AppFailure> {
        let bad = |fault: &str| AppFailure::BadAnswer(format!("{what}: {fault}"));
        let AppSend { to, only_session, body } = send;
        check_size(rules, what, &body)?;
        check_headers_of_app(&body, rules).map_err(|refusal| bad(&refusal.message))?;
        let to: Destination = to.parse().map_err(|error| bad(&format!("{error}")))?;
        let is_own = to.kind() == DestinationKind::OwnUser;
        if only_session && !is_own {
            return Err(bad("only an own destination, as in /user/queue/x, goes to one session"));
        }
        let path = to.user_path().filter(|_| is_own);
        let absolute = match (path, &self.principal, self.answer_session) {
            (None, ..) => Some(to.clone()),
            (Some(_), None, None) => None,
            // Of the sender's own, whatever session is named: it is no other user's there.
            (Some(path), Some(principal), _) => Some(
                Destination::for_user(&principal.user, path)
                    .map_err(|error| bad(&format!("{error}")))?,
            ),
            (Some(path), None, Some(session)) => Some(
                Destination::for_session(&session.to_string(), path)
                    .map_err(|error| bad(&format!("{error}")))?,
            ),
        };
        let is_for_caller = only_session && self.answer_session.is_none();
        let Some(absolute) = absolute.filter(|_| !is_for_caller) else {
            // Its sender calls it so, too.
            outcome.for_caller.push(body.publication(ids.publication(now), to, now));
            return Ok(());
        };
        let session = self.answer_session.filter(|_| only_session && self.principal.is_some());
        let addressed = addressed_by_app(rules, ids, now, absolute.as_str(), session, body);
        outcome.publish.push(addressed.map_err(|Refusal { message, .. }| bad(&message))?);
        Ok(())
    }
}

impl AppReply {
    /// The most messages that one answer sends.
    pub const MAX_SENDS: usize = 100;

    /// Nothing is sent.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// To a subscription, its answer; to a message, what goes where its route's `send_to` says.
    pub fn reply(body: AppBody) -> Self {
        Self { reply: Some(body), ..Self::default() }
    }

    /// Sends to a topic, a queue or a user; to the sender where it is `/user/queue/...`.
    #[must_use]
    pub fn send(mut self, to: impl Into<Box<str>>, body: AppBody) -> Self {
        self.sends.push(AppSend { to: to.into(), only_session: false, body });
        self
    }

    /// Sends to the session that asked, and to no other of the same user: `to` is the user's own
    /// destination, as in `/user/queue/replies`.
    #[must_use]
    pub fn send_to_session(mut self, to: impl Into<Box<str>>, body: AppBody) -> Self {
        self.sends.push(AppSend { to: to.into(), only_session: true, body });
        self
    }
}

impl AppBody {
    /// JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Self::of_json(value.to_string())
    }

    /// JSON, which `text` must be.
    pub fn of_json(text: impl Into<Bytes>) -> Self {
        let (body, content_type) = (text.into(), ContentType::Json);
        Self { body, content_type, is_json: true, headers: Box::default() }
    }

    /// Text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::bytes(text, ContentType::Text)
    }

    /// Anything.
    pub fn bytes(body: impl Into<Bytes>, content_type: ContentType) -> Self {
        Self { body: body.into(), content_type, is_json: false, headers: Box::default() }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.into_vec();
        headers.push((name.into(), value.into()));
        Self { headers: headers.into(), ..self }
    }

    /// It as a publication of nobody's.
    pub(crate) fn publication(
        self,
        id: PublicationId,
        destination: Destination,
        now: Now,
    ) -> Publication {
        Publication {
            id,
            destination,
            body: self.body,
            content_type: self.content_type,
            headers: self.headers,
            publisher: None,
            at_unix_ms: now.unix_ms,
            position: None,
            only_for: None,
            except: None,
            is_json: self.is_json,
        }
    }
}

impl AppError {
    /// A code to switch on, of 1 to 64 ASCII letters, digits, `_`, `-` and `.`, and a text for
    /// people, of which the first kilobyte is told. A code of another form becomes `refused`.
    pub fn new(code: &str, message: &str) -> Self {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let is_code = (1..=CODE_MAX_BYTES).contains(&code.len()) && code.bytes().all(is_good);
        let is_boundary = |end: &usize| message.is_char_boundary(*end);
        let most = message.len().min(MESSAGE_MAX_BYTES);
        let end = (0..=most).rev().find(is_boundary).unwrap_or_default();
        Self {
            code: if is_code { code } else { "refused" }.into(),
            message: message[..end].chars().filter(|c| !c.is_control()).collect(),
            replaced: (!is_code).then(|| code.chars().take(CODE_MAX_BYTES).collect()),
        }
    }

    /// The beginning of the code that it was to have, where `refused` stands in its place.
    pub fn replaced(&self) -> Option<&str> {
        self.replaced.as_deref()
    }
}

impl AppFailure {
    /// That the handler does not do it.
    pub fn refused(code: &str, message: &str) -> Self {
        Self::Refused(AppError::new(code, message))
    }

    /// The stable code that clients switch on.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(error) => &error.code,
            Self::Timeout => "timeout",
            Self::Unavailable | Self::Failed => "unavailable",
            Self::Overloaded => "overloaded",
            Self::BadAnswer(_) => "bad_answer",
            Self::Unpublished(error) | Self::Undelivered(error) => error.code(),
            Self::Internal => "internal",
        }
    }

    /// When it may be tried again, where that can help.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Unavailable | Self::Overloaded => Some(RETRY_AFTER_MS),
            Self::Undelivered(error) if *error != PublishError::Unknown => Some(RETRY_AFTER_MS),
            _ => None,
        }
    }
}

impl From<AppError> for AppFailure {
    fn from(error: AppError) -> Self {
        Self::Refused(error)
    }
}

fn check_size(rules: &Rules, what: &str, body: &AppBody) -> Result<(), AppFailure> {
    let limit = rules.limits.message_bytes;
    if body.body.len() > limit {
        let fault = format!("{what}: it exceeds limits.message, {limit} bytes");
        return Err(AppFailure::BadAnswer(fault));
    }
    Ok(())
}

/// The longest key that a sender may give.
pub(crate) const KEY_MAX_BYTES: usize = IdempotencyKey::MAX_BYTES;
const CODE_MAX_BYTES: usize = 64;
const MESSAGE_MAX_BYTES: usize = 1024;
const RETRY_AFTER_MS: u64 = 1000;
