//! A connected session, whatever it speaks: limits, permits, publishing and subscribing.

use std::collections::VecDeque;
use std::sync::Arc;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::native::RequestId;
use fanlight_proto::{Destination, DestinationPattern, Position};

use super::app::{Handling, Requesting, is_app};
use super::capability::Authorizing;
use super::connect::{Connecting, Entering};
use super::deciding::Deciding;
use super::heartbeat::Beats;
use super::presence::{self, Asked};
use super::queue::{Settling, Verdict};
use super::recovery::{Asking, Joining, Recovering};
use super::subscriptions::{Feed, Subscription, Subscriptions};
use super::transactions::Transactions;
use super::{Cx, Effect, Fault, Rules, Session, Unpublished, native};
use crate::app::AppMessage;
use crate::auth::{Capability, Principal};
use crate::broker::{Published, Reach};
use crate::history::{IdempotencyKey, Lost};
use crate::ids::Ids;
use crate::limits::Gcra;
use crate::policy::{AppKind, PublishPermit, Right, Subject, SubscribePermit};
use crate::presence::Member;
use crate::publication::{ContentType, Publication, PublicationId, SessionId};
use crate::registry::SubscriptionChange;
use crate::time::Now;

/// What exists only while a session is connected.
#[derive(Debug)]
pub(super) struct Live {
    /// `None` for an anonymous session.
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) subscriptions: Subscriptions,
    pub(super) beats: Beats,
    /// What few sessions have.
    pub(super) rare: Option<Box<Rare>>,
    messages: Gcra,
    commands: Gcra,
}

/// What few sessions have, so that the others don't pay for it.
#[derive(Debug, Default)]
pub(super) struct Rare {
    transactions: Transactions,
    /// Subscriptions to `/app/...` that were answered: clients may end them all the same.
    requests: u16,
    /// What the request in hand was given with, while it is carried out.
    pub(super) capability: Option<Arc<Capability>>,
    /// When the first subscription by a capability ends, in seconds since 1970.
    pub(super) capabilities_until_s: Option<u64>,
}

/// What the effect under way is for.
#[derive(Debug)]
pub(super) enum Work {
    Connect(Connecting),
    Enter(Entering),
    Refresh { id: Option<RequestId> },
    Authorize(Authorizing),
    Renew,
    Decide(Box<Deciding>),
    Publish(Publishing),
    Join(Joining),
    Recover(Recovering),
    History(Asking),
    Members(Asked),
    Settle(Settling),
    Request(Requesting),
}

/// Publications on their way, one at a time.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) answer: Answer,
    /// What a COMMIT sends after this one.
    rest: VecDeque<Sending>,
    /// What a COMMIT acknowledges after that.
    verdicts: Vec<Verdict>,
    /// How many it has published or had handled before.
    pub(super) published: u32,
    /// What a backend handles now.
    pub(super) handling: Option<Handling>,
}

impl Publishing {
    /// Whether it is about one send, and nothing else.
    pub(super) fn is_alone(&self) -> bool {
        self.published == 0 && self.rest.is_empty() && self.verdicts.is_empty()
    }
}

/// What a client sends, with the right to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are publications")]
pub(super) enum Sending {
    /// To subscribers.
    Publication(Outgoing),
    /// To a backend.
    App(Box<AppMessage>),
}

/// A publication with the right to publish it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) permit: Right<PublishPermit>,
    pub(super) publication: Publication,
    pub(super) key: Option<IdempotencyKey>,
}

/// To whom the outcome of a request is told.
#[derive(Debug, Default)]
pub(super) enum Answer {
    /// Nobody asked.
    #[default]
    Nobody,
    /// A STOMP frame with a `receipt` header.
    Receipt(Box<str>),
    /// A native request with an `id`.
    Request(RequestId),
    /// A listener that joins the n-th of its destinations.
    Joined(u16),
    /// The client, of a subscription to this that a backend has made.
    ByServer(Box<str>),
}

impl Answer {
    /// Goes on along with what went well, or goes back to be told what did not.
    pub(super) fn along<T>(self, outcome: Result<T, Fault>) -> Result<(T, Self), (Fault, Self)> {
        match outcome {
            Ok(value) => Ok((value, self)),
            Err(fault) => Err((fault, self)),
        }
    }
}

/// What else a positive answer says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Note {
    pub(super) degraded: bool,
    /// It had been published before.
    pub(super) duplicate: bool,
    pub(super) message_id: Option<PublicationId>,
    /// Of what was published, or behind which a subscription is live.
    pub(super) position: Option<Position>,
    /// Whether the client, which asked for it, got what it missed.
    pub(super) recovered: Option<bool>,
    /// Why it did not get what it asked for.
    pub(super) reason: Option<Lost>,
    /// How many publications of the history it got, where it asked for some.
    pub(super) count: Option<u32>,
}

