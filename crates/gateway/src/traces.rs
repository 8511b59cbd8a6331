//! Traces: which publications and connections are recorded as spans, and what those say.
//!
//! Whatever is not sampled costs no allocation and no look at a clock. What a span says is of few
//! values, or an id that Fanlight itself has made: nothing that a client sent (design invariant 9).

mod answered;
mod backend;
mod client;
mod context;
mod export;
mod settings;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use fanlight_engine::broker::{PublishError, Published, Reach};
use fanlight_engine::limits::{Gcra, Rate};
use fanlight_engine::publication::{Publication, PublicationId, SessionId};
use fanlight_proto::CloseReason;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{Counter, counter};
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use crate::clock::Clock;
use answered::Answered;
pub use backend::{Asking, Handling, decision, refusal};
pub use context::{Context, Headers, TRACEPARENT};
pub use export::Exporting;
pub use settings::{Origin, Settings, Target};

/// Makes spans, and gives them away to be sent.
pub struct Tracer {
    publications: Part,
    connections: Part,
    rate: Rate,
    /// What is left of `rate`.
    budget: Mutex<Gcra>,
    clock: Clock,
    via_redis: bool,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    spans: mpsc::Sender<SpanData>,
    queue_full: Counter,
    over_rate: Counter,
}

/// A publication that is traced, on its way to the broker.
pub struct Publishing(Open);

/// A span that is not over.
struct Open {
    tracer: Arc<Tracer>,
    /// Its own.
    context: Context,
    /// That of whoever sent what it is about.
    parent: Option<SpanId>,
    link: Option<SpanContext>,
    begun: SystemTime,
    attributes: Vec<KeyValue>,
}

/// Publications that are traced, on their way from a worker to its subscribers.
pub struct Delivering {
    begun: SystemTime,
    traced: Vec<(Context, PublicationId)>,
}

/// A connection that is traced.
pub struct Connection {
    context: SpanContext,
    begun: SystemTime,
    transport: &'static str,
}

/// How a traced connection has ended.
pub struct Ended {
    /// What it spoke; `None` if it never said.
    pub protocol: Option<&'static str>,
    /// Why.
    pub reason: CloseReason,
}

impl Tracer {
    /// Gives spans to `spans`, as many as there is room for.
    pub fn new(
        settings: &Settings,
        clock: Clock,
        via_redis: bool,
        spans: mpsc::Sender<SpanData>,
    ) -> Self {
        let per_s = settings.publications_per_second;
        Self {
            publications: Part::of(settings.publication_ratio),
            connections: Part::of(settings.connection_ratio),
            rate: Rate { per_s, burst: per_s },
            budget: Mutex::default(),
            clock,
            via_redis,
            ids: RandomIdGenerator::default(),
            scope: InstrumentationScope::builder("fanlight")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            spans,
            queue_full: counter!("fanlight_trace_spans_total", "result" => "queue_full"),
            over_rate: counter!("fanlight_trace_publications_over_rate_total"),
        }
    }

    /// Begins the span of a publication that is to be traced, and makes it carry that.
    pub fn publish(
        self: &Arc<Self>,
        publication: &mut Publication,
        transport: &'static str,
        connection: Option<&Connection>,
    ) -> Option<Publishing> {
        let id = publication.id;
        let mut open = self.begin(&mut publication.headers, id.0.as_u128(), connection)?;
        open.attributes.extend([
            KeyValue::new("messaging.system", "fanlight"),
            KeyValue::new("messaging.operation.name", "publish"),
            message_id(id),
            KeyValue::new("messaging.message.body.size", count(publication.body.len())),
            KeyValue::new("fanlight.transport", transport),
        ]);
        Some(Publishing(open))
    }

