//! The histories and idempotency keys of one shard of the memory broker, each gone in its time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fanlight_proto::{Destination, Position};

use crate::broker::Published;
use crate::history::{History, HistoryPage, HistoryQuery, HistoryRange, IdempotencyKey, Lost};
use crate::publication::Publication;

/// The histories and idempotency keys of one shard.
#[derive(Debug, Default)]
pub(super) struct Logs {
    histories: HashMap<Destination, Log>,
    keys: HashMap<(Destination, IdempotencyKey), Published>,
    /// When to look at a history or forget a key, each once, roughly in order.
    due: VecDeque<(u64, Due)>,
}

#[derive(Debug)]
struct Log {
    epoch: u64,
    /// The newest publication's offset.
    top: u64,
    publications: VecDeque<Arc<Publication>>,
    expires_at_ms: u64,
}

#[derive(Debug)]
enum Due {
    Log(Destination),
    Key((Destination, IdempotencyKey)),
}

impl Logs {
    /// What was published under `key`, if it is remembered.
    pub(super) fn published(&self, key: &(Destination, IdempotencyKey)) -> Option<Published> {
        self.keys.get(key).copied()
    }

    pub(super) fn remember(
        &mut self,
        key: (Destination, IdempotencyKey),
        published: Published,
        now_ms: u64,
    ) {
        self.due.push_back((now_ms + IdempotencyKey::WINDOW_MS, Due::Key(key.clone())));
        self.keys.insert(key, published);
    }

    /// Gives a publication its position and keeps it; `epoch` is for a history that begins.
    pub(super) fn append(
        &mut self,
        mut publication: Publication,
        history: History,
        epoch: impl FnOnce() -> u64,
        now_ms: u64,
    ) -> Arc<Publication> {
        let log = self.log(&publication.destination, history, epoch, now_ms);
        log.top += 1;
        publication.position = Some(Position { epoch: log.epoch, offset: log.top });
        let publication = Arc::new(publication);
        log.publications.push_back(Arc::clone(&publication));
        while log.publications.len() > history.size as usize {
            log.publications.pop_front();
        }
        log.expires_at_ms = now_ms + history.ttl_ms;
        publication
    }

    pub(super) fn read(
        &mut self,
        query: &HistoryQuery,
        epoch: impl FnOnce() -> u64,
        now_ms: u64,
    ) -> HistoryPage {
        let log = self.log(&query.destination, query.history, epoch, now_ms);
        let top = Position { epoch: log.epoch, offset: log.top };
        let kept = log.publications.len() as u64;
        let limit = u64::from(query.limit);
        let (skipped, lost) = match query.range {
            HistoryRange::Newest => (kept.saturating_sub(limit), None),
            HistoryRange::After(Position { epoch, offset }) => {
                if epoch != log.epoch || offset > log.top {
                    (kept, Some(Lost::EpochChanged))
                } else if log.top - offset > kept {
                    (kept, Some(Lost::TooOld))
                } else {
                    (kept - (log.top - offset), None)
                }
            }
        };
        let rest = log.publications.iter().skip(skipped as usize);
        HistoryPage { publications: rest.take(limit as usize).cloned().collect(), top, lost }
    }

    /// Forgets what is over; looks at a few things only.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for _ in 0..LOOKS {
            if self.due.front().is_none_or(|(at_ms, _)| *at_ms > now_ms) {
                return;
            }
            let Some((_, due)) = self.due.pop_front() else { return };
            match due {
                Due::Key(key) => {
                    self.keys.remove(&key);
                }
                Due::Log(destination) => match self.histories.get(&destination) {
                    Some(log) if log.expires_at_ms > now_ms => {
                        self.due.push_back((log.expires_at_ms, Due::Log(destination)));
                    }
                    _ => {
                        self.histories.remove(&destination);
                    }
                },
            }
        }
    }

    fn log(
        &mut self,
        destination: &Destination,
        history: History,
        epoch: impl FnOnce() -> u64,
        now_ms: u64,
    ) -> &mut Log {
        // What has expired may not have been looked at yet.
        if self.histories.get(destination).is_some_and(|log| log.expires_at_ms <= now_ms) {
            self.histories.remove(destination);
        }
        self.histories.entry(destination.clone()).or_insert_with(|| {
            let expires_at_ms = now_ms + history.ttl_ms;
            self.due.push_back((expires_at_ms, Due::Log(destination.clone())));
            Log { epoch: epoch(), top: 0, publications: VecDeque::new(), expires_at_ms }
        })
    }
}

/// How much of what is due one call looks at.
const LOOKS: usize = 4;
