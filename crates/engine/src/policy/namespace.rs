//! Namespaces: which part of the destination space has which options; the first match wins.

use std::collections::HashSet;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::{Destination, DestinationPattern, PatternError};

use super::Denied;
use crate::broker::Channel;

/// A configured part of the destination space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Names it in errors and in broker channels: 1-64 of `a-z 0-9 _ -`.
    pub name: String,
    /// The destinations in it. User destinations match by `/user/queue/...` (without the name)
    /// and by `/user/{name}/queue/...`.
    pub pattern: String,
    /// Whether clients may subscribe to patterns in it. Its publications then travel on one
    /// channel to every node with a subscriber anywhere in it.
    pub patterns: bool,
    /// Whether sessions without a user may use it, as far as rules allow.
    pub anonymous: bool,
}

/// The namespaces, ready for matching.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    ordered: Box<[Compiled]>,
}

#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) pattern: DestinationPattern,
    /// Set where patterns are allowed.
    pub(super) channel: Option<Channel>,
    pub(super) anonymous: bool,
}

/// What is wrong with a policy's configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A namespace's name can't stand in a channel's name.
    #[error("namespace {name:?}: a name is 1-64 of a-z, 0-9, _ and -")]
    BadName {
        /// The name.
        name: String,
    },
    /// Two namespaces share a name.
    #[error("namespace {name:?} is defined twice; rename one")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A namespace's pattern does not parse.
    #[error("namespace {name:?}: pattern {pattern:?}: {error}")]
    BadNamespacePattern {
        /// The namespace.
        name: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        error: PatternError,
    },
}

impl Namespaces {
    /// Checks and compiles; the error names the faulty namespace.
    pub fn new(namespaces: &[Namespace]) -> Result<Self, PolicyError> {
        let mut names = HashSet::new();
        let mut ordered = Vec::with_capacity(namespaces.len());
        for namespace in namespaces {
            let name = namespace.name.clone();
            if !is_good_name(&name) {
                return Err(PolicyError::BadName { name });
            }
            if !names.insert(name.as_str().to_owned()) {
                return Err(PolicyError::DuplicateName { name });
            }
            let pattern = namespace.pattern.parse().map_err(|error| {
                let pattern = namespace.pattern.clone();
                PolicyError::BadNamespacePattern { name: name.clone(), pattern, error }
            })?;
            let channel = namespace.patterns.then(|| Channel::of_namespace(&name));
            ordered.push(Compiled { pattern, channel, anonymous: namespace.anonymous });
        }
        Ok(Self { ordered: ordered.into() })
    }

    /// Whether sessions without a user have any use here.
    pub fn any_anonymous(&self) -> bool {
        self.ordered.iter().any(|namespace| namespace.anonymous)
    }

    /// The first that has `destination`, which is absolute.
    pub(super) fn of(&self, destination: &Destination) -> Option<&Compiled> {
        let shown = destination.shown();
        let matches = |namespace: &&Compiled| {
            namespace.pattern.matches(destination.as_str()) || namespace.pattern.matches(&shown)
        };
        self.ordered.iter().find(matches)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Compiled> {
        self.ordered.iter()
    }
}

impl Compiled {
    pub(super) fn channel_of(&self, destination: &Destination) -> Channel {
        let own = || Channel::of_destination(destination.to_shared());
        self.channel.clone().unwrap_or_else(own)
    }
}

/// `destination` with its user resolved and spelled in the one canonical way, so that
/// `/user/%61nn/queue/x` is no second name of `/user/ann/queue/x`.
pub(super) fn absolute(
    destination: &Destination,
    own: Option<&str>,
) -> Result<Destination, Denied> {
    match destination.kind() {
        DestinationKind::OwnUser => {
            let own = own.ok_or(Denied::NoUser)?;
            let path = destination.user_path().unwrap_or_default();
            Ok(format!("/user/{own}{path}").parse()?)
        }
        DestinationKind::NamedUser if !is_session_private(destination) => {
            let (Some(user), Some(path)) = (destination.user_name(), destination.user_path())
            else {
                return Err(Denied::NoUser);
            };
            Ok(Destination::for_user(&user, path)?)
        }
        _ => Ok(destination.clone()),
    }
}

/// Whether it is `/user/~{session}/...`.
pub(super) fn is_session_private(destination: &Destination) -> bool {
    destination.as_str().starts_with("/user/~")
}

fn is_good_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(good)
}
