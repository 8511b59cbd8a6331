//! The session state machine: transport messages in, effects out; no I/O and no clock.
//!
//! ```text
//! AwaitConnect ──CONNECT accepted──▶ Live ──drained while busy──▶ Draining
//!      └──────────────┬──────────────┴───────────────┬──────────────┘
//!                     └─────────▶ Closed ◀───────────┘
//! ```
//!
//! A driver hands in one transport message at a time while the session is not busy, carries out
//! the effects in order, and answers those that have a [`Done`]. At most one of these is under way
//! per session, and it is the last effect of its step; what came behind it in the same transport
//! message waits in the backlog.

mod alone;
mod app;
mod backlog;
mod capability;
mod connect;
mod deciding;
mod detect;
pub(crate) mod events;
mod fault;
pub(crate) mod headers;
mod heartbeat;
mod live;
mod native;
mod presence;
mod queue;
mod recovery;
mod rights;
mod server;
mod stomp;
mod subscriptions;
mod transactions;

use std::sync::Arc;

use fanlight_proto::CloseReason;
use fanlight_proto::stomp::Version;

use crate::app::{AppBody, AppFailure, AppMessage};
use crate::auth::{AuthError, Capability, Credentials, Principal, Token};
use crate::broker::{Channel, Joined, PublishError, Published};
use crate::history::{HistoryError, HistoryPage, HistoryQuery, IdempotencyKey};
use crate::hook::{Claimant, HookError, Introduction, Renewal, SessionHooks, SubscribeQuestion};
use crate::hub::{Hub, SessionKey};
use crate::ids::Ids;
use crate::limits::{Heartbeats, Limits, RetryAfterMs};
use crate::policy::{Policy, PublishPermit, Right, Subject};
use crate::presence::{Member, MembersPage, MembersQuery, Place, PresenceError};
use crate::publication::{Publication, SessionId};
use crate::queue::{Consumers, QueueError};
use crate::registry::{Entered, SubscriptionChange};
use crate::time::Now;
use crate::timeline::Recovered;

pub use alone::{Alone, Letter, Refusal, Sender, Sent, usable};
pub(crate) use alone::{addressed_by_app, check_headers_of_app};
pub use app::{AskedWire, Telling, Told};
pub use events::{Form, Listening};
pub use recovery::Recover;
pub use server::Order;

use backlog::Backlog;
use detect::detect;
use events::Events;
use fault::Fault;
use heartbeat::Due;
use live::{Live, Work};

/// What sessions of a node have in common.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Who may do what.
    pub policy: Policy,
    /// The bounds.
    pub limits: Limits,
    /// The heartbeats that are offered and asked for.
    pub heartbeats: Heartbeats,
    /// Whether a denied SEND or SUBSCRIBE ends the session.
    pub on_forbidden: OnForbidden,
    /// Which questions have a backend that answers them.
    pub hooks: SessionHooks,
}

/// Whether a denied SEND or SUBSCRIBE ends the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnForbidden {
    /// As the protocol has it: STOMP closes after every ERROR, a native session goes on.
    #[default]
    ByProtocol,
    /// Every session ends.
    Close,
    /// Every session goes on. A STOMP client that closes on ERROR by itself still ends.
    KeepOpen,
}

/// What a step of a session works with.
pub struct Cx<'a> {
    /// The time.
    pub now: Now,
    /// The node's rules.
    pub rules: &'a Rules,
    /// The worker's hub.
    pub hub: &'a mut Hub,
    /// The worker's consumers of queues.
    pub consumers: &'a mut Consumers,
    /// The worker's ids.
    pub ids: &'a mut Ids,
    /// Where effects are added.
    pub effects: &'a mut Vec<Effect>,
}

