//! Which tokens are accepted, and why others are not.

use futures_util::FutureExt as _;
use serde_json::json;

use super::*;
use crate::config::{AuthKey, Secret};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PAIRS: [(&[Algorithm], &str); 4] = [
    (
        &[
            Algorithm::Rs256,
            Algorithm::Rs384,
            Algorithm::Rs512,
            Algorithm::Ps256,
            Algorithm::Ps384,
            Algorithm::Ps512,
        ],
        "rsa",
    ),
    (&[Algorithm::Es256], "p256"),
    (&[Algorithm::Es384], "p384"),
    (&[Algorithm::EdDsa], "ed25519"),
];

fn pem(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    std::fs::read_to_string(format!("{folder}/{name}.pem")).unwrap()
}

fn key(algorithm: Algorithm, id: &str, secret: &str, public_key_pem: &str) -> AuthKey {
    AuthKey {
        id: id.into(),
        algorithm,
        secret: Secret::new(secret),
        secret_file: None,
        public_key_pem: public_key_pem.into(),
        public_key_file: None,
    }
}

fn hmac(id: &str, secret: &str) -> AuthKey {
    key(Algorithm::Hs256, id, secret, "")
}

fn authenticator(keys: &[AuthKey]) -> Authenticator {
    Authenticator::new(&Auth { keys: keys.into(), ..Auth::default() }, rules()).unwrap()
}

#[test]
fn until_it_is_known_what_is_revoked_a_good_token_waits_and_a_bad_one_is_refused() {
    let revoked = Arc::new(RevokedList::incomplete());
    let keys = authenticator(&[hmac("", SECRET)]).with_revoked(&revoked);
    let now = Now { mono_ms: 0, unix_ms: 1_000_000 };
    let good = signed(Algorithm::Hs256, SECRET, "");
    let foreign = signed(Algorithm::Hs256, &SECRET.replace('0', "9"), "");
    assert_eq!(now_of(&keys, &good, now).unwrap_err(), AuthError::RevocationsUnknown);
    assert_eq!(now_of(&keys, &foreign, now).unwrap_err(), AuthError::BadSignature);
    revoked.complete();
    assert!(now_of(&keys, &good, now).is_ok());
}

/// What is answered without waiting for anything.
fn now_of(keys: &Authenticator, token: &str, now: Now) -> Result<Arc<Principal>, AuthError> {
    keys.authenticate(token, now).now_or_never().unwrap()
}

fn rules() -> TokenRules {
    TokenRules {
        issuer: Some("https://id.test".into()),
        audience: Some("fanlight".into()),
        leeway_s: 30,
        ..TokenRules::default()
    }
}

fn problems(key: AuthKey) -> String {
    let auth = Auth { keys: vec![key], ..Auth::default() };
    let problems = Authenticator::new(&auth, TokenRules::default()).unwrap_err();
    let told = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.fault));
    told.collect::<Vec<_>>().join("\n") + "\n"
}

fn claims() -> Claims {
    let claims = json!({ "sub": "ann", "exp": 2_000, "iss": "https://id.test", "aud": "fanlight" });
    claims.as_object().unwrap().clone()
}

fn signed(algorithm: Algorithm, secret: &str, kid: &str) -> String {
    let key = SigningKey::from_secret(algorithm, &Secret::new(secret)).unwrap().with_id(kid);
    mint(&key, &claims()).unwrap()
}

/// A token with any header, signed with HMAC-SHA256 over `secret`, however unfit that is.
fn forged(header: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(&Value::Object(claims())));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn a_token_of_every_algorithm_is_accepted_by_its_key() {
    for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
        let token = signed(algorithm, SECRET, "");
        assert_eq!(authenticator(&[key(algorithm, "", SECRET, "")]).verify(&token), Ok(claims()));
    }
    for (algorithms, name) in PAIRS {
        for algorithm in algorithms {
            let private = pem(&format!("{name}.private"));
            let signing = SigningKey::from_pem(*algorithm, private.as_bytes()).unwrap();
            let token = mint(&signing, &claims()).unwrap();
            let public = pem(&format!("{name}.public"));
            let checked = authenticator(&[key(*algorithm, "", "", &public)]).verify(&token);
            assert_eq!(checked, Ok(claims()), "{algorithm}");
        }
    }
}

