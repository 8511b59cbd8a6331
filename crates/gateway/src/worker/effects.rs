//! What sessions want done: at once where that can be, else beside the loop.

use std::sync::Arc;

use fanlight_engine::broker::Channel;
use fanlight_engine::encode::Framing;
use fanlight_engine::hub::SessionKey;
use fanlight_engine::registry::Entry;
use fanlight_engine::session::{Done, Effect, Telling};
use fanlight_engine::time::Now;
use fanlight_proto::ws::Opcode;
use fanlight_proto::{CloseReason, sockjs};
use futures_util::FutureExt;

use super::Worker;
use super::registry::REVOKED;
use super::slot::Link;
use crate::transport::door;

impl Worker {
    /// Carries out one effect; what it came to, when that is known at once.
    pub(super) fn effect(&mut self, key: SessionKey, effect: Effect, now: Now) -> Option<Done> {
        match effect {
            Effect::Authenticate(credentials) => {
                let authenticator = Arc::clone(&self.shared.authenticator);
                let checked = async move { authenticator.check(&credentials, now).await };
                self.start(key, checked.boxed(), Done::Authenticated)
            }
            Effect::Authorize(token) => {
                let authenticator = Arc::clone(&self.shared.authenticator);
                let checked = async move { authenticator.authorize(token.as_str(), now).await };
                self.start(key, checked.boxed(), Done::Authorized)
            }
            Effect::Enter { user, is_limited, is_known } => {
                // It may have proved itself before its token was revoked.
                if self.is_revoked(key, now) {
                    self.fault(key, CloseReason::Revoked, REVOKED, now);
                    return None;
                }
                if !is_limited && let Some(slot) = self.slots.get_mut(key.0 as usize) {
                    self.shared.handshakes.forget(slot.admitted.release_address());
                }
                if let Some(user) = user.as_ref().filter(|_| is_limited && !is_known)
                    && let Err(retry) = self.shared.handshakes.admit_user(user, now.mono_ms)
                {
                    door::count_session(door::USER_RATE);
                    return Some(Done::TooOften(retry));
                }
                let entry = Entry { is_limited, ..self.entry(key, user)? };
                let entering = self.shared.registry.enter(entry);
                self.start(key, entering, Done::Entered)
            }
            Effect::Introduce(claimant) => self.introduce(key, *claimant, now),
            Effect::Renew(renewal) => self.renew(key, *renewal, now),
            Effect::AskToSubscribe(question) => self.ask_to_subscribe(key, &question),
            Effect::Publish(right, publication) => self.publish(key, right, publication, None),
            Effect::PublishOnce(right, publication, once) => {
                self.publish(key, right, publication, Some(once))
            }
            Effect::App(mut message) => {
                let traced = self.trace_message(key, &mut message);
                let handled = self.shared.app.handle(*message, traced);
                let handled = handled.map(|result| result.map(|handled| handled.reply)).boxed();
                self.start(key, handled, Done::App)
            }
            Effect::History(query) => {
                let page = self.shared.broker.history(*query);
                self.start(key, page, Done::History)
            }
            Effect::Join(channel) => {
                let joined = self.shared.broker.subscribe(self.id, &channel);
                *self.channels.entry(channel).or_insert(0) += 1;
                self.start(key, joined, Done::Joined)
            }
            Effect::Settle(channels) => self.settle_for(key, &channels),
            Effect::Members(query) => {
                let members = self.shared.presence.members(query);
                self.start(key, members, Done::Members)
            }
            effect => {
                self.effect_without_answer(key, effect, now);
                None
            }
        }
    }

    /// Carries out an effect that nobody waits for, or that is answered by what it begins.
    fn effect_without_answer(&mut self, key: SessionKey, effect: Effect, now: Now) {
        match effect {
            Effect::Write { text, payload } => {
                self.stats.messages_out += 1;
                let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
                let chunk = self.encoder.frame(text, &payload, slot.framing);
                self.stage.push(key, slot, chunk);
            }
            Effect::Tell(telling) => self.tell(key, *telling),
            Effect::Ping => self.ping(key),
            Effect::Exit { user, reason } => {
                if let Some(entry) = self.entry(key, user) {
                    self.shared.registry.leave(entry, reason);
                }
            }
            Effect::Record(change) => {
                if let Some(entry) = self.entry(key, None) {
                    self.shared.registry.record(entry.session, change);
                }
            }
            Effect::Recover(recover) => self.recover(key, *recover, now),
            Effect::Leave(channel) => self.leave(&channel),
            Effect::Appear(place, member) => self.shared.presence.enter(&place, member),
            Effect::Vanish(place, member) => self.shared.presence.exit(&place, member),
            Effect::Close(reason) => self.close(key, reason, now),
            Effect::Authenticate(_)
            | Effect::Authorize(_)
            | Effect::Introduce(_)
            | Effect::Renew(_)
            | Effect::AskToSubscribe(_)
            | Effect::Enter { .. }
            | Effect::Publish(..)
            | Effect::PublishOnce(..)
            | Effect::App(_)
            | Effect::History(_)
            | Effect::Join(_)
            | Effect::Settle(_)
            | Effect::Members(_) => debug_assert!(false, "{effect:?} has an answer"),
        }
    }

    /// Tells one session something, by its own subscriptions.
    fn tell(&mut self, key: SessionKey, mut telling: Telling) {
        self.traces.adopt_failure(key, &mut telling);
        let delivering = self.traces.deliver(std::slice::from_ref(&telling.publication));
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let chunks = self.encoder.tell(&telling, key, slot.framing, &self.hub);
        let count = chunks.len() as u64;
        self.stats.messages_out += count;
        for chunk in chunks {
            self.stage.push(key, slot, chunk);
        }
        // Not all listen for what went wrong.
        if let Some(delivering) = delivering.filter(|_| count > 0) {
            self.delivered(delivering, &telling.publication.destination, count);
        }
    }

    /// Pings the peer in the way of its link; a mailbox looks after that itself.
    fn ping(&mut self, key: SessionKey) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        if matches!(slot.link, Link::Stream) {
            // TCP's keep-alive has found the peer, or will cut the connection.
            slot.last_received_ms = self.shared.clock.now().mono_ms;
        }
        if !matches!(slot.link, Link::WebSocket(_)) {
            return;
        }
        if slot.framing == Framing::SockJs {
            self.stage_control(key, Opcode::Text, sockjs::frame::HEARTBEAT);
        }
        self.stage_control(key, Opcode::Ping, &[]);
    }

    fn leave(&mut self, channel: &Channel) {
        let Some(uses) = self.channels.get_mut(channel) else {
            debug_assert!(false, "left a channel that was not joined");
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            self.shared.broker.unsubscribe(self.id, channel);
            self.channels.remove(channel);
            self.recovery.timelines.leave(channel);
        }
    }
}
