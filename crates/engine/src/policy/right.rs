//! What the policy grants: a permit, perhaps only once a backend agrees.

use std::sync::Arc;

use fanlight_proto::Destination;

use super::{HistoryPermit, NamespaceOptions, PresencePermit, PublishPermit, SubscribePermit};
use crate::auth::Capability;
use crate::history::History;
use crate::hook::HookError;

/// The right to something, as far as the policy goes. Where the namespace has a hook for it, the
/// permit comes out only with that backend's consent (design invariant 6).
#[derive(Debug)]
pub struct Right<P> {
    permit: P,
    hook: Option<Arc<str>>,
    capability: Option<Arc<Capability>>,
}

impl<P> Right<P> {
    pub(super) fn new(permit: P, hook: Option<&Arc<str>>) -> Self {
        Self { permit, hook: hook.cloned(), capability: None }
    }

    /// The permit, where nobody else is to be asked.
    pub fn permit(self) -> Result<P, Self> {
        if self.hook.is_none() { Ok(self.permit) } else { Err(self) }
    }

    /// The backend to ask.
    pub fn hook(&self) -> Option<&Arc<str>> {
        self.hook.as_ref()
    }

    /// The same by this capability, which may be revoked while the backend is asked.
    #[must_use]
    pub(crate) fn by(self, capability: Option<&Arc<Capability>>) -> Self {
        // Where nobody is asked, nothing is between this and what is done.
        let capability = capability.filter(|_| self.hook.is_some()).cloned();
        Self { capability, ..self }
    }

    /// The capability that it is by, where a backend is asked.
    pub fn capability(&self) -> Option<&Arc<Capability>> {
        self.capability.as_ref()
    }

    /// What came of asking.
    pub fn decided(self, consent: Result<(), HookError>) -> Result<P, HookError> {
        consent.map(|()| self.agreed())
    }

    /// The permit, where the backend has agreed to as much before.
    pub(crate) fn agreed(self) -> P {
        self.permit
    }
}

impl Right<PublishPermit> {
    /// Where it allows to publish.
    pub fn destination(&self) -> &Destination {
        self.permit.destination()
    }

    /// What its namespace does with publications.
    pub fn options(&self) -> &Arc<NamespaceOptions> {
        self.permit.options()
    }

    /// See [`PublishPermit::without_history`].
    #[must_use]
    pub fn without_history(self) -> Self {
        Self { permit: self.permit.without_history(), ..self }
    }
}

impl Right<SubscribePermit> {
    /// See [`SubscribePermit::history`].
    pub fn history(&self) -> Option<(&Destination, History)> {
        self.permit.history()
    }

    /// What it is for, absolute, as text.
    pub fn name(&self) -> &str {
        self.permit.target().as_str()
    }
}

impl Right<HistoryPermit> {
    /// Whose history it allows to read.
    pub fn destination(&self) -> &Destination {
        self.permit.destination()
    }
}

impl Right<PresencePermit> {
    /// Where it allows to see who is there.
    pub fn destination(&self) -> &Destination {
        self.permit.destination()
    }
}

/// Who has a permit needs nobody's consent.
impl<P> From<P> for Right<P> {
    fn from(permit: P) -> Self {
        Self { permit, hook: None, capability: None }
    }
}
