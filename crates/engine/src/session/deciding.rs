//! What waits for a backend to agree: subscriptions, and reading what subscribers get.

use std::sync::Arc;

use fanlight_proto::Destination;
use fanlight_proto::stomp::Version;

use super::live::{Answer, Work};
use super::presence::MembersRequest;
use super::recovery::{HistoryRequest, Wanted};
use super::subscriptions::{Feed, Subscription};
use super::{Cx, Effect, Fault, Session};
use crate::auth::Capability;
use crate::hook::{Actions, HookError, SubscribeQuestion};
use crate::hub::Wire;
use crate::policy::{Action, HistoryPermit, PresencePermit, Right, SubscribePermit};

/// What waits for a backend's consent.
#[derive(Debug)]
pub(super) enum Deciding {
    Subscription(Subscribing),
    History(Right<HistoryPermit>, HistoryRequest),
    Members(Right<PresencePermit>, MembersRequest),
}

/// A subscription that waits.
#[derive(Debug)]
pub(super) struct Subscribing {
    right: Right<SubscribePermit>,
    id: Box<str>,
    wanted: Wanted<KeptWire>,
    answer: Answer,
}

/// What a backend is to be asked about: a right, by the backend's name, to a destination.
type Question<P> = (Right<P>, Arc<str>, Box<str>);

/// A [`Wire`] apart from the request that it was read from.
#[derive(Debug, Clone, Copy)]
enum KeptWire {
    Native { named: bool },
    Stomp { version: Version, ack: bool },
    Events { index: Option<u16>, named: bool },
}

impl Session {
    /// Asks the backend that has a say in it, then subscribes.
    pub(super) fn ask_to_subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        right: Right<SubscribePermit>,
        wanted: Wanted<Wire<'_>>,
        answer: Answer,
    ) {
        let Some(hook) = right.hook().cloned() else {
            return self.refuse(cx, &Fault::internal(), &answer);
        };
        let (to, actions) = (right.name().into(), wanted.agreed);
        let wire = KeptWire::of(wanted.wire);
        let subscribing =
            Subscribing { right, id: id.into(), wanted: wanted.in_wire(wire), answer };
        self.ask(cx, hook, actions, to, Deciding::Subscription(subscribing));
    }

    /// Reads a history, once the backend agrees that has a say in who subscribes there.
    pub(super) fn ask_for_history(
        &mut self,
        cx: &mut Cx<'_>,
        right: Right<HistoryPermit>,
        request: HistoryRequest,
    ) {
        match self.at_once(cx, Action::History, right, Right::<HistoryPermit>::destination) {
            Ok(permit) => self.read_history(cx, permit, request),
            Err((right, hook, to)) => {
                let actions = Actions::of(Action::History);
                self.ask(cx, hook, actions, to, Deciding::History(right, request));
            }
        }
    }

    /// Reads who is at a place, once the backend agrees that has a say in who subscribes there.
    pub(super) fn ask_for_members(
        &mut self,
        cx: &mut Cx<'_>,
        right: Right<PresencePermit>,
        request: MembersRequest,
    ) {
        match self.at_once(cx, Action::Presence, right, Right::<PresencePermit>::destination) {
            Ok(permit) => self.read_members(cx, permit, request),
            Err((right, hook, to)) => {
                let actions = Actions::of(Action::Presence);
                self.ask(cx, hook, actions, to, Deciding::Members(right, request));
            }
        }
    }

    /// The permit, where nobody is to be asked: no backend has a say in it, or it has agreed to as
    /// much with a subscription that the session has there. Else whom to ask about what.
    fn at_once<P>(
        &self,
        cx: &Cx<'_>,
        action: Action,
        right: Right<P>,
        destination: impl Fn(&Right<P>) -> &Destination,
    ) -> Result<P, Question<P>> {
        let right = match right.permit() {
            Ok(permit) => return Ok(permit),
            Err(right) => right,
        };
        let is_agreed = self.live().is_some_and(|live| {
            let mut own = live.subscriptions.iter();
            own.any(|own| own.is_agreed(action) && is_to(cx, own, destination(&right)))
        });
        match right.hook().cloned() {
            Some(hook) if !is_agreed => {
                let to = destination(&right).as_str().into();
                Err((right, hook, to))
            }
            _ => Ok(right.agreed()),
        }
    }

    fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        hook: Arc<str>,
        actions: Actions,
        destination: Box<str>,
        deciding: Deciding,
    ) {
        let (session, principal) = (self.id, self.principal().cloned());
        let question = SubscribeQuestion { hook, actions, session, principal, destination };
        let effect = Effect::AskToSubscribe(Box::new(question));
        self.start(cx, Work::Decide(Box::new(deciding)), effect);
    }

    pub(super) fn on_decided(
        &mut self,
        cx: &mut Cx<'_>,
        deciding: Deciding,
        consent: Result<(), HookError>,
    ) {
        let subscribing = match deciding {
            Deciding::Subscription(subscribing) => subscribing,
            Deciding::History(right, request) => match right.decided(consent) {
                Ok(permit) => {
                    self.note_agreed(cx, Action::History, permit.destination());
                    return self.read_history(cx, permit, request);
                }
                Err(error) => return self.native_fail(cx, &error.into(), Some(request.id())),
            },
            Deciding::Members(right, request) => match right.decided(consent) {
                Ok(permit) => {
                    self.note_agreed(cx, Action::Presence, permit.destination());
                    return self.read_members(cx, permit, request);
                }
                Err(error) => return self.native_fail(cx, &error.into(), Some(request.id())),
            },
        };
        let Subscribing { right, id, wanted, answer } = subscribing;
        let permit = match right.decided(consent) {
            Ok(permit) => permit,
            Err(error) => return self.refuse(cx, &error.into(), &answer),
        };
        let wire = wanted.wire.with(&id);
        let wanted = wanted.in_wire(wire);
        if let Err((fault, answer)) = self.subscribe_permitted(cx, &id, permit, wanted, answer) {
            self.refuse(cx, &fault, &answer);
        }
    }

    /// A backend has agreed to this: it is not asked again while the session is subscribed there.
    fn note_agreed(&mut self, cx: &Cx<'_>, action: Action, to: &Destination) {
        let Some(live) = self.live_mut() else { return };
        for own in live.subscriptions.iter_mut().filter(|own| is_to(cx, own, to)) {
            own.agreed = own.agreed.with(action);
        }
    }
}

fn is_to(cx: &Cx<'_>, own: &Subscription, to: &Destination) -> bool {
    matches!(own.feed, Feed::Hub(key) if cx.hub.is_to(key, to))
}

impl Deciding {
    /// By what it would be there.
    pub(super) fn capability(&self) -> Option<&Capability> {
        match self {
            Self::Subscription(subscribing) => subscribing.wanted.capability.as_deref(),
            Self::History(..) | Self::Members(..) => None,
        }
    }
}

impl KeptWire {
    fn of(wire: Wire<'_>) -> Self {
        match wire {
            Wire::Native { named } => Self::Native { named },
            Wire::Stomp { version, ack, .. } => Self::Stomp { version, ack },
            Wire::Events { index, named } => Self::Events { index, named },
        }
    }

    /// STOMP names a subscription by its id.
    fn with(self, id: &str) -> Wire<'_> {
        match self {
            Self::Native { named } => Wire::Native { named },
            Self::Stomp { version, ack } => Wire::Stomp { version, id, ack },
            Self::Events { index, named } => Wire::Events { index, named },
        }
    }
}
