//! Tokens: which key may have signed one, and whether it did. What claims mean is the engine's.

mod extract;
mod keys;
mod mint;
mod verified;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanlight_engine::auth::{AuthError, Claims, Credentials, Principal, TokenRules};
use fanlight_engine::revocation::RevokedList;
use fanlight_engine::time::Now;
use jsonwebtoken::crypto;
use serde::Deserialize;
use serde_json::Value;

use crate::accounts::Accounts;
use crate::config::{Algorithm, Auth, AuthKey, Problem};
use keys::VerifyingKey;
use verified::{Fingerprint, Verified};

pub use extract::{TokenSource, token_from};
pub use mint::{MintError, SigningKey, mint};

/// Checks tokens against the configured keys and rules, and logins against the accounts.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<VerifyingKey>,
    accounts: Accounts,
    rules: TokenRules,
    verified: Verified,
    revoked: Arc<RevokedList>,
}

/// Why a token's signature is not accepted, for `token inspect` and the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url, or not JSON within.
    #[error("not a signed token (JWS compact serialization)")]
    Malformed,
    /// An extension that must be understood, and is not (RFC 7515 §4.1.11).
    #[error("the token demands an extension that is not supported")]
    CriticalExtension,
    /// A `kid` that no key has.
    #[error("no key with the token's kid {kid:?}")]
    UnknownKey {
        /// The `kid`.
        kid: String,
    },
    /// An algorithm that the key, or every key, is not for.
    #[error("no key for the token's algorithm {algorithm:?}")]
    AlgorithmNotAllowed {
        /// The `alg`.
        algorithm: String,
    },
    /// Signed with another key, or changed since.
    #[error("the token's signature is wrong")]
    BadSignature,
}

impl From<TokenError> for AuthError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Malformed | TokenError::CriticalExtension => Self::Malformed,
            TokenError::UnknownKey { .. } | TokenError::AlgorithmNotAllowed { .. } => {
                Self::UnknownKey
            }
            TokenError::BadSignature => Self::BadSignature,
        }
    }
}

impl Authenticator {
    /// Reads the configured keys and accounts; `rules` say what claims must be.
    pub fn new(auth: &Auth, rules: TokenRules) -> Result<Self, Vec<Problem>> {
        let (keys, accounts) = (keys::read_all(&auth.keys)?, Accounts::new(&auth.accounts)?);
        Ok(Self { keys, accounts, rules, verified: Verified::new(), revoked: Arc::default() })
    }

    /// Refuses the tokens that are on this list.
    #[must_use]
    pub fn with_revoked(self, revoked: &Arc<RevokedList>) -> Self {
        Self { revoked: Arc::clone(revoked), ..self }
    }

    /// Who a client is that has proved itself so.
    pub fn check(&self, credentials: &Credentials, now: Now) -> Result<Arc<Principal>, AuthError> {
        let (login, passcode, bearer) = match credentials {
            Credentials::Token(token) => return self.authenticate(token.as_str(), now),
            Credentials::Login { login, passcode, bearer } => (login, passcode, bearer),
        };
        if let Some(service) = self.accounts.check(login, passcode.as_str()) {
            return service.map(Arc::new);
        }
        let token = bearer.as_ref().unwrap_or(passcode);
        self.authenticate(token.as_str(), now).map_err(|error| match error {
            // As for a known login, or else the answer would tell which logins are known.
            AuthError::Malformed | AuthError::UnknownKey | AuthError::BadSignature
                if !self.accounts.is_empty() =>
            {
                AuthError::BadLogin
            }
            error => error,
        })
    }

    /// Who `login` is, if it is an account's.
    pub fn account(&self, login: &str, passcode: &str) -> Option<Result<Principal, AuthError>> {
        self.accounts.check(login, passcode)
    }

    /// Of these claims, those that the policy names.
    pub fn kept_claims(&self, claims: &Claims) -> Box<[(Box<str>, Box<str>)]> {
        self.rules.kept(claims)
    }

    /// Who `token` says its bearer is, once everything about it is known to be good.
    pub fn authenticate(&self, token: &str, now: Now) -> Result<Arc<Principal>, AuthError> {
        let principal = self.verified(token, now)?;
        if self.revoked.covers(&principal, now) {
            metrics::counter!("fanlight_tokens_total", "result" => "revoked").increment(1);
            return Err(AuthError::Revoked);
        }
        Ok(principal)
    }

