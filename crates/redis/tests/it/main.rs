//! The broker against a real Redis, and the contract suite over both brokers.

#[cfg(test)]
mod contract;
mod delivery;
#[cfg(test)]
mod nodes;
mod outages;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod scripted;