/// What a client wants published.
pub(super) struct Draft<'d> {
    pub(super) to: &'d str,
    pub(super) body: bytes::Bytes,
    pub(super) content_type: ContentType,
    /// Whether the body was read as JSON.
    pub(super) is_json: bool,
    pub(super) headers: Box<[(Box<str>, Box<str>)]>,
    /// The client's name for this publication.
    pub(super) key: Option<&'d str>,
    /// Of a user's sessions, the only one to get it.
    pub(super) session: Option<&'d str>,
    /// Whether the session that publishes it does not get it.
    pub(super) exclude_self: bool,
}

impl Live {
    pub(super) fn new(principal: Option<Arc<Principal>>, beats: Beats) -> Self {
        Self {
            principal,
            subscriptions: Subscriptions::default(),
            beats,
            rare: None,
            messages: Gcra::default(),
            commands: Gcra::default(),
        }
    }

    /// The open transactions.
    pub(super) fn transactions(&self) -> Option<&Transactions> {
        self.rare.as_deref().map(|rare| &rare.transactions)
    }

    /// The same, to change them.
    pub(super) fn transactions_mut(&mut self) -> &mut Transactions {
        &mut self.rare.get_or_insert_default().transactions
    }

    /// A subscription to `/app/...` is answered.
    pub(super) fn count_request(&mut self) {
        let requests = &mut self.rare.get_or_insert_default().requests;
        *requests = requests.saturating_add(1);
    }

    /// Such a subscription is ended, which stands no longer; whether there was one.
    fn forget_request(&mut self) -> bool {
        let Some(rare) = &mut self.rare else { return false };
        let Some(left) = rare.requests.checked_sub(1) else { return false };
        rare.requests = left;
        self.drop_empty();
        true
    }

    /// Gives memory back that nothing is in any more.
    pub(super) fn drop_empty(&mut self) {
        let is_empty = |rare: &mut Box<Rare>| {
            rare.transactions.is_empty()
                && rare.requests == 0
                && rare.capability.is_none()
                && rare.capabilities_until_s.is_none()
        };
        self.rare.take_if(is_empty);
    }

    /// Whose session it is.
    pub(super) fn user(&self) -> Option<Arc<str>> {
        self.principal.as_ref().map(|principal| Arc::clone(&principal.user))
    }

    /// Undoes a subscription that was removed from the list.
    pub(super) fn left(&self, cx: &mut Cx<'_>, subscription: Subscription, member: &Member) {
        match subscription.feed {
            Feed::Hub(key) => cx.hub.unsubscribe(key),
            Feed::Queue(key) => cx.consumers.remove(key),
            Feed::Ended => return,
        }
        self.record(cx, &subscription, false);
        cx.effects.push(Effect::Leave(subscription.channel));
        presence::vanish(cx, subscription.place, &self.subscriptions, member);
    }

    pub(super) fn record(&self, cx: &mut Cx<'_>, subscription: &Subscription, began: bool) {
        if subscription.recorded {
            cx.effects.push(Effect::Record(SubscriptionChange {
                user: self.user(),
                destination: subscription.channel.clone(),
                began,
            }));
        }
    }

    /// Counts one message against its rate.
    pub(super) fn admit(&mut self, cx: &Cx<'_>, is_send: bool) -> Result<(), Fault> {
        if self.principal.as_ref().is_some_and(|principal| principal.is_service) {
            return Ok(());
        }
        let (gcra, rate) = if is_send {
            (&mut self.messages, cx.rules.limits.messages)
        } else {
            (&mut self.commands, cx.rules.limits.commands)
        };
        gcra.admit(cx.now.mono_ms, rate).map_err(Fault::rate_limited)
    }
}

impl Session {
    /// What `draft` asks to be sent, if the policy permits it.
    pub(super) fn sending(&self, cx: &mut Cx<'_>, draft: Draft<'_>) -> Result<Sending, Fault> {
        if is_app(draft.to) {
            let message = self.app_message(cx, AppKind::Message, draft)?;
            return Ok(Sending::App(Box::new(message)));
        }
        let publisher = Publisher::Client(&self.subject());
        let Outgoing { permit, publication, key } =
            outgoing(cx.rules, cx.ids, cx.now, publisher, draft)?;
        let permit = permit.by(self.capability_in_hand());
        Ok(Sending::Publication(Outgoing { permit, publication, key }))
    }

    /// Sends all of `sends`, one after the other, then carries out `verdicts` and answers.
    pub(super) fn publish(
        &mut self,
        cx: &mut Cx<'_>,
        sends: VecDeque<Sending>,
        verdicts: Vec<Verdict>,
        answer: Answer,
    ) {
        let handling = None;
        let publishing = Publishing { answer, rest: sends, verdicts, published: 0, handling };
        self.publish_next(cx, publishing, Note::default());
    }

