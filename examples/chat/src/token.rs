//! Tokens for those who log in, signed with the secret that the gateways have too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use crate::message::Name;

pub struct Key(EncodingKey);

#[derive(Serialize)]
struct Claims<'n> {
    sub: &'n str,
    exp: u64,
}

impl Key {
    pub fn new(secret: &str) -> Self {
        Self(EncodingKey::from_secret(secret.as_bytes()))
    }

    /// A token that is good for an hour.
    pub fn mint(&self, name: &Name) -> Result<String, jsonwebtoken::errors::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = (now + Duration::from_hours(1)).as_secs();
        encode(&Header::new(Algorithm::HS256), &Claims { sub: name.as_str(), exp }, &self.0)
    }
}
