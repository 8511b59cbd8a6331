//! The Redis topologies form, fail over and recover.

mod cluster;
mod server;
