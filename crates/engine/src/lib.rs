//! Fanlight's core without I/O: sessions, hub, policy, and the contracts of brokers.

pub mod app;
pub mod auth;
pub mod broker;
pub mod encode;
pub mod history;
pub mod hook;
pub mod hub;
pub mod ids;
pub mod limits;
pub mod metric;
pub mod outbox;
pub mod peers;
pub mod policy;
pub mod presence;
pub mod publication;
pub mod queue;
pub mod registry;
pub mod revocation;
pub mod session;
pub mod time;
pub mod timeline;
