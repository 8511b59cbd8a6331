//! The broker against a real Redis, and the contract suite over both brokers.

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
