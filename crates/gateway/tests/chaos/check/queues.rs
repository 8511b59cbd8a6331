//! Queues (docs/queues.md): consumed until acknowledged, by one at a time, and then never again.

use std::collections::{BTreeMap, HashMap};

use super::standing::RECONNECT_MS;
use super::{Rule, Violation};
use crate::record::{Content, Delivery, Fault, Outcome, QueueRules, Run, Send, Settled, Strikes};

/// What is wrong with one queue.
pub(super) fn check(run: &Run, destination: usize, rules: QueueRules, out: &mut Vec<Violation>) {
    let sends: HashMap<Content, &Send> = run.sends.iter().map(|it| (it.content, it)).collect();
    let mut reader = Reader { run, destination, rules, out };
    for delivery in run.deliveries.iter().filter(|it| it.destination == destination) {
        reader.right_place(delivery, &sends);
    }
    // A dead letter is a delivery of the queue that it comes from too.
    let mut delivered: BTreeMap<Content, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &run.deliveries {
        if let Some(content) = delivery.content.filter(|it| it.destination == destination) {
            delivered.entry(content).or_default().push(delivery);
        }
    }
    for of_one in delivered.values() {
        reader.deliveries(of_one);
    }
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        let of_one = delivered.get(&send.content).map_or(&[][..], Vec::as_slice);
        reader.sent(send, of_one);
    }
}

struct Reader<'r> {
    run: &'r Run,
    destination: usize,
    rules: QueueRules,
    out: &'r mut Vec<Violation>,
}

