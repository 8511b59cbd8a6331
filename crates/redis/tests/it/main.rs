//! The broker against a real Redis, and the contract suite over both brokers.

#[cfg(test)]
mod contract;
mod delivery;
#[cfg(test)]
mod events;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod nodes;
mod outages;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod scripted;
