//! Handlers within this program, for those who embed Fanlight.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use fanlight_engine::app::{AppFailure, AppHandler, AppMessage, AppReply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Handlers by the names that routes call them.
#[derive(Default, Clone)]
pub struct Handlers(BTreeMap<String, Arc<dyn AppHandler>>);

/// A handler that runs where the server was started, and not on a worker's thread: what it is slow
/// at holds up nobody's connection, and what it panics at is its message's failure.
pub(super) struct Embedded {
    handler: Arc<dyn AppHandler>,
    runtime: Handle,
    turns: Arc<Semaphore>,
}

impl Handlers {
    /// Adds one, in place of one of the same name.
    pub fn add(&mut self, name: impl Into<String>, handler: Arc<dyn AppHandler>) {
        self.0.insert(name.into(), handler);
    }

    /// The one of this name.
    pub(super) fn named(&self, name: &str) -> Option<Arc<dyn AppHandler>> {
        self.0.get(name).cloned()
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handlers").field(&self.names()).finish()
    }
}

impl Embedded {
    /// It handles so many messages at once.
    pub(super) fn new(handler: Arc<dyn AppHandler>, concurrency: u32) -> Self {
        let turns = Arc::new(Semaphore::new(concurrency as usize));
        Self { handler, runtime: Handle::current(), turns }
    }
}

impl AppHandler for Embedded {
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>> {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return std::future::ready(Err(AppFailure::Overloaded)).boxed();
        };
        let handler = Arc::clone(&self.handler);
        let task = self.runtime.spawn(async move {
            let _turn = turn;
            handler.handle(message).await
        });
        // Who waits for it owns it: a message that takes too long is given up.
        let task = AbortOnDropHandle::new(task);
        task.map(|joined| joined.unwrap_or(Err(AppFailure::Internal))).boxed()
    }
}
