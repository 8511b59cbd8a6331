//! Making tokens: for `--dev`, for `fanlight token mint`, and for tests.

use std::fmt;

use fanlight_engine::auth::Claims;
use jsonwebtoken::{EncodingKey, Header};

use super::CAPABILITY_TYPE;
use super::keys::check_secret;
use crate::config::{Algorithm, Secret};

/// A key to sign tokens with.
pub struct SigningKey {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The secret can't be used.
    #[error("{0}")]
    BadSecret(String),
    /// The key is not a private key for the algorithm.
    #[error("not a private key for {algorithm}; give it as PEM (-----BEGIN PRIVATE KEY-----)")]
    BadKey {
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// The algorithm does not go with the kind of key.
    #[error("{algorithm} is signed with {needed}")]
    WrongKind {
        /// The algorithm.
        algorithm: Algorithm,
        /// What it is signed with.
        needed: &'static str,
    },
    /// The key could not sign.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl SigningKey {
    /// A shared secret, for HS*.
    pub fn from_secret(algorithm: Algorithm, secret: &Secret) -> Result<Self, MintError> {
        if !algorithm.is_hmac() {
            return Err(MintError::WrongKind { algorithm, needed: "a private key" });
        }
        let bytes = secret.reveal().as_bytes();
        check_secret(bytes, algorithm).map_err(MintError::BadSecret)?;
        Ok(Self { id: String::new(), algorithm, encoding: EncodingKey::from_secret(bytes) })
    }

    /// A private key as PEM, for all others.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, MintError> {
        let encoding = match algorithm {
            Algorithm::Es256 | Algorithm::Es384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDsa => EncodingKey::from_ed_pem(pem),
            other if other.is_hmac() => {
                return Err(MintError::WrongKind { algorithm, needed: "a shared secret" });
            }
            _ => EncodingKey::from_rsa_pem(pem),
        };
        let encoding = encoding.map_err(|_| MintError::BadKey { algorithm })?;
        Ok(Self { id: String::new(), algorithm, encoding })
    }

    /// Puts `id` into tokens as `kid`.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?}, {})", self.id, self.algorithm)
    }
}

/// A token with these claims.
pub fn mint(key: &SigningKey, claims: &Claims) -> Result<String, MintError> {
    sign(key, Header::new(key.algorithm.into()), claims)
}

/// A capability token with these claims.
pub fn mint_capability(key: &SigningKey, claims: &Claims) -> Result<String, MintError> {
    let header = Header::new(key.algorithm.into());
    sign(key, Header { typ: Some(CAPABILITY_TYPE.into()), ..header }, claims)
}

fn sign(key: &SigningKey, mut header: Header, claims: &Claims) -> Result<String, MintError> {
    header.kid = Some(key.id.clone()).filter(|id| !id.is_empty());
    jsonwebtoken::encode(&header, claims, &key.encoding)
        .map_err(|error| MintError::Signing(error.to_string()))
}
