//! What goes wrong for a client: a code to switch on, a text with the remedy, and what follows.

use std::borrow::Cow;

use fanlight_proto::native::NativeError;
use fanlight_proto::position::PositionError;
use fanlight_proto::stomp::StompError;
use fanlight_proto::{CloseReason, DestinationError, PatternError};

use super::{OnForbidden, Unpublished};
use crate::app::AppFailure;
use crate::auth::AuthError;
use crate::broker::PublishError;
use crate::history::{HistoryError, IdempotencyKey};
use crate::hook::HookError;
use crate::limits::RetryAfterMs;
use crate::policy::Denied;
use crate::presence::PresenceError;
use crate::queue::QueueError;

/// Something that a client is told has failed.
#[derive(Debug)]
pub(super) struct Fault {
    /// Stable, for clients to switch on.
    pub(super) code: &'static str,
    /// What is wrong.
    pub(super) message: Cow<'static, str>,
    /// What to do about it, where the message does not say.
    pub(super) remedy: &'static str,
    /// Why the session ends, if it does.
    pub(super) reason: CloseReason,
    pub(super) retry_after_ms: Option<u64>,
    gravity: Gravity,
}

/// How far a fault reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gravity {
    /// One request. STOMP closes after every ERROR ("ERROR"), a native session goes on.
    Request,
    /// One request that the policy denied: configurable.
    Denied,
    /// The session.
    Session,
}

impl Fault {
    fn new(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        remedy: &'static str,
        reason: CloseReason,
    ) -> Self {
        let message = message.into();
        Self { code, message, remedy, reason, retry_after_ms: None, gravity: Gravity::Request }
    }

    /// A fault whose code is that of its reason.
    fn of(
        reason: CloseReason,
        message: impl Into<Cow<'static, str>>,
        remedy: &'static str,
    ) -> Self {
        Self::new(reason.code(), message, remedy, reason)
    }

    /// The same, but it ends the session in every protocol.
    pub(super) fn fatal(self) -> Self {
        Self { gravity: Gravity::Session, ..self }
    }

    /// The same, to be tried again after a while.
    fn retry_after(self, retry_after_ms: u64) -> Self {
        Self { retry_after_ms: Some(retry_after_ms), ..self }
    }

    /// Whether the session ends for it.
    pub(super) fn ends(&self, is_stomp: bool, on_forbidden: OnForbidden) -> bool {
        match (self.gravity, on_forbidden) {
            (Gravity::Session, _) | (Gravity::Denied, OnForbidden::Close) => true,
            (Gravity::Denied, OnForbidden::KeepOpen) => false,
            (Gravity::Denied, OnForbidden::ByProtocol) | (Gravity::Request, _) => is_stomp,
        }
    }

    /// Whether the policy denied it.
    pub(super) fn is_denied(&self) -> bool {
        self.gravity == Gravity::Denied
    }

    /// The message with its remedy.
    pub(super) fn text(&self) -> String {
        if self.remedy.is_empty() {
            self.message.clone().into_owned()
        } else {
            format!("{}; {}", self.message, self.remedy)
        }
    }
}

/// Faults of a session as a whole.
impl Fault {
    pub(super) fn of_driver(reason: CloseReason, message: &str) -> Self {
        Self::of(reason, message.to_owned(), "").fatal()
    }

    pub(super) fn not_utf8() -> Self {
        let remedy = "send JSON as UTF-8";
        Self::of(CloseReason::InvalidUtf8, "the message is not UTF-8", remedy).fatal()
    }

    pub(super) fn not_connected() -> Self {
        let remedy = "connect first";
        Self::new("not_connected", "not connected", remedy, CloseReason::ProtocolError).fatal()
    }

    pub(super) fn already_connected() -> Self {
        let remedy = "connect once per connection";
        Self::new("already_connected", "already connected", remedy, CloseReason::ProtocolError)
    }

    pub(super) fn unsupported_version() -> Self {
        let remedy = "offer 1.0, 1.1 or 1.2 in accept-version";
        Self::of(CloseReason::UnsupportedVersion, "no STOMP version in common", remedy).fatal()
    }

    pub(super) fn no_token() -> Self {
        let message = "a token is needed";
        let remedy = "connect with a token: STOMP takes it as `Authorization: Bearer` or \
                      `passcode`, the native protocol as `token`";
        Self::of(CloseReason::Unauthorized, message, remedy).fatal()
    }