/// What a session wants done.
#[derive(Debug)]
pub enum Effect {
    /// One transport message: a native JSON object, a STOMP frame or a STOMP heartbeat.
    Write {
        /// Whether it is text.
        text: bool,
        /// The message.
        payload: Vec<u8>,
    },
    /// A ping of the transport.
    Ping,
    /// Check who somebody is; answered by [`Done::Authenticated`].
    Authenticate(Credentials),
    /// Check what a capability token grants; answered by [`Done::Authorized`].
    Authorize(Token),
    /// Ask a backend whether a client may begin a session, and as whom; answered by
    /// [`Done::Introduced`].
    Introduce(Box<Claimant>),
    /// Ask a backend whether a session may go on; answered by [`Done::Authenticated`].
    Renew(Box<Renewal>),
    /// Ask a backend whether a session may subscribe, or read what subscribers get; answered by
    /// [`Done::Decided`].
    AskToSubscribe(Box<SubscribeQuestion>),
    /// Enter the session in the registry; answered by [`Done::Entered`], or [`Done::TooOften`].
    Enter {
        /// Under this user.
        user: Option<Arc<str>>,
        /// Whether the limits of what one user may have are for it.
        is_limited: bool,
        /// Whether the handshake has told this user already.
        is_known: bool,
    },
    /// Undo that. No answer.
    Exit {
        /// Whose session it was.
        user: Option<Arc<str>>,
        /// Why it ends.
        reason: CloseReason,
    },
    /// Record that a subscription began or ended. No answer.
    Record(SubscriptionChange),
    /// Publish, once the backend agrees that has a say in it, if there is one; answered by
    /// [`Done::Published`].
    Publish(Right<PublishPermit>, Publication),
    /// Publish unless that was done under this key before; answered by [`Done::Published`].
    PublishOnce(Right<PublishPermit>, Publication, IdempotencyKey),
    /// Have a message to `/app/...` handled, and carry out what its handler wants; answered by
    /// [`Done::App`] once that is done.
    App(Box<AppMessage>),
    /// Tell this session something, and nobody else. No answer.
    Tell(Box<Telling>),
    /// Receive a channel, to which the hub is subscribed or a consumer belongs already; answered
    /// by [`Done::Joined`].
    Join(Channel),
    /// Join the timeline of a destination whose channel is received: send what the subscriber
    /// wants to begin with, and activate it; answered by [`Done::Recovered`].
    Recover(Box<Recover>),
    /// Read what was published before; answered by [`Done::History`].
    History(Box<HistoryQuery>),
    /// Tell the broker what was acknowledged and given back on these queues; answered by
    /// [`Done::Settled`] once it has it.
    Settle(Vec<Channel>),
    /// Undo one join. No answer.
    Leave(Channel),
    /// The session is at a place from now on. No answer.
    Appear(Place, Member),
    /// It is not any more. No answer.
    Vanish(Place, Member),
    /// Read members; answered by [`Done::Members`].
    Members(MembersQuery),
    /// Close the transport with this reason once everything before is written. No effect follows.
    Close(CloseReason),
}

/// The answer to an effect.
#[derive(Debug)]
pub enum Done {
    /// To [`Effect::Authenticate`] and [`Effect::Renew`].
    Authenticated(Result<Arc<Principal>, AuthError>),
    /// To [`Effect::Authorize`].
    Authorized(Result<Arc<Capability>, AuthError>),
    /// To [`Effect::Introduce`]: as whom, or as nobody in particular.
    Introduced(Result<Option<Arc<Principal>>, AuthError>),
    /// To [`Effect::AskToSubscribe`].
    Decided(Result<(), HookError>),
    /// To [`Effect::Enter`].
    Entered(Entered),
    /// To [`Effect::Enter`]: its user has connected too often, and nothing was done.
    TooOften(RetryAfterMs),
    /// To [`Effect::Publish`] and [`Effect::PublishOnce`].
    Published(Result<Published, Unpublished>),
    /// To [`Effect::App`]: the answer to a subscription, if there is one.
    App(Result<Option<AppBody>, AppFailure>),
    /// To [`Effect::Join`].
    Joined(Joined),
    /// To [`Effect::Recover`].
    Recovered(Recovered),
    /// To [`Effect::History`].
    History(Result<HistoryPage, HistoryError>),
    /// To [`Effect::Members`].
    Members(Result<MembersPage, PresenceError>),
    /// To [`Effect::Settle`].
    Settled(Result<(), QueueError>),
}

