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
//! | `history`, `scripts`, `flights` | what `lua/*.lua` is asked and answers; reads that are shared |
//! | `queue` | queues over streams and consumer groups |
//! | `subscriptions`, `canary`, `pipeline` | state machines without I/O and without a clock |
//! | `subscriber`, `writer` | the tasks that own a connection and drive these machines |
//! | `connection`, `tls`, `reconnect`, `health` | connecting, trying again, saying what is wrong |
//! | `topology`, `shards`, `names` | which Redis a channel lives on and what it is called there |
//! | `sentinel` | which Redis is the master now |
//! | `cluster`, `slots`, `routes` | the masters of a cluster, and what is retried when they change |
//! | [`RedisRegistry`], [`Events`] | users' sessions, and the stream of what becomes of them |
//! | [`EventFeed`] | reading that stream once for all nodes together |
//! | [`Lease`], [`Reaper`] | what nodes hold, and only while they live |
//! | [`RedisPeers`] | who has a session that its client named, and asking that node |
//! | [`Relay`] | from the Redis of one cell into that of another |
//! | [`AppStream`] | what clients send to backends that consume a stream |
//! | [`RedisPresence`] | who is where, entered under the node's lease |

mod agreement;
mod app_stream;
mod broker;
mod canary;
mod cluster;
mod command;
pub mod config;
mod connection;
pub mod doctor;
pub mod envelope;
mod event_feed;
mod events;
mod flights;
mod health;
mod history;
mod lease;
mod meters;
mod metric_table;
mod names;
mod partitions;
mod peers;
mod pipeline;
mod presence;
mod queue;
mod reaper;
mod reconnect;
mod redirect;
mod registry;
mod relay;
pub mod resp3;
mod revocations;
mod routes;
mod scripts;
mod sentinel;
mod shard;
mod shards;
mod slots;
mod stream;
mod subscriber;
mod subscriptions;
mod tls;
mod topology;
mod writer;

pub use app_stream::AppStream;
pub use broker::RedisBroker;
pub use config::{RedisConfig, UrlError};
pub use event_feed::{Backlog, EventFeed, EventPlace, EventStream};
pub use events::{Event, EventId, Events};
pub use lease::{Hold, Lease, LeasedNode, NodeInfo};
pub use metric_table::METRICS;
pub use peers::{PeerInbox, RedisPeers};
pub use presence::{PresenceOptions, RedisPresence};
pub use queue::RedisQueues;
pub use reaper::{Reap, Reaper};
pub use registry::{ControlInbox, RedisRegistry, RegistryOptions, control};
pub use relay::{Relay, RelayOptions, RelayState};
pub use revocations::RedisRevocations;
pub use tls::TlsError;
