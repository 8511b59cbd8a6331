//! What is heard live of the source: which destinations have something new. What it is, is read
//! from the history, so that a notice may be lost or come twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanlight_engine::broker::{Delivery, DeliverySink, Full, Notice};
use fanlight_proto::Destination;
use tokio::sync::Notify;

/// The destinations that were heard of and not looked at yet.
pub(super) struct Notices {
    heard: Mutex<HashSet<Destination>>,
    max: usize,
    news: Notify,
}

impl Notices {
    /// Holds at most so many; of others the next poll tells.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { heard: Mutex::default(), max, news: Notify::new() })
    }

    /// Resolves when something was heard.
    pub(super) async fn heard(&self) {
        self.news.notified().await;
    }

    /// What was heard; none of it is held any longer.
    pub(super) fn take(&self) -> HashSet<Destination> {
        std::mem::take(&mut self.set())
    }

    fn set(&self) -> MutexGuard<'_, HashSet<Destination>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliverySink for Notices {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        let mut heard = self.set();
        for publication in delivery.publications.iter() {
            let is_kept = publication.position.is_some();
            if is_kept && heard.len() < self.max && !heard.contains(&publication.destination) {
                heard.insert(publication.destination.clone());
            }
        }
        drop(heard);
        self.news.notify_one();
        Ok(())
    }

    fn notify(&self, _: Notice) {
        // What may have been missed is found by the next poll.
    }
}
