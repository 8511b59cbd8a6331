//! The broker against real Redis processes, and the contract suite over all brokers.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod cluster;
mod contract;
mod degraded;
mod delivery;
mod event_feed;
mod events;
mod history;
mod idempotency;
mod late;
mod lease;
mod nodes;
mod outages;
mod peers;
mod peers_processes;
mod presence;
mod queues;
mod registry;
mod scripted;
mod sentinel;
mod shards;
mod tls;
mod topologies;
