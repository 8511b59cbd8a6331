//! Who is connected by what, and what waits for them: counted by the sweep, a slice at a time.

use fanlight_engine::encode::Framing;
use fanlight_engine::registry::Transport;
use fanlight_engine::session::Protocol;
use metrics::{Gauge, gauge};

use super::mailbox::MailboxKind;
use super::slot::{Link, Role, Slot};

/// What a slice holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Connected sessions, by transport and protocol.
    sessions: [[u32; PROTOCOLS.len()]; Transport::ALL.len()],
    /// Of those, who could go to another node.
    movable: u32,
    /// Connections that something waits for.
    waiting: u32,
    /// How much waits for them.
    waiting_bytes: u64,
}

/// The gauges that all workers of a node share: each adds what has changed.
pub(super) struct Census {
    sessions: [[Gauge; PROTOCOLS.len()]; Transport::ALL.len()],
    waiting: Gauge,
    waiting_bytes: Gauge,
}

/// By what the connection in `slot` comes.
pub(super) fn transport_of(slot: &Slot) -> Transport {
    match &slot.link {
        Link::WebSocket(_) if slot.framing == Framing::SockJs => Transport::SockJsWebSocket,
        Link::WebSocket(_) => Transport::WebSocket,
        Link::Stream => Transport::StompTcp,
        Link::Events { .. } => Transport::Events,
        Link::Mailbox(mailbox) => match mailbox.kind() {
            MailboxKind::SockJs => Transport::SockJsHttp,
            MailboxKind::Poll => Transport::Poll,
        },
    }
}

impl Tally {
    pub(super) fn add(&mut self, slot: &Slot) {
        if let Some(outbox) = &slot.outbox {
            self.waiting += 1;
            self.waiting_bytes += outbox.bytes() as u64;
        }
        if let Role::Session(session) = &slot.role
            && slot.is_connected()
        {
            let protocol = usize::from(!matches!(session.protocol(), Some(Protocol::Stomp(_))));
            self.sessions[transport_of(slot) as usize][protocol] += 1;
            self.movable += u32::from(slot.is_movable());
        }
    }

    /// Connected sessions in all.
    pub(super) fn connected(&self) -> u64 {
        self.sessions.iter().flatten().map(|&count| u64::from(count)).sum()
    }

    /// Of those, who could go to another node.
    pub(super) fn movable(&self) -> u64 {
        u64::from(self.movable)
    }
}

impl Census {
    pub(super) fn new() -> Self {
        Self {
            sessions: Transport::ALL.map(|transport| {
                PROTOCOLS.map(|protocol| {
                    let transport = transport.name();
                    gauge!("fanlight_sessions", "transport" => transport, "protocol" => protocol)
                })
            }),
            waiting: gauge!("fanlight_outbox_connections"),
            waiting_bytes: gauge!("fanlight_outbox_bytes"),
        }
    }

    /// A slice holds `now` what it held `before`.
    pub(super) fn change(&self, before: &Tally, now: &Tally) {
        if before == now {
            return;
        }
        let gauges = self.sessions.iter().flatten();
        let counts = before.sessions.iter().flatten().zip(now.sessions.iter().flatten());
        for (gauge, (&before, &now)) in gauges.zip(counts) {
            gauge.increment(f64::from(now) - f64::from(before));
        }
        self.waiting.increment(f64::from(now.waiting) - f64::from(before.waiting));
        self.waiting_bytes.increment(now.waiting_bytes as f64 - before.waiting_bytes as f64);
    }
}

/// What sessions speak; listeners get native messages.
const PROTOCOLS: [&str; 2] = ["stomp", "native"];
