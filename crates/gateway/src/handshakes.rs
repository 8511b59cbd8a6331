//! How often sessions may begin: a rate for each address and each user, and one for the node.

use std::sync::Arc;

use fanlight_engine::limits::{Rate, RetryAfterMs};

use crate::admission::AddressKey;
use crate::config::Config;
use crate::pacer::{ComeBack, Pacer};
use crate::rates::Rates;

/// Admits handshakes, on all workers and by every way in.
#[derive(Debug)]
pub struct Handshakes {
    /// The whole node's rate.
    pub node: Pacer,
    addresses: Rates<AddressKey>,
    users: Rates<Arc<str>>,
    per_address: Rate,
    per_user: Rate,
}

/// Whose rate does not allow one more yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowded {
    /// The node's.
    Node(ComeBack),
    /// The address'.
    Address(RetryAfterMs),
    /// The user's.
    User(RetryAfterMs),
}

impl Handshakes {
    /// With the configured rates.
    pub fn new(config: &Config) -> Self {
        Self {
            node: Pacer::new(config.handshake_rate()),
            addresses: Rates::default(),
            users: Rates::default(),
            per_address: config.handshake_rate_per_ip(),
            per_user: config.handshake_rate_per_user(),
        }
    }

    /// Admits one of a client's; `None` is for what does not count. Whoever is refused has used up
    /// nothing: an address or user that comes too often takes no turn of the node.
    pub fn admit(
        &self,
        address: Option<AddressKey>,
        user: Option<&Arc<str>>,
        now_ms: u64,
        spread: f64,
    ) -> Result<(), Crowded> {
        if let Some(address) = address {
            let admitted = self.addresses.admit(address, now_ms, self.per_address);
            admitted.map_err(Crowded::Address)?;
        }
        let admitted = user.map_or(Ok(()), |user| self.admit_user(user, now_ms));
        admitted.map_err(Crowded::User).inspect_err(|_| self.forget(address))?;
        self.node.admit(now_ms, spread).map_err(Crowded::Node).inspect_err(|_| {
            self.forget(address);
            if let Some(user) = user {
                self.users.take_back(user, self.per_user);
            }
        })
    }

    /// Counts a handshake of a user who was told by CONNECT only.
    pub fn admit_user(&self, user: &Arc<str>, now_ms: u64) -> Result<(), RetryAfterMs> {
        self.users.admit(Arc::clone(user), now_ms, self.per_user)
    }

    /// Whether this address, or everybody, would be refused.
    pub fn is_full(&self, address: Option<AddressKey>, now_ms: u64) -> bool {
        let of_address = |address| self.addresses.is_full(&address, now_ms, self.per_address);
        self.node.is_full(now_ms) || address.is_some_and(of_address)
    }

    /// Takes back the last handshake of this address: it was a service's, which has one for each of
    /// its own clients.
    pub fn forget(&self, address: Option<AddressKey>) {
        if let Some(address) = address {
            self.addresses.take_back(&address, self.per_address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn handshakes(node_burst: u32) -> Handshakes {
        let mut config = Config::default();
        let limits = &mut config.limits;
        (limits.handshakes_per_second, limits.handshakes_burst) = (1, node_burst);
        (limits.handshakes_per_second_per_ip, limits.handshakes_burst_per_ip) = (1, 3);
        (limits.handshakes_per_second_per_user, limits.handshakes_burst_per_user) = (1, 2);
        Handshakes::new(&config)
    }

    fn address(last: u8) -> AddressKey {
        IpAddr::from([192, 0, 2, last]).into()
    }

    #[test]
    fn an_address_and_a_user_have_rates_of_their_own_and_proxies_and_nobody_have_none() {
        let handshakes = handshakes(1000);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let admit = |address, user| handshakes.admit(address, user, 1000, 0.0);
        for _ in 0..2 {
            assert_eq!(admit(Some(address(1)), Some(&ann)), Ok(()));
        }
        // Refused for the user, which costs the address nothing.
        for _ in 0..5 {
            let refused = Err(Crowded::User(RetryAfterMs(1000)));
            assert_eq!(admit(Some(address(1)), Some(&ann)), refused);
        }
        assert_eq!(handshakes.admit_user(&ann, 1000), Err(RetryAfterMs(1000)));
        assert!(!handshakes.is_full(Some(address(1)), 1000));
        assert_eq!(admit(Some(address(1)), None), Ok(()));
        assert!(
            handshakes.is_full(Some(address(1)), 1000)
                && !handshakes.is_full(Some(address(2)), 1000)
        );
        assert_eq!(admit(Some(address(1)), None), Err(Crowded::Address(RetryAfterMs(1000))));
        handshakes.forget(Some(address(1)));
        assert_eq!(admit(Some(address(1)), None), Ok(()));
        assert_eq!(admit(Some(address(2)), Some(&bob)), Ok(()));
        assert!((0..100).all(|_| admit(None, None).is_ok()));
    }

    #[test]
    fn who_is_refused_by_the_node_or_by_its_address_has_used_up_nothing() {
        let handshakes = handshakes(4);
        let ann: Arc<str> = "ann".into();
        let admit = |last, user| handshakes.admit(Some(address(last)), user, 1000, 0.0);
        assert!((0..3).all(|_| admit(1, None).is_ok()));
        for _ in 0..10 {
            assert!(matches!(admit(1, None), Err(Crowded::Address(_))));
        }
        // The node has a turn left, in spite of them.
        assert_eq!(admit(2, None), Ok(()));
        for _ in 0..10 {
            assert!(matches!(admit(3, Some(&ann)), Err(Crowded::Node(_))));
        }
        for _ in 0..2 {
            assert_eq!(handshakes.admit_user(&ann, 1000), Ok(()));
        }
        assert!(!handshakes.addresses.is_full(&address(3), 1000, handshakes.per_address));
    }
}
