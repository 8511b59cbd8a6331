//! Tokens: which key may have signed one, and whether it did. What claims mean is the engine's.

mod extract;
mod jwks;
mod keys;
mod mint;
mod verified;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanlight_engine::auth::{AuthError, Capability, Claims, Credentials, Principal, TokenRules};
use fanlight_engine::policy::Grants;
use fanlight_engine::revocation::RevokedList;
use fanlight_engine::time::Now;
use jsonwebtoken::crypto;
use serde::Deserialize;
use serde_json::Value;

use crate::accounts::Accounts;
use crate::config::{Algorithm, Auth, AuthKey, Problem};
use jwks::KeySets;
use keys::VerifyingKey;
use verified::{Expiring, Fingerprint, Verified};

pub use extract::{TokenSource, token_from};
pub use mint::{MintError, SigningKey, mint, mint_capability};

/// Checks tokens against the configured keys and rules, and logins against the accounts.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<VerifyingKey>,
    key_sets: KeySets,
    accounts: Accounts,
    rules: TokenRules,
    verified: Verified<Principal>,
    capabilities: Verified<Capability>,
    /// As of which change of keys tokens are remembered.
    changes: AtomicU64,
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
        Ok(Self {
            keys,
            key_sets: KeySets::new(&auth.jwks)?,
            accounts,
            rules,
            verified: Verified::new(),
            capabilities: Verified::new(),
            changes: AtomicU64::new(0),
            revoked: Arc::default(),
        })
    }

    /// Refuses the tokens that are on this list.
    #[must_use]
    pub fn with_revoked(self, revoked: &Arc<RevokedList>) -> Self {
        Self { revoked: Arc::clone(revoked), ..self }
    }

    /// Who a client is that has proved itself so.
    pub async fn check(
        &self,
        credentials: &Credentials,
        now: Now,
    ) -> Result<Arc<Principal>, AuthError> {
        let (login, passcode, bearer) = match credentials {
            Credentials::Token(token) => return self.authenticate(token.as_str(), now).await,
            Credentials::Login { login, passcode, bearer } => (login, passcode, bearer),
        };
        if let Some(service) = self.accounts.check(login, passcode.as_str()) {
            return service.map(Arc::new);
        }
        let token = bearer.as_ref().unwrap_or(passcode);
        self.authenticate(token.as_str(), now).await.map_err(|error| match error {
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

    /// What these claims grant, as those of a token do.
    pub fn granted(&self, claims: &Claims) -> Result<Grants, AuthError> {
        self.rules.granted(claims)
    }

    /// Who `token` says its bearer is, once everything about it is known to be good.
    pub async fn authenticate(&self, token: &str, now: Now) -> Result<Arc<Principal>, AuthError> {
        let read = |claims: &Claims, fingerprint| {
            self.rules.principal(claims, now).map(|principal| named(principal, fingerprint))
        };
        let principal = self.known(&self.verified, Kind::Bearer, token, now, read).await?;
        self.refuse_revoked(|revoked| revoked.covers(&principal, now))?;
        Ok(principal)
    }

    /// What a capability token grants, once everything about it is known to be good.
    pub async fn authorize(&self, token: &str, now: Now) -> Result<Arc<Capability>, AuthError> {
        let read = |claims: &Claims, _| self.rules.capability(claims, now);
        let known = self.known(&self.capabilities, Kind::Capability, token, now, read).await?;
        self.refuse_revoked(|revoked| revoked.covers_capability(&known, now))?;
        Ok(known)
    }

    fn refuse_revoked(&self, covers: impl FnOnce(&RevokedList) -> bool) -> Result<(), AuthError> {
        self.knows_revoked()?;
        if covers(&self.revoked) {
            metrics::counter!("fanlight_tokens_total", "result" => "revoked").increment(1);
            return Err(AuthError::Revoked);
        }
        Ok(())
    }

    /// Whether the token of somebody who was let in is revoked now.
    pub fn is_revoked(&self, principal: &Principal, now: Now) -> bool {
        self.revoked.covers(principal, now)
    }

    /// Whether a capability that something was allowed by is revoked now.
    pub fn is_capability_revoked(&self, capability: &Capability, now: Now) -> bool {
        self.revoked.covers_capability(capability, now)
    }

    /// Who is to be let in only while it is known whom not to.
    pub fn knows_revoked(&self) -> Result<(), AuthError> {
        self.revoked.is_complete().then_some(()).ok_or(AuthError::RevocationsUnknown)
    }

    /// What a token says, were it not revoked.
    async fn known<T: Expiring>(
        &self,
        verified: &Verified<T>,
        kind: Kind,
        token: &str,
        now: Now,
        read: impl Fn(&Claims, Fingerprint) -> Result<T, AuthError>,
    ) -> Result<Arc<T>, AuthError> {
        let fingerprint = Fingerprint::of(token);
        let changes = self.forget_if_changed();
        if let Some(known) = verified.known(fingerprint, now).filter(|_| self.key_sets.are_fresh())
        {
            metrics::counter!("fanlight_tokens_total", "result" => "remembered").increment(1);
            return Ok(known);
        }
        let claims = self.claims_of(kind, token).await;
        let known = claims.and_then(|claims| read(&claims, fingerprint));
        let result = if known.is_ok() { "verified" } else { "refused" };
        metrics::counter!("fanlight_tokens_total", "result" => result).increment(1);
        let known = Arc::new(known?);
        if changes == self.key_sets.changes() {
            verified.remember(fingerprint, &known);
        }
        Ok(known)
    }

    async fn claims_of(&self, kind: Kind, token: &str) -> Result<Claims, AuthError> {
        let parsed = Token::parse(token)?;
        match (kind, parsed.header.is_capability()) {
            (Kind::Bearer, true) => return Err(AuthError::NotForConnecting),
            (Kind::Capability, false) => return Err(AuthError::NotACapability),
            _ => {}
        }
        let mut verified = self.verify(token);
        if !self.key_sets.is_empty() && matches!(verified, Err(TokenError::UnknownKey { .. })) {
            self.key_sets.refetch().await;
            verified = self.verify(token);
        }
        match verified {
            // It may be a key that there is, and is good.
            Err(TokenError::UnknownKey { .. }) if !self.key_sets.are_fresh() => {
                Err(AuthError::KeysUnavailable)
            }
            verified => Ok(verified?),
        }
    }

    /// A token is remembered no longer than the key that signed it; the count of changes so far.
    fn forget_if_changed(&self) -> u64 {
        let changes = self.key_sets.changes();
        if self.changes.swap(changes, Ordering::AcqRel) != changes {
            self.verified.forget_all();
            self.capabilities.forget_all();
        }
        changes
    }

    /// The tasks that keep keys from URLs new; they never end by themselves.
    pub fn tasks(&self) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> {
        self.key_sets.tasks()
    }

    /// Waits until keys were fetched once from each URL, or could not be.
    pub async fn begun(&self) {
        self.key_sets.begun().await;
    }

    /// The claims of `token`, once its signature is known to be good. Their times, issuer and
    /// audience are not looked at.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let token = Token::parse(token)?;
        let mut candidates = match self.fetched(&token) {
            Some(verified) => return verified.and_then(|()| token.claims()),
            None => self.candidates(&token.header)?,
        };
        if candidates.any(|key| token.is_signed_with(key)) {
            token.claims()
        } else {
            Err(TokenError::BadSignature)
        }
    }

    /// Whether a fetched key has signed the token, if it names one; configured ones come first.
    fn fetched(&self, token: &Token<'_>) -> Option<Result<(), TokenError>> {
        let kid = token.header.kid.as_deref()?;
        if self.keys.iter().any(|key| key.id == kid && !kid.is_empty()) {
            return None;
        }
        self.key_sets.with_key(kid, |key| {
            if token.header.alg.parse().ok() != Some(key.algorithm) {
                let algorithm = token.header.alg.clone();
                return Err(TokenError::AlgorithmNotAllowed { algorithm });
            }
            if token.is_signed_with(key) { Ok(()) } else { Err(TokenError::BadSignature) }
        })
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
            if let (Some(kid), true) = (&header.kid, foreign && !self.key_sets.is_empty()) {
                return Err(TokenError::UnknownKey { kid: kid.clone() });
            }
            return Err(TokenError::AlgorithmNotAllowed { algorithm: header.alg.clone() });
        }
        Ok(self.keys.iter().filter(fitting))
    }
}

