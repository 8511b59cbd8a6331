//! Consuming queues: what a SUBSCRIBE asks for, and ACK and NACK, whatever the client speaks.

use fanlight_proto::stomp::{Command, Frame, Version};
use uuid::Uuid;

use super::live::{Answer, Note, Work};
use super::{Cx, Effect, Fault, Session};
use crate::broker::Channel;
use crate::hub::Wire;
use crate::publication::PublicationId;
use crate::queue::{AckMode, ConsumerKey, NewConsumer, Queue, QueueError};

/// How a client wants to consume.
#[derive(Debug, Default)]
pub(super) struct Consuming {
    pub(super) mode: AckMode,
    pub(super) prefetch: Option<u16>,
    /// Whether the client said so in a way that makes no sense for anything but a queue.
    pub(super) only_queues: bool,
}

/// What a client thinks of a message. It names the subscription rather than the consumer, since
/// it may wait for a COMMIT while the subscription ends.
#[derive(Debug)]
pub(super) struct Verdict {
    /// `None` where the message alone is named: STOMP 1.0 and the native protocol.
    pub(super) subscription: Option<Box<str>>,
    /// `None` where the client names something that is no message.
    pub(super) message: Option<PublicationId>,
    pub(super) is_ack: bool,
}

/// ACKs and NACKs that the broker is told of, where somebody waits for that.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) answer: Answer,
    pub(super) note: Note,
    /// How many sends the same COMMIT has published before.
    pub(super) published: u32,
}

impl Session {
    /// Makes a subscription a consumer.
    pub(super) fn consume(
        &self,
        cx: &mut Cx<'_>,
        queue: Queue,
        wire: Wire<'_>,
        asked: &Consuming,
    ) -> ConsumerKey {
        let Consuming { mode, prefetch, .. } = *asked;
        cx.consumers.add(queue, NewConsumer { session: self.key, wire, mode, prefetch })
    }

    /// "ACK", "NACK"
    pub(super) fn stomp_ack(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        version: Version,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        let verdict = verdict(frame, version)?;
        let waits_for = match frame.header("transaction") {
            Some(_) => Some(self.open_transaction(frame)?),
            None => None,
        };
        // What a client was sent it may acknowledge at any rate; all else counts.
        if waits_for.is_some() || self.consumer_of(cx, &verdict).is_none() {
            let live = self.live_mut().ok_or_else(Fault::not_connected)?;
            live.admit(cx, false)?;
        }
        match waits_for {
            None => self.judge(cx, &[verdict], Settling::alone(std::mem::take(answer))),
            Some(transaction) => {
                let live = self.live_mut().ok_or_else(Fault::no_transaction)?;
                live.transactions_mut().add_verdict(transaction, verdict, &cx.rules.limits)?;
            }
        }
        Ok(())
    }

