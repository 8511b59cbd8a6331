//! What a token costs: the first time, when its signature is verified, and when it is remembered.

use std::fmt;

use divan::{Bencher, black_box};
use fanlight::config::{Algorithm, Auth, AuthKey, Secret};
use fanlight::jwt::{Authenticator, SigningKey, mint};
use fanlight_engine::auth::TokenRules;
use fanlight_engine::time::Now;
use futures_util::FutureExt as _;
use serde_json::json;

fn main() {
    divan::main();
}

/// Signature, claims and times.
#[divan::bench(args = KEYS)]
fn verify(bencher: Bencher<'_, '_>, key: &Key) {
    let (authenticator, rules, token) = (key.authenticator(), rules(), key.token());
    bencher.bench_local(|| {
        let claims = authenticator.verify(black_box(&token)).expect(GOOD);
        rules.principal(&claims, NOW).expect(GOOD)
    });
}

/// The same token again.
#[divan::bench(args = KEYS)]
fn remember(bencher: Bencher<'_, '_>, key: &Key) {
    let (authenticator, token) = (key.authenticator(), key.token());
    let checked = || authenticator.authenticate(black_box(&token), NOW).now_or_never();
    checked().expect(AT_ONCE).expect(GOOD);
    bencher.bench_local(|| checked().expect(AT_ONCE).expect(GOOD));
}

/// A key and its public part.
#[derive(Debug)]
struct Key {
    name: &'static str,
    algorithm: Algorithm,
    /// Of a shared secret, there is only one.
    pair: Option<[&'static str; 2]>,
}

impl Key {
    fn authenticator(&self) -> Authenticator {
        let (secret, public) = match self.pair {
            Some([_, public]) => ("", public),
            None => (SECRET, ""),
        };
        let key = AuthKey {
            id: "a".into(),
            algorithm: self.algorithm,
            secret: Secret::new(secret),
            secret_file: None,
            public_key_pem: public.into(),
            public_key_file: None,
        };
        let auth = Auth { keys: vec![key], ..Auth::default() };
        Authenticator::new(&auth, rules()).expect("the keys are in order")
    }

    /// With what a real one has.
    fn token(&self) -> String {
        let key = match self.pair {
            Some([private, _]) => SigningKey::from_pem(self.algorithm, private.as_bytes()),
            None => SigningKey::from_secret(self.algorithm, &Secret::new(SECRET)),
        };
        let claims = json!({
            "sub": "01890a5d-ac96-774b-bcce-b302099a8057",
            "iss": "https://id.test",
            "aud": "fanlight",
            "iat": 1_000_000_000,
            "exp": 1_000_003_600,
            "jti": "5f0c2c1e6c0a4b0f",
            "roles": ["customer", "beta"],
        });
        let key = key.expect("the keys are in order").with_id("a");
        mint(&key, claims.as_object().expect("it is one")).expect("it can be signed")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn rules() -> TokenRules {
    TokenRules {
        issuer: Some("https://id.test".into()),
        audience: Some("fanlight".into()),
        ..TokenRules::default()
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: Now = Now { mono_ms: 0, unix_ms: 1_000_000_000_000 };
const GOOD: &str = "the token is good";
const AT_ONCE: &str = "no key is fetched";
const KEYS: [Key; 4] = [
    Key { name: "HS256", algorithm: Algorithm::Hs256, pair: None },
    Key {
        name: "RS256",
        algorithm: Algorithm::Rs256,
        pair: Some([
            include_str!("../tests/keys/rsa.private.pem"),
            include_str!("../tests/keys/rsa.public.pem"),
        ]),
    },
    Key {
        name: "ES256",
        algorithm: Algorithm::Es256,
        pair: Some([
            include_str!("../tests/keys/p256.private.pem"),
            include_str!("../tests/keys/p256.public.pem"),
        ]),
    },
    Key {
        name: "EdDSA",
        algorithm: Algorithm::EdDsa,
        pair: Some([
            include_str!("../tests/keys/ed25519.private.pem"),
            include_str!("../tests/keys/ed25519.public.pem"),
        ]),
    },
];