#[test]
fn the_public_key_is_no_secret_even_if_the_token_says_so() {
    let public = pem("rsa.public");
    let token = forged(&json!({ "alg": "HS256" }), public.as_bytes());
    let refused = Err(TokenError::AlgorithmNotAllowed { algorithm: "HS256".into() });
    assert_eq!(authenticator(&[key(Algorithm::Rs256, "", "", &public)]).verify(&token), refused);
    // Nor where another key is for that algorithm.
    let both = authenticator(&[key(Algorithm::Rs256, "", "", &public), hmac("", SECRET)]);
    assert_eq!(both.verify(&token), Err(TokenError::BadSignature));
    let named = forged(&json!({ "alg": "HS256", "kid": "rsa" }), public.as_bytes());
    let both = authenticator(&[key(Algorithm::Rs256, "rsa", "", &public), hmac("", SECRET)]);
    assert_eq!(both.verify(&named), refused);
}

#[test]
fn an_unsigned_token_is_refused() {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for algorithm in ["none", "None", "NONE", "", "hs256"] {
        let header = json!({ "alg": algorithm }).to_string();
        let token = format!("{}.{}.", part(&header), part(r#"{"sub":"ann","exp":2000}"#));
        let refused = Err(TokenError::AlgorithmNotAllowed { algorithm: algorithm.into() });
        assert_eq!(authenticator(&[hmac("", SECRET)]).verify(&token), refused, "{algorithm:?}");
    }
}

#[test]
fn kid_selects_the_key() {
    let other = SECRET.replace('0', "9");
    let keys = authenticator(&[hmac("a", SECRET), hmac("b", &other)]);
    let token = |secret: &str, kid: &str| signed(Algorithm::Hs256, secret, kid);
    assert_eq!(keys.verify(&token(SECRET, "a")), Ok(claims()));
    assert_eq!(keys.verify(&token(&other, "b")), Ok(claims()));
    assert_eq!(keys.verify(&token(SECRET, "b")), Err(TokenError::BadSignature));
    let unknown = Err(TokenError::UnknownKey { kid: "c".into() });
    assert_eq!(keys.verify(&token(SECRET, "c")), unknown);
    assert_eq!(keys.verify(&token(&other, "")), Ok(claims()), "without kid, all are tried");
    let anonymous = authenticator(&[hmac("", SECRET)]);
    assert_eq!(anonymous.verify(&token(SECRET, "c")), Ok(claims()), "a key without id takes any");
}

#[test]
fn what_was_changed_or_signed_by_others_is_refused() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let token = signed(Algorithm::Hs256, SECRET, "");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let root = URL_SAFE_NO_PAD.encode(r#"{"sub":"root","exp":2000}"#);
    for token in [
        format!("{header}.{root}.{signature}"),
        format!("{message}."),
        format!("{message}.{}", &signature[1..]),
        signed(Algorithm::Hs256, &SECRET.replace('0', "1"), ""),
    ] {
        assert_eq!(keys.verify(&token), Err(TokenError::BadSignature), "{token}");
    }
}

#[test]
fn garbage_is_malformed() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let token = signed(Algorithm::Hs256, SECRET, "");
    for garbage in
        ["", ".", "..", "a.b", "a.b.c", "\0.é.\u{1F600}", &format!("{token}.x"), &token[1..]]
    {
        assert_eq!(keys.verify(garbage), Err(TokenError::Malformed), "{garbage:?}");
    }
    let demanding =
        forged(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), SECRET.as_bytes());
    assert_eq!(keys.verify(&demanding), Err(TokenError::CriticalExtension));
}

#[test]
fn a_token_with_a_good_signature_still_needs_good_claims() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let key = SigningKey::from_secret(Algorithm::Hs256, &Secret::new(SECRET)).unwrap();
    let refusal = |claim: &str, value: Value, unix_s: u64| {
        let mut claims = claims();
        claims.insert(claim.into(), value);
        let now = Now { mono_ms: 0, unix_ms: unix_s * 1000 };
        now_of(&keys, &mint(&key, &claims).unwrap(), now).map(|ann| ann.user.to_string())
    };
    assert_eq!(refusal("x", json!(1), 2_029), Ok("ann".into()));
    assert_eq!(refusal("x", json!(1), 2_030), Err(AuthError::Expired));
    assert_eq!(refusal("nbf", json!(1_000), 969), Err(AuthError::NotYetValid));
    assert_eq!(refusal("nbf", json!(1_000), 970), Ok("ann".into()));
    assert_eq!(refusal("iss", json!("https://evil.test"), 1_000), Err(AuthError::WrongIssuer));
    assert_eq!(refusal("aud", json!(["other"]), 1_000), Err(AuthError::WrongAudience));
    assert_eq!(now_of(&keys, "x", Now { mono_ms: 0, unix_ms: 0 }), Err(AuthError::Malformed));
}