    /// Native `ack` and `nack`.
    pub(super) fn native_ack(
        &mut self,
        cx: &mut Cx<'_>,
        ids: &[std::borrow::Cow<'_, str>],
        is_ack: bool,
        answer: Answer,
    ) -> Result<(), Fault> {
        let verdicts: Vec<Verdict> = ids
            .iter()
            .map(|id| Verdict { subscription: None, message: message_id(id), is_ack })
            .collect();
        let all_held = !verdicts.is_empty()
            && verdicts.iter().all(|verdict| self.consumer_of(cx, verdict).is_some());
        if !all_held {
            self.live_mut().ok_or_else(Fault::not_connected)?.admit(cx, false)?;
        }
        self.judge(cx, &verdicts, Settling::alone(answer));
        Ok(())
    }

    /// Carries out what a client thinks of its messages. Who asked for an answer gets it once the
    /// broker has that. What is not held, or no longer, is ignored: it may have been delivered to
    /// somebody else by now.
    pub(super) fn judge(&mut self, cx: &mut Cx<'_>, verdicts: &[Verdict], settling: Settling) {
        let mut channels: Vec<Channel> = Vec::new();
        for verdict in verdicts {
            let (Some(key), Some(message)) = (self.consumer_of(cx, verdict), verdict.message)
            else {
                cx.consumers.ignore();
                continue;
            };
            if let Some(channel) = cx.consumers.channel_of(key)
                && !channels.contains(channel)
            {
                channels.push(channel.clone());
            }
            if verdict.is_ack {
                cx.consumers.ack(key, message);
            } else {
                cx.consumers.nack(key, message);
            }
        }
        if channels.is_empty() || matches!(settling.answer, Answer::Nobody) {
            return self.confirm(cx, settling.answer, settling.note);
        }
        self.start(cx, Work::Settle(settling), Effect::Settle(channels));
    }

    pub(super) fn on_settled(
        &mut self,
        cx: &mut Cx<'_>,
        Settling { answer, note, published }: Settling,
        result: Result<(), QueueError>,
    ) {
        match (result, published) {
            (Ok(()), _) => self.confirm(cx, answer, note),
            (Err(error), 0) => self.refuse(cx, &error.into(), &answer),
            (Err(error), published) => {
                self.refuse(cx, &Fault::commit_not_settled(error, published), &answer);
            }
        }
    }

    /// Which of the session's consumers holds the message.
    fn consumer_of(&self, cx: &Cx<'_>, verdict: &Verdict) -> Option<ConsumerKey> {
        let message = verdict.message?;
        let subscriptions = &self.live()?.subscriptions;
        subscriptions.consumers().find_map(|(id, key)| {
            let is_meant = verdict.subscription.as_deref().is_none_or(|meant| meant == id);
            (is_meant && cx.consumers.holds(key, message)).then_some(key)
        })
    }
}

impl Settling {
    /// Without anything else that was done for the same request.
    fn alone(answer: Answer) -> Self {
        Self { answer, note: Note::default(), published: 0 }
    }
}

/// What SUBSCRIBE says of acknowledging. `prefetch-count` is `RabbitMQ`'s name for it.
pub(super) fn consuming(frame: &Frame) -> Result<Consuming, Fault> {
    let mode = AckMode::named(frame.header("ack").unwrap_or("auto")).ok_or_else(|| {
        let remedy = "use auto, client or client-individual";
        Fault::bad_header("the header ack has an unknown value", remedy)
    })?;
    let prefetch = match frame.header("prefetch-count").map(str::parse::<u16>) {
        None => None,
        Some(Ok(count)) if count > 0 => Some(count),
        Some(_) => {
            let remedy = "use a whole number from 1 to 65535";
            return Err(Fault::bad_header("the header prefetch-count is no count", remedy));
        }
    };
    Ok(Consuming { mode, prefetch, only_queues: false })
}

/// What ACK and NACK name: in 1.2 the `ack` header of the MESSAGE, which is the subscription and
/// the message.
fn verdict(frame: &Frame, version: Version) -> Result<Verdict, Fault> {
    let is_ack = frame.command == Command::Ack;
    let (subscription, message) = match version {
        Version::V10 if !is_ack => {
            let remedy = "connect with a later version";
            return Err(Fault::bad_header("STOMP 1.0 has no NACK", remedy));
        }
        Version::V10 => (None, required(frame, "message-id")?),
        Version::V11 => {
            let message = required(frame, "message-id")?;
            (Some(required(frame, "subscription")?), message)
        }
        Version::V12 => {
            let (subscription, message) =
                required(frame, "id")?.rsplit_once(':').unwrap_or_default();
            (Some(subscription), message)
        }
    };
    let subscription = subscription.map(Into::into);
    Ok(Verdict { subscription, message: message_id(message), is_ack })
}

fn required<'f>(frame: &'f Frame, name: &str) -> Result<&'f str, Fault> {
    let value = frame.header(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| Fault::missing_header(frame.command.as_str(), name))
}

fn message_id(text: &str) -> Option<PublicationId> {
    Uuid::try_parse(text).ok().map(PublicationId)
}
