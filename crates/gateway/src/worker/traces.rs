//! What a worker traces: a few of its connections and publications. Most workers trace nothing.

use std::collections::HashMap;
use std::sync::Arc;

use fanlight_engine::app::AppMessage;
use fanlight_engine::hub::SessionKey;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::{Protocol, Telling, Told};
use fanlight_proto::{CloseReason, Destination};

use super::census::transport_of;
use super::slot::{Role, Slot};
use super::{Worker, WorkerShared};
use crate::traces::{Connection, Context, Delivering, Ended, Handling, Publishing, Tracer};

/// A worker's traces.
pub(super) struct Traces {
    tracer: Option<Arc<Tracer>>,
    /// Apart from the slots, which most of them would only make larger.
    connections: HashMap<SessionKey, Connection, foldhash::fast::RandomState>,
    /// By session, the message to a backend that is traced and handled, or was last.
    messages: HashMap<SessionKey, Context, foldhash::fast::RandomState>,
}

impl Traces {
    pub(super) fn new(shared: &WorkerShared) -> Self {
        Self {
            tracer: shared.tracer.clone(),
            connections: HashMap::default(),
            messages: HashMap::default(),
        }
    }

    /// A connection has come.
    pub(super) fn entered(&mut self, key: SessionKey, slot: &Slot) {
        let (Some(tracer), Role::Session(session)) = (&self.tracer, &slot.role) else { return };
        if let Some(one) = tracer.connection(session.id(), transport_of(slot).name()) {
            self.connections.insert(key, one);
        }
    }

    /// A connection ends for this reason.
    pub(super) fn closed(&mut self, key: SessionKey, slot: &Slot, reason: CloseReason) {
        self.messages.remove(&key);
        if self.connections.is_empty() {
            return;
        }
        let (Some(tracer), Some(connection)) = (&self.tracer, self.connections.remove(&key)) else {
            return;
        };
        let protocol = match &slot.role {
            Role::Session(session) => session.protocol().map(|protocol| match protocol {
                Protocol::Stomp(_) => "stomp",
                Protocol::Native => "native",
            }),
            Role::Echo(_) => None,
        };
        let ended = Ended { protocol, reason };
        tracer.closed(connection, &ended);
    }

    /// What a session is told of a message that a backend did not handle belongs to that one's
    /// trace.
    pub(super) fn adopt_failure(&self, key: SessionKey, telling: &mut Telling) {
        if let Told::Subscribed(_) = telling.to
            && let Some(context) = self.messages.get(&key)
            && let Some(publication) = Arc::get_mut(&mut telling.publication)
        {
            context.put_within(&mut publication.headers);
        }
    }

    /// The spans of those publications that are traced, if any is.
    pub(super) fn deliver(&self, publications: &[Arc<Publication>]) -> Option<Delivering> {
        self.tracer.as_ref()?.deliver(publications)
    }
}

impl Worker {
    /// The span of a publication of this session, if it is traced.
    pub(super) fn trace(
        &self,
        key: SessionKey,
        publication: &mut Publication,
    ) -> Option<Publishing> {
        let tracer = self.traces.tracer.as_ref()?;
        let transport = transport_of(self.slots.get(key.0 as usize)?).name();
        let connection = self.traces.connections.get(&key);
        let publishing = tracer.publish(publication, transport, connection)?;
        let namespaces = self.shared.rules.policy.namespaces();
        Some(publishing.within(namespaces.name_of(&publication.destination)))
    }

    /// The span of a message to a backend of this session, if it is traced.
    pub(super) fn trace_message(
        &mut self,
        key: SessionKey,
        message: &mut AppMessage,
    ) -> Option<Handling> {
        let tracer = self.traces.tracer.as_ref()?;
        let transport = transport_of(self.slots.get(key.0 as usize)?).name();
        let handling = tracer.handle(message, transport, self.traces.connections.get(&key));
        match &handling {
            Some(handling) => self.traces.messages.insert(key, handling.context()),
            None => self.traces.messages.remove(&key),
        };
        handling
    }

    /// Publications of this destination have been written to so many subscribers.
    pub(super) fn delivered(&self, delivering: Delivering, to: &Destination, subscribers: u64) {
        let Some(tracer) = &self.traces.tracer else { return };
        let namespaces = self.shared.rules.policy.namespaces();
        tracer.delivered(delivering, self.id.0, namespaces.name_of(to), subscribers);
    }
}