    pub(super) fn publish_next(&mut self, cx: &mut Cx<'_>, mut publishing: Publishing, note: Note) {
        let Outgoing { permit, mut publication, key } = match publishing.rest.pop_front() {
            Some(Sending::Publication(outgoing)) => outgoing,
            Some(Sending::App(mut message)) => {
                message.at_unix_ms = cx.now.unix_ms;
                publishing.handling = Some(Handling::of(&message));
                return self.start(cx, Work::Publish(publishing), Effect::App(message));
            }
            None => {
                let Publishing { answer, verdicts, published, .. } = publishing;
                return self.judge(cx, &verdicts, Settling { answer, note, published });
            }
        };
        // In a transaction it may have waited for its COMMIT.
        publication.at_unix_ms = cx.now.unix_ms;
        let effect = match key {
            Some(key) => Effect::PublishOnce(permit, publication, key),
            None => Effect::Publish(permit, publication),
        };
        self.start(cx, Work::Publish(publishing), effect);
    }

    pub(super) fn on_published(
        &mut self,
        cx: &mut Cx<'_>,
        mut publishing: Publishing,
        result: Result<Published, Unpublished>,
    ) {
        match (result, publishing.published) {
            (Ok(published), _) => {
                publishing.published += 1;
                let note = Note {
                    message_id: Some(published.id),
                    position: published.position,
                    degraded: published.reach == Reach::ThisNode,
                    duplicate: published.reach == Reach::Duplicate,
                    ..Note::default()
                };
                self.publish_next(cx, publishing, note);
            }
            (Err(error), 0) => self.refuse(cx, &error.into(), &publishing.answer),
            (Err(error), published) => {
                let fault = Fault::commit_cut_short(&error, published);
                self.refuse(cx, &fault, &publishing.answer);
            }
        }
    }

    pub(super) fn permit_subscription(
        &self,
        cx: &Cx<'_>,
        id: &str,
        to: &str,
    ) -> Result<Right<SubscribePermit>, Fault> {
        let subscriptions = &self.live().ok_or_else(Fault::not_connected)?.subscriptions;
        if subscriptions.is_clients(id) {
            return Err(Fault::already_subscribed());
        }
        let limit = cx.rules.limits.subscriptions;
        // One that a backend has made with this id is taken over.
        if subscriptions.len() >= limit && !subscriptions.contains(id) {
            return Err(Fault::too_many_subscriptions(limit));
        }
        may_subscribe(cx.rules, &self.subject(), to)
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, cx: &mut Cx<'_>, id: &str) -> Result<(), Fault> {
        let member = self.member();
        let live = self.live_mut().ok_or_else(Fault::not_subscribed)?;
        let Some(subscription) = live.subscriptions.remove(id) else {
            // What `/app/...` has answered stands no longer, but clients can't know that.
            return if live.forget_request() { Ok(()) } else { Err(Fault::not_subscribed()) };
        };
        live.left(cx, subscription, &member);
        Ok(())
    }

    /// Tells that a request was done.
    pub(super) fn confirm(&mut self, cx: &mut Cx<'_>, answer: Answer, note: Note) {
        match answer {
            Answer::Nobody => {}
            Answer::Receipt(receipt) => self.stomp_receipt(cx, &receipt, note),
            Answer::Request(id) => native::ok(cx, id, note),
            Answer::Joined(index) => self.events_joined(cx, index, note),
            Answer::ByServer(to) => self.tell_subscribed(cx, &to, note),
        }
    }

    /// Tells that a request failed, and ends the session if the fault is such.
    pub(super) fn refuse(&mut self, cx: &mut Cx<'_>, fault: &Fault, answer: &Answer) {
        match answer {
            Answer::Nobody => self.fail(cx, fault),
            // What a backend wants and can't have is no fault of the client.
            Answer::ByServer(_) => {}
            Answer::Receipt(receipt) => self.stomp_fail(cx, fault, Some(receipt)),
            Answer::Request(id) => self.native_fail(cx, fault, Some(id.clone())),
            Answer::Joined(index) => self.events_fail(cx, fault, Some(*index)),
        }
    }
}

/// The right of `subject` to subscribe to the destination or pattern `to`.
pub(super) fn may_subscribe(
    rules: &Rules,
    subject: &Subject<'_>,
    to: &str,
) -> Result<Right<SubscribePermit>, Fault> {
    if !is_pattern(to) {
        let destination = parse_destination(rules, to)?;
        return Ok(rules.policy.subscribe(subject, &destination)?);
    }
    check_length(rules, to)?;
    let pattern: DestinationPattern = to.parse()?;
    if is_app(to) {
        return Err(Fault::no_handler());
    }
    Ok(rules.policy.subscribe_pattern(subject, &pattern)?)
}

