//! Real Redis processes, a fault proxy and the broker contract suite, for Fanlight's tests.
//!
//! Only ever a dev-dependency.

pub mod contract;
mod eventually;
mod fault_proxy;
mod inbox;
mod orders;
mod publications;
mod redis_server;

pub use eventually::eventually;
pub use fault_proxy::FaultProxy;
pub use inbox::Inbox;
pub use orders::Orders;
pub use publications::{channel, permit, publication, wall_clock};
pub use redis_server::RedisServer;