impl Reader<'_> {
    /// It was sent to this queue, or it is a dead letter and says so.
    fn right_place(&mut self, delivery: &Delivery, sends: &HashMap<Content, &Send>) {
        let at_ms = delivery.got_at_ms;
        let Some(content) = delivery.content else {
            return self.report(Rule::Misdelivered, at_ms, "a body that nobody sent".to_owned());
        };
        let Some(send) = sends.get(&content) else {
            let text = format!("{content:?} was never sent");
            return self.report(Rule::Misdelivered, at_ms, text);
        };
        if let Outcome::Refused(code) = &send.outcome {
            let text = format!("{content:?} was refused as {code}, and yet was delivered");
            self.report(Rule::RefusedYetPublished, at_ms, text);
        }
        if content.destination != self.destination {
            let Some(from) = self.run.destinations.get(content.destination) else { return };
            let is_letter = from.queue.is_some_and(|it| it.dead_letter == Some(self.destination))
                && delivery.original.as_ref() == Some(&from.name);
            if !is_letter {
                let text = format!("{content:?} was sent to {}: {delivery:?}", from.name);
                self.report(Rule::Misdelivered, at_ms, text);
            }
        }
    }

    /// What is so of all deliveries of one message.
    fn deliveries(&mut self, of_one: &[&Delivery]) {
        for (at, first) in of_one.iter().enumerate() {
            if first.count == 0 {
                let text = format!("redelivered, but how often is not said: {first:?}");
                self.report(Rule::RedeliveryNotMarked, first.got_at_ms, text);
            }
            for second in &of_one[at + 1..] {
                if first.destination == second.destination {
                    self.marked(first, second);
                    self.one_at_a_time(first, second);
                    self.one_at_a_time(second, first);
                }
            }
            for other in of_one {
                self.acked_for_good(first, other);
            }
        }
    }

    /// Each delivery of a message has a count of its own.
    fn marked(&mut self, first: &Delivery, second: &Delivery) {
        let (from_ms, to_ms) = (first.got_at_ms, second.got_at_ms);
        if first.count == second.count && !self.may_be_forgotten(from_ms, to_ms) {
            let text = format!("two deliveries with one count: {first:?} and {second:?}");
            self.report(Rule::RedeliveryNotMarked, to_ms, text);
        }
    }

    /// While a consumer has a message, nobody gets it anew: until the consumer has said something,
    /// is gone, or has had it for so long that it may have been given to another.
    fn one_at_a_time(&mut self, held: &Delivery, next: &Delivery) {
        let until_ms = match held.settled {
            // Whoever is told of the end of its connection is told a little later than the node.
            Settled::Held => held.left_at_ms.map_or(u64::MAX, |ms| ms.saturating_sub(NOTICE_MS)),
            Settled::Taken => return,
            Settled::Acked { asked_at_ms, .. } | Settled::Nacked { asked_at_ms } => asked_at_ms,
        };
        let until_ms = until_ms.min(held.got_at_ms + self.surely_held_ms());
        let is_meanwhile = (held.got_at_ms..until_ms).contains(&next.got_at_ms);
        // An earlier delivery that comes late was another's before.
        if is_meanwhile && next.count >= held.count && !self.excused(held, next.got_at_ms) {
            let text = format!("{next:?} came while it was held: {held:?}");
            self.report(Rule::HeldByTwo, next.got_at_ms, text);
        }
    }

    /// What was acknowledged in time, and this was confirmed, does not come again.
    fn acked_for_good(&mut self, acked: &Delivery, next: &Delivery) {
        let Settled::Acked { confirmed_at_ms: Some(confirmed_ms), .. } = acked.settled else {
            return;
        };
        let in_time = confirmed_ms < acked.got_at_ms + self.surely_held_ms();
        let is_later = next.count > acked.count || next.destination != acked.destination;
        let comes_again = next.got_at_ms > confirmed_ms && is_later;
        if in_time && comes_again && !self.excused(acked, next.got_at_ms) {
            let text = format!("{next:?} came after it was acknowledged: {acked:?}");
            self.report(Rule::AckedYetDelivered, next.got_at_ms, text);
        }
    }

    /// What the queue took is done in the end, and what it refused is told as refused.
    fn sent(&mut self, send: &Send, of_one: &[&Delivery]) {
        let Outcome::Acked { degraded, .. } = send.outcome else { return };
        if degraded {
            let text = format!("{:?} went past the queue", send.content);
            self.report(Rule::FalseAck, send.ended_at_ms, text);
        }
        if self.is_done(of_one) || self.may_be_lost(send) || self.may_be_unread(send) {
            return;
        }
        let text = match of_one.iter().max_by_key(|delivery| delivery.count) {
            None => format!("{:?} was acknowledged, and nobody got it", send.content),
            Some(last) => format!("nobody acknowledged it, and it did not come again: {last:?}"),
        };
        self.report(Rule::LostFromQueue, send.ended_at_ms, text);
    }

    fn is_done(&self, of_one: &[&Delivery]) -> bool {
        let last = of_one.iter().map(|delivery| delivery.count).max();
        of_one.iter().any(|delivery| {
            let is_last = Some(delivery.count) == last;
            let is_settled = match delivery.settled {
                Settled::Taken => true,
                Settled::Acked { asked_at_ms, .. } => {
                    is_last || asked_at_ms < delivery.got_at_ms + self.surely_held_ms()
                }
                Settled::Held | Settled::Nacked { .. } => false,
            };
            is_settled || delivery.destination != self.destination
        })
    }

    /// Whether Redis may have lost the publication.
    fn may_be_lost(&self, send: &Send) -> bool {
        self.run.faults.iter().filter(|fault| fault.loses_data).any(|fault| {
            let wiped = fault.wipes && send.sent_at_ms <= fault.to_ms;
            wiped || fault.loses_copied && is_near(fault, send.sent_at_ms, send.ended_at_ms)
        })
    }

    /// Whether it may have been written to a connection that nobody read to its end: to those who
    /// acknowledge by taking it is gone then.
    fn may_be_unread(&self, send: &Send) -> bool {
        let of_it = |user: &str| {
            let mut consumers = self.run.consumers.iter().filter(|it| it.is_auto);
            consumers.any(|it| it.destination == self.destination && it.user == user)
        };
        let from_ms = send.sent_at_ms;
        self.run.sessions.iter().filter(|session| of_it(&session.user)).any(|session| {
            let read_to_ms = session.to_ms.unwrap_or(u64::MAX);
            (from_ms..send.ended_at_ms + AUTO_WAIT_MS).contains(&read_to_ms)
        })
    }

    /// Whether Redis may have forgotten who has what.
    fn may_be_forgotten(&self, from_ms: u64, to_ms: u64) -> bool {
        let losing = |fault: &&Fault| fault.loses_data;
        self.run.faults.iter().filter(losing).any(|fault| is_near(fault, from_ms, to_ms))
    }

    /// Whether something kept the holder's node from telling, or from being told, in time, or
    /// Redis may have forgotten it.
    fn excused(&self, held: &Delivery, to_ms: u64) -> bool {
        let from_ms = held.got_at_ms.saturating_sub(self.rules.ack_timeout_ms);
        let slow = self.run.faults.iter().any(|fault| {
            let strikes = match fault.strikes {
                Strikes::Redis => true,
                Strikes::Node(node) | Strikes::KilledNode(node) => node == held.node,
                Strikes::Nobody => false,
            };
            let settled_ms = match held.settled {
                Settled::Acked { confirmed_at_ms: Some(confirmed_ms), .. } => confirmed_ms,
                _ => to_ms,
            };
            strikes && fault.from_ms <= settled_ms && fault.to_ms + SLOW_MS >= from_ms
        });
        slow || self.may_be_forgotten(held.got_at_ms, to_ms)
    }

    /// For how long after it came a message is certainly its consumer's.
    fn surely_held_ms(&self) -> u64 {
        self.rules.ack_timeout_ms.saturating_sub(UNDER_WAY_MS)
    }

    fn report(&mut self, rule: Rule, at_ms: u64, text: String) {
        let destination = Some(self.destination);
        self.out.push(Violation { rule, destination, subscriber: None, at_ms, text });
    }
}

/// Whether a fault may have lost what was written to Redis between these moments.
fn is_near(fault: &Fault, from_ms: u64, to_ms: u64) -> bool {
    fault.from_ms <= to_ms + LAG_MS && fault.to_ms + RECONNECT_MS >= from_ms
}

/// The ack timeout counts from the moment at which a node asks for a message.
const UNDER_WAY_MS: u64 = 1_000;
/// How far replicas may be behind their master when that is lost.
const LAG_MS: u64 = 1_000;
/// By how much later than its node a client may notice that a connection ended.
const NOTICE_MS: u64 = 500;
/// How long after a fault the answers to what was asked during it may still come.
const SLOW_MS: u64 = 1_000;
/// A queue that is taken from waits only while a node or Redis is away.
const AUTO_WAIT_MS: u64 = 15_000;
