//! How a session becomes connected: by its token, by its handshake's principal, or as nobody.

use std::sync::Arc;

use fanlight_proto::CloseReason;

use super::heartbeat::Beats;
use super::live::{Live, Work};
use super::{Codec, Cx, Effect, Fault, Session, State};
use crate::auth::{AuthError, Credentials, Principal};
use crate::hook::Claimant;
use crate::registry::Entered;

/// A CONNECT that waits for its token to be checked: what CONNECTED will say.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) beats: Beats,
}

/// A CONNECT that waits for the registry.
#[derive(Debug)]
pub(super) struct Entering {
    principal: Option<Arc<Principal>>,
    connecting: Connecting,
}

impl Entering {
    fn user(&self) -> Option<Arc<str>> {
        self.principal.as_ref().map(|principal| Arc::clone(&principal.user))
    }

    pub(super) fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    fn is_limited(&self) -> bool {
        self.principal.as_ref().is_none_or(|principal| !principal.is_service)
    }
}

impl Session {
    /// Connects with `credentials`, or else with what the handshake told.
    pub(super) fn connect(
        &mut self,
        cx: &mut Cx<'_>,
        credentials: Option<Credentials>,
        connecting: Connecting,
    ) -> Result<(), Fault> {
        let State::AwaitConnect { principal, introduction, is_let_in, .. } = &mut self.state else {
            return Err(Fault::already_connected());
        };
        let is_expired = credentials.is_none()
            && principal.as_ref().is_some_and(|principal| principal.is_expired(cx.now));
        if cx.rules.hooks.connect && !*is_let_in && !is_expired {
            let (principal, introduction) = (principal.clone(), introduction.take());
            let claimant = Claimant { credentials, principal, introduction };
            self.start(cx, Work::Connect(connecting), Effect::Introduce(Box::new(claimant)));
            return Ok(());
        }
        if let Some(credentials) = credentials {
            self.start(cx, Work::Connect(connecting), Effect::Authenticate(credentials));
            return Ok(());
        }
        match principal.clone() {
            Some(principal) if principal.is_expired(cx.now) => return Err(Fault::token_expired()),
            None if !cx.rules.policy.allows_anonymous() => return Err(Fault::no_token()),
            principal => self.accept(cx, principal, connecting),
        }
        Ok(())
    }

    pub(super) fn on_authenticated(
        &mut self,
        cx: &mut Cx<'_>,
        connecting: Connecting,
        result: Result<Arc<Principal>, AuthError>,
    ) {
        match result {
            Ok(principal) => self.accept(cx, Some(principal), connecting),
            Err(error) => self.fail(cx, &Fault::from(error).fatal()),
        }
    }

    /// The same where a backend has decided, who may have let in nobody in particular.
    pub(super) fn on_introduced(
        &mut self,
        cx: &mut Cx<'_>,
        connecting: Connecting,
        result: Result<Option<Arc<Principal>>, AuthError>,
    ) {
        match result {
            Ok(None) if !cx.rules.policy.allows_anonymous() => self.fail(cx, &Fault::no_token()),
            Ok(principal) => self.accept(cx, principal, connecting),
            Err(error) => self.fail(cx, &Fault::from(error).fatal()),
        }
    }

    /// Enters the registry, which may know of too many sessions of this user.
    fn accept(
        &mut self,
        cx: &mut Cx<'_>,
        principal: Option<Arc<Principal>>,
        connecting: Connecting,
    ) {
        let entering = Entering { principal, connecting };
        let (user, is_limited) = (entering.user(), entering.is_limited());
        let told = match &self.state {
            State::AwaitConnect { principal, .. } => principal.as_ref().map(|told| &told.user),
            _ => None,
        };
        let is_known = told == user.as_ref();
        let effect = Effect::Enter { user, is_limited, is_known };
        self.start(cx, Work::Enter(entering), effect);
    }

    /// Goes on with what `principal` may do, who must be the same user. What that no longer allows
    /// ends.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Cx<'_>,
        principal: Arc<Principal>,
    ) -> Result<(), Fault> {
        let own = self.live_mut().and_then(|live| live.principal.as_mut());
        let own = own.filter(|own| own.user == principal.user).ok_or_else(Fault::other_user)?;
        let former = std::mem::replace(own, principal);
        if self.principal().is_some_and(|own| !former.has_rights_of(own)) {
            self.end_what_is_no_longer_allowed(cx);
        }
        Ok(())
    }

    /// STOMP and events can't end one subscription and say why, so there the session ends.
    fn end_what_is_no_longer_allowed(&mut self, cx: &mut Cx<'_>) {
        let Some(live) = self.live() else { return };
        // What a backend has subscribed to, no rule allowed before either.
        let own = live.subscriptions.iter().filter(|own| !own.by_server);
        let all = own.map(|own| own.id.clone());
        let is_native = matches!(self.codec, Codec::Native);
        for id in all.collect::<Vec<_>>() {
            let Some(to) = self.no_longer_allowed(cx, &id) else { continue };
            if !is_native {
                return self.fail(cx, &Fault::subscription_revoked(&to).fatal());
            }
            if self.unsubscribe(cx, &id).is_ok() {
                self.fail(cx, &Fault::subscription_revoked(&to));
            }
        }
    }

    /// How to leave the registry, if it has this session or is about to.
    pub(super) fn exit(&self, reason: CloseReason) -> Option<Effect> {
        let user = match (self.work.as_deref(), self.live()) {
            (Some(Work::Enter(entering)), _) => entering.user(),
            (_, Some(live)) => live.user(),
            (_, None) => return None,
        };
        Some(Effect::Exit { user, reason })
    }

    pub(super) fn on_entered(
        &mut self,
        cx: &mut Cx<'_>,
        Entering { principal, connecting: Connecting { beats } }: Entering,
        entered: Entered,
    ) {
        match entered {
            Entered::Now | Entered::Later => {}
            Entered::Full => return self.fail(cx, &Fault::session_limit()),
        }
        self.state = State::Live(Live::new(principal, beats));
        match self.codec {
            Codec::Stomp { .. } => self.stomp_connected(cx),
            Codec::Events(_) => self.events_connected(cx),
            Codec::Native | Codec::Undecided => self.native_connected(cx),
        }
    }
}
