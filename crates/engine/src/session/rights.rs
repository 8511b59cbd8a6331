//! What a session may do changes: its client refreshes its token, or a backend has it go on.

use std::sync::Arc;

use fanlight_proto::Destination;
use fanlight_proto::native::RequestId;

use super::live::{Answer, Note, Work};
use super::subscriptions::{Feed, Subscription};
use super::{Codec, Cx, Effect, Fault, Session};
use crate::auth::{AuthError, Principal};
use crate::hook::Renewal;
use crate::hub::Target;
use crate::policy::Subject;

impl Session {
    /// The client has sent a new token.
    pub(super) fn on_refreshed(
        &mut self,
        cx: &mut Cx<'_>,
        id: Option<RequestId>,
        result: Result<Arc<Principal>, AuthError>,
    ) {
        let replaced = result.map_err(Fault::from);
        match replaced.and_then(|principal| self.replace_principal(cx, principal)) {
            Ok(()) => self.confirm(cx, Answer::to(id), Note::default()),
            Err(fault) => self.native_fail(cx, &fault, id),
        }
    }

    /// Whether the session's time is over, and a backend decides about that.
    pub(super) fn is_to_renew(&self, cx: &Cx<'_>) -> bool {
        cx.rules.hooks.refresh
            && self.principal().is_some_and(|principal| principal.is_expired(cx.now))
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
        let replaced = match result {
            Ok(principal) if !principal.is_expired(cx.now) => self.replace_principal(cx, principal),
            // The next sweep asks again, as long as there is time.
            Err(AuthError::BackendUnavailable) => Ok(()),
            _ => Err(Fault::token_expired()),
        };
        if let Err(fault) = replaced {
            self.fail(cx, &fault.fatal());
        }
    }

    /// The session is `principal`'s from now on, who must be the same user, and what that does not
    /// allow any more ends.
    fn replace_principal(
        &mut self,
        cx: &mut Cx<'_>,
        principal: Arc<Principal>,
    ) -> Result<(), Fault> {
        let former = self.principal().filter(|former| former.user == principal.user).cloned();
        let former = former.ok_or_else(Fault::other_user)?;
        let may_do_the_same = former.has_rights_of(&principal);
        if let Some(live) = self.live_mut() {
            live.principal = Some(principal);
        }
        if !may_do_the_same {
            self.end_what_is_no_longer_allowed(cx);
        }
        Ok(())
    }

    /// STOMP and events can't end one subscription and say why, so there the session ends.
    fn end_what_is_no_longer_allowed(&mut self, cx: &mut Cx<'_>) {
        let Some(live) = self.live() else { return };
        // What a backend has subscribed to, no rule allowed before either.
        let own = live.subscriptions.iter().filter(|own| !own.by_server);
        let over = own.filter(|own| !self.is_still_allowed(cx, own));
        let over: Vec<_> = over.map(|own| (own.id.clone(), named(cx, own))).collect();
        for (id, to) in over {
            if !matches!(self.codec, Codec::Native) {
                return self.fail(cx, &Fault::subscription_revoked(&to).fatal());
            }
            if self.unsubscribe(cx, &id).is_ok() {
                self.native_ended(cx, &Fault::subscription_revoked(&id), &id);
            }
        }
    }

    /// Whether a subscription would be allowed now.
    fn is_still_allowed(&self, cx: &Cx<'_>, subscription: &Subscription) -> bool {
        let capability = subscription.capability.as_ref().map(|capability| &capability.grants);
        let (policy, subject) = (&cx.rules.policy, Subject { capability, ..self.subject() });
        let may_see = |to: &Destination| {
            policy.subscribe(&subject, to).is_ok()
                && (!subscription.presence || policy.presence(&subject, to).is_ok())
        };
        match subscription.feed {
            Feed::Hub(key) => match cx.hub.target(key) {
                Some(Target::Destination(to)) => may_see(to),
                Some(Target::Pattern(to)) => policy.subscribe_pattern(&subject, to).is_ok(),
                None => true,
            },
            // A queue's channel is of its destination alone.
            Feed::Queue(_) => subscription.channel.as_str().parse().is_ok_and(|to| may_see(&to)),
            Feed::Ended => true,
        }
    }
}

/// What a subscription is to; STOMP has another name for it.
fn named(cx: &Cx<'_>, subscription: &Subscription) -> Box<str> {
    match subscription.feed {
        Feed::Hub(key) => cx.hub.target(key).map_or(&*subscription.id, Target::as_str).into(),
        Feed::Queue(_) => subscription.channel.as_str().into(),
        Feed::Ended => subscription.id.clone(),
    }
}

/// How long after its end a session may wait for its backend's word, in seconds.
const RENEWAL_MAX_S: u64 = 15;
