//! Fanlight's broker over Redis or Valkey: pub/sub fan-out, one channel per destination.
//!
//! ```text
//! publish ─ command ─ writer ──▶ Redis ──▶ subscriber ─ resp3 ─ envelope ─▶ the workers' sinks
//!                    (pipeline)            (subscriptions, canary)
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`RedisBroker`], [`config`] | the broker contract, and where Redis is |
//! | [`envelope`], [`resp3`] | bytes ⇄ publications and values, without I/O |
//! | `queue` | queues over streams and consumer groups |
//! | `subscriptions`, `canary`, `pipeline` | state machines without I/O and without a clock |
//! | `subscriber`, `writer` | the tasks that own a connection and drive these machines |
//! | `connection`, `reconnect`, `health` | connecting, trying again, saying what is wrong |
//! | `topology`, `shard`, `names` | which Redis a channel lives on and what it is called there |

mod broker;
mod canary;
mod command;
pub mod config;
mod connection;
pub mod envelope;
mod health;
mod meters;
mod names;
mod pipeline;
mod queue;
mod reconnect;
pub mod resp3;
mod scripts;
mod shard;
mod subscriber;
mod subscriptions;
mod topology;
mod writer;

pub use broker::RedisBroker;
pub use config::{RedisConfig, UrlError};