    /// Begins a span of what came with these headers, if it is to be traced, and makes them carry
    /// it.
    fn begin(
        self: &Arc<Self>,
        headers: &mut Headers,
        id: u128,
        connection: Option<&Connection>,
    ) -> Option<Open> {
        let given = Context::within(headers);
        let is_wanted = match given {
            Some(parent) => parent.is_sampled,
            None => self.publications.has(id),
        };
        if !is_wanted {
            return None;
        }
        let is_sampled = self.has_budget();
        let trace = given.map_or_else(|| self.ids.new_trace_id(), |parent| parent.trace);
        let context = Context { trace, span: self.new_span(), is_sampled };
        // Also of one that is too many: else every node would trace its delivery.
        context.put_within(headers);
        is_sampled.then(|| Open {
            tracer: Arc::clone(self),
            context,
            parent: given.map(|parent| parent.span),
            link: connection.map(|connection| connection.context.clone()),
            begun: SystemTime::now(),
            attributes: Vec::new(),
        })
    }

    fn new_span(&self) -> SpanId {
        self.ids.new_span_id()
    }

    /// Begins the spans of those of a worker's publications that are traced.
    pub fn deliver(&self, publications: &[Arc<Publication>]) -> Option<Delivering> {
        let mut traced = Vec::new();
        for publication in publications {
            // Most have no headers at all.
            if let Some(context) = Context::of(publication)
                && context.is_sampled
            {
                traced.push((context, publication.id));
            }
        }
        let is_traced = !traced.is_empty();
        is_traced.then(|| Delivering { begun: SystemTime::now(), traced })
    }

    /// Ends these spans: each publication was written to so many subscribers.
    pub fn delivered(
        &self,
        delivering: Delivering,
        worker: u16,
        namespace: Option<&str>,
        subscribers: u64,
    ) {
        let together = delivering.traced.len();
        for (parent, id) in delivering.traced {
            let own = Context { span: self.new_span(), ..parent };
            let mut attributes = vec![
                KeyValue::new("messaging.system", "fanlight"),
                KeyValue::new("messaging.operation.name", "deliver"),
                message_id(id),
                KeyValue::new("fanlight.worker", i64::from(worker)),
                KeyValue::new("fanlight.subscribers", count(subscribers)),
            ];
            attributes.extend(namespace.map(in_namespace));
            if together > 1 {
                attributes.push(KeyValue::new("messaging.batch.message_count", count(together)));
            }
            self.give(SpanData {
                parent_span_id: parent.span,
                parent_span_is_remote: true,
                span_kind: SpanKind::Consumer,
                attributes,
                ..self.span(span_context(own), "deliver", delivering.begun)
            });
        }
    }

    /// Begins the span of a connection that is to be traced.
    pub fn connection(&self, session: SessionId, transport: &'static str) -> Option<Connection> {
        self.connections.has(session.0.as_u128()).then(|| {
            let (trace, span) = (self.ids.new_trace_id(), self.new_span());
            let context = span_context(Context { trace, span, is_sampled: true });
            Connection { context, begun: SystemTime::now(), transport }
        })
    }

    /// Ends the span of a connection.
    pub fn closed(&self, connection: Connection, ended: &Ended) {
        let mut attributes = vec![
            KeyValue::new("fanlight.transport", connection.transport),
            KeyValue::new("fanlight.close.reason", ended.reason.code()),
            KeyValue::new("fanlight.close.code", i64::from(ended.reason.websocket_code())),
        ];
        attributes.extend(ended.protocol.map(|name| KeyValue::new("fanlight.protocol", name)));
        self.give(SpanData {
            span_kind: SpanKind::Server,
            attributes,
            ..self.span(connection.context, "connection", connection.begun)
        });
    }

    /// Whether another publication may be traced now.
    fn has_budget(&self) -> bool {
        let now_ms = self.clock.now().mono_ms;
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let is_within = budget.admit(now_ms, self.rate).is_ok();
        if !is_within {
            self.over_rate.increment(1);
        }
        is_within
    }

    /// A span that ends now, of which only the name is said.
    fn span(&self, context: SpanContext, name: &'static str, begun: SystemTime) -> SpanData {
        SpanData {
            span_context: context,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: begun,
            // Clocks may be set back.
            end_time: SystemTime::now().max(begun),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// Nobody waits for whoever sends them.
    fn give(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.queue_full.increment(1);
        }
    }
}

impl Publishing {
    /// Says what namespace it is in.
    #[must_use]
    pub fn within(mut self, namespace: Option<&str>) -> Self {
        self.0.attributes.extend(namespace.map(in_namespace));
        self
    }

