//! Subscribing, with what was missed or the newest before; and asking for what was.

use std::sync::Arc;

use fanlight_proto::native::{HistoryWriter, RequestId};
use fanlight_proto::{Destination, Position};

use super::app::is_app;
use super::live::{Answer, Note, Work, is_pattern, parse_destination};
use super::native::is_named_user;
use super::presence::may_see_presence;
use super::queue::Consuming;
use super::subscriptions::{Feed, Subscription};
use super::{Cx, Effect, Fault, Session};
use crate::auth::Capability;
use crate::broker::{Channel, Joined};
use crate::encode::write_native;
use crate::history::{History, HistoryError, HistoryPage, HistoryRange, Lost};
use crate::hook::Actions;
use crate::hub::{SubscriptionKey, Wire};
use crate::policy::{Action, Denied, HistoryPermit, Right, SubscribePermit};
use crate::presence::Place;
use crate::queue::ConsumerKey;
use crate::timeline::{Recovered, Start};

/// How a subscription joins the timeline of its destination.
#[derive(Debug)]
pub struct Recover {
    /// The subscription, which is prepared and is to be activated.
    pub subscription: SubscriptionKey,
    /// Where its publications come.
    pub channel: Channel,
    /// The destination, absolute.
    pub destination: Destination,
    /// What is kept of it.
    pub history: History,
    /// What the subscriber wants to begin with.
    pub start: Start,
    /// Whether the broker could not be reached at the join.
    pub is_degraded: bool,
}

/// How a client wants to subscribe.
#[derive(Debug)]
pub(super) struct Wanted<W> {
    pub(super) wire: W,
    /// What to begin with.
    pub(super) start: Start,
    /// Whether to be told who comes and goes.
    pub(super) presence: bool,
    pub(super) consuming: Consuming,
    /// For whoever answers, where that is a backend.
    pub(super) headers: Box<[(Box<str>, Box<str>)]>,
    /// By what it is allowed, where the session's own token does not allow it; known once it is.
    pub(super) capability: Option<Arc<Capability>>,
    /// What the backend that has a say in it is to agree to, where there is one; known then too.
    pub(super) agreed: Actions,
}

/// A subscription whose channel is being joined.
#[derive(Debug)]
pub(super) struct Joining {
    beginning: Beginning,
    next: Next,
}

/// What follows once the channel is joined.
#[derive(Debug)]
enum Next {
    /// Publications come by themselves.
    Live,
    /// The destination has history.
    Recover(Box<Recover>),
    /// It is a queue, and the consumer may get messages.
    Consume(ConsumerKey),
}

/// A subscription that joins its timeline.
#[derive(Debug)]
pub(super) struct Recovering {
    beginning: Beginning,
    is_degraded: bool,
}

/// What is to be done once a subscription is live.
#[derive(Debug)]
struct Beginning {
    answer: Answer,
    start: Start,
    feed: Feed,
    /// Where it makes its session a member.
    place: Option<Box<Place>>,
}

/// A request for what was published before.
#[derive(Debug)]
pub(super) struct HistoryRequest {
    range: HistoryRange,
    limit: u32,
    asking: Asking,
}

/// Who is to get it.
#[derive(Debug)]
pub(super) struct Asking {
    id: RequestId,
    to: Box<str>,
}

impl<W> Wanted<W> {
    pub(super) fn new(
        wire: W,
        start: Start,
        presence: bool,
        consuming: Consuming,
        headers: Box<[(Box<str>, Box<str>)]>,
    ) -> Self {
        let (capability, agreed) = (None, Actions::default());
        Self { wire, start, presence, consuming, headers, capability, agreed }
    }

    /// The same, written in another way.
    pub(super) fn in_wire<V>(self, wire: V) -> Wanted<V> {
        let Self { start, presence, consuming, headers, capability, agreed, .. } = self;
        Wanted { wire, start, presence, consuming, headers, capability, agreed }
    }
}

impl Joining {
    /// The subscription.
    pub(super) fn feed(&self) -> Feed {
        self.beginning.feed
    }
}

impl Recovering {
    /// The subscription.
    pub(super) fn feed(&self) -> Feed {
        self.beginning.feed
    }
}

impl HistoryRequest {
    /// The client's name for it.
    pub(super) fn id(&self) -> RequestId {
        self.asking.id.clone()
    }
}

