//! What one command connection has under way: bytes to write, answers to come. No I/O here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use fanlight_engine::broker::PublishError;
use tokio::sync::oneshot;

use crate::command;
use crate::resp3::Value;
use crate::routes::Ticket;

/// What Redis said to a command, an error reply included; or why there is no answer.
pub(crate) type Answer = Result<Value, PublishError>;

/// A command on its way, and who waits for its answer.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) command: Vec<u8>,
    /// Whether it leaves something in Redis that replicas should have before it is answered.
    pub(crate) kept: bool,
    pub(crate) waiter: oneshot::Sender<Answer>,
    /// With one it may be sent again, to where its partition has moved.
    pub(crate) ticket: Option<Ticket>,
}

/// How many replicas must have what was kept before that is acknowledged.
///
/// A WAIT keeps all that comes after it on the connection waiting. So as long as there are not
/// enough replicas each one is short, and only now and then one as long as is configured.
#[derive(Debug)]
pub(crate) struct Replicas {
    min: i64,
    /// WAIT, with all the time that replicas have.
    patient: Vec<u8>,
    /// WAIT, with hardly any.
    hasty: Vec<u8>,
    /// Whether the last answer came up short.
    lacking: bool,
    /// Until when that makes the next ones hasty.
    hasty_until: Option<Instant>,
}

/// The batches of one connection that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    outgoing: BytesMut,
    /// Bytes of this connection that were given to the socket.
    written: u64,
    in_flight: VecDeque<InFlight>,
    batches: VecDeque<Batch>,
    replicas: Option<Replicas>,
    /// Answers that are given only when enough replicas have what was kept.
    held: Vec<(oneshot::Sender<Answer>, Value)>,
}

#[derive(Debug)]
struct InFlight {
    /// How many bytes the connection has carried once this command is complete.
    end: u64,
    asked: Asked,
}

/// What an answer is to.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A command, whose bytes are kept only as long as it may have to be sent again; its answer is
    /// held where a WAIT follows.
    Command { item: Item, held: bool },
    /// How many replicas have all of the batch.
    Replicas,
}

#[derive(Debug)]
struct Batch {
    unanswered: usize,
    begun_at: Instant,
}

/// An answer came for which there was no command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

impl Replicas {
    /// `None` where nothing is to be waited for.
    pub(crate) fn new(min: u32, within: Duration) -> Option<Self> {
        let wait = |within: Duration| {
            let within_ms = within.as_millis().max(1).to_string();
            let mut command = Vec::new();
            command::words(
                &[b"WAIT", min.to_string().as_bytes(), within_ms.as_bytes()],
                &mut command,
            );
            command
        };
        (min > 0).then(|| Self {
            min: min.into(),
            patient: wait(within),
            hasty: wait(within.min(HASTY)),
            lacking: false,
            hasty_until: None,
        })
    }

    /// The next WAIT.
    fn command(&mut self, now: Instant) -> &[u8] {
        if !self.lacking {
            self.hasty_until = None;
            return &self.patient;
        }
        let is_first = self.hasty_until.is_none();
        if is_first || self.hasty_until.is_some_and(|until| now >= until) {
            self.hasty_until = Some(now + PATIENT_EVERY);
            if !is_first {
                return &self.patient;
            }
        }
        &self.hasty
    }

    /// Whether the answer to a WAIT says that there are enough.
    fn on_answer(&mut self, answer: &Value) -> bool {
        let enough = matches!(answer, Value::Integer(replicas) if *replicas >= self.min);
        self.lacking = !enough;
        enough
    }
}

impl Pipeline {
    pub(crate) fn new(replicas: Option<Replicas>) -> Self {
        Self { replicas, ..Self::default() }
    }

    /// Whether a further batch may begin: the last one is written, and few are unanswered.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.is_empty() && self.batches.len() < BATCHES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Moves one batch from the queue's front: all there is, up to 128 commands or 64 KiB.
    pub(crate) fn take_batch(&mut self, queue: &mut VecDeque<Item>, now: Instant) {
        let mut unanswered = 0;
        let mut kept = false;
        while unanswered < BATCH_COMMANDS
            && let Some(mut item) = queue.pop_front()
        {
            if unanswered > 0 && self.outgoing.len() + item.command.len() > BATCH_BYTES {
                queue.push_front(item);
                break;
            }
            unanswered += 1;
            kept |= item.kept;
            let held = item.kept && self.replicas.is_some();
            self.outgoing.extend_from_slice(&item.command);
            if item.ticket.is_none() {
                item.command = Vec::new();
            }
            self.ask(Asked::Command { item, held });
        }
        if kept && let Some(replicas) = &mut self.replicas {
            unanswered += 1;
            self.outgoing.extend_from_slice(replicas.command(now));
            self.ask(Asked::Replicas);
        }
        if unanswered > 0 {
            self.batches.push_back(Batch { unanswered, begun_at: now });
        }
    }

    fn ask(&mut self, asked: Asked) {
        let end = self.written + self.outgoing.len() as u64;
        self.in_flight.push_back(InFlight { end, asked });
    }

