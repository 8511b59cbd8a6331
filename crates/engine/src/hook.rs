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
    /// A new token, if the client has sent one.
    pub token: Option<Token>,
}

/// A session that wants to subscribe, or to read what subscribers get, as the policy allows if this
/// backend agrees.
#[derive(Debug)]
pub struct SubscribeQuestion {
    /// Which backend.
    pub hook: Arc<str>,
    /// Whether it wants to subscribe, or to read the history or who is there.
    pub action: Action,
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
