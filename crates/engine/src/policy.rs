//! Who may subscribe and publish where: namespaces, ordered rules, default deny, permits.

mod namespace;

use fanlight_proto::{Destination, DestinationError};

use crate::broker::Channel;

pub use namespace::{Namespace, Namespaces, PolicyError};

/// The right to publish to one destination (design invariant 6).
///
/// Only this module makes one, so nothing is published that no rule or backend allowed. Its
/// destination is absolute: own-user destinations are resolved to their user or session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPermit {
    destination: Destination,
    channel: Channel,
}

impl PublishPermit {
    /// The permit of a backend, which may publish wherever a namespace is.
    pub fn for_backend(
        namespaces: &Namespaces,
        destination: &Destination,
    ) -> Result<Self, Denied> {
        let destination = namespace::absolute(destination, None)?;
        let namespace = namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        Ok(Self { channel: namespace.channel_of(&destination), destination })
    }

    /// Where it allows to publish.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The broker's channel for that.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}

/// Why something is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The destination is in no configured namespace.
    #[error("no namespace covers this destination")]
    NoNamespace,
    /// `/user/queue/...` without a user or session whose own it could be.
    #[error("an own destination needs a user; name one: /user/{{name}}/queue/...")]
    NoUser,
    /// The user's name makes the destination invalid.
    #[error(transparent)]
    Destination(#[from] DestinationError),
}