    pub(super) fn not_bearer() -> Self {
        let message = "the authorization is not a bearer token";
        Self::of(CloseReason::Unauthorized, message, "send `Authorization: Bearer <token>`").fatal()
    }

    pub(super) fn token_expired() -> Self {
        let remedy = "connect again with a new token";
        Self::of(CloseReason::TokenExpired, "the token has expired", remedy).fatal()
    }

    pub(super) fn user_rate(RetryAfterMs(retry_after_ms): RetryAfterMs) -> Self {
        let message = "this user connects too often";
        let fault = Self::new("user_rate", message, "wait", CloseReason::RateLimited);
        fault.fatal().retry_after(retry_after_ms)
    }

    pub(super) fn connect_timeout() -> Self {
        let message = "not connected in time";
        let remedy = "send CONNECT as soon as the connection is open";
        Self::of(CloseReason::ConnectTimeout, message, remedy).fatal()
    }

    pub(super) fn heartbeat_timeout() -> Self {
        let message = "nothing was heard for longer than the heartbeats allow";
        Self::of(CloseReason::HeartbeatTimeout, message, "reconnect").fatal()
    }

    pub(super) fn departing(reason: CloseReason, retry_after_ms: u64) -> Self {
        let message = match reason {
            CloseReason::Rebalanced => "this node has more sessions than others",
            _ => "this node is going away",
        };
        let fault = Self::of(reason, message, "reconnect to reach another one");
        fault.fatal().retry_after(retry_after_ms)
    }

    pub(super) fn internal() -> Self {
        let message = "something went wrong here, not on your side";
        Self::of(CloseReason::Internal, message, "reconnect").fatal()
    }
}

/// Faults of one request.
impl Fault {
    pub(super) fn missing_header(command: &str, header: &str) -> Self {
        let message = format!("{command} needs the header {header}");
        Self::new("missing_header", message, "", CloseReason::ProtocolError)
    }