#[test]
fn a_token_is_verified_once_and_still_expires() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let key = SigningKey::from_secret(Algorithm::Hs256, &Secret::new(SECRET)).unwrap();
    let token = mint(&key, &claims()).unwrap();
    let at = |unix_s: u64| Now { mono_ms: 0, unix_ms: unix_s * 1000 };
    let first = now_of(&keys, &token, at(1_000)).unwrap();
    assert!(Arc::ptr_eq(&first, &now_of(&keys, &token, at(2_029)).unwrap()));
    assert_eq!(now_of(&keys, &token, at(2_030)), Err(AuthError::Expired));
    let forged = format!("{}x", &token[..token.len() - 1]);
    assert_eq!(now_of(&keys, &forged, at(1_000)), Err(AuthError::BadSignature));
    let again = now_of(&keys, &token, at(1_000)).unwrap();
    assert!(!Arc::ptr_eq(&first, &again));
}

#[test]
fn only_what_was_found_good_is_remembered() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let key = SigningKey::from_secret(Algorithm::Hs256, &Secret::new(SECRET)).unwrap();
    let mut early = claims();
    early.insert("nbf".into(), json!(1_000));
    let token = mint(&key, &early).unwrap();
    let at = |unix_s: u64| Now { mono_ms: 0, unix_ms: unix_s * 1000 };
    for _ in 0..2 {
        assert_eq!(now_of(&keys, &token, at(969)), Err(AuthError::NotYetValid));
    }
    assert!(now_of(&keys, &token, at(970)).is_ok());
    // One that has expired is not remembered either, whatever the clock says next.
    assert_eq!(now_of(&keys, &token, at(2_030)), Err(AuthError::Expired));
    assert_eq!(now_of(&keys, &token, at(969)), Err(AuthError::NotYetValid));
}

#[test]
fn a_token_is_forgotten_with_the_key_that_signed_it() {
    let other = SECRET.replace('0', "9");
    let before = authenticator(&[hmac("old", SECRET), hmac("new", &other)]);
    let token = signed(Algorithm::Hs256, SECRET, "old");
    let now = Now { mono_ms: 0, unix_ms: 1_000_000 };
    assert!(now_of(&before, &token, now).is_ok());
    assert!(now_of(&before, &token, now).is_ok());
    let after = authenticator(&[hmac("new", &other)]);
    assert_eq!(now_of(&after, &token, now), Err(AuthError::UnknownKey));
}

