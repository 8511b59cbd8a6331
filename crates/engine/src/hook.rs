//! Hooks: backends that have a say in what sessions do, once the policy has allowed it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::{Credentials, Principal, Token};
use crate::policy::Action;
use crate::publication::SessionId;

/// Which questions about sessions have a backend that answers them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionHooks {
    /// Whether a session may begin, and as whom.
    pub connect: bool,
    /// Whether it may go on beyond its time.
    pub refresh: bool,
}

/// What a client wants to begin a session by.
#[derive(Debug)]
pub struct Claimant {
    /// What it gave within its protocol.
    pub credentials: Option<Credentials>,
    /// Who its handshake said it is.
    pub principal: Option<Arc<Principal>>,
    /// What else its handshake said.
    pub introduction: Option<Box<Introduction>>,
}

/// What a handshake says of a client, for the backend that decides about it.
#[derive(Clone, Default)]
pub struct Introduction {
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// The token that came with it.
    pub token: Option<Token>,
    /// Headers that are passed on, with names in lower case.
    pub headers: Box<[(Box<str>, Box<str>)]>,
}

/// Without the headers' values, which may be secret.
impl fmt::Debug for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Introduction")
            .field("address", &self.address)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// A session that is to go on beyond its time.
#[derive(Debug)]
pub struct Renewal {
    /// Whose it is.
    pub principal: Arc<Principal>,
    /// A new token, if the client has sent one; there is one where no backend is asked for more
    /// time, and the one that decides who connects is asked again.
    pub token: Option<Token>,
}

/// What a backend that has a say in subscriptions is asked about, or has agreed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// This one.
    pub fn of(action: Action) -> Self {
        Self::default().with(action)
    }

    /// These and this one.
    #[must_use]
    pub fn with(self, action: Action) -> Self {
        Self(self.0 | Self::bit(action))
    }

    /// Whether this is one of them.
    pub fn has(self, action: Action) -> bool {
        self.0 & Self::bit(action) != 0
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Each, in the order in which they count.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        let all = [Action::Subscribe, Action::Presence, Action::History, Action::Publish];
        all.into_iter().filter(move |action| self.has(*action))
    }

    fn bit(action: Action) -> u8 {
        match action {
            Action::Subscribe => 1,
            Action::Presence => 2,
            Action::History => 4,
            Action::Publish => 8,
        }
    }
}

/// A session that wants to subscribe, or to read what subscribers get, as the policy allows if this
/// backend agrees.
#[derive(Debug)]
pub struct SubscribeQuestion {
    /// Which backend.
    pub hook: Arc<str>,
    /// Whether it wants to subscribe, or to read the history or who is there: the backend has to
    /// agree to each.
    pub actions: Actions,
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub principal: Option<Arc<Principal>>,
    /// The destination or pattern, absolute.
    pub destination: Box<str>,
}

/// Why a backend has not agreed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It says no; with what it wants the client to be told.
    #[error("{}", .reason.as_deref().unwrap_or("the backend does not allow this"))]
    Refused {
        /// The text for the client.
        reason: Option<Box<str>>,
    },
    /// It can't be asked, or its answer is none.
    #[error("the backend that decides about this can't be asked; try again later")]
    Unavailable {
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
    /// It did not answer in time.
    #[error("the backend that decides about this did not answer in time; try again later")]
    Timeout,
}
