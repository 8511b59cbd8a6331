//! Who asks: keys, what each may do, and how often.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, Digest, SHA256};
use axum::extract::FromRequestParts;
use fanlight_engine::limits::{Gcra, Rate, RetryAfterMs};
use fanlight_proto::{Destination, DestinationPattern};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::Api;
use crate::accept::Peer;
use crate::client_address::client_address;
use crate::config::{self, ApiKey, Scope};
use crate::problem::Problem;
use crate::rates::{Payer, Rates};
use crate::transport::door;

/// The configured keys; of their secrets only digests are kept.
#[derive(Default)]
pub struct Keys {
    known: Vec<Arc<Key>>,
    /// How often addresses have come without a good key.
    failures: Rates,
}

/// A key, and what it may do.
pub struct Key {
    name: Box<str>,
    secret: Digest,
    scopes: Box<[Scope]>,
    destinations: Box<[DestinationPattern]>,
    rate: Rate,
    spent: Mutex<Gcra>,
}

/// Whoever has sent a request with a good key, within its rate.
pub struct Caller(Arc<Key>);

impl Keys {
    /// Reads the configured keys.
    pub fn new(keys: &[ApiKey]) -> Result<Self, config::Problem> {
        let read = keys.iter().enumerate().map(|(at, key)| {
            let secret = key.read_secret(&format!("api.keys[{at}]"))?;
            let (per_s, burst) = (key.requests_per_second, key.request_burst);
            Ok(Arc::new(Key {
                name: key.name.as_str().into(),
                secret: digest_of(secret.reveal().as_bytes()),
                scopes: key.scopes.clone().into(),
                destinations: key.destinations.iter().map(|pattern| pattern.0.clone()).collect(),
                rate: Rate { per_s, burst: if burst == 0 { per_s } else { burst } },
                spent: Mutex::default(),
            }))
        });
        Ok(Self { known: read.collect::<Result<_, _>>()?, failures: Rates::default() })
    }

    /// The key that `headers` bring.
    ///
    /// Digests have one length, and all are compared, in constant time: the time tells nothing
    /// about them. Who fails often is told to wait; a good key is always good, as others may share
    /// the address with whoever guesses.
    fn check(&self, headers: &HeaderMap, from: IpAddr, now_ms: u64) -> Result<Arc<Key>, Problem> {
        let given = presented(headers);
        if let Some(given) = given {
            let (given, mut found) = (digest_of(given), None);
            for key in &self.known {
                if verify_slices_are_equal(given.as_ref(), key.secret.as_ref()).is_ok() {
                    found = Some(key);
                }
            }
            if let Some(key) = found {
                return Ok(Arc::clone(key));
            }
        }
        let admitted = self.failures.admit(Payer::from(from), now_ms, FAILURES);
        admitted.map_err(|retry| rate_limited("too many requests without a good key", retry))?;
        Err(door::unauthorized(if given.is_some() {
            "no key is this one; see api.keys"
        } else {
            "a key is needed: send `Authorization: Bearer` with one of api.keys"
        }))
    }
}

impl Caller {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether its key has `scope`.
    pub fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.0.scopes.is_empty() || self.0.scopes.contains(&scope) {
            return Ok(());
        }
        let detail = format!("this key does not have the scope \"{scope}\"; see api.keys");
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// Whether its key is for `destination`, which is absolute.
    pub fn reaches(&self, destination: &Destination) -> Result<(), Problem> {
        let patterns = &self.0.destinations;
        let text = destination.as_str();
        if patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text)) {
            return Ok(());
        }
        let detail = format!("this key is not for {text}; see api.keys");
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    fn spend(&self, now_ms: u64) -> Result<(), Problem> {
        let mut spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = spent.admit(now_ms, self.0.rate);
        let what = "too many requests with this key (requests_per_second of api.keys)";
        admitted.map_err(|retry| rate_limited(what, retry))
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let proxies = &api.node.config.listen.trusted_proxies;
        let peer = parts.extensions.get::<Peer>().map(|Peer(peer)| peer.ip());
        let peer = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let now_ms = api.node.clock.now().mono_ms;
        // Any web page can make its visitor's browser ask what is on loopback.
        if parts.headers.contains_key(header::ORIGIN) {
            let detail = "a web page may not ask this; its backend may";
            return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
        }
        let from = client_address(peer, &parts.headers, proxies);
        let caller = Self(api.keys.check(&parts.headers, from, now_ms)?);
        caller.spend(now_ms)?;
        Ok(caller)
    }
}

/// The key that a request brings.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(&API_KEY) {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().as_bytes())
}

fn rate_limited(what: &str, RetryAfterMs(retry_ms): RetryAfterMs) -> Problem {
    let detail = format!("{what}; try again in {retry_ms} ms");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
        .with_retry_after(Duration::from_millis(retry_ms))
}

fn digest_of(secret: &[u8]) -> Digest {
    digest::digest(&SHA256, secret)
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Of one address, without a good key.
const FAILURES: Rate = Rate { per_s: 1, burst: 20 };