/// What has no name of its own can be revoked with its session all the same.
fn named(principal: Principal, fingerprint: Fingerprint) -> Principal {
    let is_named = |id: &str| (1..=TOKEN_ID_MAX_BYTES).contains(&id.len());
    let token_id = principal.token_id.filter(|id| is_named(id));
    Principal { token_id: token_id.or_else(|| Some(fingerprint.text())), ..principal }
}

/// By what a token can be revoked that says nothing itself.
pub fn name_of(token: &str) -> Box<str> {
    Fingerprint::of(token).text()
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

/// Whether a token says of itself that it is a capability.
pub fn is_capability(token: &str) -> Result<bool, TokenError> {
    Ok(Token::parse(token)?.header.is_capability())
}

/// A token, split but not trusted.
struct Token<'t> {
    header: Header,
    signed: &'t str,
    payload: &'t str,
    signature: &'t str,
}

/// What a token is for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// To say who somebody is.
    Bearer,
    /// To allow something, given with a request.
    Capability,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Header {
    /// Compared as media types are; `application/` may be left out (RFC 7515 §4.1.9).
    fn is_capability(&self) -> bool {
        let typ = self.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        typ.strip_prefix("application/").unwrap_or(&typ) == CAPABILITY_TYPE
    }
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

/// The `typ` of capability tokens.
pub const CAPABILITY_TYPE: &str = "fl-cap+jwt";

#[cfg(test)]
mod tests;
