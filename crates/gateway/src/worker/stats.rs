//! What a worker counts, in plain integers on the hot path, handed to the metrics by the sweep.

use fanlight_engine::broker::WorkerId;
use fanlight_proto::CloseReason;
use metrics::{Counter, Gauge, counter, gauge};

/// Counts since the last report, and the handles they go to.
pub(super) struct Stats {
    pub opened: u64,
    pub gone: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub published: u64,
    pub publications_in: u64,
    pub deliveries: u64,
    pub frames_dropped: u64,
    pub socket_events: u64,
    pub sessions: u64,
    pub subscriptions: u64,
    counters: Counters,
    connections: Gauge,
    subscription_gauge: Gauge,
}

struct Counters {
    opened: Counter,
    messages_in: Counter,
    messages_out: Counter,
    bytes_in: Counter,
    published: Counter,
    publications_in: Counter,
    deliveries: Counter,
    frames_dropped: Counter,
}

impl Stats {
    pub(super) fn new(worker: WorkerId) -> Self {
        let worker = worker.0.to_string();
        Self {
            opened: 0,
            gone: 0,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            published: 0,
            publications_in: 0,
            deliveries: 0,
            frames_dropped: 0,
            socket_events: 0,
            sessions: 0,
            subscriptions: 0,
            counters: Counters {
                opened: counter!("fanlight_connections_opened_total"),
                messages_in: counter!("fanlight_messages_received_total"),
                messages_out: counter!("fanlight_messages_sent_total"),
                bytes_in: counter!("fanlight_received_bytes_total"),
                published: counter!("fanlight_publishes_total"),
                publications_in: counter!("fanlight_publications_received_total"),
                deliveries: counter!("fanlight_deliveries_total"),
                frames_dropped: counter!("fanlight_outbox_dropped_frames_total"),
            },
            connections: gauge!("fanlight_connections", "worker" => worker.clone()),
            subscription_gauge: gauge!("fanlight_subscriptions", "worker" => worker),
        }
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        counter!("fanlight_closes_total", "reason" => reason.code()).increment(1);
    }

    /// Hands what was counted to the metrics.
    pub(super) fn report(&mut self) {
        let counters = &self.counters;
        for (count, counter) in [
            (&mut self.opened, &counters.opened),
            (&mut self.messages_in, &counters.messages_in),
            (&mut self.messages_out, &counters.messages_out),
            (&mut self.bytes_in, &counters.bytes_in),
            (&mut self.published, &counters.published),
            (&mut self.publications_in, &counters.publications_in),
            (&mut self.deliveries, &counters.deliveries),
            (&mut self.frames_dropped, &counters.frames_dropped),
        ] {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
        self.connections.set(self.sessions as f64);
        self.subscription_gauge.set(self.subscriptions as f64);
    }
}
