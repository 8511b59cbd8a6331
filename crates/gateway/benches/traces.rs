//! What traces cost a publication that is not traced.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::{Bencher, black_box};
use fanlight::clock::Clock;
use fanlight::traces::{Settings, TRACEPARENT, Target, Tracer};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use tokio::sync::mpsc;
use uuid::Uuid;

fn main() {
    divan::main();
}

/// On its way to the broker.
#[divan::bench(args = CARRIED)]
fn publish(bencher: Bencher<'_, '_>, carried: Carried) {
    let (tracer, mut publication) = (tracer(), carried.publication());
    bencher
        .bench_local(|| tracer.publish(black_box(&mut publication), "websocket", None).is_some());
}

/// On its way from a worker to however many subscribers.
#[divan::bench(args = CARRIED)]
fn deliver(bencher: Bencher<'_, '_>, carried: Carried) {
    let (tracer, publication) = (tracer(), [Arc::new(carried.publication())]);
    bencher.bench_local(|| tracer.deliver(black_box(&publication)).is_some());
}

/// The headers of a publication.
#[derive(Debug, Clone, Copy)]
enum Carried {
    Nothing,
    Others,
    Unsampled,
}

const CARRIED: [Carried; 3] = [Carried::Nothing, Carried::Others, Carried::Unsampled];

impl Carried {
    fn publication(self) -> Publication {
        let headers: &[(&str, &str)] = match self {
            Self::Nothing => &[],
            Self::Others => &[("priority", "9"), ("x-request", "7f3a"), ("reply-to", "/topic/a")],
            Self::Unsampled => {
                &[(TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")]
            }
        };
        Publication {
            id: PublicationId(Uuid::max()),
            destination: "/topic/a".parse().expect("a destination"),
            body: Bytes::from_static(b"hello"),
            content_type: ContentType::Text,
            headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            publisher: None,
            at_unix_ms: 0,
            position: None,
            only_for: None,
            except: None,
            is_json: false,
        }
    }
}

fn tracer() -> Arc<Tracer> {
    let settings = Settings {
        target: Target {
            endpoint: "http://127.0.0.1".parse().expect("a URL"),
            headers: Vec::new(),
            ca_file: None,
            timeout: Duration::ZERO,
        },
        publication_ratio: 0.01,
        publications_per_second: 0,
        connection_ratio: 0.0,
        queue_spans: 1,
        interval: Duration::ZERO,
        flush_timeout: Duration::ZERO,
    };
    Arc::new(Tracer::new(&settings, Clock::start(), true, mpsc::channel(1).0))
}