#[test]
fn a_key_that_could_not_be_safe_is_refused_at_the_start() {
    let two = AuthKey { public_key_pem: pem("rsa.public"), ..hmac("", SECRET) };
    let both = key(Algorithm::Rs256, "", SECRET, "");
    let cases = [
        hmac("", "short"),
        hmac("", &pem("rsa.public")),
        hmac("", ""),
        two,
        both,
        key(Algorithm::Rs256, "", "", &pem("rsa.private")),
        key(Algorithm::Rs256, "", "", &pem("rsa1024.public")),
        key(Algorithm::Rs256, "", "", &pem("p256.public")),
        key(Algorithm::Es256, "", "", &pem("p384.public")),
        key(Algorithm::EdDsa, "", "", "not a key"),
        AuthKey { secret_file: Some("/nowhere/secret".into()), ..hmac("", "") },
    ];
    let told: String = cases.into_iter().map(problems).collect();
    expect_test::expect![[r"
        auth.keys[0].secret: a secret of 5 bytes is too short for HS256
        auth.keys[0].secret: a PEM file is no secret: its public part is known to others
        auth.keys[0]: no key in it
        auth.keys[0].public_key_pem: a second key in one entry
        auth.keys[0].secret: does not fit the algorithm
        auth.keys[0].public_key_pem: a private key, which has no business here
        auth.keys[0].public_key_pem: an RSA key of fewer than 2048 bits
        auth.keys[0].public_key_pem: not a public key for RS256
        auth.keys[0].public_key_pem: a key on another curve than that of ES256
        auth.keys[0].public_key_pem: not a public key for EdDSA
        auth.keys[0].secret_file: can't read /nowhere/secret: No such file or directory (os error 2)
    "]]
    .assert_eq(&told);
}

#[test]
fn a_login_is_an_accounts_or_else_the_passcode_is_a_token() {
    use crate::config::Account;
    use fanlight_engine::auth::Token;

    let account = Account {
        login: "app".into(),
        passcode: Secret::new("sesame"),
        passcode_file: None,
        roles: Vec::new(),
    };
    let auth = |accounts: &[Account]| Auth {
        keys: vec![hmac("", SECRET)],
        accounts: accounts.into(),
        ..Auth::default()
    };
    let with = Authenticator::new(&auth(&[account]), TokenRules::default()).unwrap();
    let without = Authenticator::new(&auth(&[]), TokenRules::default()).unwrap();
    let now = Now { mono_ms: 0, unix_ms: 1_000_000_000 };
    let signing = SigningKey::from_secret(Algorithm::Hs256, &Secret::new(SECRET)).unwrap();
    let token = |exp: u64| {
        let claims = json!({ "sub": "ann", "exp": exp });
        mint(&signing, claims.as_object().unwrap()).unwrap()
    };
    let (good, expired) = (token(1_000_100), token(1));
    let forged = format!("{}x", good.rsplit_once('.').unwrap().0.to_owned() + ".AAAA");
    let check = |by: &Authenticator, login: &str, passcode: &str, bearer: Option<&str>| {
        let (login, passcode) = (login.into(), Token::new(passcode));
        let credentials = Credentials::Login { login, passcode, bearer: bearer.map(Token::new) };
        by.check(&credentials, now)
            .now_or_never()
            .unwrap()
            .map(|principal| principal.user.to_string())
    };
    let bad = || Err(AuthError::BadLogin);
    assert_eq!(check(&with, "app", "sesame", None), Ok("app".into()));
    assert_eq!(check(&with, "app", "sesame", Some(&good)), Ok("app".into()));
    assert_eq!(check(&with, "app", &good, Some(&good)), bad());
    assert_eq!(check(&with, "any", &good, None), Ok("ann".into()));
    assert_eq!(check(&with, "any", "sesame", Some(&good)), Ok("ann".into()));
    // What no key of ours has signed tells nothing of which logins are known.
    assert_eq!(check(&with, "any", "sesame", None), bad());
    assert_eq!(check(&with, "any", &forged, None), bad());
    assert_eq!(check(&with, "any", &expired, None), Err(AuthError::Expired));
    assert_eq!(check(&without, "any", "sesame", None), Err(AuthError::Malformed));
}

#[test]
fn a_capability_is_no_bearers_token_nor_the_other_way_round() {
    let keys = authenticator(&[hmac("", SECRET)]);
    let key = SigningKey::from_secret(Algorithm::Hs256, &Secret::new(SECRET)).unwrap();
    let now = Now { mono_ms: 0, unix_ms: 1_000_000 };
    let authorize = |token: &str, unix_s: u64| {
        let now = Now { mono_ms: 0, unix_ms: unix_s * 1000 };
        keys.authorize(token, now).now_or_never().unwrap()
    };
    let mut granting = claims();
    granting.insert("fanlight".into(), json!({ "subscribe": ["/topic/orders.42"] }));
    let capability = mint_capability(&key, &granting).unwrap();
    assert_eq!(now_of(&keys, &capability, now), Err(AuthError::NotForConnecting));
    let known = authorize(&capability, 1_000).unwrap();
    assert_eq!((known.user.as_deref(), known.expires_unix_s), (Some("ann"), 2_030));
    assert_eq!(authorize(&capability, 2_030), Err(AuthError::Expired));
    // It grants nothing that it does not say by its type, whatever it is called.
    let bearer = mint(&key, &granting).unwrap();
    assert_eq!(authorize(&bearer, 1_000), Err(AuthError::NotACapability));
    assert!(!now_of(&keys, &bearer, now).unwrap().grants.is_empty());
    for typ in ["FL-CAP+JWT", "application/fl-cap+jwt"] {
        let token = forged(&json!({ "alg": "HS256", "typ": typ }), SECRET.as_bytes());
        assert_eq!(now_of(&keys, &token, now), Err(AuthError::NotForConnecting), "{typ}");
    }
    let bad = |claim: &str, value: Value| {
        let mut claims = granting.clone();
        if value.is_null() {
            claims.remove(claim)
        } else {
            claims.insert(claim.into(), value)
        };
        authorize(&mint_capability(&key, &claims).unwrap(), 1_000).unwrap_err()
    };
    assert_eq!(bad("exp", Value::Null), AuthError::MissingClaim { claim: "exp".into() });
    assert_eq!(bad("fanlight", Value::Null), AuthError::MissingClaim { claim: "fanlight".into() });
    assert_eq!(bad("aud", json!("other")), AuthError::WrongAudience);
    assert!(matches!(bad("sub", json!([])), AuthError::BadClaim { .. }));
    let wide = json!({ "subscribe": ["/**"] });
    assert!(matches!(bad("fanlight", wide), AuthError::BadClaim { .. }));
}
