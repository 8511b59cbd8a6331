//! A connected session, whatever it speaks: limits, permits, publishing and subscribing.

use std::collections::VecDeque;
use std::sync::Arc;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::native::RequestId;
use fanlight_proto::{Destination, DestinationPattern};

use super::connect::Connecting;
use super::heartbeat::Beats;
use super::queue::{Consuming, Verdict, leave};
use super::subscriptions::{Feed, Subscription, Subscriptions};
use super::transactions::Transactions;
use super::{Cx, Effect, Fault, Session, native};
use crate::auth::Principal;
use crate::broker::{Joined, PublishError, Published, Reach};
use crate::hub::Wire;
use crate::limits::Gcra;
use crate::policy::{PublishPermit, SubscribePermit};
use crate::publication::{ContentType, Publication, PublicationId};
use crate::queue::ConsumerKey;

/// What exists only while a session is connected.
#[derive(Debug)]
pub(super) struct Live {
    /// `None` for an anonymous session.
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) subscriptions: Subscriptions,
    pub(super) beats: Beats,
    pub(super) transactions: Option<Box<Transactions>>,
    messages: Gcra,
    commands: Gcra,
}

/// What the effect under way is for.
#[derive(Debug)]
pub(super) enum Work {
    Connect(Connecting),
    Refresh { id: Option<RequestId> },
    Publish(Publishing),
    Join(Joining),
    Settle { answer: Answer, note: Note },
}

/// Publications on their way, one at a time.
#[derive(Debug)]
pub(super) struct Publishing {
    answer: Answer,
    /// What a COMMIT publishes after this one.
    rest: VecDeque<Outgoing>,
    /// What a COMMIT acknowledges after that.
    verdicts: Vec<Verdict>,
    /// How many it has published before.
    published: u32,
}

/// A subscription on its way.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) answer: Answer,
    /// Whether the client wanted what it missed.
    pub(super) recovery_asked: bool,
    /// How it consumes, if this is a queue.
    pub(super) consuming: Consuming,
    /// What begins to consume once it has joined.
    pub(super) consumer: Option<ConsumerKey>,
}

/// A publication with the right to publish it.
pub(super) type Outgoing = (PublishPermit, Publication);

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
}

/// What else a positive answer says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Note {
    pub(super) degraded: bool,
    /// The client wanted what it missed and does not get it.
    pub(super) not_recovered: bool,
    pub(super) message_id: Option<PublicationId>,
}

/// What a client wants published.
pub(super) struct Draft<'d> {
    pub(super) to: &'d str,
    pub(super) body: bytes::Bytes,
    pub(super) content_type: ContentType,
    pub(super) headers: Box<[(Box<str>, Box<str>)]>,
}

impl Live {
    pub(super) fn new(principal: Option<Arc<Principal>>, beats: Beats) -> Self {
        Self {
            principal,
            subscriptions: Subscriptions::default(),
            beats,
            transactions: None,
            messages: Gcra::default(),
            commands: Gcra::default(),
        }
    }

    /// Counts one message against its rate.
    pub(super) fn admit(&mut self, cx: &Cx<'_>, is_send: bool) -> Result<(), Fault> {
        let (gcra, rate) = if is_send {
            (&mut self.messages, cx.rules.limits.messages)
        } else {
            (&mut self.commands, cx.rules.limits.commands)
        };
        gcra.admit(cx.now.mono_ms, rate).map_err(Fault::rate_limited)
    }
}

impl Session {
    /// The publication that `draft` asks for, if the policy permits it.
    pub(super) fn outgoing(&self, cx: &mut Cx<'_>, draft: Draft<'_>) -> Result<Outgoing, Fault> {
        let destination = parse_destination(cx, draft.to)?;
        let permit = cx.rules.policy.publish(&self.subject(), &destination)?;
        let publication = Publication {
            id: cx.ids.publication(cx.now),
            destination: permit.destination().clone(),
            body: draft.body,
            content_type: draft.content_type,
            headers: draft.headers,
            publisher: self.principal().map(|principal| Arc::clone(&principal.user)),
            at_unix_ms: cx.now.unix_ms,
            position: None,
        };
        Ok((permit, publication))
    }

    /// Publishes all of `outgoing`, one after the other, then carries out `verdicts` and answers.
    pub(super) fn publish(
        &mut self,
        cx: &mut Cx<'_>,
        outgoing: VecDeque<Outgoing>,
        verdicts: Vec<Verdict>,
        answer: Answer,
    ) {
        let publishing = Publishing { answer, rest: outgoing, verdicts, published: 0 };
        self.publish_next(cx, publishing, Note::default());
    }

    fn publish_next(&mut self, cx: &mut Cx<'_>, mut publishing: Publishing, note: Note) {
        let Some((permit, mut publication)) = publishing.rest.pop_front() else {
            return self.judge(cx, &publishing.verdicts, publishing.answer, note);
        };
        // In a transaction it may have waited for its COMMIT.
        publication.at_unix_ms = cx.now.unix_ms;
        self.start(cx, Work::Publish(publishing), Effect::Publish(permit, publication));
    }

