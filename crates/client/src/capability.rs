//! A capability: a token that is given with one request.

use std::fmt;
use std::sync::Arc;

#[cfg(doc)]
use crate::outgoing::SendOptions;
#[cfg(doc)]
use crate::subscription::SubscribeOptions;

/// A token that allows to subscribe or to publish where the session's own does not: see
/// [`SubscribeOptions`] and [`SendOptions`]. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Capability(Arc<str>);

impl Capability {
    /// This token.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(token.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a capability")
    }
}
