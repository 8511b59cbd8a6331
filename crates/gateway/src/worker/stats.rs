//! What a worker counts, in plain integers on the hot path, handed to the metrics by the sweep.

use fanlight_engine::broker::WorkerId;
use fanlight_engine::history::Lost;
use fanlight_engine::registry::Transport;
use fanlight_engine::timeline;
use fanlight_proto::CloseReason;
use metrics::{Counter, Gauge, counter, gauge};

use super::census::Census;
use super::samples::Samples;

/// Counts since the last report, and the handles they go to.
pub(super) struct Stats {
    opened: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub published: u64,
    pub publications_in: u64,
    pub deliveries: u64,
    pub frames_dropped: u64,
    pub subscriptions: u64,
    pub gaps: timeline::Counts,
    closes: [u64; CloseReason::ALL.len()],
    recoveries: [u64; RECOVERIES.len()],
    /// Open connections, by transport.
    connections: [u64; Transport::ALL.len()],
    pub census: Census,
    pub samples: Samples,
    counters: Counters,
    connection_gauges: [Gauge; Transport::ALL.len()],
    subscription_gauge: Gauge,
}

struct Counters {
    opened: Counter,
    messages_in: Counter,
    messages_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    published: Counter,
    publications_in: Counter,
    deliveries: Counter,
    frames_dropped: Counter,
    gaps: Counter,
    gaps_healed: Counter,
    gaps_lost: Counter,
    closes: [Counter; CloseReason::ALL.len()],
    recoveries: [Counter; RECOVERIES.len()],
}

impl Stats {
    pub(super) fn new(worker: WorkerId) -> Self {
        let worker = worker.0.to_string();
        Self {
            opened: 0,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            published: 0,
            publications_in: 0,
            deliveries: 0,
            frames_dropped: 0,
            subscriptions: 0,
            gaps: timeline::Counts::default(),
            closes: [0; CloseReason::ALL.len()],
            recoveries: [0; RECOVERIES.len()],
            connections: [0; Transport::ALL.len()],
            census: Census::new(),
            samples: Samples::new(),
            counters: Counters {
                opened: counter!("fanlight_connections_opened_total"),
                messages_in: counter!("fanlight_messages_received_total"),
                messages_out: counter!("fanlight_messages_sent_total"),
                bytes_in: counter!("fanlight_received_bytes_total"),
                bytes_out: counter!("fanlight_sent_bytes_total"),
                published: counter!("fanlight_publishes_total"),
                publications_in: counter!("fanlight_publications_received_total"),
                deliveries: counter!("fanlight_deliveries_total"),
                frames_dropped: counter!("fanlight_outbox_dropped_frames_total"),
                gaps: counter!("fanlight_gaps_total"),
                gaps_healed: counter!("fanlight_gaps_healed_total"),
                gaps_lost: counter!("fanlight_gaps_lost_total"),
                closes: CloseReason::ALL
                    .map(|reason| counter!("fanlight_closes_total", "reason" => reason.code())),
                recoveries: RECOVERIES.map(|outcome| {
                    let result = outcome.err().map_or("recovered", Lost::code);
                    counter!("fanlight_recoveries_total", "result" => result)
                }),
            },
            connection_gauges: Transport::ALL.map(|transport| {
                let transport = transport.name();
                gauge!("fanlight_connections", "worker" => worker.clone(), "transport" => transport)
            }),
            subscription_gauge: gauge!("fanlight_subscriptions", "worker" => worker),
        }
    }

    /// Counts a connection that is there now.
    pub(super) fn entered(&mut self, transport: Transport) {
        self.opened += 1;
        self.connections[transport as usize] += 1;
    }

    /// Counts a connection that is gone.
    pub(super) fn left(&mut self, transport: Transport) {
        self.connections[transport as usize] -= 1;
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        let at = CloseReason::ALL.iter().position(|&known| known == reason);
        self.closes[at.unwrap_or(0)] += 1;
    }

    /// Counts how a subscription that wanted more than what comes has become live.
    pub(super) fn recovered(&mut self, outcome: Option<Result<(), Lost>>) {
        let at = RECOVERIES.iter().position(|known| Some(*known) == outcome);
        if let Some(at) = at {
            self.recoveries[at] += 1;
        }
    }

    /// Hands what was counted to the metrics.
    pub(super) fn report(&mut self) {
        // First, so that whoever is counted as opened was among these.
        for (gauge, count) in self.connection_gauges.iter().zip(self.connections) {
            gauge.set(count as f64);
        }
        self.subscription_gauge.set(self.subscriptions as f64);
        self.samples.renew();
        let counters = &self.counters;
        let closes = self.closes.iter_mut().zip(&counters.closes);
        let recoveries = self.recoveries.iter_mut().zip(&counters.recoveries);
        let others = [
            (&mut self.opened, &counters.opened),
            (&mut self.messages_in, &counters.messages_in),
            (&mut self.messages_out, &counters.messages_out),
            (&mut self.bytes_in, &counters.bytes_in),
            (&mut self.bytes_out, &counters.bytes_out),
            (&mut self.published, &counters.published),
            (&mut self.publications_in, &counters.publications_in),
            (&mut self.deliveries, &counters.deliveries),
            (&mut self.frames_dropped, &counters.frames_dropped),
            (&mut self.gaps.gaps, &counters.gaps),
            (&mut self.gaps.gaps_healed, &counters.gaps_healed),
            (&mut self.gaps.gaps_lost, &counters.gaps_lost),
        ];
        for (count, counter) in others.into_iter().chain(closes).chain(recoveries) {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
    }
}

/// How a recovery may end.
const RECOVERIES: [Result<(), Lost>; 5] = [
    Ok(()),
    Err(Lost::EpochChanged),
    Err(Lost::TooOld),
    Err(Lost::NoHistory),
    Err(Lost::Unavailable),
];
