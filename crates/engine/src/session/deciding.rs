//! What waits for a backend to agree: subscriptions, and the time of a session.

use std::sync::Arc;

use fanlight_proto::stomp::Version;

use super::live::{Answer, Work};
use super::queue::Consuming;
use super::recovery::Wanted;
use super::{Cx, Effect, Fault, Session};
use crate::auth::{AuthError, Principal};
use crate::hook::{HookError, Renewal, SubscribeQuestion};
use crate::hub::Wire;
use crate::policy::{Right, SubscribePermit};
use crate::timeline::Start;

/// A subscription that waits for a backend's consent.
#[derive(Debug)]
pub(super) struct Deciding {
    right: Right<SubscribePermit>,
    id: Box<str>,
    wire: KeptWire,
    start: Start,
    presence: bool,
    consuming: Consuming,
    answer: Answer,
}

/// A [`Wire`] apart from the request that it was read from.
#[derive(Debug, Clone, Copy)]
enum KeptWire {
    Native { named: bool },
    Stomp { version: Version, ack: bool },
    Events { index: u16, named: bool },
}

impl Session {
    /// Asks the backend that has a say in it, then subscribes.
    pub(super) fn ask_to_subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        right: Right<SubscribePermit>,
        wanted: Wanted<'_>,
        answer: Answer,
    ) {
        let Some(hook) = right.hook().cloned() else {
            return self.refuse(cx, &Fault::internal(), &answer);
        };
        let question = SubscribeQuestion {
            hook,
            session: self.id,
            principal: self.principal().cloned(),
            destination: right.name().into(),
        };
        let Wanted { wire, start, presence, consuming, .. } = wanted;
        let (id, wire) = (id.into(), KeptWire::of(wire));
        let deciding = Deciding { right, id, wire, start, presence, consuming, answer };
        let effect = Effect::AskToSubscribe(Box::new(question));
        self.start(cx, Work::Decide(Box::new(deciding)), effect);
    }

    pub(super) fn on_decided(
        &mut self,
        cx: &mut Cx<'_>,
        deciding: Deciding,
        consent: Result<(), HookError>,
    ) {
        let Deciding { right, id, wire, start, presence, consuming, answer } = deciding;
        let permit = match right.decided(consent) {
            Ok(permit) => permit,
            Err(error) => return self.refuse(cx, &error.into(), &answer),
        };
        let headers = Box::default();
        let wanted = Wanted { wire: wire.with(&id), start, presence, consuming, headers };
        if let Err((fault, answer)) = self.subscribe_permitted(cx, &id, permit, wanted, answer) {
            self.refuse(cx, &fault, &answer);
        }
    }

    /// Has a session go on whose time is over, where a backend decides about that. Without one, or
    /// while it does something else for longer than it may, it ends.
    pub(super) fn renew(&mut self, cx: &mut Cx<'_>) {
        let Some(principal) = self.principal().cloned() else { return };
        let expired_s = principal.expires_unix_s.unwrap_or(u64::MAX);
        let is_late = cx.now.unix_s() >= expired_s.saturating_add(RENEWAL_MAX_S);
        if !cx.rules.hooks.refresh || is_late {
            return self.fail(cx, &Fault::token_expired());
        }
        if !self.is_busy() {
            let effect = Effect::Renew(Box::new(Renewal { principal, token: None }));
            self.start(cx, Work::Renew, effect);
        }
    }

    pub(super) fn on_renewed(
        &mut self,
        cx: &mut Cx<'_>,
        result: Result<Arc<Principal>, AuthError>,
    ) {
        match (result, self.live_mut()) {
            (Ok(principal), Some(live)) if !principal.is_expired(cx.now) => {
                live.principal = Some(principal);
            }
            _ => self.fail(cx, &Fault::token_expired()),
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

/// How long after its end a session may wait for its backend's word, in seconds.
const RENEWAL_MAX_S: u64 = 15;
