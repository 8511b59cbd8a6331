//! Webhooks: backends that are asked and told things over HTTP, signed, bounded and guarded.
//!
//! All requests are made on a thread of their own: neither TLS nor a backend that is slow or gone
//! holds up a worker. Who asks waits for a future, and gives the request up by dropping it.

mod breaker;
mod connect;
mod error;
mod guard;
mod meters;
pub mod payload;
mod request;
mod sign;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri};
use rustls::RootCertStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{Config, ConfigError};

pub use error::WebhookError;
pub use guard::Guard;
pub use sign::SigningKey;

use request::Line;

/// All that are configured.
#[derive(Default)]
pub struct Webhooks {
    by_name: HashMap<Box<str>, Arc<Webhook>>,
}

/// One of them.
pub struct Webhook {
    line: Arc<Line>,
    runtime: Handle,
}

/// What a webhook is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name, in metrics and logs.
    pub name: String,
    /// Where requests are sent.
    pub url: Uri,
    /// What they are signed with.
    pub key: SigningKey,
    /// How long an answer may take, with all tries.
    pub timeout: Duration,
    /// How many requests may be under way at once.
    pub concurrency: usize,
    /// How many may wait to be.
    pub waiting: usize,
    /// The largest answer that is read, in bytes.
    pub answer_max_bytes: usize,
    /// After so many failures in a row nothing is sent.
    pub breaker_failures: u32,
    /// For how long nothing is sent then.
    pub breaker_pause: Duration,
    /// Where it may be.
    pub guard: Guard,
    /// Whom to trust, for `https`.
    pub roots: RootCertStore,
    /// Headers that are sent along.
    pub headers: HeaderMap,
}

/// What a request says besides its fields.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// Whether it may be made again, within the same time, where it is not known what came of it.
    pub idempotent: bool,
    /// What names it, so that the backend knows it again; a new name where absent.
    pub id: Option<Box<str>>,
    /// When what it tells came about, in Unix milliseconds; now where absent.
    pub at_unix_ms: Option<u64>,
    /// The trace that it belongs to.
    pub traceparent: Option<Box<str>>,
}

/// What a backend answered: its status was 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, whole.
    pub body: Bytes,
}

impl Webhooks {
    /// Makes them; their thread ends with `shutdown`.
    pub fn start(
        config: &Config,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        if config.webhooks.is_empty() {
            return Ok(Self::default());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let node: Arc<str> = config.node_name().into();
        let mut by_name = HashMap::new();
        for (at, webhook) in config.webhooks.iter().enumerate() {
            let settings =
                webhook.settings(&format!("webhooks[{at}]")).map_err(ConfigError::from)?;
            let line = Arc::new(Line::new(settings, Arc::clone(&node), clock));
            let webhook = Webhook { line, runtime: handle.clone() };
            by_name.insert(webhook.line.name().into(), Arc::new(webhook));
        }
        thread::Builder::new().name("webhooks".into()).spawn(move || {
            runtime.block_on(shutdown.cancelled());
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { by_name })
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Webhook>> {
        self.by_name.get(name).cloned()
    }
}

impl Webhook {
    /// Its name.
    pub fn name(&self) -> &str {
        self.line.name()
    }

    /// How many requests may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.line.concurrency()
    }

    /// Whether nothing can be sent now, since too much failed.
    pub fn is_broken(&self) -> bool {
        self.line.is_broken()
    }

    /// Sends a request of this `kind`, which is its `type`: `fields`, an object in JSON, come
    /// behind what every request says. It is in the line before this returns, so that requests of
    /// one caller begin in order; dropping the future gives it up.
    pub fn call(
        &self,
        kind: &'static str,
        fields: &impl Serialize,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Answer, WebhookError>> {
        let sending = match self.line.enter(kind, fields, options) {
            Ok(entered) => entered.send(Arc::clone(&self.line)),
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let task = AbortOnDropHandle::new(self.runtime.spawn(sending));
        // It can't be joined where the node has ended.
        task.map(|joined| joined.unwrap_or(Err(WebhookError::Ended))).boxed()
    }
}

impl Answer {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.body.trim_ascii().is_empty()
    }

    /// Its body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, WebhookError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| WebhookError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