/// Who wants something published.
#[derive(Clone, Copy)]
pub(super) enum Publisher<'p> {
    /// A client, under the policy's rules.
    Client(&'p Subject<'p>),
    /// A backend, by the name of its key: it may publish wherever there is a namespace.
    Backend(&'p str),
}

/// The publication that `draft` asks for, if `publisher` may publish it.
pub(super) fn outgoing(
    rules: &Rules,
    ids: &mut Ids,
    now: Now,
    publisher: Publisher<'_>,
    draft: Draft<'_>,
) -> Result<Outgoing, Fault> {
    let destination = parse_destination(rules, draft.to)?;
    let (mut permit, user) = match publisher {
        Publisher::Client(subject) => {
            let user = subject.principal.map(|principal| Arc::clone(&principal.user));
            (rules.policy.publish(subject, &destination)?, user)
        }
        Publisher::Backend(_) => {
            (PublishPermit::for_backend(rules.policy.namespaces(), &destination)?.into(), None)
        }
    };
    let only_for = draft.session.map(|session| session_of(session, &permit)).transpose()?;
    if only_for.is_some() {
        permit = permit.without_history();
    }
    let except = if draft.exclude_self { Some(excluded(publisher, &permit)?) } else { None };
    let named = |key| idempotency_key(publisher, permit.destination(), only_for, key);
    let key = draft.key.map(named).transpose()?;
    let key = key.map(|key| key.of(&draft.body, &draft.content_type));
    let publication = Publication {
        id: ids.publication(now),
        destination: permit.destination().clone(),
        body: draft.body,
        content_type: draft.content_type,
        headers: draft.headers,
        publisher: user,
        at_unix_ms: now.unix_ms,
        position: None,
        only_for,
        except,
        is_json: draft.is_json,
    };
    Ok(Outgoing { permit, publication, key })
}

/// A publisher's name for a publication, made its own: it counts for this user, or where there is
/// none for this session, or for this backend, and for one destination, or one session there.
fn idempotency_key(
    publisher: Publisher<'_>,
    destination: &Destination,
    only_for: Option<SessionId>,
    key: &str,
) -> Result<IdempotencyKey, Fault> {
    if key.is_empty() || key.len() > IdempotencyKey::MAX_BYTES {
        return Err(Fault::bad_key(IdempotencyKey::MAX_BYTES));
    }
    let (kind, publisher) = match publisher {
        Publisher::Client(Subject { principal: Some(principal), .. }) => {
            ('u', principal.user.to_string())
        }
        Publisher::Client(subject) => ('s', subject.session.to_string()),
        Publisher::Backend(name) => ('b', name.to_owned()),
    };
    // With lengths, which all sessions' ids have in common, so that no two tell the same.
    let (length, to) = (publisher.len(), destination.as_str());
    let (kind, session) = match only_for {
        Some(session) => (kind.to_ascii_uppercase(), session.to_string()),
        None => (kind, String::new()),
    };
    let to_length = to.len();
    let text = format!("{kind}{length}:{publisher}{to_length}:{to}{session}{key}");
    Ok(IdempotencyKey::new(text))
}

/// The publisher's own session, which is not to get what it publishes.
fn excluded(publisher: Publisher<'_>, permit: &Right<PublishPermit>) -> Result<SessionId, Fault> {
    if permit.options().queue.is_some() {
        return Err(Fault::exclude_self_in_queue());
    }
    match publisher {
        Publisher::Client(subject) => Ok(subject.session),
        Publisher::Backend(_) => Err(Fault::exclude_self_without_session()),
    }
}

/// The one session of a user that a client names.
fn session_of(text: &str, permit: &Right<PublishPermit>) -> Result<SessionId, Fault> {
    let is_users = permit.destination().kind() == DestinationKind::NamedUser;
    if !is_users || permit.options().queue.is_some() {
        return Err(Fault::not_for_one_session());
    }
    text.parse().map_err(|_| Fault::bad_session())
}

/// Whether a client means several destinations.
pub(super) fn is_pattern(to: &str) -> bool {
    to.contains(['*', '?', '{', '}'])
}

pub(super) fn parse_destination(rules: &Rules, text: &str) -> Result<Destination, Fault> {
    check_length(rules, text)?;
    let destination: Destination = text.parse()?;
    match destination.kind() {
        DestinationKind::App => Err(Fault::no_handler()),
        _ => Ok(destination),
    }
}

fn check_length(rules: &Rules, text: &str) -> Result<(), Fault> {
    let limit = rules.limits.destination_bytes;
    if text.len() > limit { Err(Fault::destination_too_long(limit)) } else { Ok(()) }
}