    pub(super) fn bad_header(message: impl Into<Cow<'static, str>>, remedy: &'static str) -> Self {
        Self::new("bad_header", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn bad_position(error: PositionError) -> Self {
        let remedy = "give back the epoch and the offset of the last message as they came";
        Self::new("bad_position", error.to_string(), remedy, CloseReason::ProtocolError)
    }

    pub(super) fn bad_key(limit: usize) -> Self {
        let message = format!("an idempotency key has 1 to {limit} bytes");
        Self::new("bad_key", message, "use a UUID", CloseReason::LimitExceeded)
    }

    pub(super) fn two_keys(of_request: &str, of_message: &str) -> Self {
        let shown = |key: &str| key.chars().take(SHOWN_KEY_MAX).collect::<String>();
        let (of_request, of_message) = (shown(of_request), shown(of_message));
        let message = format!(
            "the header Idempotency-Key says {of_request:?}, and the message's `key` {of_message:?}"
        );
        Self::new("bad_key", message, "give one of them", CloseReason::LimitExceeded)
    }

    pub(super) fn key_without_user() -> Self {
        let message = "an idempotency key needs a user, whose it is";
        Self::new("bad_key", message, "send a token, or no key", CloseReason::LimitExceeded)
    }

    pub(super) fn bad_session() -> Self {
        let remedy = "give it as that session was told when it connected";
        Self::new("bad_session", "this is no session's id", remedy, CloseReason::ProtocolError)
    }

    pub(super) fn session_named_twice() -> Self {
        let message = "the request itself names the session";
        Self::new("bad_session", message, "leave `session` out", CloseReason::ProtocolError)
    }

    pub(super) fn not_for_one_session() -> Self {
        let message = "only what a user's sessions subscribe to can be sent to one of them";
        let remedy = "send to /user/{name}/..., outside of namespaces of queues";
        Self::new("bad_session", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn exclude_self_in_queue() -> Self {
        let message = "a queue gives each message to one consumer, so it can't exclude the sender";
        let remedy = "send it without exclude_self";
        Self::new("bad_exclusion", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn exclude_self_in_app() -> Self {
        let message = "what a backend handles goes to no subscribers, so it can't exclude any";
        let remedy = "send it without exclude_self";
        Self::new("bad_exclusion", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn exclude_self_without_session() -> Self {
        let message = "what comes by a request of its own has no session to exclude";
        let remedy = "send it on the connection that subscribes, or without exclude_self";
        Self::new("bad_exclusion", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn session_without_user() -> Self {
        let message = "only a user's session can be named";
        let remedy = "send a token, or leave it out";
        Self::new("bad_session", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn too_many_headers(limit: usize) -> Self {
        let message = format!("more than {limit} headers");
        Self::of(CloseReason::TooLarge, message, "put more into the body")
    }

    pub(super) fn reserved_header(name: &str) -> Self {
        let message = format!("the header {name:?} can't be set by clients");
        Self::new("bad_header", message, "choose another name", CloseReason::ProtocolError)
    }

    pub(super) fn header_too_long(limit: usize) -> Self {
        let message = format!("a header may have at most {limit} bytes");
        Self::of(CloseReason::TooLarge, message, "put large values into the body")
    }

    pub(super) fn id_too_long(limit: usize) -> Self {
        let message = format!("an id may have at most {limit} bytes");
        Self::of(CloseReason::LimitExceeded, message, "choose a shorter one")
    }

    pub(super) fn not_from_clients(command: &str) -> Self {
        let message = format!("{command} is sent by servers only");
        Self::of(CloseReason::ProtocolError, message, "")
    }

    pub(super) fn destination_too_long(limit: usize) -> Self {
        let message = format!("a destination may have at most {limit} bytes");
        Self::bad_destination(message)
    }

    fn bad_destination(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("bad_destination", message, "", CloseReason::ProtocolError)
    }

    pub(super) fn no_handler() -> Self {
        let denied = Denied::NoHandler;
        Self::new("no_handler", denied.to_string(), denied.remedy(), CloseReason::Forbidden)
    }

    pub(super) fn app_of_backend() -> Self {
        let message = "what is sent to /app goes from clients to backends, and has no subscribers";
        let remedy = "use /topic, /queue or /user";
        Self::new("no_handler", message, remedy, CloseReason::Forbidden)
    }

    pub(super) fn selector() -> Self {
        let remedy = "subscribe to a narrower destination";
        let reason = CloseReason::ProtocolError;
        Self::new("selector_unsupported", "selectors are not supported", remedy, reason)
    }

    pub(super) fn not_a_queue() -> Self {
        let message = "only what queues deliver is acknowledged, and this is none";
        let remedy = "subscribe without ack and prefetch";
        Self::new("not_a_queue", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn unknown_ack_mode() -> Self {
        let message = "`ack` has an unknown value";
        let remedy = "use auto, client or client-individual";
        Self::of(CloseReason::ProtocolError, message, remedy)
    }

    pub(super) fn repeated_destination() -> Self {
        let message = "it is asked for twice";
        let remedy = "name each destination once";
        Self::new("repeated_destination", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn already_subscribed() -> Self {
        let message = "there is a subscription of this name already";
        let remedy = "unsubscribe first; STOMP subscriptions are named by id, native ones by to";
        Self::new("already_subscribed", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn not_subscribed() -> Self {
        let message = "there is no subscription of this name";
        let remedy = "STOMP subscriptions are named by id, native ones by to";
        Self::new("not_subscribed", message, remedy, CloseReason::ProtocolError)
    }

    pub(super) fn too_many_subscriptions(limit: usize) -> Self {
        let message = format!("a session may have at most {limit} subscriptions");
        let remedy = "unsubscribe from some first, or use a pattern";
        Self::of(CloseReason::LimitExceeded, message, remedy)
    }

    pub(super) fn session_limit() -> Self {
        let message = "this user has as many sessions as are allowed";
        let remedy = "close one of them first";
        Self::of(CloseReason::SessionLimit, message, remedy).fatal()
    }

    pub(super) fn transaction_exists() -> Self {
        let message = "there is a transaction of this id already";
        Self::new(
            "transaction_exists",
            message,
            "commit or abort it first",
            CloseReason::ProtocolError,
        )
    }

    pub(super) fn no_transaction() -> Self {
        let message = "there is no transaction of this id";
        Self::new("no_transaction", message, "send BEGIN first", CloseReason::ProtocolError)
    }

    pub(super) fn too_many_transactions(limit: usize) -> Self {
        let message = format!("more than {limit} transactions are open");
        Self::of(CloseReason::LimitExceeded, message, "commit or abort some first")
    }

    pub(super) fn message_too_large(limit: usize) -> Self {
        let message = format!("the message exceeds {limit} bytes");
        Self::of(CloseReason::TooLarge, message, "send less, or raise limits.message")
    }

    pub(super) fn transaction_too_large(limit: usize, unit: &str) -> Self {
        let message = format!("what waits for COMMIT exceeds {limit} {unit}");
        Self::of(CloseReason::LimitExceeded, message, "commit smaller transactions")
    }

    /// A COMMIT failed after `published` of its sends had been accepted.
    pub(super) fn commit_cut_short(error: &Unpublished, published: u32) -> Self {
        let error = match error {
            Unpublished::ByBroker(error) => *error,
            Unpublished::ByHook(_) | Unpublished::CapabilityRevoked => {
                let done = format!("the first {published} of the transaction's sends");
                return Self::commit_incomplete(format!("{error}; published before: {done}"));
            }
            Unpublished::Revoked => return Self::revoked(),
        };
        let (why, also) = match error {
            PublishError::Unavailable => ("the broker can't be reached", ""),
            PublishError::Unknown => ("the broker did not answer in time", ", perhaps the next"),
            PublishError::Overloaded => ("the broker's queue is full", ""),
            PublishError::QueueFull => ("the queue is full", ""),
            PublishError::KeyReused => ("a key was used for another message", ""),
        };
        let done = format!("the first {published} of the transaction's sends{also}");
        Self::commit_incomplete(format!("{why}; published before: {done}"))
    }

    /// A COMMIT failed at a send to a backend, which is told apart; `published` went before it.
    pub(super) fn commit_not_handled(failure: &AppFailure, published: u32) -> Self {
        let unsure = matches!(
            failure,
            AppFailure::Timeout
                | AppFailure::Failed
                | AppFailure::BadAnswer(_)
                | AppFailure::Internal
                | AppFailure::Unpublished(_)
                | AppFailure::Undelivered(PublishError::Unknown)
        );
        let also = if unsure { ", perhaps the next" } else { "" };
        Self::commit_incomplete(format!(
            "{failure}; done before: the first {published} of the transaction's sends{also}"
        ))
    }

    /// A COMMIT failed at its ACKs and NACKs, after all its sends had been accepted.
    pub(super) fn commit_not_settled(error: QueueError, published: u32) -> Self {
        let QueueError::Unavailable = error;
        Self::commit_incomplete(format!(
            "the broker can't be reached; published before: all {published} of the \
             transaction's sends; what it acknowledges may be delivered again"
        ))
    }

    /// The session is over, as its token or all of its user's were revoked.
    fn revoked() -> Self {
        Self::from(AuthError::Revoked).fatal()
    }

    /// Not to be tried again as it is, which would publish twice: so without a time to wait.
    fn commit_incomplete(message: String) -> Self {
        let remedy =
            "send what is missing, or all of it again if each send has its idempotency-key";
        Self::new("commit_incomplete", message, remedy, CloseReason::Unavailable)
    }

    pub(super) fn rate_limited(RetryAfterMs(retry_after_ms): RetryAfterMs) -> Self {
        let fault =
            Self::of(CloseReason::RateLimited, "too many messages", "send fewer per second");
        fault.retry_after(retry_after_ms)
    }

    pub(super) fn anonymous_refresh() -> Self {
        let message = "a session without a user has no token to refresh";
        Self::of(CloseReason::Unauthorized, message, "connect again with a token")
    }

    /// The capability that a request was given with is of no use.
    pub(super) fn bad_capability(error: &AuthError) -> Self {
        let is_temporary = error.is_temporary();
        let reason = if is_temporary { CloseReason::Unavailable } else { CloseReason::Forbidden };
        let fault = Self::new("bad_capability", error.to_string(), "", reason);
        if is_temporary { fault.retry_after(UNAVAILABLE_RETRY_AFTER_MS) } else { fault }
    }

    pub(super) fn needless_capability() -> Self {
        let message = "a backend publishes by its key, and needs no capability";
        Self::new("bad_capability", message, "leave the token out", CloseReason::ProtocolError)
    }

    pub(super) fn capability_expired(to: &str) -> Self {
        let message = format!("the capability for the subscription to {to} is over; it has ended");
        let remedy = "subscribe again with a new one";
        Self::new("capability_expired", message, remedy, CloseReason::TokenExpired)
    }

    pub(super) fn other_user() -> Self {
        let message = "the token is another user's";
        Self::of(CloseReason::Unauthorized, message, "connect again to change the user")
    }

    pub(super) fn subscription_revoked(to: &str) -> Self {
        let message =
            format!("the session may no longer have the subscription to {to}; it has ended");
        Self::of(CloseReason::Forbidden, message, "")
    }
}

impl From<AuthError> for Fault {
    fn from(error: AuthError) -> Self {
        let fault = Self::of(error.close_reason(), error.to_string(), "");
        if error.is_temporary() { fault.retry_after(UNAVAILABLE_RETRY_AFTER_MS) } else { fault }
    }
}

impl From<StompError> for Fault {
    fn from(error: StompError) -> Self {
        Self::of(error.close_reason(), error.to_string(), "").fatal()
    }
}

impl From<NativeError> for Fault {
    fn from(error: NativeError) -> Self {
        Self::of(error.close_reason(), error.to_string(), "")
    }
}

impl From<DestinationError> for Fault {
    fn from(error: DestinationError) -> Self {
        Self::bad_destination(error.to_string())
    }
}

impl From<PatternError> for Fault {
    fn from(error: PatternError) -> Self {
        Self::bad_destination(error.to_string())
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Destination(error) => error.into(),
            Denied::Pattern(error) => error.into(),
            Denied::NoHandler => Self::no_handler(),
            Denied::NoHistory => {
                let remedy = denied.remedy();
                Self::new("no_history", denied.to_string(), remedy, CloseReason::Forbidden)
            }
            denied => {
                let remedy = denied.remedy();
                let fault = Self::of(CloseReason::Forbidden, denied.to_string(), remedy);
                Self { gravity: Gravity::Denied, ..fault }
            }
        }
    }
}

impl From<PresenceError> for Fault {
    fn from(error: PresenceError) -> Self {
        let fault = |code, reason| Self::new(code, error.to_string(), "", reason);
        match error {
            PresenceError::Unavailable => fault("unavailable", CloseReason::Unavailable)
                .retry_after(UNAVAILABLE_RETRY_AFTER_MS),
            PresenceError::BadCursor => fault("bad_cursor", CloseReason::ProtocolError),
        }
    }
}

impl From<PublishError> for Fault {
    fn from(error: PublishError) -> Self {
        let fault = Self::new(error.code(), error.to_string(), "", CloseReason::Unavailable);
        match error {
            PublishError::KeyReused => Self { reason: CloseReason::LimitExceeded, ..fault },
            // To repeat it could publish it twice.
            PublishError::Unknown => fault,
            _ => fault.retry_after(UNAVAILABLE_RETRY_AFTER_MS),
        }
    }
}

impl From<Unpublished> for Fault {
    fn from(error: Unpublished) -> Self {
        match error {
            Unpublished::ByBroker(error) => error.into(),
            Unpublished::ByHook(error) => error.into(),
            Unpublished::Revoked => Self::revoked(),
            Unpublished::CapabilityRevoked => Self::bad_capability(&AuthError::Revoked),
        }
    }
}

impl From<HookError> for Fault {
    fn from(error: HookError) -> Self {
        let fault = |code, reason| Self::new(code, error.to_string(), "", reason);
        match error {
            HookError::Refused { .. } => {
                let fault = fault("forbidden", CloseReason::Forbidden);
                Self { gravity: Gravity::Denied, ..fault }
            }
            HookError::Unavailable { retry_after_ms } => {
                fault("unavailable", CloseReason::Unavailable).retry_after(retry_after_ms)
            }
            HookError::Timeout => {
                fault("timeout", CloseReason::Unavailable).retry_after(UNAVAILABLE_RETRY_AFTER_MS)
            }
        }
    }
}

impl From<HistoryError> for Fault {
    fn from(error: HistoryError) -> Self {
        let fault = Self::new("unavailable", error.to_string(), "", CloseReason::Unavailable);
        fault.retry_after(UNAVAILABLE_RETRY_AFTER_MS)
    }
}

impl From<QueueError> for Fault {
    fn from(error: QueueError) -> Self {
        let fault = Self::of(CloseReason::Unavailable, error.to_string(), "");
        fault.retry_after(UNAVAILABLE_RETRY_AFTER_MS)
    }
}

/// How much of an idempotency key a message shows.
const SHOWN_KEY_MAX: usize = IdempotencyKey::MAX_BYTES;
/// How long a broker or a key server may take to come back before asking again makes sense.
const UNAVAILABLE_RETRY_AFTER_MS: u64 = 1000;
