//! The Redis topologies form, fail over and recover.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod sentinel;
#[cfg(test)]
mod server;
#[cfg(test)]
mod shards;
