//! The histories and idempotency keys of one shard of the memory broker, each gone in its time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use fanlight_proto::{Destination, Position};

use crate::broker::{PublishError, Published};
use crate::history::{
    ContentDigest, History, HistoryPage, HistoryQuery, HistoryRange, IdempotencyKey, Lost, Removed,
};
use crate::publication::Publication;

/// The histories and idempotency keys of one shard.
#[derive(Debug, Default)]
pub(super) struct Logs {
    histories: HashMap<Destination, Log>,
    /// When to look at a history, with its destination; each is here once.
    due: BTreeSet<(u64, Destination)>,
    keys: HashMap<Name, Remembered>,
    /// When to forget which key: all are remembered for equally long.
    keys_due: VecDeque<(u64, Name)>,
}

/// A publisher's name for a publication to a destination.
pub(super) type Key = (Destination, IdempotencyKey);

/// The same, whatever the publication is.
type Name = (Destination, Arc<str>);

/// What was published under a key, and until when that counts.
#[derive(Debug)]
struct Remembered {
    published: Published,
    content: Option<ContentDigest>,
    until_ms: u64,
}

#[derive(Debug)]
struct Log {
    epoch: u64,
    /// The newest publication's offset.
    top: u64,
    publications: VecDeque<Arc<Publication>>,
    /// When the publications go.
    expires_at_ms: u64,
    /// When the epoch and the top go too: so that a position stays good while nothing is published.
    forgotten_at_ms: u64,
    /// Where it stands among those that are due.
    due_at_ms: u64,
}

impl Logs {
    /// What was published under `key`, if it is remembered; or that it was something else.
    pub(super) fn published(
        &self,
        (destination, key): &Key,
        now_ms: u64,
    ) -> Option<Result<Published, PublishError>> {
        let remembered = self.keys.get(&(destination.clone(), Arc::clone(&key.text)))?;
        (now_ms < remembered.until_ms).then(|| {
            if ContentDigest::may_repeat(key.content, remembered.content) {
                Ok(remembered.published)
            } else {
                Err(PublishError::KeyReused)
            }
        })
    }

    pub(super) fn remember(&mut self, (to, key): Key, published: Published, now_ms: u64) {
        let until_ms = now_ms + IdempotencyKey::WINDOW_MS;
        let name = (to, key.text);
        self.keys_due.push_back((until_ms, name.clone()));
        self.keys.insert(name, Remembered { published, content: key.content, until_ms });
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
        log.forgotten_at_ms = log.expires_at_ms + DAY_MS;
        let (was_due_ms, due_ms) = (log.due_at_ms, log.due_at_ms.min(log.expires_at_ms));
        if was_due_ms != due_ms {
            log.due_at_ms = due_ms;
            self.due.remove(&(was_due_ms, publication.destination.clone()));
            self.due.insert((due_ms, publication.destination.clone()));
        }
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

    /// Removes what is kept; epoch and offsets go on.
    pub(super) fn remove(
        &mut self,
        destination: &Destination,
        history: History,
        epoch: impl FnOnce() -> u64,
        now_ms: u64,
    ) -> Removed {
        let log = self.log(destination, history, epoch, now_ms);
        let removed = std::mem::take(&mut log.publications);
        let position = Position { epoch: log.epoch, offset: log.top };
        Removed { publications: removed.len() as u64, position }
    }

    /// Forgets what is over; looks at a few things only, but at more than one call can add.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for _ in 0..LOOKS {
            if self.keys_due.front().is_none_or(|(at_ms, _)| *at_ms > now_ms) {
                break;
            }
            let Some((until_ms, key)) = self.keys_due.pop_front() else { break };
            // It may have been used anew before it was looked at here.
            if self.keys.get(&key).is_some_and(|remembered| remembered.until_ms == until_ms) {
                self.keys.remove(&key);
            }
        }
        for _ in 0..LOOKS {
            if self.due.first().is_none_or(|(at_ms, _)| *at_ms > now_ms) {
                break;
            }
            let Some((_, destination)) = self.due.pop_first() else { break };
            let Some(log) = self.histories.get_mut(&destination) else { continue };
            if log.forgotten_at_ms <= now_ms {
                self.histories.remove(&destination);
                continue;
            }
            log.due_at_ms = if log.expires_at_ms <= now_ms {
                log.publications = VecDeque::new();
                log.forgotten_at_ms
            } else {
                log.expires_at_ms
            };
            self.due.insert((log.due_at_ms, destination));
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
        if let Some(log) = self.histories.get(destination)
            && log.forgotten_at_ms <= now_ms
        {
            self.due.remove(&(log.due_at_ms, destination.clone()));
            self.histories.remove(destination);
        }
        let log = self.histories.entry(destination.clone()).or_insert_with(|| {
            let at_ms = now_ms + history.ttl_ms;
            self.due.insert((at_ms, destination.clone()));
            Log {
                epoch: epoch(),
                top: 0,
                publications: VecDeque::new(),
                expires_at_ms: at_ms,
                forgotten_at_ms: at_ms,
                due_at_ms: at_ms,
            }
        });
        if log.expires_at_ms <= now_ms {
            log.publications = VecDeque::new();
        }
        // As over Redis: who only reads extends it too, but anybody may ask for a name, so what
        // was never published to is not known for a day.
        let known_for_ms = match log.top {
            0 => history.ttl_ms.max(UNUSED_MS),
            _ => history.ttl_ms + DAY_MS,
        };
        log.forgotten_at_ms = log.forgotten_at_ms.max(now_ms + known_for_ms);
        log
    }
}

/// How much of what is due one call looks at.
const LOOKS: usize = 4;
/// For so long a history's epoch and top outlive its publications.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const UNUSED_MS: u64 = 2 * 60 * 1000;

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
