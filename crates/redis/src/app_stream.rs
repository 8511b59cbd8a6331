//! Streams that backends consume: what clients send to `/app/...` by routes with `stream`.

use std::fmt;
use std::sync::Arc;

use fanlight_engine::broker::PublishError;
use futures_util::future::BoxFuture;

use crate::broker::{RedisBroker, refused};
use crate::command;
use crate::names::{Kind, Partition};
use crate::resp3::Value;

/// One stream, for appending.
pub struct AppStream {
    broker: Arc<RedisBroker>,
    partition: Partition,
    key: Vec<u8>,
    max_length: u64,
}

impl AppStream {
    /// The stream of this name, of which about `max_length` entries are kept: the newest.
    pub fn new(broker: Arc<RedisBroker>, name: &str, max_length: u64) -> Self {
        let partition = Partition::of(name);
        let key = broker.names.key(partition, STREAM, name);
        Self { broker, partition, key, max_length }
    }

    /// Its key in Redis.
    pub fn key(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// Appends an entry of these fields, names and values in turn. It resolves once Redis has it;
    /// entries of one caller keep the order of the calls.
    pub fn append(&self, fields: &[&[u8]]) -> BoxFuture<'static, Result<(), PublishError>> {
        let max_length = self.max_length.to_string();
        let mut words: Vec<&[u8]> =
            vec![b"XADD", &self.key, b"MAXLEN", b"~", max_length.as_bytes(), b"*"];
        words.extend(fields);
        let mut command = Vec::new();
        command::words(&words, &mut command);
        let answer = self.broker.shards.call_kept(self.partition, |_| command);
        Box::pin(async move {
            match answer.await? {
                Value::Error(refusal) => {
                    tracing::warn!(
                        refusal = %String::from_utf8_lossy(&refusal),
                        "Redis has not taken a message for a stream of a backend"
                    );
                    Err(refused(&refusal))
                }
                _ => Ok(()),
            }
        })
    }
}

impl fmt::Debug for AppStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppStream").field("key", &self.key()).finish_non_exhaustive()
    }
}

const STREAM: Kind = Kind("app");
