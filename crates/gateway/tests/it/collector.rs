//! A collector of OpenTelemetry for tests: takes spans by OTLP over HTTP, and misbehaves when told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::eventually;

/// A collector; it ends with the test's runtime.
pub struct Collector {
    pub address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    mood: Mood,
    requests: u64,
    /// Of the last request.
    headers: HeaderMap,
    spans: Vec<Span>,
}

/// How it treats requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Good,
    /// It refuses each with this status.
    Refuses(u16),
    /// It takes them and says that it would not have this many spans.
    Rejects(i64),
    /// It does not answer.
    Silent,
}

/// A span as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.instance.id` of what sent it.
    pub node: String,
    /// `service.name` of the same.
    pub service: String,
    pub name: String,
    pub kind: i32,
    pub trace: String,
    pub id: String,
    /// Empty where it has none.
    pub parent: String,
    /// The spans that it links to.
    pub links: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub is_error: bool,
    pub begun_ns: u64,
    pub ended_ns: u64,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let router = router(&taken);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, taken }
    }

    /// One that is spoken to within TLS.
    pub async fn start_within(tls: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let service = TowerToHyperService::new(router(&taken));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(socket) = tls.accept(socket).await else { continue };
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(socket), service.clone()));
            }
        });
        Self { address, taken }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set_mood(&self, mood: Mood) {
        self.taken.lock().unwrap().mood = mood;
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.taken.lock().unwrap().requests
    }

    /// A header of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        let taken = self.taken.lock().unwrap();
        Some(taken.headers.get(name)?.to_str().unwrap().to_owned())
    }

    /// All that was taken.
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// Waits for as many spans of this name.
    pub async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        let of_name = || {
            let mut spans = self.spans();
            spans.retain(|span| span.name == name);
            spans
        };
        eventually(&format!("{count} spans {name}"), async || of_name().len() >= count).await;
        of_name()
    }

    /// Waits for the only span of this name in a trace.
    pub async fn one(&self, trace: &str, name: &str) -> Span {
        let of_trace = || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace == trace && span.name == name);
            spans
        };
        eventually(&format!("{name} of {trace}"), async || !of_trace().is_empty()).await;
        let [span] = &of_trace()[..] else { panic!("not one: {:?}", of_trace()) };
        span.clone()
    }
}

impl Span {
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

fn router(taken: &Arc<Mutex<Taken>>) -> Router {
    Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(taken))
}

async fn take(State(taken): State<Arc<Mutex<Taken>>>, headers: HeaderMap, body: Bytes) -> Response {
    let mood = {
        let mut taken = taken.lock().unwrap();
        taken.requests += 1;
        taken.headers = headers;
        taken.mood
    };
    let rejected_spans = match mood {
        Mood::Refuses(status) => return StatusCode::from_u16(status).unwrap().into_response(),
        Mood::Silent => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return StatusCode::OK.into_response();
        }
        Mood::Rejects(spans) => spans,
        Mood::Good => 0,
    };
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    taken.lock().unwrap().spans.extend(spans_of(request));
    let error_message = String::new();
    let partial = ExportTracePartialSuccess { rejected_spans, error_message };
    let partial_success = (rejected_spans > 0).then_some(partial);
    ExportTraceServiceResponse { partial_success }.encode_to_vec().into_response()
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.unwrap().attributes);
        let told = |key: &str| resource.get(key).cloned().unwrap_or_default();
        let scopes = of_resource.scope_spans.into_iter();
        spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| Span {
            node: told("service.instance.id"),
            service: told("service.name"),
            name: span.name,
            kind: span.kind,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            attributes: texts(span.attributes),
            is_error: span.status.is_some_and(|status| status.code == 2),
            begun_ns: span.start_time_unix_nano,
            ended_ns: span.end_time_unix_nano,
        }));
    }
    spans
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => panic!("an attribute of another kind: {other:?}"),
    };
    let pairs = attributes.into_iter().map(|one| (one.key, text(one.value.unwrap())));
    pairs.collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