    /// What is to be written.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    pub(crate) fn on_written(&mut self, bytes: usize) {
        self.outgoing.advance(bytes);
        self.written += bytes as u64;
        if self.outgoing.is_empty() && self.outgoing.capacity() > KEEP_BYTES {
            self.outgoing = BytesMut::new();
        }
    }

    /// What the next answer is to; and how long its batch took, if it was the batch's last.
    pub(crate) fn on_answer(&mut self, now: Instant) -> Result<(Asked, Option<Duration>), Unasked> {
        let asked = self.in_flight.pop_front().ok_or(Unasked)?.asked;
        let batch = self.batches.front_mut().ok_or(Unasked)?;
        batch.unanswered -= 1;
        if batch.unanswered > 0 {
            return Ok((asked, None));
        }
        let begun_at = batch.begun_at;
        self.batches.pop_front();
        Ok((asked, Some(now.saturating_duration_since(begun_at))))
    }

    /// Passes an answer on to whom it is for; one that is held, once enough replicas have what it
    /// is to.
    pub(crate) fn settle(&mut self, asked: Asked, value: Value) {
        match asked {
            Asked::Command { item, held: true } if !matches!(value, Value::Error(_)) => {
                self.held.push((item.waiter, value));
            }
            Asked::Command { item, .. } => drop(item.waiter.send(Ok(value))),
            Asked::Replicas => self.on_replicas(&value),
        }
    }

    /// The answer to a WAIT.
    fn on_replicas(&mut self, answer: &Value) {
        let enough = self.replicas.as_mut().is_none_or(|replicas| replicas.on_answer(answer));
        for (waiter, value) in self.held.drain(..) {
            let _ = waiter.send(if enough { Ok(value) } else { Err(PublishError::Unknown) });
        }
    }

    /// When the oldest unanswered batch was begun.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.batches.front().map(|batch| batch.begun_at)
    }

    /// The connection is gone. What was written whole may have been published; a command that was
    /// cut, or not begun, was not.
    pub(crate) fn abandon(self) {
        for (waiter, _) in self.held {
            let _ = waiter.send(Err(PublishError::Unknown));
        }
        for InFlight { end, asked } in self.in_flight {
            let error =
                if end <= self.written { PublishError::Unknown } else { PublishError::Unavailable };
            if let Asked::Command { item, .. } = asked {
                let _ = item.waiter.send(Err(error));
            }
        }
    }
}

