//! Sentinels: asked for the master at each connect, and watched for its changes.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_ok;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::config::{Endpoint, RedisConfig};
use crate::connection::{Connection, ConnectionError, Peer};
use crate::reconnect::Backoff;
use crate::resp3::Value;

/// The sentinels of one master, and what they said last.
#[derive(Debug)]
pub(crate) struct Sentinels {
    endpoints: Vec<Endpoint>,
    master: String,
    current: Mutex<Option<Endpoint>>,
}

impl Sentinels {
    pub(crate) fn new(endpoints: Vec<Endpoint>, master: String) -> Self {
        Self { endpoints, master, current: Mutex::default() }
    }

    /// Where the master is, from whichever sentinel answers first.
    pub(crate) async fn locate(&self, config: &RedisConfig) -> Result<Endpoint, ConnectionError> {
        let asking = self.endpoints.iter().map(|endpoint| {
            async move {
                let mut connection = self.open(endpoint, config).await?;
                self.ask(&mut connection, config).await
            }
            .boxed()
        });
        match select_ok(asking).await {
            Ok((found, _)) => {
                *self.current() = Some(found.clone());
                Ok(found)
            }
            Err(error) => Err(ConnectionError::NoSentinel(Box::new(error))),
        }
    }

    /// Whether the sentinels' last answer is `endpoint`.
    pub(crate) fn is_still_at(&self, endpoint: &Endpoint) -> bool {
        self.current().as_ref().is_none_or(|current| current == endpoint)
    }

    pub(crate) fn describe(&self) -> String {
        format!("Redis master {:?}", self.master)
    }

    /// Asks one sentinel after the other again and again, for ever: a demoted master keeps its
    /// connections, and who stays on one of them hears nothing any more.
    pub(crate) async fn watch(self: Arc<Self>, config: Arc<RedisConfig>) {
        let mut backoff = Backoff::new(config.reconnect_max);
        for endpoint in self.endpoints.iter().cycle() {
            let Err(error) = self.follow(endpoint, &config, &mut backoff).await;
            debug!("sentinel at {endpoint}: {error}; asking the next one");
            sleep(backoff.next_wait()).await;
        }
    }

    async fn follow(
        &self,
        endpoint: &Endpoint,
        config: &RedisConfig,
        backoff: &mut Backoff,
    ) -> Result<Infallible, ConnectionError> {
        let mut connection = self.open(endpoint, config).await?;
        loop {
            let found = self.ask(&mut connection, config).await?;
            backoff.on_ended(POLL_EVERY);
            let changed = {
                let mut current = self.current();
                let changed = current.as_ref().is_some_and(|current| *current != found);
                *current = Some(found.clone());
                changed
            };
            if changed {
                info!("{}: moved to {found}", self.describe());
            }
            sleep(POLL_EVERY).await;
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        config: &RedisConfig,
    ) -> Result<Connection, ConnectionError> {
        Connection::open(endpoint.clone(), Peer::Sentinel, config, "fanlight-watch").await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        config: &RedisConfig,
    ) -> Result<Endpoint, ConnectionError> {
        let words = [&b"SENTINEL"[..], b"GET-MASTER-ADDR-BY-NAME", self.master.as_bytes()];
        let after = config.connect_timeout;
        let during = "to SENTINEL";
        let answer = timeout(after, connection.ask("SENTINEL", &words)).await;
        let answer = answer.unwrap_or(Err(ConnectionError::TimedOut { during, after }))?;
        let Value::Array(parts) = &answer else {
            return Err(ConnectionError::UnknownMaster { master: self.master.clone() });
        };
        let [host, port] = parts.as_slice() else {
            return Err(ConnectionError::Unasked);
        };
        let port = port.as_text().and_then(|port| port.parse().ok());
        let (Some(host), Some(port)) = (host.as_text(), port) else {
            return Err(ConnectionError::Unasked);
        };
        Ok(Endpoint { host: host.to_owned(), port })
    }

    fn current(&self) -> MutexGuard<'_, Option<Endpoint>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a sentinel is asked who the master is.
const POLL_EVERY: Duration = Duration::from_secs(1);
