//! The broker against real Redis processes, and the contract suite over all brokers.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod contract;
mod degraded;
mod delivery;
#[cfg(test)]
mod history;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod nodes;
mod outages;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod sentinel;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod topologies;