    /// Whom it would say that, were it not revoked.
    fn verified(&self, token: &str, now: Now) -> Result<Arc<Principal>, AuthError> {
        let fingerprint = Fingerprint::of(token);
        if let Some(principal) = self.verified.principal(fingerprint, now) {
            metrics::counter!("fanlight_tokens_total", "result" => "remembered").increment(1);
            return Ok(principal);
        }
        let claims = self.verify(token).map_err(AuthError::from);
        let principal = claims.and_then(|claims| self.rules.principal(&claims, now));
        let result = if principal.is_ok() { "verified" } else { "refused" };
        metrics::counter!("fanlight_tokens_total", "result" => result).increment(1);
        let mut principal = principal?;
        // What has no name of its own can be revoked with its session all the same.
        let is_named = |id: &str| (1..=TOKEN_ID_MAX_BYTES).contains(&id.len());
        if !principal.token_id.as_deref().is_some_and(is_named) {
            principal.token_id = Some(fingerprint.text());
        }
        let principal = Arc::new(principal);
        self.verified.remember(fingerprint, &principal);
        Ok(principal)
    }

    /// The claims of `token`, once its signature is known to be good. Their times, issuer and
    /// audience are not looked at.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let token = Token::parse(token)?;
        let mut candidates = self.candidates(&token.header)?;
        if candidates.any(|key| token.is_signed_with(key)) {
            token.claims()
        } else {
            Err(TokenError::BadSignature)
        }
    }

    /// The keys to try: the one with the token's `kid`, else those for its algorithm.
    fn candidates<'k>(
        &'k self,
        header: &Header,
    ) -> Result<impl Iterator<Item = &'k VerifyingKey> + use<'k>, TokenError> {
        let named =
            |key: &&VerifyingKey| !key.id.is_empty() && header.kid.as_ref() == Some(&key.id);
        let by_kid = self.keys.iter().any(|key| named(&key));
        let kid = header.kid.clone().filter(|_| by_kid);
        // A key with an id is tried for a token without `kid`, but never for one with another.
        let foreign = header.kid.is_some() && !by_kid;
        let eligible = move |key: &&VerifyingKey| match &kid {
            Some(kid) => key.id == *kid,
            None => !foreign || key.id.is_empty(),
        };
        if !self.keys.iter().any(|key| eligible(&key)) && foreign {
            return Err(TokenError::UnknownKey { kid: header.kid.clone().unwrap_or_default() });
        }
        let algorithm = header.alg.parse::<Algorithm>().ok();
        let fitting = move |key: &&VerifyingKey| eligible(key) && Some(key.algorithm) == algorithm;
        if !self.keys.iter().any(|key| fitting(&key)) {
            return Err(TokenError::AlgorithmNotAllowed { algorithm: header.alg.clone() });
        }
        Ok(self.keys.iter().filter(fitting))
    }
}

/// The longest `jti` that counts.
pub const TOKEN_ID_MAX_BYTES: usize = 256;

/// What is wrong with the configured keys.
pub fn check_keys(keys: &[AuthKey]) -> Result<(), Vec<Problem>> {
    keys::read_all(keys).map(drop)
}

/// What a token says of itself, unverified; for `token inspect` only.
pub fn unverified(token: &str) -> Result<(Value, Claims), TokenError> {
    let parsed = Token::parse(token)?;
    let header = decode(token.split('.').next().unwrap_or_default())?;
    Ok((header, parsed.claims()?))
}

/// A token, split but not trusted.
struct Token<'t> {
    header: Header,
    signed: &'t str,
    payload: &'t str,
    signature: &'t str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'t> Token<'t> {
    fn parse(token: &'t str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header: Header = decode(header)?;
        if header.crit.is_some() {
            return Err(TokenError::CriticalExtension);
        }
        Ok(Self { header, signed, payload, signature })
    }

    fn is_signed_with(&self, key: &VerifyingKey) -> bool {
        let signed = self.signed.as_bytes();
        crypto::verify(self.signature, signed, &key.decoding, key.algorithm.into()).unwrap_or(false)
    }

    fn claims(&self) -> Result<Claims, TokenError> {
        decode(self.payload)
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests;
