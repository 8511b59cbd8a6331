//! Presence in a session: whose subscriptions make it a member where, and who else is there.

use std::sync::Arc;

use fanlight_proto::native::{PresenceMember, RequestId, ServerMessage};

use super::live::{Work, is_pattern, parse_destination};
use super::subscriptions::{Feed, Subscriptions};
use super::{Cx, Effect, Fault, Rules, Session, native};
use crate::policy::{Denied, PresencePermit, Right, Subject};
use crate::presence::{Member, MembersPage, Place, PresenceError, Present};

/// A client's question who is at a destination.
#[derive(Debug)]
pub(super) struct Asked {
    id: RequestId,
    /// The destination, as the client wrote it.
    to: Box<str>,
}

/// The question with its page.
#[derive(Debug)]
pub(super) struct MembersRequest {
    cursor: Option<Box<str>>,
    limit: Option<u32>,
    asked: Asked,
}

impl MembersRequest {
    /// The client's name for it.
    pub(super) fn id(&self) -> RequestId {
        self.asked.id.clone()
    }
}

/// The part of the answer that a client chooses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'p> {
    pub(super) cursor: Option<&'p str>,
    pub(super) limit: Option<u32>,
}

impl Session {
    /// As whom this session counts.
    pub(super) fn member(&self) -> Member {
        match self.principal() {
            Some(principal) => Member::User(Arc::clone(&principal.user)),
            None => Member::Anonymous(self.id),
        }
    }

    /// Makes the session a member at `place` by a subscription that is live now, unless it is one
    /// by another.
    pub(super) fn appear(&mut self, cx: &mut Cx<'_>, feed: Feed, place: Box<Place>) {
        let member = self.member();
        let Some(live) = self.live_mut() else { return };
        let is_there = live.subscriptions.is_at(&place);
        let Some(subscription) = live.subscriptions.by_feed(feed) else { return };
        if !is_there {
            cx.effects.push(Effect::Appear((*place).clone(), member));
        }
        subscription.place = Some(place);
    }

    /// Asks who is at `to`.
    pub(super) fn ask_members(
        &mut self,
        cx: &mut Cx<'_>,
        id: RequestId,
        to: &str,
        page: Page<'_>,
    ) -> Result<(), Fault> {
        let right = may_see_presence(cx.rules, &self.subject(), to)?;
        if page.cursor.is_some_and(|cursor| cursor.len() > CURSOR_MAX_BYTES) {
            return Err(PresenceError::BadCursor.into());
        }
        let (cursor, limit) = (page.cursor.map(Into::into), page.limit);
        let request = MembersRequest { cursor, limit, asked: Asked { id, to: to.into() } };
        self.ask_for_members(cx, right, request);
        Ok(())
    }

    pub(super) fn read_members(
        &mut self,
        cx: &mut Cx<'_>,
        permit: PresencePermit,
        MembersRequest { cursor, limit, asked }: MembersRequest,
    ) {
        let query = permit.into_query(cursor, limit);
        self.start(cx, Work::Members(asked), Effect::Members(query));
    }

    pub(super) fn on_members(
        &mut self,
        cx: &mut Cx<'_>,
        Asked { id, to }: Asked,
        result: Result<MembersPage, PresenceError>,
    ) {
        let page = match result {
            Ok(page) => page,
            Err(error) => return self.native_fail(cx, &error.into(), Some(id)),
        };
        let users = page.members.into_iter().map(shown).collect();
        let MembersPage { count, cursor, .. } = page;
        native::write(cx, &ServerMessage::Members { id, to: to.into(), users, count, cursor });
    }
}

/// The right of `subject` to see who is at the destination `to`.
pub(super) fn may_see_presence(
    rules: &Rules,
    subject: &Subject<'_>,
    to: &str,
) -> Result<Right<PresencePermit>, Fault> {
    if is_pattern(to) {
        return Err(Denied::PatternPresence.into());
    }
    let destination = parse_destination(rules, to)?;
    Ok(rules.policy.presence(subject, &destination)?)
}

/// Ends what a subscription that is gone made of its session, unless one of `others` keeps it.
pub(super) fn vanish(
    cx: &mut Cx<'_>,
    place: Option<Box<Place>>,
    others: &Subscriptions,
    member: &Member,
) {
    if let Some(place) = place.filter(|place| !others.is_at(place)) {
        cx.effects.push(Effect::Vanish(*place, member.clone()));
    }
}

fn shown(Present { user, sessions }: Present) -> PresenceMember {
    PresenceMember { user: user.map(|user| user.to_string()), sessions: Some(sessions) }
}

/// Longer than any cursor of ours.
const CURSOR_MAX_BYTES: usize = 64;