/// Redis' own cost per PUBLISH is 0.65 µs from 128 in flight on; more only adds latency (measured).
const BATCH_COMMANDS: usize = 128;
const BATCH_BYTES: usize = 64 << 10;
/// One batch at Redis, one on the way there, one on the way back: enough that nobody idles, few
/// enough that batches form under load.
const BATCHES_MAX: usize = 3;
/// Longer than the way to a replica and back.
const HASTY: Duration = Duration::from_millis(5);
/// Replicas that are there again, but slow, are found so.
const PATIENT_EVERY: Duration = Duration::from_secs(5);
/// A larger buffer, left by a large message, is given back.
const KEEP_BYTES: usize = 4 * BATCH_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    type Waiting = oneshot::Receiver<Answer>;

    fn queue(sizes: &[usize]) -> (VecDeque<Item>, Vec<Waiting>) {
        sizes
            .iter()
            .map(|bytes| {
                let (waiter, waiting) = oneshot::channel();
                let command = vec![b'x'; *bytes];
                (Item { command, kept: false, waiter, ticket: None }, waiting)
            })
            .unzip()
    }

    /// How long the batch took, if this was the last of its answers.
    fn answer(pipeline: &mut Pipeline, value: Value) -> Option<Duration> {
        let (asked, took) = pipeline.on_answer(Instant::now()).unwrap();
        pipeline.settle(asked, value);
        took
    }

    #[test]
    fn a_lone_message_leaves_at_once() {
        let mut pipeline = Pipeline::default();
        let (mut queue, mut waiting) = queue(&[10]);
        let now = Instant::now();
        assert!(pipeline.has_room());
        pipeline.take_batch(&mut queue, now);
        assert_eq!(pipeline.outgoing().len(), 10);
        pipeline.on_written(10);
        let (asked, took) = pipeline.on_answer(now).unwrap();
        assert_eq!(took, Some(Duration::ZERO));
        pipeline.settle(asked, Value::Integer(2));
        assert_eq!(waiting[0].try_recv(), Ok(Ok(Value::Integer(2))));
        assert!(pipeline.is_empty() && pipeline.waiting_since().is_none());
    }

    #[test]
    fn a_batch_ends_at_128_commands_or_64_kib_but_takes_one_of_any_size() {
        let now = Instant::now();
        for (sizes, taken) in [
            (vec![1; 300], 128),
            (vec![BATCH_BYTES / 2, BATCH_BYTES / 2, 1], 2),
            (vec![BATCH_BYTES * 5, 1], 1),
        ] {
            let mut pipeline = Pipeline::default();
            let (mut queue, _waiting) = queue(&sizes);
            pipeline.take_batch(&mut queue, now);
            assert_eq!(sizes.len() - queue.len(), taken);
            assert!(!pipeline.has_room());
        }
    }

    #[test]
    fn batches_form_while_three_are_unanswered() {
        let now = Instant::now();
        let mut pipeline = Pipeline::default();
        let (mut queue, _waiting) = queue(&[1; 4]);
        for _ in 0..BATCHES_MAX {
            assert!(pipeline.has_room());
            let mut one = queue.drain(..1).collect();
            pipeline.take_batch(&mut one, now);
            pipeline.on_written(1);
        }
        assert!(!pipeline.has_room());
        pipeline.on_answer(now).unwrap();
        assert!(pipeline.has_room());
    }

    #[test]
    fn an_unasked_answer_is_an_error() {
        let mut pipeline = Pipeline::default();
        assert_eq!(pipeline.on_answer(Instant::now()).unwrap_err(), Unasked);
    }

    #[test]
    fn what_was_written_whole_is_unknown_and_the_rest_was_not_published() {
        let mut pipeline = Pipeline::default();
        let (mut queue, mut waiting) = queue(&[10, 10, 10, 10]);
        let now = Instant::now();
        pipeline.take_batch(&mut queue, now);
        pipeline.on_written(25);
        answer(&mut pipeline, Value::Integer(1));
        pipeline.abandon();
        let answers: Vec<_> = waiting.iter_mut().map(|w| w.try_recv().unwrap()).collect();
        let (unknown, unavailable) = (PublishError::Unknown, PublishError::Unavailable);
        assert_eq!(
            answers,
            [Ok(Value::Integer(1)), Err(unknown), Err(unavailable), Err(unavailable)]
        );
    }

    #[test]
    fn what_is_kept_is_acknowledged_when_enough_replicas_have_it_and_the_rest_at_once() {
        for (replicas, expected) in [(2, Ok(Value::Integer(1))), (1, Err(PublishError::Unknown))] {
            let mut pipeline = Pipeline::new(Replicas::new(2, Duration::from_millis(7)));
            let (mut queue, mut waiting) = queue(&[1, 1, 1]);
            queue[1].kept = true;
            queue[2].kept = true;
            let now = Instant::now();
            pipeline.take_batch(&mut queue, now);
            let wait = b"xxx*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n7\r\n";
            assert_eq!(pipeline.outgoing(), wait);
            pipeline.on_written(wait.len());
            let refused = Value::Error("ERR".into());
            for value in [Value::Integer(0), Value::Integer(1), refused.clone()] {
                assert_eq!(answer(&mut pipeline, value), None);
            }
            assert_eq!(waiting[0].try_recv(), Ok(Ok(Value::Integer(0))));
            assert!(waiting[1].try_recv().is_err(), "not before the replicas have it");
            assert_eq!(waiting[2].try_recv(), Ok(Ok(refused)));
            assert!(answer(&mut pipeline, Value::Integer(replicas)).is_some());
            assert_eq!(waiting[1].try_recv(), Ok(expected));
        }
    }

    #[test]
    fn while_replicas_are_lacking_a_wait_is_short_except_for_one_now_and_then() {
        let mut pipeline = Pipeline::new(Replicas::new(1, Duration::from_millis(250)));
        let begun = Instant::now();
        let mut within = |after_ms, replicas| {
            let (mut queue, _waiting) = queue(&[1]);
            queue[0].kept = true;
            pipeline.take_batch(&mut queue, begun + Duration::from_millis(after_ms));
            let sent = String::from_utf8(pipeline.outgoing().to_vec()).unwrap();
            pipeline.on_written(sent.len());
            answer(&mut pipeline, Value::Integer(1));
            answer(&mut pipeline, Value::Integer(replicas));
            sent.trim_end().rsplit("\r\n").next().unwrap().to_owned()
        };
        let lasts: Vec<_> = [
            (0, 1),
            (1, 0),
            (2, 0),
            (5001, 0),
            (5002, 0),
            (5003, 0),
            (10_001, 0),
            (10_002, 1),
            (10_003, 1),
        ]
        .map(|(after_ms, replicas)| within(after_ms, replicas))
        .into();
        assert_eq!(lasts, ["250", "250", "5", "5", "250", "5", "5", "250", "250"]);
    }

    #[test]
    fn what_is_held_when_the_connection_breaks_is_unknown() {
        let mut pipeline = Pipeline::new(Replicas::new(1, Duration::from_millis(7)));
        let (mut queue, mut waiting) = queue(&[1]);
        queue[0].kept = true;
        let now = Instant::now();
        pipeline.take_batch(&mut queue, now);
        pipeline.on_written(1);
        answer(&mut pipeline, Value::Integer(1));
        pipeline.abandon();
        assert_eq!(waiting[0].try_recv(), Ok(Err(PublishError::Unknown)));
    }
}
