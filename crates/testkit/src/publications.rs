//! Publications, channels and permits for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanlight_engine::broker::{Channel, WallClock};
use fanlight_engine::history::History;
use fanlight_engine::policy::{
    Namespace, NamespaceOptions, Namespaces, PublishPermit, RemovalPermit,
};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use uuid::Uuid;

/// The channel of the destination `text`.
pub fn channel(text: &str) -> Channel {
    Channel::of_destination(text.into())
}

/// A permit to publish to `destination`; nothing of it is kept.
pub fn permit(destination: &str) -> PublishPermit {
    permit_in(destination, false, None)
}

/// A permit to publish to `destination`, where `history` is kept.
pub fn permit_keeping(destination: &str, history: History) -> PublishPermit {
    permit_in(destination, false, Some(history))
}

/// A permit to publish to `destination`, with or without patterns and history.
pub fn permit_in(destination: &str, patterns: bool, history: Option<History>) -> PublishPermit {
    let namespaces = namespaces(destination, patterns, history);
    let destination = destination.parse().expect("a test names a destination");
    PublishPermit::for_backend(&namespaces, &destination).expect("the namespace has it")
}

/// A permit to remove what is kept of `destination`.
pub fn removal_permit(destination: &str, history: History) -> RemovalPermit {
    let namespaces = namespaces(destination, false, Some(history));
    let destination = destination.parse().expect("a test names a destination");
    RemovalPermit::for_backend(&namespaces, &destination).expect("the namespace has it")
}

fn namespaces(destination: &str, patterns: bool, history: Option<History>) -> Namespaces {
    let kind = destination.split('/').nth(1).expect("a destination is an absolute path");
    let namespace = Namespace {
        patterns,
        options: NamespaceOptions { history, ..NamespaceOptions::default() },
        ..Namespace::new(kind, &format!("/{kind}/**"))
    };
    Namespaces::new(&[namespace]).expect("the namespace is a good one")
}

/// A publication with an id of its own and nothing but a body.
pub fn publication(destination: &str, body: impl Into<Bytes>) -> Publication {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Publication {
        id: PublicationId(Uuid::from_u128(number.into())),
        destination: destination.parse().expect("a test names a destination"),
        body: body.into(),
        content_type: ContentType::Unspecified,
        headers: Box::default(),
        publisher: None,
        at_unix_ms: 1_700_000_000_000,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}

/// The time as a memory broker wants it.
pub fn wall_clock() -> WallClock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    })
}