impl Session {
    /// Subscribes `id` to the destination or pattern `to`, if the policy permits it.
    pub(super) fn subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        to: &str,
        wanted: Wanted<Wire<'_>>,
        answer: Answer,
    ) -> Result<(), (Fault, Answer)> {
        if is_app(to) && !is_pattern(to) {
            return self.request(cx, id, to, wanted, answer);
        }
        let (start, presence) = (wanted.start, wanted.presence);
        let seen = if presence {
            may_see_presence(cx.rules, &self.subject(), to).map(drop)
        } else {
            Ok(())
        };
        let permitted = seen.and_then(|()| self.permit_subscription(cx, id, to));
        let permitted =
            permitted.and_then(|permit| self.permit_start(cx, &permit, start).map(|()| permit));
        let (right, answer) = answer.along(permitted)?;
        let capability = self.capability_for(cx, to, presence);
        let agreed = actions_of(&right, start, presence);
        let wanted = Wanted { capability, agreed, ..wanted };
        match right.permit() {
            Ok(permit) => self.subscribe_permitted(cx, id, permit, wanted, answer),
            Err(right) if self.is_agreed() => {
                self.subscribe_permitted(cx, id, right.agreed(), wanted, answer)
            }
            Err(right) => {
                self.ask_to_subscribe(cx, id, right, wanted, answer);
                Ok(())
            }
        }
    }

    /// Subscribes, once nobody else is to be asked.
    pub(super) fn subscribe_permitted(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        permit: SubscribePermit,
        wanted: Wanted<Wire<'_>>,
        answer: Answer,
    ) -> Result<(), (Fault, Answer)> {
        if permit.queue().is_none() && wanted.consuming.only_queues {
            return Err((Fault::not_a_queue(), answer));
        }
        // It was good when the request came, or the one that began this stream.
        if wanted.capability.as_ref().is_some_and(|capability| capability.is_over(cx.now)) {
            return Err((Fault::capability_expired(id), answer));
        }
        self.begin(cx, id, permit, wanted, answer);
        Ok(())
    }

    /// Subscribes to what is permitted.
    pub(super) fn begin(
        &mut self,
        cx: &mut Cx<'_>,
        id: &str,
        permit: SubscribePermit,
        Wanted { wire, start, presence, consuming, capability, agreed, .. }: Wanted<Wire<'_>>,
        answer: Answer,
    ) {
        let queue = permit.queue();
        let history = permit.history().map(|(destination, kept)| (destination.clone(), kept));
        let recorded = permit.options().events;
        let place = permit.place().map(Box::new);
        let (target, channel) = permit.into_parts();
        let (feed, next) = match (queue, history) {
            (Some(queue), _) => {
                let key = self.consume(cx, queue, wire, &consuming);
                (Feed::Queue(key), Next::Consume(key))
            }
            (None, Some((destination, history))) => {
                let subscription = cx.hub.prepare(self.key, target, channel.clone(), wire);
                let recover = Recover {
                    subscription,
                    channel: channel.clone(),
                    destination,
                    history,
                    start,
                    is_degraded: false,
                };
                (Feed::Hub(subscription), Next::Recover(Box::new(recover)))
            }
            (None, None) => {
                let key = cx.hub.subscribe(self.key, target, channel.clone(), wire);
                (Feed::Hub(key), Next::Live)
            }
        };
        if presence && let Feed::Hub(key) = feed {
            cx.hub.show_presence(key);
        }
        let subscription = Subscription {
            id: id.into(),
            feed,
            channel: channel.clone(),
            place: None,
            presence,
            by_server: matches!(answer, Answer::ByServer(_)),
            recorded,
            agreed,
            capability,
        };
        self.add(cx, subscription);
        let joining = Joining { beginning: Beginning { answer, start, feed, place }, next };
        self.start(cx, Work::Join(joining), Effect::Join(channel));
    }

    fn add(&mut self, cx: &mut Cx<'_>, subscription: Subscription) {
        let member = self.member();
        let Some(live) = self.live_mut() else { return };
        if let Some(former) = live.subscriptions.remove(&subscription.id) {
            live.left(cx, former, &member);
        }
        live.note_capability(&subscription);
        live.record(cx, &subscription, true);
        live.subscriptions.add(subscription);
    }

    /// The newest are read by the same right as by `history`. What follows a position is read by
    /// the right to subscribe, whatever the position: nobody can tell one that was given from one
    /// that was made up.
    fn permit_start(
        &self,
        cx: &Cx<'_>,
        permit: &Right<SubscribePermit>,
        start: Start,
    ) -> Result<(), Fault> {
        let (Start::Newest(_), Some((destination, _))) = (start, permit.history()) else {
            return Ok(());
        };
        match cx.rules.policy.history(&self.subject(), destination) {
            Ok(_) | Err(Denied::NoHistory) => Ok(()),
            Err(denied) => Err(denied.into()),
        }
    }

    pub(super) fn on_joined(&mut self, cx: &mut Cx<'_>, joining: Joining, joined: Joined) {
        let Joining { beginning, next } = joining;
        let is_degraded = joined == Joined::Degraded;
        match next {
            Next::Live => {}
            Next::Recover(mut recover) => {
                recover.is_degraded = is_degraded;
                let recovering = Recovering { beginning, is_degraded };
                return self.start(cx, Work::Recover(recovering), Effect::Recover(recover));
            }
            Next::Consume(consumer) => cx.consumers.activate(consumer),
        }
        let outcome = (beginning.start != Start::Now).then_some(Err(Lost::NoHistory));
        let recovered = Recovered { position: None, outcome, count: 0 };
        self.tell_live(cx, beginning, is_degraded, recovered);
    }

    pub(super) fn on_recovered(
        &mut self,
        cx: &mut Cx<'_>,
        recovering: Recovering,
        recovered: Recovered,
    ) {
        // The history could not be asked, however the channel was joined.
        let is_degraded = recovering.is_degraded || recovered.position.is_none();
        self.tell_live(cx, recovering.beginning, is_degraded, recovered);
    }

    fn tell_live(
        &mut self,
        cx: &mut Cx<'_>,
        beginning: Beginning,
        is_degraded: bool,
        Recovered { position, outcome, count }: Recovered,
    ) {
        let Beginning { answer, start, feed, place } = beginning;
        if let Some(place) = place {
            self.appear(cx, feed, place);
        }
        let note = Note {
            // Who has waited for the history has waited for the broker too.
            degraded: is_degraded && (position.is_none() || !matches!(start, Start::Resume(_))),
            position,
            recovered: outcome
                .filter(|_| matches!(start, Start::After(_) | Start::Resume(_)))
                .map(|outcome| outcome.is_ok()),
            reason: outcome.and_then(Result::err),
            count: outcome.map(|_| count),
            ..Note::default()
        };
        self.confirm(cx, answer, note);
    }

    /// Asks for what was published before.
    pub(super) fn ask_history(
        &mut self,
        cx: &mut Cx<'_>,
        to: &str,
        since: Option<Position>,
        limit: u32,
        id: RequestId,
    ) -> Result<(), Fault> {
        let destination = parse_destination(cx.rules, to)?;
        let right = cx.rules.policy.history(&self.subject(), &destination)?;
        let range = since.map_or(HistoryRange::Newest, HistoryRange::After);
        let request = HistoryRequest { range, limit, asking: Asking { id, to: to.into() } };
        self.ask_for_history(cx, right, request);
        Ok(())
    }

    pub(super) fn read_history(
        &mut self,
        cx: &mut Cx<'_>,
        permit: HistoryPermit,
        HistoryRequest { range, limit, asking }: HistoryRequest,
    ) {
        let query = permit.into_query(range, limit);
        self.start(cx, Work::History(asking), Effect::History(Box::new(query)));
    }

    pub(super) fn on_history(
        &mut self,
        cx: &mut Cx<'_>,
        Asking { id, to }: Asking,
        result: Result<HistoryPage, HistoryError>,
    ) {
        let page = match result {
            Ok(page) => page,
            Err(error) => return self.native_fail(cx, &error.into(), Some(id)),
        };
        let named = is_named_user(&to);
        let (mut payload, mut message) = (Vec::new(), Vec::new());
        let mut writer = HistoryWriter::begin(&mut payload, &id, &to);
        let (mut bytes, mut newest, mut is_last) = (0, None, page.is_last());
        for publication in &page.publications {
            message.clear();
            write_native(&mut message, publication, named);
            bytes += message.len();
            if bytes > cx.rules.limits.message_bytes && newest.is_some() {
                // One that does not fit comes alone; the others are asked for again.
                is_last = false;
                break;
            }
            writer.message(&mut payload, &message);
            newest = Some(publication);
        }
        let newest = newest.filter(|_| !is_last).and_then(|publication| publication.position);
        let position = newest.unwrap_or(page.top);
        writer.end(&mut payload, position, !is_last, page.lost.map(Lost::code));
        cx.effects.push(Effect::Write { text: true, payload });
    }
}

/// What a subscription with these options does at its destination: to be told who comes and goes is
/// to see who is there, and to begin with the newest is to read the history.
pub(super) fn actions_of(right: &Right<SubscribePermit>, start: Start, presence: bool) -> Actions {
    let mut actions = Actions::of(Action::Subscribe);
    if presence {
        actions = actions.with(Action::Presence);
    }
    if matches!(start, Start::Newest(_)) && right.history().is_some() {
        actions = actions.with(Action::History);
    }
    actions
}
