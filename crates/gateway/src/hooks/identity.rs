//! What is known of a client before a backend is asked about it.

use std::sync::Arc;

use fanlight_engine::auth::{AuthError, Claims, Credentials, Principal, Token};
use fanlight_engine::hook::Claimant;
use fanlight_engine::time::Now;

use crate::jwt::{self, Authenticator};

/// Who a client says it is, and what of that is proved.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Whose token it has, which is good.
    pub(super) principal: Option<Arc<Principal>>,
    /// That token's claims.
    pub(super) claims: Option<Claims>,
    /// A token that no key of ours is for: the backend's to check.
    pub(super) token: Option<Token>,
    /// A login that is none of our accounts'.
    pub(super) login: Option<Box<str>>,
    /// What came with it.
    pub(super) passcode: Option<Token>,
}

impl Identity {
    /// What a token is revoked by that only the backend can check.
    pub(super) fn token_name(&self) -> Option<Box<str>> {
        self.token.as_ref().map(|token| jwt::name_of(token.as_str()))
    }
}

/// A token that is ours and bad is an error: no backend is asked then.
pub(super) async fn of(
    authenticator: &Authenticator,
    claimant: &Claimant,
    now: Now,
) -> Result<Identity, AuthError> {
    let introduced = claimant.introduction.as_ref().and_then(|given| given.token.as_ref());
    match &claimant.credentials {
        Some(Credentials::Token(token)) => by_token(authenticator, Some(token), now).await,
        Some(Credentials::Login { login, passcode, bearer }) => {
            if let Some(service) = authenticator.account(login, passcode.as_str()) {
                let principal = Some(Arc::new(service?));
                return Ok(Identity { principal, ..Identity::default() });
            }
            let token = bearer.as_ref().or(Some(passcode));
            let known = by_token(authenticator, token, now).await?;
            // What proves nothing here is told once, by what the client called it.
            let token = known.token.filter(|_| bearer.is_some());
            let (login, passcode) = (Some(login.clone()), Some(passcode.clone()));
            let passcode = passcode.filter(|_| known.principal.is_none() || bearer.is_some());
            Ok(Identity { token, login, passcode, ..known })
        }
        None => match &claimant.principal {
            Some(principal) => Ok(Identity {
                principal: Some(Arc::clone(principal)),
                claims: introduced.and_then(claims),
                ..Identity::default()
            }),
            None => by_token(authenticator, introduced, now).await,
        },
    }
}

/// The same where there is at most a token.
pub(super) async fn by_token(
    authenticator: &Authenticator,
    token: Option<&Token>,
    now: Now,
) -> Result<Identity, AuthError> {
    let Some(token) = token else { return Ok(Identity::default()) };
    match authenticator.authenticate(token.as_str(), now).await {
        Ok(principal) => Ok(Identity {
            principal: Some(principal),
            claims: claims(token),
            ..Identity::default()
        }),
        Err(AuthError::Malformed | AuthError::UnknownKey) => {
            Ok(Identity { token: Some(token.clone()), ..Identity::default() })
        }
        Err(error) => Err(error),
    }
}

/// Of a token whose signature is known to be good.
fn claims(token: &Token) -> Option<Claims> {
    jwt::unverified(token.as_str()).ok().map(|(_, claims)| claims)
}
