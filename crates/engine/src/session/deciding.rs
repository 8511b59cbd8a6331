//! Subscriptions that wait for a backend to agree.

use fanlight_proto::stomp::Version;

use super::live::{Answer, Work};
use super::recovery::Wanted;
use super::{Cx, Effect, Fault, Session};
use crate::auth::Capability;
use crate::hook::{HookError, SubscribeQuestion};
use crate::hub::Wire;
use crate::policy::{Right, SubscribePermit};

/// A subscription that waits for a backend's consent.
#[derive(Debug)]
pub(super) struct Deciding {
    right: Right<SubscribePermit>,
    id: Box<str>,
    wanted: Wanted<KeptWire>,
    answer: Answer,
}

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
        let question = SubscribeQuestion {
            hook,
            session: self.id,
            principal: self.principal().cloned(),
            destination: right.name().into(),
        };
        let wire = KeptWire::of(wanted.wire);
        let deciding = Deciding { right, id: id.into(), wanted: wanted.in_wire(wire), answer };
        let effect = Effect::AskToSubscribe(Box::new(question));
        self.start(cx, Work::Decide(Box::new(deciding)), effect);
    }

    pub(super) fn on_decided(
        &mut self,
        cx: &mut Cx<'_>,
        Deciding { right, id, wanted, answer }: Deciding,
        consent: Result<(), HookError>,
    ) {
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
}

impl Deciding {
    /// By what it would be there.
    pub(super) fn capability(&self) -> Option<&Capability> {
        self.wanted.capability.as_deref()
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
