//! A worker's inbox that records what it is given.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanlight_engine::broker::{Channel, Delivery, DeliverySink, Full, Notice};
use fanlight_engine::publication::Publication;

/// A [`DeliverySink`] that keeps everything, or refuses everything while it is told to be full.
#[derive(Debug, Default)]
pub struct Inbox {
    deliveries: Mutex<Vec<Delivery>>,
    notices: Mutex<Vec<Notice>>,
    full: AtomicBool,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether it refuses what comes from now on.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// What came on `channel`, in order.
    pub fn publications(&self, channel: &str) -> Vec<Arc<Publication>> {
        self.deliveries()
            .iter()
            .filter(|delivery| delivery.channel.as_str() == channel)
            .flat_map(|delivery| delivery.publications.iter().cloned())
            .collect()
    }

    /// The bodies of what came on `channel`, in order.
    pub fn bodies(&self, channel: &str) -> Vec<Bytes> {
        let publications = self.publications(channel);
        publications.iter().map(|publication| publication.body.clone()).collect()
    }

    /// Each body with the channel that it came on, in order.
    pub fn received(&self) -> Vec<(Channel, Bytes)> {
        let mut received = Vec::new();
        for delivery in self.deliveries().iter() {
            for publication in delivery.publications.iter() {
                received.push((delivery.channel.clone(), publication.body.clone()));
            }
        }
        received
    }

    /// How many publications came, on all channels.
    pub fn count(&self) -> usize {
        self.deliveries().iter().map(|delivery| delivery.publications.len()).sum()
    }

    /// What it was told, in order.
    pub fn notices(&self) -> MutexGuard<'_, Vec<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliveries(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliverySink for Inbox {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        if self.full.load(Ordering::SeqCst) {
            return Err(Full);
        }
        self.deliveries().push(delivery);
        Ok(())
    }

    fn notify(&self, notice: Notice) {
        self.notices().push(notice);
    }
}
