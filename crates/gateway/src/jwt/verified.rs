//! Tokens that were found good, so that each is verified once and not with every request of a
//! poll, of SockJS and of a client that reconnects.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use fanlight_engine::auth::{Capability, Principal};
use fanlight_engine::time::Now;
use quick_cache::sync::Cache;

/// What these tokens say. Keeps digests, not tokens.
pub(super) struct Verified<T>(Cache<Digest, Arc<T>>);

/// What a token says, for as long as it is good.
pub(super) trait Expiring {
    fn is_expired(&self, now: Now) -> bool;
}

impl Expiring for Principal {
    fn is_expired(&self, now: Now) -> bool {
        self.is_expired(now)
    }
}

impl Expiring for Capability {
    fn is_expired(&self, now: Now) -> bool {
        self.is_over(now)
    }
}

type Digest = [u8; 32];

/// A token to be looked up or remembered.
#[derive(Clone, Copy)]
pub(super) struct Fingerprint(Digest);

impl Fingerprint {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = Digest::default();
        bytes.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// A name for a token that has none.
    pub(super) fn text(self) -> Box<str> {
        let half = u128::from_be_bytes(*self.0.first_chunk().expect("it is longer than that"));
        format!("#{half:032x}").into()
    }
}

impl<T: Expiring> Verified<T> {
    pub(super) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// What the token says, unless it has expired since or is not known.
    pub(super) fn known(&self, token: Fingerprint, now: Now) -> Option<Arc<T>> {
        let known = self.0.get(&token.0)?;
        if known.is_expired(now) {
            // Refused from now on; what is wrong with it is told as of any other.
            self.0.remove(&token.0);
            return None;
        }
        Some(known)
    }

    pub(super) fn forget_all(&self) {
        self.0.clear();
    }

    pub(super) fn remember(&self, token: Fingerprint, known: &Arc<T>) {
        self.0.insert(token.0, Arc::clone(known));
    }
}

impl<T> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("tokens", &self.0.len()).finish()
    }
}

/// Of some hundred bytes each, as long as they are used.
const CAPACITY: usize = 16 * 1024;
