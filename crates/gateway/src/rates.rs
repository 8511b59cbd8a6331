//! Rates of those who have no session to keep them: by user, or by address without one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanlight_engine::limits::{Gcra, Rate, RetryAfterMs};

use crate::admission::AddressKey;

/// Whose rate it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Payer {
    /// A user.
    User(Arc<str>),
    /// An address, of somebody without a user: of IPv6 its /64, of which one customer has all.
    Address(AddressKey),
}

impl From<IpAddr> for Payer {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.into())
    }
}

/// The rates of a node; bounded, however many come.
#[derive(Debug)]
pub struct Rates<K = Payer>(Mutex<HashMap<K, Gcra>>);

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Counts one message, or whatever the rate is of, of `payer` against `rate`.
    pub fn admit(&self, payer: K, now_ms: u64, rate: Rate) -> Result<(), RetryAfterMs> {
        if rate.per_s == 0 {
            return Ok(());
        }
        let mut rates = self.lock();
        if rates.len() >= MAX_PAYERS {
            // Who has its whole burst again is as good as unknown.
            rates.retain(|_, gcra| !gcra.is_idle(now_ms));
            // Not to look through all of them at each of those who come.
            if rates.len() > MAX_PAYERS / 4 * 3 {
                rates.clear();
            }
        }
        rates.entry(payer).or_default().admit(now_ms, rate)
    }

    /// Takes back what was counted last.
    pub fn take_back<Q: Eq + Hash + ?Sized>(&self, payer: &Q, rate: Rate)
    where
        K: Borrow<Q>,
    {
        if let Some(gcra) = self.lock().get_mut(payer) {
            gcra.take_back(rate);
        }
    }

    /// Whether one more would be refused.
    pub fn is_full<Q: Eq + Hash + ?Sized>(&self, payer: &Q, now_ms: u64, rate: Rate) -> bool
    where
        K: Borrow<Q>,
    {
        let gcra = self.lock().get(payer).copied();
        gcra.is_some_and(|mut gcra| gcra.admit(now_ms, rate).is_err())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Gcra>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many are remembered at most.
const MAX_PAYERS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_payer_has_a_rate_of_its_own() {
        let rates: Rates = Rates::default();
        let rate = Rate { per_s: 1, burst: 2 };
        let user = |name: &str| Payer::User(name.into());
        for _ in 0..2 {
            assert!(rates.admit(user("ann"), 1000, rate).is_ok());
        }
        assert!(rates.admit(user("ann"), 1000, rate).is_err());
        assert!(rates.admit(user("bob"), 1000, rate).is_ok());
        assert!(rates.admit(user("ann"), 2000, rate).is_ok());
        let from = |address: &str| Payer::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(from("2001:db8::1"), from("2001:db8::ffff:1"), "of one /64");
        assert_ne!(from("2001:db8::1"), from("2001:db8:0:1::1"));
        assert_eq!(from("192.0.2.1"), from("::ffff:192.0.2.1"));
    }

    #[test]
    fn those_who_are_idle_are_forgotten_when_there_are_many() {
        let rates: Rates = Rates::default();
        let rate = Rate { per_s: 1, burst: 2 };
        for n in 0..MAX_PAYERS as u32 + 10 {
            let address = Payer::from(IpAddr::from(n.to_be_bytes()));
            assert!(rates.admit(address, 1000 + u64::from(n), rate).is_ok());
        }
        assert!(rates.0.lock().unwrap().len() <= MAX_PAYERS);
    }

    #[test]
    fn where_hardly_any_is_idle_all_are_forgotten_as_looking_for_those_costs_more() {
        let rates: Rates<u32> = Rates::default();
        let rate = Rate { per_s: 1, burst: 2 };
        for payer in 0..MAX_PAYERS as u32 {
            // The first hundred have their burst again when there is no more room.
            let at_ms = if payer < 100 { 0 } else { 60_000 };
            assert!(rates.admit(payer, at_ms, rate).is_ok());
        }
        assert!(rates.admit(u32::MAX, 60_000, rate).is_ok());
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
