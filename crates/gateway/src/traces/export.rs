//! Sends spans in batches, on a thread of its own: neither encoding them nor a collector that is
//! slow or gone holds up anything else.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metrics::{Counter, counter};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Tracer;
use super::client::{Client, Said};
use super::settings::{Origin, Settings, Target};
use crate::clock::Clock;
use crate::config::{BrokerKind, Config, ConfigError};

/// The thread that sends spans.
pub struct Exporting {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Exporting {
    /// Starts it with the tracer that gives it spans, where a node is configured to have traces.
    pub fn configured(
        config: &Config,
        clock: Clock,
    ) -> anyhow::Result<Option<(Arc<Tracer>, Self)>> {
        let settings = config.telemetry.traces.settings().map_err(ConfigError::from)?;
        let origin = Origin {
            service: config.telemetry.service.clone(),
            node: config.node_name(),
            via_redis: config.broker.kind == BrokerKind::Redis,
        };
        settings.map(|settings| Self::start(&settings, &origin, clock)).transpose()
    }

    fn start(
        settings: &Settings,
        origin: &Origin,
        clock: Clock,
    ) -> anyhow::Result<(Arc<Tracer>, Self)> {
        let (spans, waiting) = mpsc::channel(settings.queue_spans);
        let tracer = Arc::new(Tracer::new(settings, clock, origin.via_redis, spans));
        let (exporter, said) = exporter(&settings.target, origin)?;
        let stop = CancellationToken::new();
        let (told, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let export = Export {
            exporter,
            said,
            waiting,
            stop: stop.clone(),
            interval: settings.interval,
            flush_timeout: settings.flush_timeout,
            under_way: Cell::new(0),
            meters: Meters::new(),
            complaints: Complaints::default(),
        };
        thread::Builder::new().name("traces".into()).spawn(move || {
            runtime.block_on(export.run());
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            let _ = told.send(());
        })?;
        Ok((tracer, Self { stop, ended }))
    }

    /// Sends what there still is, for no longer than `flush_timeout`.
    pub async fn finish(self) {
        self.stop.cancel();
        let _ = self.ended.await;
    }
}

struct Export {
    exporter: SpanExporter,
    said: Arc<Mutex<Said>>,
    waiting: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
    interval: Duration,
    flush_timeout: Duration,
    /// Spans that are just being sent.
    under_way: Cell<u64>,
    meters: Meters,
    complaints: Complaints,
}

struct Meters {
    exported: Counter,
    rejected: Counter,
    failed: Counter,
}

impl Export {
    async fn run(mut self) {
        let (stop, flush_timeout) = (self.stop.clone(), self.flush_timeout);
        let too_late = async {
            stop.cancelled().await;
            sleep(flush_timeout).await;
        };
        tokio::select! {
            () = self.send_all() => return,
            () = too_late => {}
        }
        let lost = self.under_way.get() + self.waiting.len() as u64;
        self.meters.failed.increment(lost);
        tracing::warn!(lost, "the last spans could not be sent in time");
    }

    /// Sends until it is told to stop and nothing is left.
    async fn send_all(&mut self) {
        while let Some(batch) = self.gather().await {
            self.send(batch).await;
        }
    }

    /// The next batch; `None` once there will be none.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let mut batch = Vec::new();
        let mut until: Option<Instant> = None;
        while batch.len() < BATCH_SPANS {
            let room = BATCH_SPANS - batch.len();
            let left = until.map_or(self.interval, |until| until.duration_since(Instant::now()));
            tokio::select! {
                biased;
                taken = self.waiting.recv_many(&mut batch, room) => {
                    if taken == 0 {
                        break;
                    }
                    until.get_or_insert_with(|| Instant::now() + self.interval);
                }
                // What has come until now is still taken.
                () = self.stop.cancelled(), if !self.waiting.is_closed() => self.waiting.close(),
                () = sleep(left), if until.is_some() => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        self.under_way.set(spans);
        let result = self.exporter.export(batch).await;
        self.under_way.set(0);
        let said = std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
        match result {
            Ok(()) => {
                let rejected = said.rejected.min(spans);
                self.meters.exported.increment(spans - rejected);
                self.meters.rejected.increment(rejected);
                if rejected > 0 {
                    self.complaints.complain("the collector rejected spans", rejected);
                } else {
                    self.complaints.succeeded();
                }
            }
            Err(error) => {
                self.meters.failed.increment(spans);
                let why = said.failure.unwrap_or_else(|| error.to_string());
                self.complaints.complain(&why, spans);
            }
        }
    }
}

impl Meters {
    fn new() -> Self {
        let spans =
            |result: &'static str| counter!("fanlight_trace_spans_total", "result" => result);
        Self { exported: spans("exported"), rejected: spans("rejected"), failed: spans("failed") }
    }
}

/// What is logged of failures: the first, then one a minute with what was lost meanwhile.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    lost: u64,
}

impl Complaints {
    fn complain(&mut self, why: &str, spans: u64) {
        self.lost += spans;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let lost = std::mem::take(&mut self.lost);
        tracing::warn!(lost, why, "spans could not be sent; nothing else is affected");
    }

    fn succeeded(&mut self) {
        if self.last.take().is_some() {
            let lost = std::mem::take(&mut self.lost);
            tracing::info!(lost, "spans can be sent again");
        }
    }
}

fn exporter(target: &Target, origin: &Origin) -> anyhow::Result<(SpanExporter, Arc<Mutex<Said>>)> {
    let (client, said) = Client::new(target.ca_file.as_deref(), target.timeout)?;
    let text = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(target.endpoint.to_string())
        .with_timeout(target.timeout)
        .with_headers(target.headers.iter().filter_map(text).collect())
        .build()
        .context("telemetry.traces: spans can't be sent")?;
    let attributes = [
        KeyValue::new("service.name", origin.service.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", origin.node.clone()),
    ];
    exporter.set_resource(&Resource::builder().with_attributes(attributes).build());
    Ok((exporter, said))
}

/// Sent at once.
const BATCH_SPANS: usize = 512;
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
