//! Keys from JWKS URLs (RFC 7517): fetched in the background, and at once for a key that is not
//! known yet.
//!
//! One task fetches for each URL, so there is never more than one fetch of it under way. Who wants
//! a key that is not known asks for one and waits; within the cooldown after a fetch it is told at
//! once that there is none.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::uri::Authority;
use http::{Request, StatusCode, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::keys::VerifyingKey;
use crate::causes::causes;
use crate::config::{Algorithm, Jwks, Problem};
use crate::tls;

/// All configured URLs.
#[derive(Debug, Default)]
pub(super) struct KeySets {
    sets: Vec<Arc<KeySet>>,
    /// Grows whenever a key has gone or changed.
    changes: Arc<AtomicU64>,
}

/// The keys behind one URL.
pub(super) struct KeySet {
    uri: Uri,
    /// The URL without what may be a secret.
    shown: String,
    options: Jwks,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    keys: RwLock<Arc<Keys>>,
    wanted: Notify,
    /// How many fetches have ended.
    attempts: watch::Sender<u64>,
    changes: Arc<AtomicU64>,
}

/// What was fetched.
#[derive(Default)]
struct Keys {
    usable: Vec<VerifyingKey>,
    /// The same as it came, to be compared.
    source: Vec<Value>,
    /// When they were last fetched with success.
    fetched: Option<Instant>,
    /// When a fetch last ended, however.
    attempted: Option<Instant>,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silence(Duration),
    #[error("can't be reached: {0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("the answer breaks off, or has more than {ANSWER_BYTES} bytes")]
    Body,
    #[error("the answer is no JSON Web Key Set: an object with a list of \"keys\"")]
    NotASet,
    #[error(
        "no key in it can be used: with a kid, for signatures, of RSA, P-256, P-384 or Ed25519"
    )]
    NoKeys,
}

impl KeySets {
    /// One for each of these; nothing is fetched yet.
    pub(super) fn new(options: &[Jwks]) -> Result<Self, Vec<Problem>> {
        let changes = Arc::<AtomicU64>::default();
        let (mut sets, mut problems) = (Vec::new(), Vec::new());
        for (at, one) in options.iter().enumerate() {
            match KeySet::new(one, at, &changes) {
                Ok(set) => sets.push(Arc::new(set)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self { sets, changes }) } else { Err(problems) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// How often a key has gone or changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the keys of every URL are young enough to be trusted.
    pub(super) fn are_fresh(&self) -> bool {
        self.sets.iter().all(|set| set.fresh().is_some())
    }

    /// What `check` says of the key with this id, if there is one.
    pub(super) fn with_key<T>(
        &self,
        kid: &str,
        check: impl FnOnce(&VerifyingKey) -> T,
    ) -> Option<T> {
        let held: Vec<Arc<Keys>> = self.sets.iter().filter_map(|set| set.fresh()).collect();
        let key = held.iter().flat_map(|keys| &keys.usable).find(|key| key.id == kid);
        key.map(check)
    }

    /// Fetches all anew, for a key that is not known; where one was fetched just now, not again.
    pub(super) async fn refetch(&self) {
        futures_util::future::join_all(self.sets.iter().map(|set| set.refetch())).await;
    }

    /// The tasks that fetch, which never end by themselves.
    pub(super) fn tasks(&self) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> {
        self.sets.clone().into_iter().map(|set| async move { set.run().await })
    }

    /// Waits until each was fetched once, or could not be.
    pub(super) async fn begun(&self) {
        for set in &self.sets {
            let mut attempts = set.attempts.subscribe();
            let _ = attempts.wait_for(|attempts| *attempts > 0).await;
        }
    }
}

impl KeySet {
    fn new(options: &Jwks, at: usize, changes: &Arc<AtomicU64>) -> Result<Self, Problem> {
        let uri: Uri = options.url.parse().map_err(|_| {
            Problem::new(
                format!("auth.jwks[{at}].url"),
                "not a URL",
                "write it as in \"https://id.example.com/.well-known/jwks.json\"",
            )
        })?;
        let client =
            tls::https_client(&format!("auth.jwks[{at}].ca_file"), options.ca_file.as_deref())?;
        let authority = uri.authority().map_or("", Authority::as_str);
        let shown = format!("{}://{authority}{}", uri.scheme_str().unwrap_or("https"), uri.path());
        Ok(Self {
            shown,
            uri,
            options: options.clone(),
            client,
            keys: RwLock::default(),
            wanted: Notify::new(),
            attempts: watch::Sender::new(0),
            changes: Arc::clone(changes),
        })
    }

    /// The keys, unless they are too old.
    fn fresh(&self) -> Option<Arc<Keys>> {
        let keys = self.held();
        let fetched = keys.fetched?;
        (fetched.elapsed() <= self.options.max_stale.0).then_some(keys)
    }

    fn held(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long nothing is fetched for a key that is not known.
    fn cooldown(&self) -> Duration {
        let attempted = self.held().attempted;
        attempted.map_or(Duration::ZERO, |at| self.options.cooldown.0.saturating_sub(at.elapsed()))
    }

    async fn refetch(&self) {
        let mut attempts = self.attempts.subscribe();
        if !self.cooldown().is_zero() {
            return;
        }
        self.wanted.notify_one();
        // The fetch itself is bounded; this is for a task that has ended.
        let _ = tokio::time::timeout(self.options.timeout.0 + SLACK, attempts.changed()).await;
    }

    async fn run(&self) {
        loop {
            let is_good = self.attempt().await;
            let pause = if is_good { self.options.refresh.0 } else { self.options.cooldown.0 };
            // Not all nodes at once.
            let pause = pause.mul_f64(rand::random_range(0.9..1.0));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted_after_cooldown() => {}
            }
        }
    }

    /// Waits until somebody wants a key that is not known and it is time to look.
    async fn wanted_after_cooldown(&self) {
        loop {
            self.wanted.notified().await;
            if self.cooldown().is_zero() {
                return;
            }
            // Who asked was overtaken by a fetch.
            self.attempts.send_modify(|attempts| *attempts += 1);
        }
    }

    /// Fetches; whether there are keys.
    async fn attempt(&self) -> bool {
        let fetched = self.fetch().await;
        let result = if fetched.is_ok() { "ok" } else { "failed" };
        metrics::counter!("fanlight_jwks_fetches_total", "result" => result).increment(1);
        let before = self.held();
        let attempted = Some(Instant::now());
        let is_good = fetched.is_ok();
        let keys = match fetched {
            Ok((usable, source)) => {
                if before.source.iter().any(|key| !source.contains(key)) {
                    self.changes.fetch_add(1, Ordering::AcqRel);
                }
                Keys { usable, source, fetched: attempted, attempted }
            }
            Err(error) => {
                tracing::warn!(url = %self.shown, %error, "keys could not be fetched");
                let Keys { usable, source, fetched, .. } = &*before;
                Keys {
                    usable: usable.clone(),
                    source: source.clone(),
                    fetched: *fetched,
                    attempted,
                }
            }
        };
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.attempts.send_modify(|attempts| *attempts += 1);
        is_good
    }

    async fn fetch(&self) -> Result<(Vec<VerifyingKey>, Vec<Value>), FetchError> {
        let patience = self.options.timeout.0;
        let answer = tokio::time::timeout(patience, self.ask());
        let body = answer.await.map_err(|_| FetchError::Silence(patience))??;
        let set: Value = serde_json::from_slice(&body).map_err(|_| FetchError::NotASet)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(FetchError::NotASet)?;
        let mut source = Vec::new();
        let mut keys: Vec<VerifyingKey> = Vec::new();
        for jwk in listed.iter().take(KEYS_MAX) {
            match verifying_key(jwk) {
                // The first of an id stays.
                Some(key) if keys.iter().all(|known| known.id != key.id) => {
                    keys.push(key);
                    source.push(jwk.clone());
                }
                _ => {}
            }
        }
        if keys.is_empty() { Err(FetchError::NoKeys) } else { Ok((keys, source)) }
    }

    async fn ask(&self) -> Result<bytes::Bytes, FetchError> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Body::empty())
            .expect("all parts were parsed before");
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| FetchError::Unreachable(causes(&error)))?;
        // Redirects are not followed: keys come from where the configuration says.
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES);
        body.await.map_err(|_| FetchError::Body)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("url", &self.shown).finish_non_exhaustive()
    }
}