/// Why something was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// The broker did not take it.
    #[error(transparent)]
    ByBroker(#[from] PublishError),
    /// The backend that has a say in it has not agreed.
    #[error(transparent)]
    ByHook(#[from] HookError),
    /// While the backend was asked, its session was ended for that, or its publisher's token was.
    #[error("{}", AuthError::Revoked)]
    Revoked,
    /// The same of the capability that it was sent with.
    #[error("{}", AuthError::Revoked)]
    CapabilityRevoked,
}

/// One transport message.
#[derive(Debug, Clone, Copy)]
pub enum Incoming<'m> {
    /// A text message.
    Text(&'m str),
    /// A binary message.
    Binary(&'m [u8]),
}

/// When the transport was last used, in monotonic milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Activity {
    /// Anything at all came, pongs included.
    pub last_received_ms: u64,
    /// Anything at all was written.
    pub last_sent_ms: u64,
}

/// What the transport's handshake told.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    /// Whose token it carried, already checked.
    pub principal: Option<Arc<Principal>>,
    /// What else it told, where a backend wants to know.
    pub introduction: Option<Box<Introduction>>,
    /// Backends were asked about it already, as the session of this id: they have let it in.
    pub let_in: Option<SessionId>,
}

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `fanlight.v1.json`
    Native,
    /// STOMP; until CONNECT has settled the version, the one that was offered.
    Stomp(Version),
}

/// One client's conversation, whatever transport carries it.
#[derive(Debug)]
pub struct Session {
    key: SessionKey,
    id: SessionId,
    codec: Codec,
    state: State,
    /// What the effect under way is for.
    work: Option<Box<Work>>,
    /// What waits for it.
    backlog: Option<Box<Backlog>>,
}

#[derive(Debug)]
enum State {
    AwaitConnect {
        since_ms: u64,
        principal: Option<Arc<Principal>>,
        introduction: Option<Box<Introduction>>,
        /// Whether a backend has decided already.
        is_let_in: bool,
    },
    Live(Live),
    /// It ends as soon as the client has the answer it waits for. In a box, or each session would
    /// have room for it.
    Draining(Box<Draining>),
    Closed(CloseReason),
}

#[derive(Debug)]
struct Draining {
    live: Live,
    until_ms: u64,
    advice: Advice,
}

/// What a session is told that goes to another node.
#[derive(Debug, Clone, Copy)]
struct Advice {
    reason: CloseReason,
    retry_after_ms: u64,
}

#[derive(Debug)]
enum Codec {
    /// The first message tells.
    Undecided,
    Native,
    Stomp {
        decoder: fanlight_proto::stomp::Decoder,
        offered: Version,
    },
    Events(Box<Events>),
}

impl Session {
    /// A session whose transport has just been opened. Without a `protocol`, the first message
    /// tells which it is.
    pub fn new(
        key: SessionKey,
        id: SessionId,
        protocol: Option<Protocol>,
        handshake: Handshake,
        now: Now,
    ) -> Self {
        Self {
            key,
            id,
            codec: protocol.map_or(Codec::Undecided, Codec::of),
            state: State::AwaitConnect {
                since_ms: now.mono_ms,
                principal: handshake.principal,
                introduction: handshake.introduction,
                is_let_in: handshake.let_in.is_some(),
            },
            work: None,
            backlog: None,
        }
    }

