//! The broker against a real Redis, and the contract suite over both brokers.

#[cfg(test)]
mod contract;
mod delivery;
mod lease;
#[cfg(test)]
mod nodes;
mod outages;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod scripted;
