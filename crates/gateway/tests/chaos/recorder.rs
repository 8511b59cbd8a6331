//! Collects a run's record from all who take part.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::cast::OPEN_BULK;
use crate::record::{
    Content, Delivery, Destination, Fault, Heard, Run, Sample, Send, Session, Settled, Subscriber,
    What,
};

/// Written by many at once.
pub struct Recorder {
    begun: Instant,
    sends: Mutex<Vec<Send>>,
    bulk: AtomicU64,
    subscribers: Vec<Mutex<Subscriber>>,
    deliveries: Mutex<Vec<Delivery>>,
    faults: Mutex<Vec<Fault>>,
    sessions: Mutex<Vec<Session>>,
    samples: Mutex<Vec<Sample>>,
}

/// A session that lives until this is dropped.
pub struct Opened {
    recorder: Arc<Recorder>,
    index: usize,
}

impl Recorder {
    /// For these subscribers: name and user.
    pub fn new(subscribers: &[(String, String)]) -> Self {
        let subscriber = |(name, user): &(String, String)| {
            Mutex::new(Subscriber { name: name.clone(), user: user.clone(), heard: Vec::new() })
        };
        Self {
            begun: Instant::now(),
            sends: Mutex::default(),
            bulk: AtomicU64::new(0),
            subscribers: subscribers.iter().map(subscriber).collect(),
            deliveries: Mutex::default(),
            faults: Mutex::default(),
            sessions: Mutex::default(),
            samples: Mutex::default(),
        }
    }

    /// Milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// How many of the largest messages have been published.
    pub fn bulk(&self) -> u64 {
        self.bulk.load(Ordering::Relaxed)
    }

    pub fn send(&self, send: Send) {
        if send.acked() && send.content.destination == OPEN_BULK {
            self.bulk.fetch_add(1, Ordering::Relaxed);
        }
        self.sends.lock().unwrap().push(send);
    }

    pub fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push(fault);
    }

    pub fn sample(&self, sample: Sample) {
        self.samples.lock().unwrap().push(sample);
    }

    /// A session was opened.
    pub fn opened(self: &Arc<Self>, user: &str, node: usize, id: &str) -> Opened {
        let session = Session {
            id: id.to_owned(),
            user: user.to_owned(),
            node,
            from_ms: self.now_ms(),
            to_ms: None,
            cut: false,
            stalls: 0,
            is_narrow: false,
            places: Vec::new(),
        };
        let mut sessions = self.sessions.lock().unwrap();
        sessions.push(session);
        Opened { recorder: Arc::clone(self), index: sessions.len() - 1 }
    }

    pub fn hear(&self, subscriber: usize, destination: usize, what: What) {
        let heard = Heard { at_ms: self.now_ms(), destination, what };
        self.subscribers[subscriber].lock().unwrap().heard.push(heard);
    }

    /// A consumer got a message; returns its place among the deliveries.
    pub fn deliver(&self, delivery: Delivery) -> usize {
        let mut deliveries = self.deliveries.lock().unwrap();
        deliveries.push(delivery);
        deliveries.len() - 1
    }

    /// Its consumer says what becomes of a delivery.
    pub fn settle(&self, delivery: usize, settled: Settled) {
        self.deliveries.lock().unwrap()[delivery].settled = settled;
    }

    /// The consumer was told that an acknowledgement is done.
    pub fn confirm(&self, delivery: usize) {
        let now_ms = self.now_ms();
        let mut deliveries = self.deliveries.lock().unwrap();
        if let Settled::Acked { confirmed_at_ms, .. } = &mut deliveries[delivery].settled {
            *confirmed_at_ms = Some(now_ms);
        }
    }

    /// The connection ends on which these are held.
    pub fn leave(&self, held: impl IntoIterator<Item = usize>) {
        let now_ms = self.now_ms();
        let mut deliveries = self.deliveries.lock().unwrap();
        for delivery in held {
            deliveries[delivery].left_at_ms = Some(now_ms);
        }
    }

    /// Who has not heard what its destination's newest says: (subscriber, destination).
    pub fn waiting_for(&self, newest: &[Content]) -> Vec<(usize, usize)> {
        let mut waiting = Vec::new();
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let subscriber = subscriber.lock().unwrap();
            for content in newest {
                let mut of_it = subscriber
                    .heard
                    .iter()
                    .rev()
                    .filter(|heard| heard.destination == content.destination)
                    .peekable();
                let wanted = Some(*content);
                let is_it = |heard: &Heard| matches!(heard.what, What::Message { content, .. } if content == wanted);
                if of_it.peek().is_some() && !of_it.any(is_it) {
                    waiting.push((index, content.destination));
                }
            }
        }
        waiting
    }

    /// The record as it is now, without the final histories.
    pub fn run(&self, destinations: Vec<Destination>) -> Run {
        let subscribers =
            self.subscribers.iter().map(|subscriber| subscriber.lock().unwrap().clone()).collect();
        Run {
            destinations,
            sends: self.sends.lock().unwrap().clone(),
            subscribers,
            deliveries: self.deliveries.lock().unwrap().clone(),
            faults: self.faults.lock().unwrap().clone(),
            sessions: self.sessions.lock().unwrap().clone(),
            samples: self.samples.lock().unwrap().clone(),
            ..Run::default()
        }
    }
}

impl Opened {
    /// It asks to subscribe to `destination`.
    pub fn asks(&self, destination: usize) {
        self.update(|session| session.places.push(destination));
    }

    /// The kernels keep little for it.
    pub fn narrow(&self) {
        self.update(|session| session.is_narrow = true);
    }

    /// It stops reading.
    pub fn stalls(&self) {
        self.update(|session| session.stalls += 1);
    }

    /// The connection has ended, not by its client.
    pub fn cut(&self) {
        self.update(|session| session.cut = true);
    }

    fn update(&self, change: impl FnOnce(&mut Session)) {
        change(&mut self.recorder.sessions.lock().unwrap()[self.index]);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let now_ms = self.recorder.now_ms();
        self.update(|session| session.to_ms = Some(now_ms));
    }
}