    /// Takes one transport message. To be called only while the session is not busy.
    pub fn on_message(&mut self, cx: &mut Cx<'_>, message: Incoming<'_>) {
        debug_assert!(!self.is_busy(), "the driver waits while a session is busy");
        if self.is_closed() {
            return;
        }
        let bytes = match message {
            Incoming::Text(text) => text.as_bytes(),
            Incoming::Binary(bytes) => bytes,
        };
        if matches!(self.codec, Codec::Undecided) {
            match detect(bytes) {
                Some(protocol) => self.codec = Codec::of(protocol),
                None => return self.end(cx, CloseReason::UnknownProtocol),
            }
        }
        match (&self.codec, message) {
            (Codec::Stomp { .. }, _) => self.stomp_input(cx, bytes),
            // Nobody listens to a listener.
            (Codec::Events(_), _) => {}
            (_, Incoming::Text(text)) => self.native_input(cx, text),
            (_, Incoming::Binary(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => self.native_input(cx, text),
                Err(_) => self.fail(cx, &Fault::not_utf8()),
            },
        }
    }

    /// Takes the answer to an effect, then goes on with what waited for it.
    pub fn on_done(&mut self, cx: &mut Cx<'_>, done: Done) {
        let Some(work) = self.work.take() else { return };
        // One that came to nothing is made again by a sweep, not at once.
        let was_renewal = matches!(*work, Work::Renew);
        match (*work, done) {
            (Work::Connect(connecting), Done::Authenticated(result)) => {
                self.on_authenticated(cx, connecting, result);
            }
            (Work::Connect(connecting), Done::Introduced(result)) => {
                self.on_introduced(cx, connecting, result);
            }
            (Work::Decide(deciding), Done::Decided(consent)) => {
                self.on_decided(cx, *deciding, consent);
            }
            (Work::Renew, Done::Authenticated(result)) => self.on_renewed(cx, result),
            (Work::Enter(entering), Done::Entered(entered)) => {
                self.on_entered(cx, entering, entered);
            }
            (Work::Enter(_), Done::TooOften(retry)) => self.fail(cx, &Fault::user_rate(retry)),
            (Work::Refresh { id }, Done::Authenticated(result)) => {
                self.on_refreshed(cx, id, result);
            }
            (Work::Authorize(authorizing), Done::Authorized(result)) => {
                self.on_authorized(cx, authorizing, result);
            }
            (Work::Publish(publishing), Done::Published(result)) => {
                self.on_published(cx, publishing, result);
            }
            (Work::Publish(publishing), Done::App(result)) => {
                self.on_handled(cx, publishing, result);
            }
            (Work::Request(requesting), Done::App(result)) => {
                self.on_answered(cx, requesting, result);
            }
            (Work::Join(joining), Done::Joined(joined)) => self.on_joined(cx, joining, joined),
            (Work::Recover(recovering), Done::Recovered(recovered)) => {
                self.on_recovered(cx, recovering, recovered);
            }
            (Work::History(asking), Done::History(result)) => {
                self.on_history(cx, asking, result);
            }
            (Work::Members(asked), Done::Members(result)) => self.on_members(cx, asked, result),
            (Work::Settle(settling), Done::Settled(result)) => {
                self.on_settled(cx, settling, result);
            }
            (work, done) => {
                debug_assert!(false, "{done:?} does not answer {work:?}");
                self.fail(cx, &Fault::internal());
            }
        }
        if self.is_busy() {
            return;
        }
        match &self.state {
            State::Draining(draining) => {
                let advice = draining.advice;
                self.say_goodbye(cx, advice);
            }
            // What waits would go on and on, and a sweep never find the session at rest.
            State::Live(_) if !was_renewal && self.is_to_renew(cx) => self.renew(cx),
            State::AwaitConnect { .. } | State::Live(_) => self.resume(cx),
            State::Closed(_) => {}
        }
    }

    /// Looks after time: at least once a second.
    pub fn on_sweep(&mut self, cx: &mut Cx<'_>, activity: Activity) {
        match &mut self.state {
            State::Closed(_) => {}
            State::AwaitConnect { since_ms, .. } => {
                if cx.now.mono_ms >= *since_ms + cx.rules.limits.connect_timeout_ms {
                    self.fail(cx, &Fault::connect_timeout());
                }
            }
            State::Draining(draining) => {
                if cx.now.mono_ms >= draining.until_ms {
                    let advice = draining.advice;
                    self.say_goodbye(cx, advice);
                }
            }
            State::Live(live) => {
                if live.principal.as_ref().is_some_and(|principal| principal.is_expired(cx.now)) {
                    return self.renew(cx);
                }
                if live.is_capability_over(cx.now) {
                    self.end_capabilities(cx);
                }
                let Some(live) = self.live_mut() else { return };
                match live.beats.due(cx.now.mono_ms, activity, &cx.rules.heartbeats) {
                    Due::Nothing => {}
                    Due::Heartbeat => {
                        let payload = match &self.codec {
                            Codec::Events(_) => events::HEARTBEAT,
                            _ => b"\n",
                        };
                        cx.effects.push(Effect::Write { text: true, payload: payload.to_vec() });
                    }
                    Due::Ping => cx.effects.push(Effect::Ping),
                    Due::Silent => self.fail(cx, &Fault::heartbeat_timeout()),
                }
            }
        }
    }

    /// Ends the session because its node goes away. A client that waits for an answer gets it
    /// first, unless that takes until `until_ms`. May be called again, also to make it earlier.
    pub fn on_drain(&mut self, cx: &mut Cx<'_>, retry_after_ms: u64, until_ms: u64) {
        self.depart(cx, Advice { reason: CloseReason::Draining, retry_after_ms }, until_ms);
    }

    /// The same where this node has too many, and goes on without it.
    pub fn on_rebalance(&mut self, cx: &mut Cx<'_>, retry_after_ms: u64, until_ms: u64) {
        self.depart(cx, Advice { reason: CloseReason::Rebalanced, retry_after_ms }, until_ms);
    }

    fn depart(&mut self, cx: &mut Cx<'_>, advice: Advice, until_ms: u64) {
        let is_over = cx.now.mono_ms >= until_ms;
        match &mut self.state {
            State::Closed(_) => {}
            State::Draining(draining) if !is_over => {
                draining.until_ms = until_ms.min(draining.until_ms);
            }
            State::Live(_) if self.work.is_some() && !is_over => {
                let closed = State::Closed(advice.reason);
                if let State::Live(live) = std::mem::replace(&mut self.state, closed) {
                    self.state = State::Draining(Box::new(Draining { live, until_ms, advice }));
                }
            }
            State::AwaitConnect { .. } | State::Live(_) | State::Draining(_) => {
                self.say_goodbye(cx, advice);
            }
        }
    }

    /// Ends the session for what the driver found wrong; the client is told in its protocol.
    pub fn close_with_error(&mut self, cx: &mut Cx<'_>, reason: CloseReason, message: &str) {
        self.fail(cx, &Fault::of_driver(reason, message));
    }

    /// Gives back what the session holds, once its transport is gone. May be called again.
    pub fn on_closed(&mut self, cx: &mut Cx<'_>) {
        self.on_closed_for(cx, CloseReason::ConnectionLost);
    }

    /// The same, where the driver knows why.
    pub fn on_closed_for(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        self.release(cx, reason);
    }

    /// Whether an effect is under way.
    pub fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    /// The largest transport message that may come now.
    pub fn max_message_bytes(&self, rules: &Rules) -> usize {
        match self.state {
            State::AwaitConnect { .. } => rules.limits.pre_auth_frame_bytes,
            _ => rules.limits.message_bytes,
        }
    }

    /// What it speaks, once that is known; a listener says nothing.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.codec {
            Codec::Undecided | Codec::Events(_) => None,
            Codec::Native => Some(Protocol::Native),
            Codec::Stomp { decoder, .. } if self.is_connected() => {
                Some(Protocol::Stomp(decoder.version()))
            }
            Codec::Stomp { offered, .. } => Some(Protocol::Stomp(*offered)),
        }
    }

    /// Whose session it is; `None` when it is anonymous, or not yet or no longer connected.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.live().and_then(|live| live.principal.as_ref())
    }

    /// Whose token it has come by, also while it is not connected yet.
    pub fn claimant(&self) -> Option<&Arc<Principal>> {
        match (&self.state, self.work.as_deref()) {
            (State::AwaitConnect { .. }, Some(Work::Enter(entering))) => entering.principal(),
            (State::AwaitConnect { principal, .. }, _) => principal.as_ref(),
            _ => self.principal(),
        }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether CONNECT was accepted and the session has not ended.
    pub fn is_connected(&self) -> bool {
        self.live().is_some()
    }

    /// How many subscriptions it has.
    pub fn subscription_count(&self) -> usize {
        self.live().map_or(0, |live| live.subscriptions.len())
    }

    /// Whether it is connected, and is not to end behind the answer that it waits for.
    pub fn stays(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Why it ended, once it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self.state {
            State::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Live(live) => Some(live),
            State::Draining(draining) => Some(&draining.live),
            State::AwaitConnect { .. } | State::Closed(_) => None,
        }
    }

    fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            State::Live(live) => Some(live),
            State::Draining(draining) => Some(&mut draining.live),
            State::AwaitConnect { .. } | State::Closed(_) => None,
        }
    }

    fn subject(&self) -> Subject<'_> {
        let principal = self.principal().map(|principal| &**principal);
        let rare = self.live().and_then(|live| live.rare.as_deref());
        let capability = rare.and_then(|rare| rare.capability.as_deref());
        let capability = capability.map(|capability| &capability.grants);
        Subject { capability, ..Subject::new(principal, self.id) }
    }

    /// Asks for something that has an answer: the last effect of this step.
    fn start(&mut self, cx: &mut Cx<'_>, work: Work, effect: Effect) {
        debug_assert!(self.work.is_none(), "one effect at a time");
        self.work = Some(Box::new(work));
        cx.effects.push(effect);
    }

    /// Tells the client of a fault that belongs to no request, and ends if the fault is such.
    fn fail(&mut self, cx: &mut Cx<'_>, fault: &Fault) {
        match self.codec {
            _ if self.is_closed() => {}
            Codec::Undecided => self.end(cx, fault.reason),
            Codec::Native => self.native_fail(cx, fault, None),
            Codec::Stomp { .. } => self.stomp_fail(cx, fault, None),
            Codec::Events(_) => self.events_fail(cx, fault, None),
        }
    }

    fn say_goodbye(&mut self, cx: &mut Cx<'_>, Advice { reason, retry_after_ms }: Advice) {
        match self.codec {
            Codec::Native => self.native_reconnect(cx, retry_after_ms, reason),
            Codec::Events(_) => self.events_reconnect(cx, retry_after_ms, reason),
            Codec::Undecided | Codec::Stomp { .. } => {
                self.fail(cx, &Fault::departing(reason, retry_after_ms));
            }
        }
    }

    fn end(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        if !self.is_closed() {
            self.release(cx, reason);
            cx.effects.push(Effect::Close(reason));
        }
    }

    /// Leaves all that was joined; from here on the session only waits to be dropped.
    fn release(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        let (exit, member) = (self.exit(reason), self.member());
        if let Some(live) = self.live_mut() {
            while let Some(subscription) = live.subscriptions.take_first() {
                live.left(cx, subscription, &member);
            }
        }
        cx.effects.extend(exit);
        self.work = None;
        self.backlog = None;
        if !self.is_closed() {
            self.state = State::Closed(reason);
        }
    }
}

impl Codec {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Native => Self::Native,
            Protocol::Stomp(offered) => {
                Self::Stomp { decoder: fanlight_proto::stomp::Decoder::new(), offered }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<Session>() <= 136, "{}", size_of::<Session>());
    }
}