    /// Passes the broker's answer on, and ends the spans with it.
    pub fn watch(self, publish: Answer) -> Answer {
        // A backend may have been asked before.
        let handed_in = SystemTime::now();
        Answered::new(publish)
            .map(move |(result, answered)| {
                self.end(&result, handed_in, answered);
                result
            })
            .boxed()
    }

    fn end(
        self,
        result: &Result<Published, PublishError>,
        handed_in: SystemTime,
        answered: Option<SystemTime>,
    ) {
        let Self(mut open) = self;
        let status = match result {
            Ok(_) => Status::Unset,
            Err(error) => Status::error(error.to_string()),
        };
        let tracer = &open.tracer;
        if tracer.via_redis {
            let own = Context { span: tracer.new_span(), ..open.context };
            let span = tracer.span(span_context(own), "redis", handed_in);
            tracer.give(SpanData {
                parent_span_id: open.context.span,
                span_kind: SpanKind::Client,
                end_time: answered.unwrap_or(span.end_time).max(handed_in),
                attributes: vec![KeyValue::new("db.system.name", "redis")],
                status: status.clone(),
                ..span
            });
        }
        open.attributes.push(KeyValue::new("fanlight.result", outcome(result)));
        open.end("publish", SpanKind::Producer, status);
    }
}

impl Open {
    fn end(self, name: &'static str, span_kind: SpanKind, status: Status) {
        let Self { tracer, context, parent, link, begun, attributes } = self;
        let mut links = SpanLinks::default();
        links.links.extend(link.map(|context| Link::new(context, Vec::new(), 0)));
        tracer.give(SpanData {
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: parent.is_some(),
            span_kind,
            attributes,
            links,
            status,
            ..tracer.span(span_context(context), name, begun)
        });
    }
}

/// A publication on its way, whose spans end with it.
pub fn watched(publishing: Option<Publishing>, publish: Answer) -> Answer {
    match publishing {
        Some(publishing) => publishing.watch(publish),
        None => publish,
    }
}

/// What a publisher waits for.
type Answer = BoxFuture<'static, Result<Published, PublishError>>;

/// A part of all ids, chosen by their random bits: it costs nothing to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    below: u64,
}

impl Part {
    #[expect(clippy::cast_sign_loss, reason = "a ratio is from 0 to 1")]
    fn of(ratio: f64) -> Self {
        Self { below: (ratio * RANDOM_VALUES as f64) as u64 }
    }

    /// Whether an id, a `UUIDv7`, is of this part.
    fn has(self, id: u128) -> bool {
        (id as u64 & (RANDOM_VALUES - 1)) < self.below
    }
}

fn span_context(context: Context) -> SpanContext {
    let Context { trace, span, .. } = context;
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn message_id(id: PublicationId) -> KeyValue {
    KeyValue::new("messaging.message.id", StringValue::from(id.to_string()))
}

fn in_namespace(name: &str) -> KeyValue {
    KeyValue::new("fanlight.namespace", StringValue::from(name.to_owned()))
}

fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn outcome(result: &Result<Published, PublishError>) -> &'static str {
    match result {
        Ok(Published { reach: Reach::Cluster, .. }) => "accepted",
        Ok(Published { reach: Reach::ThisNode, .. }) => "this_node",
        Ok(Published { reach: Reach::Duplicate, .. }) => "duplicate",
        Err(PublishError::Unavailable) => "unavailable",
        Err(PublishError::Unknown) => "unknown",
        Err(PublishError::Overloaded) => "overloaded",
        Err(PublishError::QueueFull) => "queue_full",
        Err(PublishError::KeyReused) => "key_reused",
    }
}

/// The last 62 bits of a `UUIDv7` are random.
const RANDOM_VALUES: u64 = 1 << 62;

#[cfg(test)]
mod tests;
