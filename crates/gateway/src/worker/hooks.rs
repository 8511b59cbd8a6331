//! What sessions want that a backend has a say in.

use std::sync::Arc;

use fanlight_engine::history::IdempotencyKey;
use fanlight_engine::hook::{Claimant, Renewal, SubscribeQuestion};
use fanlight_engine::hub::SessionKey;
use fanlight_engine::policy::{PublishPermit, Right};
use fanlight_engine::publication::Publication;
use fanlight_engine::session::{Done, Session};
use fanlight_engine::time::Now;

use super::Worker;
use super::census::transport_of;
use super::slot::Role;
use crate::hooks::{Origin, Wish};
use crate::traces::watched;

impl Worker {
    pub(super) fn introduce(
        &mut self,
        key: SessionKey,
        claimant: Claimant,
        now: Now,
    ) -> Option<Done> {
        let origin = self.origin(key)?;
        let asked = self.shared.hooks.introduce(claimant, origin, now);
        self.start(key, asked, Done::Introduced)
    }

    pub(super) fn renew(&mut self, key: SessionKey, renewal: Renewal, now: Now) -> Option<Done> {
        let origin = self.origin(key)?;
        let asked = self.shared.hooks.renew(renewal, origin, now);
        self.start(key, asked, Done::Authenticated)
    }

    /// Where a session is.
    fn origin(&self, key: SessionKey) -> Option<Origin> {
        let slot = self.slots.get(key.0 as usize)?;
        let Role::Session(session) = &slot.role else { return None };
        Some(Origin { session: Some(session.id()), transport: transport_of(slot).name() })
    }

    pub(super) fn ask_to_subscribe(
        &mut self,
        key: SessionKey,
        question: &SubscribeQuestion,
    ) -> Option<Done> {
        let asked = self.shared.hooks.subscribe(question);
        self.start(key, asked, Done::Decided)
    }

    /// Publishes, once the backend agrees that has a say in it.
    pub(super) fn publish(
        &mut self,
        key: SessionKey,
        right: Right<PublishPermit>,
        mut publication: Publication,
        once: Option<IdempotencyKey>,
    ) -> Option<Done> {
        self.stats.published += 1;
        let traced = self.trace(key, &mut publication);
        let broker = &self.shared.broker;
        let permit = match right.permit() {
            Ok(permit) => permit,
            Err(right) => {
                let session = self.session(key)?;
                let (id, principal) = (Some(session.id()), session.principal().cloned());
                let (session, standing) = (id, self.revoking.waits(key));
                let wish = Wish { right, publication, once, session, principal, traced, standing };
                let publish = self.shared.hooks.publish(wish, Arc::clone(broker));
                return self.start(key, publish, Done::Published);
            }
        };
        let publish = match once {
            Some(once) => broker.publish_once(permit, publication, once),
            None => broker.publish(permit, publication),
        };
        let publish = watched(traced, self.stats.samples.publish(publish));
        self.start(key, publish, |result| Done::Published(result.map_err(Into::into)))
    }

    pub(super) fn session(&self, key: SessionKey) -> Option<&Session> {
        match &self.slots.get(key.0 as usize)?.role {
            Role::Session(session) => Some(session),
            Role::Echo(_) => None,
        }
    }
}
