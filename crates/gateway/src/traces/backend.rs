//! What backends are asked, and what becomes of messages that they handle, as spans.

use std::sync::Arc;
use std::time::SystemTime;

use fanlight_engine::app::AppMessage;
use fanlight_engine::hook::HookError;
use fanlight_engine::session::Unpublished;
use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::trace::SpanData;

use super::context::{Context, Headers};
use super::{Connection, Open, Publishing, Tracer, count, message_id, span_context};

/// A message to `/app/...` that is traced, until what its backend wants sent is accepted.
pub struct Handling(Open);

/// Something that a backend is asked, and that is traced.
pub struct Asking {
    tracer: Arc<Tracer>,
    context: Context,
    parent: SpanId,
    begun: SystemTime,
    backend: &'static str,
}

impl Tracer {
    /// Begins the span of a message that is to be traced, and makes it carry that.
    pub fn handle(
        self: &Arc<Self>,
        message: &mut AppMessage,
        transport: &'static str,
        connection: Option<&Connection>,
    ) -> Option<Handling> {
        let mut open = self.begin(&mut message.headers, message.id.0.as_u128(), connection)?;
        let route = StringValue::from(message.permit.pattern().to_owned());
        open.attributes.extend([
            KeyValue::new("messaging.system", "fanlight"),
            KeyValue::new("messaging.operation.name", "process"),
            message_id(message.id),
            KeyValue::new("messaging.message.body.size", count(message.body.len())),
            KeyValue::new("fanlight.transport", transport),
            KeyValue::new("fanlight.route", route),
        ]);
        Some(Handling(open))
    }
}

impl Handling {
    /// Its own.
    pub fn context(&self) -> Context {
        self.0.context
    }

    /// Begins the span of asking its backend, which is one of a few kinds.
    pub fn ask(&self, backend: &'static str) -> Asking {
        self.0.ask(backend)
    }

    /// Makes what is sent for it part of its trace, unless the backend has named a span for it.
    pub fn pass_on(&self, headers: &mut Headers) {
        if Context::within(headers).is_none() {
            self.0.context.put_within(headers);
        }
    }

    /// Ends its span.
    pub fn end(self, result: &'static str) {
        let Self(mut open) = self;
        let status = status(result, result == HANDLED);
        open.attributes.push(KeyValue::new("fanlight.result", result));
        open.end("handle", SpanKind::Server, status);
    }
}

impl Publishing {
    /// Begins the span of asking the backend that has a say in the publication.
    pub fn ask(&self) -> Asking {
        self.0.ask("hook")
    }

    /// Ends the span of what is not published, for a reason in a word.
    pub fn refused(self, result: &'static str) {
        let Self(mut open) = self;
        open.attributes.push(KeyValue::new("fanlight.result", result));
        open.end("publish", SpanKind::Producer, status(result, false));
    }
}

impl Open {
    fn ask(&self, backend: &'static str) -> Asking {
        let tracer = Arc::clone(&self.tracer);
        let context = Context { span: tracer.new_span(), ..self.context };
        let (parent, begun) = (self.context.span, SystemTime::now());
        Asking { tracer, context, parent, begun, backend }
    }
}

impl Asking {
    /// What the backend is told, so that it can go on from there.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Ends the span: what came of it, and whether that is an answer.
    pub fn answered(self, result: &'static str, is_answer: bool) {
        let Self { tracer, context, parent, begun, backend } = self;
        let attributes = vec![
            KeyValue::new("fanlight.backend", backend),
            KeyValue::new("fanlight.result", result),
        ];
        // One in this process is no other service.
        let span_kind = if backend == "handler" { SpanKind::Internal } else { SpanKind::Client };
        tracer.give(SpanData {
            parent_span_id: parent,
            span_kind,
            attributes,
            status: status(result, is_answer),
            ..tracer.span(span_context(context), "backend", begun)
        });
    }
}

/// What a backend has decided, in a word.
pub fn decision<T>(answer: &Result<T, &HookError>) -> &'static str {
    match answer {
        Ok(_) => "allowed",
        Err(HookError::Refused { .. }) => "refused",
        Err(HookError::Unavailable { .. }) => "unavailable",
        Err(HookError::Timeout) => "timeout",
    }
}

/// Why something was not published, in a word.
pub fn refusal(error: &Unpublished) -> &'static str {
    match error {
        Unpublished::ByHook(error) => decision::<()>(&Err(error)),
        Unpublished::ByBroker(error) => error.code(),
        Unpublished::Revoked | Unpublished::CapabilityRevoked => "revoked",
    }
}

/// With a word and no text, which could be a backend's.
fn status(result: &'static str, is_well: bool) -> Status {
    if is_well { Status::Unset } else { Status::error(result) }
}

/// The result of a message that all went well with.
const HANDLED: &str = "handled";
