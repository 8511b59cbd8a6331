//! What is traced, and where spans go.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

/// What is traced, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where spans go.
    pub target: Target,
    /// The part of publications without a context that is traced, from 0 to 1.
    pub publication_ratio: f64,
    /// At most so many publications are traced a second; 0 is no limit.
    pub publications_per_second: u32,
    /// The part of connections that is traced, from 0 to 1.
    pub connection_ratio: f64,
    /// How many spans may wait to be sent.
    pub queue_spans: usize,
    /// How long spans are gathered.
    pub interval: Duration,
    /// How long the last ones are waited for at the end.
    pub flush_timeout: Duration,
}

/// A collector that takes OTLP over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Where spans are sent to.
    pub endpoint: Uri,
    /// Sent along; secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The only authorities that are trusted; those of browsers where there is none.
    pub ca_file: Option<PathBuf>,
    /// How long sending may take, with its repetitions.
    pub timeout: Duration,
}

/// What spans come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// What this service is called.
    pub service: String,
    /// What this node is called.
    pub node: String,
    /// Whether publications go through Redis.
    pub via_redis: bool,
}
