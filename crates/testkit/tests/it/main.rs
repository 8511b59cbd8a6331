//! The Redis topologies form, fail over and recover.

mod cluster;
mod sentinel;
mod server;
mod shards;
