//! The simulated Redis: histories whose epochs end as those of the real one do.

use std::collections::BTreeSet;
use std::sync::Arc;

use fanlight_engine::history::{HistoryPage, HistoryRange, Lost};
use fanlight_engine::publication::Publication;
use fanlight_proto::Position;

use crate::world::{DESTINATIONS, Sabotage};

/// Every server there ever was; the newest is the primary.
#[derive(Debug)]
pub struct Servers {
    all: Vec<Server>,
    epochs: u64,
    sabotage: Option<Sabotage>,
}

#[derive(Debug, Clone)]
pub struct Server {
    /// Whether it answers; one that was replaced may go on for a while.
    pub is_up: bool,
    /// Until then it answers nothing.
    pub paused_until_ms: u64,
    logs: Vec<Log>,
    /// Who receives what, by destination.
    pub subscribers: Vec<BTreeSet<usize>>,
}

/// One destination's history; the offset of an entry is its index plus 1.
#[derive(Debug, Clone)]
struct Log {
    epoch: u64,
    /// How earlier epochs ended: epoch and last offset.
    forks: Vec<(u64, u64)>,
    entries: Vec<Arc<Publication>>,
    /// How many entries the replica has.
    replicated: usize,
}

impl Servers {
    pub fn new(sabotage: Option<Sabotage>) -> Self {
        let mut servers = Self { all: Vec::new(), epochs: 0, sabotage };
        servers.restart_empty();
        servers
    }

    /// The index of the primary.
    pub fn primary(&self) -> usize {
        self.all.len() - 1
    }

    pub fn server(&mut self, index: usize) -> &mut Server {
        &mut self.all[index]
    }

    /// A server without any data takes the primary's place.
    pub fn restart_empty(&mut self) {
        if let Some(old) = self.all.last_mut() {
            old.is_up = false;
        }
        let logs = (0..DESTINATIONS)
            .map(|_| {
                let epoch = self.new_epoch();
                Log { epoch, forks: Vec::new(), entries: Vec::new(), replicated: 0 }
            })
            .collect();
        self.push(logs);
    }

    /// The replica takes over with what it has; the old primary may not notice for a while.
    pub fn fail_over(&mut self, old_stays_up: bool) {
        let primary = self.primary();
        self.all[primary].is_up = old_stays_up;
        let mut logs = self.all[primary].logs.clone();
        for log in &mut logs {
            log.entries.truncate(log.replicated);
            if self.sabotage != Some(Sabotage::KeepEpoch) {
                log.forks.push((log.epoch, log.replicated as u64));
                log.epoch = self.new_epoch();
            }
        }
        self.push(logs);
    }

    /// The end of all that were replaced.
    pub fn end_old(&mut self) {
        let primary = self.primary();
        for old in &mut self.all[..primary] {
            old.is_up = false;
        }
    }

    /// Accepts a publication; the next number of its destination becomes its position.
    pub fn publish(
        &mut self,
        server: usize,
        destination: usize,
        mut publication: Publication,
    ) -> Arc<Publication> {
        let forgets = self.sabotage == Some(Sabotage::Forget);
        let log = &mut self.all[server].logs[destination];
        let offset = log.entries.len() as u64 + 1;
        publication.position = Some(Position { epoch: log.epoch, offset });
        let publication = Arc::new(publication);
        if !(forgets && offset.is_multiple_of(16)) {
            log.entries.push(Arc::clone(&publication));
        }
        publication
    }

    /// The replica has all that there was when `count` was the number of entries.
    pub fn replicate(&mut self, server: usize, destination: usize, count: usize) {
        let log = &mut self.all[server].logs[destination];
        log.replicated = log.replicated.max(count.min(log.entries.len()));
    }

    pub fn length(&self, server: usize, destination: usize) -> usize {
        self.all[server].logs[destination].entries.len()
    }

    /// Everything that the primary holds of a destination.
    pub fn history(&self, destination: usize) -> &[Arc<Publication>] {
        &self.all[self.primary()].logs[destination].entries
    }

    /// Reads a page, as Redis' script does.
    pub fn read(
        &self,
        server: usize,
        destination: usize,
        range: HistoryRange,
        limit: u32,
    ) -> HistoryPage {
        let log = &self.all[server].logs[destination];
        let length = log.entries.len() as u64;
        let top = Position { epoch: log.epoch, offset: length };
        let limit = limit as usize;
        let skipped = match range {
            HistoryRange::Newest => log.entries.len().saturating_sub(limit),
            HistoryRange::After(position) => {
                let fork = log.forks.iter().find(|(epoch, _)| *epoch == position.epoch);
                let agrees_up_to = match fork {
                    _ if position.epoch == log.epoch => Some(length),
                    Some((_, last)) => Some(*last),
                    None => None,
                };
                if agrees_up_to.is_none_or(|last| position.offset > last) {
                    let lost = Some(Lost::EpochChanged);
                    return HistoryPage { publications: Vec::new(), top, lost };
                }
                position.offset as usize
            }
        };
        let publications = log.entries.iter().skip(skipped).take(limit).cloned().collect();
        HistoryPage { publications, top, lost: None }
    }

    fn push(&mut self, logs: Vec<Log>) {
        let subscribers = vec![BTreeSet::new(); DESTINATIONS];
        self.all.push(Server { is_up: true, paused_until_ms: 0, logs, subscribers });
    }

    fn new_epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs << 8
    }
}