/// A key that can be used: of a public kind, for signatures, with an id. Its algorithm is what it
/// says, or the one that its kind has; a token has no say in it.
fn verifying_key(jwk: &Value) -> Option<VerifyingKey> {
    let text = |field: &str| jwk.get(field).and_then(Value::as_str);
    let id = text("kid").filter(|kid| !kid.is_empty() && kid.len() <= KID_MAX_BYTES)?;
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let operations = jwk.get("key_ops").and_then(Value::as_array);
    if operations.is_some_and(|all| !all.iter().any(|one| one == "verify")) {
        return None;
    }
    let stated = match text("alg") {
        Some(alg) => Some(alg.parse::<Algorithm>().ok()?),
        None => None,
    };
    let algorithm = match (text("kty")?, text("crv")) {
        ("RSA", _) => stated.unwrap_or(Algorithm::Rs256),
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("EC", Some("P-384")) => Algorithm::Es384,
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        _ => return None,
    };
    let fits = stated.is_none_or(|stated| stated == algorithm);
    let is_rsa = text("kty") == Some("RSA");
    if !fits || is_rsa != algorithm.is_rsa() || (is_rsa && !is_good_modulus(text("n")?)) {
        return None;
    }
    let jwk: Jwk = serde_json::from_value(jwk.clone()).ok()?;
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some(VerifyingKey { id: id.to_owned(), algorithm, decoding })
}

/// From 2048 bits on; above 8192, checking a signature would take too long.
fn is_good_modulus(n: &str) -> bool {
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(n) else { return false };
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    (256..=1024).contains(&(bytes.len() - leading))
}

/// More than any set has.
const ANSWER_BYTES: usize = 1 << 20;
const KEYS_MAX: usize = 100;
const KID_MAX_BYTES: usize = 255;
const SLACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_has_one_algorithm_and_what_is_not_for_signatures_is_none() {
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        let rsa = json!({ "kty": "RSA", "kid": "a", "n": n, "e": "AQAB" });
        let with = |field: &str, value: Value| {
            let mut key = rsa.clone();
            key[field] = value;
            verifying_key(&key).map(|key| key.algorithm)
        };
        assert_eq!(with("use", json!("sig")), Some(Algorithm::Rs256));
        assert_eq!(with("alg", json!("PS512")), Some(Algorithm::Ps512));
        for (field, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["encrypt"])),
            ("alg", json!("HS256")),
            ("alg", json!("ES256")),
            ("alg", json!("none")),
            ("kid", json!("")),
            ("kid", Value::Null),
            ("n", json!(short)),
            ("kty", json!("oct")),
            ("kty", json!("EC")),
        ] {
            assert_eq!(with(field, value.clone()), None, "{field} {value}");
        }
        let secret = json!({ "kty": "oct", "kid": "a", "alg": "HS256", "k": n });
        assert!(verifying_key(&secret).is_none());
    }
}
