//! Who may connect: the limits per node and per address, given back when a connection ends.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Network;

/// Counts connections against the limits of this node.
pub struct Admission {
    max_connections: usize,
    max_per_address: usize,
    /// Addresses of which many connections are welcome: proxies.
    unlimited: Vec<Network>,
    connections: AtomicUsize,
    /// Sharded by address, so that accepting on one worker seldom waits for another.
    shards: [Mutex<HashMap<AddressKey, usize, foldhash::quality::RandomState>>; SHARDS],
}

/// A connection's place in the limits; given back on drop.
pub struct Admitted {
    admission: Arc<Admission>,
    /// `None` for a proxy, which is not counted by address.
    address: Option<AddressKey>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The node is full.
    #[error("this node has its limit of {limit} connections; another node may have room")]
    NodeFull {
        /// `limits.connections`.
        limit: usize,
    },
    /// The address has too many.
    #[error("this address has its limit of {limit} connections on this node")]
    AddressFull {
        /// `limits.connections_per_ip`.
        limit: usize,
    },
}

/// An IPv4 address, or the /64 of an IPv6 address: what one customer of a provider holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(NonZeroU64);

impl Admission {
    /// `0` means no limit. The addresses in `proxies` count towards the node's limit only.
    pub fn new(max_connections: usize, max_per_address: usize, proxies: &[Network]) -> Arc<Self> {
        let unlimited = |limit| if limit == 0 { usize::MAX } else { limit };
        Arc::new(Self {
            max_connections: unlimited(max_connections),
            max_per_address: unlimited(max_per_address),
            unlimited: proxies.to_vec(),
            connections: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Takes a place for a connection from `address`.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admitted, AdmissionError> {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.max_connections {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(AdmissionError::NodeFull { limit: self.max_connections });
        }
        // From here on, dropping it gives the node's place back.
        let mut admitted = Admitted { admission: Arc::clone(self), address: None };
        let Some(key) = AddressKey::unless_proxy(address, &self.unlimited) else {
            return Ok(admitted);
        };
        let mut shard = self.shard(key);
        let count = shard.entry(key).or_insert(0);
        if *count >= self.max_per_address {
            drop(shard);
            return Err(AdmissionError::AddressFull { limit: self.max_per_address });
        }
        *count += 1;
        drop(shard);
        admitted.address = Some(key);
        Ok(admitted)
    }

    /// How many connections this node holds.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How much of the node's limit is used: 1 is all, and 0 where there is none.
    pub fn used_ratio(&self) -> f64 {
        if self.max_connections == usize::MAX {
            return 0.0;
        }
        self.connections() as f64 / self.max_connections as f64
    }

    fn shard(
        &self,
        address: AddressKey,
    ) -> std::sync::MutexGuard<'_, HashMap<AddressKey, usize, foldhash::quality::RandomState>> {
        let bits = address.0.get();
        let folded = (bits ^ (bits >> 32)) as usize;
        self.shards[(folded ^ (folded >> 8)) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// The address that it counts for.
    pub fn address(&self) -> Option<AddressKey> {
        self.address
    }

    /// Counts for its address no longer: it is known by more than that now. The address, if it did.
    pub fn release_address(&mut self) -> Option<AddressKey> {
        let address = self.address.take()?;
        let mut shard = self.admission.shard(address);
        if let Some(count) = shard.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&address);
            }
        }
        Some(address)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        self.release_address();
    }
}

impl AddressKey {
    /// Of an address that is none of the proxies', behind which are many.
    pub fn unless_proxy(address: IpAddr, proxies: &[Network]) -> Option<Self> {
        let address = address.to_canonical();
        let is_proxy = proxies.iter().any(|Network(network)| network.contains(&address));
        (!is_proxy).then(|| address.into())
    }
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => IPV4 << 32 | u64::from(u32::from(v4)),
            IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
        };
        // Only ::/64 is zero: loopback, which may share the key of a prefix that nobody has.
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
}

/// The address, or the prefix.
impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.get();
        if bits >> 32 == IPV4 {
            return write!(f, "{}", Ipv4Addr::from(bits as u32));
        }
        write!(f, "{}/64", Ipv6Addr::from(u128::from(bits) << 64))
    }
}

/// The upper half of the key of an IPv4 address. That of `fc00::/7` is private, so no real /64
/// collides with one.
const IPV4: u64 = 0xffff_ffff;
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_the_connection_ends() {
        let admission = Admission::new(2, 1, &[]);
        let first = admission.admit([10, 0, 0, 1].into()).unwrap();
        let refused = admission.admit([10, 0, 0, 1].into()).map(drop);
        assert_eq!(refused, Err(AdmissionError::AddressFull { limit: 1 }));
        drop(first);
        let _again = admission.admit([10, 0, 0, 1].into()).unwrap();
        let _other = admission.admit([10, 0, 0, 2].into()).unwrap();
        let refused = admission.admit([10, 0, 0, 3].into()).map(drop);
        assert_eq!(refused, Err(AdmissionError::NodeFull { limit: 2 }));
        assert_eq!(admission.connections(), 2);
        let used = [admission, Admission::new(0, 1, &[])].map(|admission| admission.used_ratio());
        assert_eq!(used.map(|ratio| ratio.to_string()), ["1", "0"]);
    }

    #[test]
    fn a_connection_that_is_known_otherwise_counts_for_the_node_only() {
        let admission = Admission::new(2, 1, &[]);
        let mut known = admission.admit([10, 0, 0, 1].into()).unwrap();
        known.release_address();
        let _next = admission.admit([10, 0, 0, 1].into()).unwrap();
        assert_eq!(admission.connections(), 2);
        drop(known);
        let refused = admission.admit([10, 0, 0, 1].into()).map(drop);
        assert_eq!(refused, Err(AdmissionError::AddressFull { limit: 1 }));
    }

    #[test]
    fn a_proxy_counts_towards_the_limit_of_the_node_only() {
        let admission = Admission::new(2, 1, &["10.0.0.0/8".parse().unwrap()]);
        let _held = [10, 10].map(|last| admission.admit([10, 0, 0, last].into()).unwrap());
        let refused = admission.admit([10, 0, 0, 10].into()).map(drop);
        assert_eq!(refused, Err(AdmissionError::NodeFull { limit: 2 }));
    }

    #[test]
    fn an_address_is_shown_as_what_is_counted() {
        for (address, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("255.255.255.255", "255.255.255.255"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(AddressKey::from(address.parse::<IpAddr>().unwrap()).to_string(), shown);
        }
    }

    #[test]
    fn an_ipv6_customer_is_counted_by_its_64_bit_prefix() {
        let admission = Admission::new(0, 1, &[]);
        let _held = admission.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(admission.admit("2001:db8::2".parse().unwrap()).is_err());
        assert!(admission.admit("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