    pub(super) fn on_published(
        &mut self,
        cx: &mut Cx<'_>,
        mut publishing: Publishing,
        result: Result<Published, PublishError>,
    ) {
        match (result, publishing.published) {
            (Ok(published), _) => {
                publishing.published += 1;
                let degraded = published.reach == Reach::ThisNode;
                let note = Note { message_id: Some(published.id), degraded, ..Note::default() };
                self.publish_next(cx, publishing, note);
            }
            (Err(error), 0) => self.refuse(cx, &error.into(), &publishing.answer),
            (Err(error), published) => {
                self.refuse(cx, &Fault::commit_failed(error, published), &publishing.answer);
            }
        }
    }

    /// Subscribes `id` to the destination or pattern `to`, if the policy permits it.
    pub(super) fn subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        to: &str,
        wire: Wire<'_>,
        mut joining: Joining,
    ) -> Result<(), (Fault, Answer)> {
        let permit = match self.permit_subscription(cx, id, to) {
            Ok(permit) => permit,
            Err(fault) => return Err((fault, joining.answer)),
        };
        let queue = permit.queue();
        let (target, channel) = permit.into_parts();
        let feed = match queue {
            Some(queue) => {
                let key = self.consume(cx, queue, wire, &joining.consuming);
                joining.consumer = Some(key);
                Feed::Queue(key)
            }
            None if joining.consuming.only_queues => {
                return Err((Fault::not_a_queue(), joining.answer));
            }
            None => Feed::Hub(cx.hub.subscribe(self.key, target, channel.clone(), wire)),
        };
        let subscription = Subscription { id: id.into(), feed, channel: channel.clone() };
        if let Some(live) = self.live_mut() {
            live.subscriptions.add(subscription);
        }
        self.start(cx, Work::Join(joining), Effect::Join(channel));
        Ok(())
    }

    fn permit_subscription(
        &self,
        cx: &Cx<'_>,
        id: &str,
        to: &str,
    ) -> Result<SubscribePermit, Fault> {
        let subscriptions = &self.live().ok_or_else(Fault::not_connected)?.subscriptions;
        if subscriptions.contains(id) {
            return Err(Fault::already_subscribed());
        }
        let limit = cx.rules.limits.subscriptions;
        if subscriptions.len() >= limit {
            return Err(Fault::too_many_subscriptions(limit));
        }
        self.may_subscribe(cx, to)
    }

    /// The right to subscribe to the destination or pattern `to`.
    pub(super) fn may_subscribe(&self, cx: &Cx<'_>, to: &str) -> Result<SubscribePermit, Fault> {
        if !to.contains(['*', '?', '{', '}']) {
            let destination = parse_destination(cx, to)?;
            return Ok(cx.rules.policy.subscribe(&self.subject(), &destination)?);
        }
        check_length(cx, to)?;
        let pattern: DestinationPattern = to.parse()?;
        if to.starts_with("/app/") {
            return Err(Fault::no_handler());
        }
        Ok(cx.rules.policy.subscribe_pattern(&self.subject(), &pattern)?)
    }

    pub(super) fn on_joined(
        &mut self,
        cx: &mut Cx<'_>,
        Joining { answer, recovery_asked, consumer, .. }: Joining,
        joined: Joined,
    ) {
        if let Some(consumer) = consumer {
            cx.consumers.activate(consumer);
        }
        let degraded = joined == Joined::Degraded;
        let note = Note { degraded, not_recovered: recovery_asked, ..Note::default() };
        self.confirm(cx, answer, note);
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, cx: &mut Cx<'_>, id: &str) -> Result<(), Fault> {
        let removed = self.live_mut().and_then(|live| live.subscriptions.remove(id));
        let subscription = removed.ok_or_else(Fault::not_subscribed)?;
        leave(cx, subscription);
        Ok(())
    }

    /// Tells that a request was done.
    pub(super) fn confirm(&mut self, cx: &mut Cx<'_>, answer: Answer, note: Note) {
        match answer {
            Answer::Nobody => {}
            Answer::Receipt(receipt) => self.stomp_receipt(cx, &receipt, note),
            Answer::Request(id) => native::ok(cx, id, note),
        }
    }

    /// Tells that a request failed, and ends the session if the fault is such.
    pub(super) fn refuse(&mut self, cx: &mut Cx<'_>, fault: &Fault, answer: &Answer) {
        match answer {
            Answer::Nobody => self.fail(cx, fault),
            Answer::Receipt(receipt) => self.stomp_fail(cx, fault, Some(receipt)),
            Answer::Request(id) => self.native_fail(cx, fault, Some(id.clone())),
        }
    }
}

fn parse_destination(cx: &Cx<'_>, text: &str) -> Result<Destination, Fault> {
    check_length(cx, text)?;
    let destination: Destination = text.parse()?;
    match destination.kind() {
        DestinationKind::App => Err(Fault::no_handler()),
        _ => Ok(destination),
    }
}

fn check_length(cx: &Cx<'_>, text: &str) -> Result<(), Fault> {
    let limit = cx.rules.limits.destination_bytes;
    if text.len() > limit { Err(Fault::destination_too_long(limit)) } else { Ok(()) }
}
