//! Capabilities: a token given with one request, which allows what the session's own does not.

use std::sync::Arc;

use fanlight_proto::native::ClientMessage;
use fanlight_proto::stomp::Frame;

use super::live::{Answer, Live, Work, may_subscribe};
use super::presence::may_see_presence;
use super::subscriptions::{Feed, Subscription};
use super::{Codec, Cx, Effect, Fault, Rules, Session};
use crate::auth::{AuthError, Capability, Principal, Token};
use crate::policy::Subject;
use crate::time::Now;

/// A request that waits for its capability to be checked.
#[derive(Debug)]
pub(super) struct Authorizing(Request);

/// The request, without the token.
#[derive(Debug)]
enum Request {
    Native(Box<ClientMessage<'static>>),
    Stomp(Box<Frame>, Answer),
}

impl Session {
    /// Puts off a native request until its capability is checked.
    pub(super) fn authorize_native(
        &mut self,
        cx: &mut Cx<'_>,
        token: &str,
        message: ClientMessage<'static>,
    ) {
        self.authorize(cx, token, Request::Native(Box::new(message)));
    }

    /// Puts off a STOMP frame until its capability is checked.
    pub(super) fn authorize_stomp(
        &mut self,
        cx: &mut Cx<'_>,
        token: &str,
        frame: &Frame,
        answer: Answer,
    ) {
        let kept = frame.headers.iter().filter(|(name, _)| *name != TOKEN);
        let frame =
            Frame { command: frame.command, headers: kept.collect(), body: frame.body.clone() };
        self.authorize(cx, token, Request::Stomp(Box::new(frame), answer));
    }

    fn authorize(&mut self, cx: &mut Cx<'_>, token: &str, request: Request) {
        let effect = Effect::Authorize(Token::new(token));
        self.start(cx, Work::Authorize(Authorizing(request)), effect);
    }

    /// Carries out the request, if its token is good and this user's.
    pub(super) fn on_authorized(
        &mut self,
        cx: &mut Cx<'_>,
        Authorizing(request): Authorizing,
        result: Result<Arc<Capability>, AuthError>,
    ) {
        let principal = self.principal().map(|principal| &**principal);
        let capability = result
            .and_then(|capability| check(capability, principal, cx.now))
            .map_err(|error| Fault::bad_capability(&error));
        match request {
            Request::Native(message) => {
                let id = super::native::request_id(&message);
                let outcome = capability.and_then(|capability| {
                    self.with_capability(capability, |session| {
                        session.native_carry_out(cx, *message)
                    })
                });
                if let Err(fault) = outcome {
                    self.native_fail(cx, &fault, id);
                }
            }
            Request::Stomp(frame, mut answer) => {
                let outcome = capability.and_then(|capability| {
                    self.with_capability(capability, |session| {
                        session.stomp_carry_out(cx, &frame, &mut answer)
                    })
                });
                match outcome {
                    Ok(()) => self.confirm(cx, answer, super::live::Note::default()),
                    Err(fault) => self.refuse(cx, &fault, &answer),
                }
            }
        }
    }

    /// Carries out a step that `capability` was given with.
    pub(super) fn with_capability<T>(
        &mut self,
        capability: Arc<Capability>,
        step: impl FnOnce(&mut Self) -> T,
    ) -> T {
        if let Some(live) = self.live_mut() {
            live.rare.get_or_insert_default().capability = Some(capability);
        }
        let done = step(self);
        if let Some(live) = self.live_mut() {
            if let Some(rare) = &mut live.rare {
                rare.capability = None;
            }
            live.drop_empty();
        }
        done
    }

    /// The capabilities that its subscriptions are there by, or are to be.
    pub fn capabilities(&self) -> impl Iterator<Item = &Capability> {
        let subscriptions = self.live().into_iter().flat_map(|live| live.subscriptions.iter());
        let waiting = match self.work.as_deref() {
            Some(Work::Decide(deciding)) => deciding.capability(),
            _ => None,
        };
        let listening = match &self.codec {
            Codec::Events(events) => events.capability_in_use(),
            _ => None,
        };
        let own = subscriptions.filter_map(|own| own.capability.as_deref());
        own.chain(waiting).chain(listening)
    }

