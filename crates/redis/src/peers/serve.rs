//! Reads what other nodes send: asks, which the answerer answers, and answers.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::peers::{MESSAGE_MAX_BYTES, PeerError};
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::select;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::error;
use uuid::Uuid;

use super::asks::Seen;
use super::inbox::{Incoming, PeerInbox};
use super::wire::{Ask, Message};
use super::{Inner, meters};
use crate::lease::boot_of;

/// The requests of other nodes that are being answered.
#[derive(Default)]
struct Answering {
    seen: Seen,
    under_way: FuturesUnordered<BoxFuture<'static, Key>>,
    given_up: HashMap<Key, AbortHandle>,
}

/// Who asked, and which of its asks it is.
type Key = (Uuid, u64);

impl Inner {
    pub(super) async fn serve(self: Arc<Self>, mut inbox: PeerInbox) {
        let mut answering = Answering::default();
        loop {
            select! {
                incoming = inbox.next() => {
                    let Some(incoming) = incoming else { return };
                    self.on_incoming(incoming, &mut answering);
                }
                Some(key) = answering.under_way.next(), if !answering.under_way.is_empty() => {
                    answering.given_up.remove(&key);
                }
            }
            meters::answering(answering.under_way.len());
            self.answering.send_replace(answering.under_way.len());
        }
    }

    fn on_incoming(self: &Arc<Self>, incoming: Incoming, answering: &mut Answering) {
        let Incoming { body, room } = incoming;
        match Message::read(body) {
            Some(Message::Ask(ask)) => self.on_ask(ask, room, answering),
            Some(Message::Answer { number, outcome }) => {
                if !self.asks.answered(number, outcome) {
                    meters::dropped("late");
                }
            }
            Some(Message::Cancel { asker, number }) => {
                if let Some(handle) = answering.given_up.remove(&(asker, number)) {
                    handle.abort();
                }
            }
            None => meters::dropped("unreadable"),
        }
    }

    fn on_ask(self: &Arc<Self>, ask: Ask, room: OwnedSemaphorePermit, answering: &mut Answering) {
        let key = (ask.asker, ask.number);
        answering.seen.prune(|| self.living());
        if !answering.seen.is_new(ask.asker, ask.number) {
            meters::dropped("repeated");
            return;
        }
        let deadline = Instant::now() + ask.patience.min(PATIENCE_MAX);
        let outcome = if answering.under_way.len() < ANSWERING_MAX {
            self.begin(ask)
        } else {
            std::future::ready(Err(PeerError::Overloaded)).boxed()
        };
        let (handle, registration) = AbortHandle::new_pair();
        answering.given_up.insert(key, handle);
        let inner = Arc::clone(self);
        let answered = async move {
            let answered = timeout_at(deadline, Abortable::new(outcome, registration)).await;
            drop(room);
            // Otherwise nobody waits for it any more.
            if let Ok(Ok(outcome)) = answered {
                inner.reply(key, outcome, deadline).await;
            }
            key
        };
        answering.under_way.push(answered.boxed());
    }

    /// Calls the answerer, in the order in which the asks have come.
    fn begin(&self, ask: Ask) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let answering = match self.answer(ask.session.as_ref(), ask.request) {
            Ok(answering) => answering,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        // A fault in one session must not end the others' answers.
        let caught = AssertUnwindSafe(answering).catch_unwind();
        caught
            .map(|answer| {
                outcome(answer.unwrap_or_else(|_| {
                    error!("a session's answer to another node has failed; please report this");
                    None
                }))
            })
            .boxed()
    }

    /// Sends an answer, again while it surely or perhaps was not heard: its asker takes it once.
    async fn reply(&self, key: Key, outcome: Result<Bytes, PeerError>, deadline: Instant) {
        let (asker, number) = key;
        let answer = Message::Answer { number, outcome };
        for _ in 0..REPLY_ATTEMPTS {
            if self.tell(asker, &answer).await.is_ok_and(|receivers| receivers > 0) {
                return;
            }
            if Instant::now() + REPLY_AGAIN >= deadline {
                break;
            }
            sleep(REPLY_AGAIN).await;
        }
        meters::dropped("undelivered");
    }

    fn living(&self) -> HashSet<Uuid> {
        let nodes = self.lease.nodes();
        let boots = nodes.iter().filter_map(|node| Uuid::parse_str(boot_of(&node.owner)).ok());
        boots.collect()
    }
}

/// What an answerer has answered.
pub(super) fn outcome(answer: Option<Bytes>) -> Result<Bytes, PeerError> {
    let answer = answer.ok_or(PeerError::Gone)?;
    if answer.len() > MESSAGE_MAX_BYTES { Err(PeerError::TooLarge) } else { Ok(answer) }
}

/// Requests that are answered at the same time.
const ANSWERING_MAX: usize = 64 << 10;
/// The longest that one is worked on, whatever its asker says.
const PATIENCE_MAX: Duration = Duration::from_secs(300);
const REPLY_ATTEMPTS: usize = 10;
const REPLY_AGAIN: Duration = Duration::from_millis(200);
