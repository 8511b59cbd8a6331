//! Real Redis processes, a fault proxy and the broker contract suite, for Fanlight's tests.
//!
//! Only ever a dev-dependency.

mod answers;
pub mod contract;
mod eventually;
mod fault_proxy;
mod inbox;
mod orders;
mod port;
mod publications;
mod redis_command;
mod redis_server;
mod redis_tls;
mod redis_wait;
mod topology;

pub use answers::Answers;
pub use eventually::eventually;
pub use fault_proxy::{FaultProxy, alias};
pub use inbox::Inbox;
pub use orders::Orders;
pub use port::PortLease;
pub use publications::{
    channel, permit, permit_in, permit_keeping, publication, removal_permit, wall_clock,
};
pub use redis_command::{RedisConnection, Reply, redis_command};
pub use redis_server::RedisServer;
pub use topology::{RedisCluster, RedisSentinel, RedisShards};