    /// The capability that the request in hand was given with and needs.
    pub(super) fn capability_in_hand(&self) -> Option<&Arc<Capability>> {
        self.live()?.rare.as_ref()?.capability.as_ref()
    }

    /// The capability in hand, if a subscription needs it.
    pub(super) fn capability_for(
        &self,
        cx: &Cx<'_>,
        to: &str,
        presence: bool,
    ) -> Option<Arc<Capability>> {
        let capability = self.capability_in_hand()?;
        let own = Subject { capability: None, ..self.subject() };
        let is_needed = !may(cx.rules, &own, to, presence);
        is_needed.then(|| Arc::clone(capability))
    }

    /// The subscription that is being joined.
    fn joining(&self) -> Option<Feed> {
        match self.work.as_deref()? {
            Work::Join(joining) => Some(joining.feed()),
            Work::Recover(recovering) => Some(recovering.feed()),
            _ => None,
        }
    }

    /// Ends the subscriptions whose capabilities are over. STOMP and events can't end one alone and
    /// say why, so there the session ends.
    pub(super) fn end_capabilities(&mut self, cx: &mut Cx<'_>) {
        let Some(live) = self.live() else { return };
        let (is_native, joining) = (matches!(self.codec, Codec::Native), self.joining());
        let over = live.subscriptions.iter().filter(|own| own.is_over(cx.now));
        let over: Vec<_> = over
            // One that is being joined ends once it is live, if that comes soon.
            .filter(|own| !is_native || Some(own.feed) != joining || own.is_late(cx.now))
            .map(|own| (own.id.clone(), own.feed))
            .collect();
        for (id, feed) in over {
            if !is_native || Some(feed) == joining {
                return self.fail(cx, &Fault::capability_expired(&id).fatal());
            }
            if self.unsubscribe(cx, &id).is_ok() {
                self.native_ended(cx, &Fault::capability_expired(&id), &id);
            }
        }
        let Some(live) = self.live_mut() else { return };
        if let Some(rare) = &mut live.rare {
            rare.capabilities_until_s =
                live.subscriptions.iter().filter_map(Subscription::until_s).min();
        }
        live.drop_empty();
    }
}

impl Live {
    /// Notes when a subscription that is added ends.
    pub(super) fn note_capability(&mut self, subscription: &Subscription) {
        let Some(until_s) = subscription.until_s() else { return };
        let first = &mut self.rare.get_or_insert_default().capabilities_until_s;
        *first = Some(first.map_or(until_s, |first| first.min(until_s)));
    }

    /// Whether a subscription by a capability is to end.
    pub(super) fn is_capability_over(&self, now: Now) -> bool {
        let first = self.rare.as_ref().and_then(|rare| rare.capabilities_until_s);
        first.is_some_and(|until_s| until_s <= now.unix_s())
    }
}

impl Subscription {
    /// When it ends by itself.
    fn until_s(&self) -> Option<u64> {
        self.capability.as_ref().map(|capability| capability.expires_unix_s)
    }

    fn is_over(&self, now: Now) -> bool {
        self.until_s().is_some_and(|until_s| until_s <= now.unix_s())
    }

    /// Whether that was long ago.
    fn is_late(&self, now: Now) -> bool {
        let end_s = self.until_s().map(|until_s| until_s.saturating_add(JOIN_MAX_S));
        end_s.is_some_and(|end_s| end_s <= now.unix_s())
    }
}

/// A capability that a session of `principal` may use now.
pub(super) fn check(
    capability: Arc<Capability>,
    principal: Option<&Principal>,
    now: Now,
) -> Result<Arc<Capability>, AuthError> {
    if !capability.is_for(principal) {
        return Err(AuthError::OtherUser);
    }
    if capability.is_over(now) {
        return Err(AuthError::Expired);
    }
    Ok(capability)
}

fn may(rules: &Rules, subject: &Subject<'_>, to: &str, presence: bool) -> bool {
    may_subscribe(rules, subject, to).is_ok()
        && (!presence || may_see_presence(rules, subject, to).is_ok())
}

/// How long a subscription may go on to be joined beyond its capability, in seconds: a client that
/// reads slowly decides how long its history takes.
const JOIN_MAX_S: u64 = 15;
/// The header of STOMP that a capability comes in.
pub(super) const TOKEN: &str = "token";
