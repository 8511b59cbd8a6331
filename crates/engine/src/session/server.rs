//! What backends do with a session: subscribe it, and end subscriptions of its.

use fanlight_proto::Destination;
use fanlight_proto::native::ServerMessage;

use super::live::{Answer, Note};
use super::native::{is_named_user, write};
use super::queue::Consuming;
use super::recovery::Wanted;
use super::subscriptions::{Feed, Subscription};
use super::{Codec, Cx, Session};
use crate::hub::{Target, Wire};
use crate::policy::SubscribePermit;
use crate::timeline::Start;

/// What a backend wants of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// It is to be subscribed to this.
    Subscribe(Destination),
    /// What subscriptions it has to this are to end.
    Unsubscribe(Destination),
}

impl Session {
    /// Does what a backend wants: at once, or behind the request that is under way. `false` when
    /// too much of this waits already, and it is not done.
    ///
    /// What can't be done is left: a subscription that there is already or that there is no room
    /// for.
    pub fn on_order(&mut self, cx: &mut Cx<'_>, order: Order) -> bool {
        if self.is_closed() {
            return true;
        }
        if self.is_busy() {
            let orders = &mut self.backlog.get_or_insert_default().orders;
            let has_room = orders.len() < ORDERS_MAX;
            if has_room {
                orders.push_back(order);
            }
            return has_room;
        }
        self.obey(cx, &order);
        true
    }

    pub(super) fn obey(&mut self, cx: &mut Cx<'_>, order: &Order) {
        match order {
            Order::Subscribe(to) => self.server_subscribe(cx, to),
            Order::Unsubscribe(to) => self.server_unsubscribe(cx, to),
        }
    }

    fn server_subscribe(&mut self, cx: &mut Cx<'_>, to: &Destination) {
        let Some(permit) = self.server_permit(cx, to) else { return };
        let Some(live) = self.live() else { return };
        let Target::Destination(destination) = permit.target() else { return };
        let is_subscribed = live.subscriptions.iter().any(|own| match own.feed {
            Feed::Hub(key) => cx.hub.is_to(key, destination),
            Feed::Queue(_) | Feed::Ended => false,
        });
        let has_room = live.subscriptions.len() < cx.rules.limits.subscriptions;
        // Whoever consumes a queue says how it acknowledges.
        if is_subscribed || !has_room || permit.queue().is_some() {
            return;
        }
        let text = to.as_str();
        let stomp_id = format!("{STOMP_ID_PREFIX}{text}");
        let (id, wire) = match self.codec {
            Codec::Native => (text, Wire::Native { named: is_named_user(text) }),
            Codec::Stomp { .. } => {
                let version = self.stomp_version();
                (&*stomp_id, Wire::Stomp { version, id: &stomp_id, ack: false })
            }
            Codec::Events(_) => (text, Wire::Events { index: None, named: is_named_user(text) }),
            Codec::Undecided => return,
        };
        if live.subscriptions.contains(id) {
            return;
        }
        let (consuming, headers) = (Consuming::default(), Box::default());
        let wanted = Wanted::new(wire, Start::Now, false, consuming, headers);
        self.begin(cx, id, permit, wanted, Answer::ByServer(text.into()));
    }

    fn server_unsubscribe(&mut self, cx: &mut Cx<'_>, to: &Destination) {
        let Some(permit) = self.server_permit(cx, to) else { return };
        let Target::Destination(destination) = permit.target() else { return };
        let Some(live) = self.live() else { return };
        let is_meant = |feed| match feed {
            Feed::Hub(key) => cx.hub.is_to(key, destination),
            Feed::Queue(key) => cx.consumers.channel_of(key) == Some(permit.channel()),
            Feed::Ended => false,
        };
        let meant = live.subscriptions.iter().filter(|own| is_meant(own.feed));
        let meant: Vec<_> = meant.map(|own| (own.id.clone(), own.by_server)).collect();
        for (id, by_server) in meant {
            if self.unsubscribe(cx, &id).is_err() {
                continue;
            }
            let is_stomp = matches!(self.codec, Codec::Stomp { .. });
            if !is_stomp {
                self.tell(cx, &ServerMessage::Unsubscribed { to: id.into() });
            } else if !by_server && let Some(live) = self.live_mut() {
                // STOMP has no frame to tell it: its own UNSUBSCRIBE must not be an error.
                live.subscriptions.add(Subscription::ended(id, permit.channel().clone()));
            }
        }
    }

    /// The client learns of a subscription that it has not asked for. STOMP has no frame for that:
    /// the subscription's first MESSAGE tells.
    pub(super) fn tell_subscribed(&mut self, cx: &mut Cx<'_>, to: &str, note: Note) {
        let message = ServerMessage::Subscribed {
            to: to.to_owned(),
            degraded: note.degraded,
            epoch: note.position.map(|position| position.epoch_text()),
            offset: note.position.map(|position| position.offset),
        };
        self.tell(cx, &message);
    }

    fn tell(&mut self, cx: &mut Cx<'_>, message: &ServerMessage) {
        match self.codec {
            Codec::Native => write(cx, message),
            Codec::Events(_) => self.events_told(cx, message),
            Codec::Stomp { .. } | Codec::Undecided => {}
        }
    }

    fn server_permit(&self, cx: &Cx<'_>, to: &Destination) -> Option<SubscribePermit> {
        self.live()?;
        SubscribePermit::for_backend(cx.rules.policy.namespaces(), &self.subject(), to).ok()
    }
}

/// What the ids of STOMP subscriptions begin with that a backend has made; the destination follows.
const STOMP_ID_PREFIX: &str = "server:";
/// Orders that wait for the request under way.
pub(super) const ORDERS_MAX: usize = 64;
