//! Identity: claims checked and turned into a principal. Signatures are the gateway's job.

use std::fmt;
use std::sync::Arc;

use fanlight_proto::CloseReason;
use serde_json::Value;

use crate::policy::Grants;
use crate::time::Now;

/// A token's claims, as its signature vouched for them.
pub type Claims = serde_json::Map<String, Value>;

/// A token on its way to be checked. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

/// What a client proves itself by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token.
    Token(Token),
    /// STOMP's `login` and `passcode`. Where the login is no account's, what proves the client is
    /// the bearer token, or else the passcode is a token.
    Login {
        /// The login, not empty.
        login: Box<str>,
        /// The passcode, not empty.
        passcode: Token,
        /// The bearer token beside them.
        bearer: Option<Token>,
    },
}

/// Who a session is: what the policy asks about, and no more of the token than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user's name, 1-128 bytes without control characters.
    pub user: Arc<str>,
    /// The user's roles.
    pub roles: Box<[Box<str>]>,
    /// The claims that the policy names; one entry for each value of a list.
    pub claims: Box<[(Box<str>, Box<str>)]>,
    /// What its token grants beyond the policy's rules.
    pub grants: Grants,
    /// When the session ends unless its token is refreshed: the token's `exp` plus the leeway, or
    /// what a backend says.
    pub expires_unix_s: Option<u64>,
    /// Whether a backend has said so.
    pub ends_by_backend: bool,
    /// The user that its token names, where a backend has called it otherwise: who revokes either
    /// revokes it.
    pub subject: Option<Arc<str>>,
    /// The token's own id (`jti`), by which it can be revoked.
    pub token_id: Option<Box<str>>,
    /// When the token was issued (`iat`): all of a user's that are older can be revoked.
    pub issued_unix_s: Option<u64>,
    /// Whether it is a service that acts for many: what one user may use does not bound it.
    pub is_service: bool,
}

/// What a capability token grants: to whoever has it, for a request at which it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The only user who may use it; `None`: anybody, also a session without a user.
    pub user: Option<Arc<str>>,
    /// What it grants.
    pub grants: Grants,
    /// When what it granted ends: its `exp` plus the leeway.
    pub expires_unix_s: u64,
    /// Its `jti`, by which it can be revoked.
    pub token_id: Option<Box<str>>,
    /// When it was issued, in Unix seconds, if it says so.
    pub issued_unix_s: Option<u64>,
}

/// What a token must say, and where it says who the user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The `iss` it must have.
    pub issuer: Option<String>,
    /// The `aud` it must have, alone or in a list.
    pub audience: Option<String>,
    /// By how much clocks may differ, in seconds.
    pub leeway_s: u64,
    /// Whether it must have an `exp`.
    pub require_exp: bool,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that lists the roles: an array of strings, or one string with spaces between.
    pub roles_claim: String,
    /// The claims to keep for the policy: [`crate::policy::Policy::claim_names`].
    pub kept_claims: Vec<String>,
    /// The claim with what the token grants.
    pub grants_claim: String,
    /// How many grants a token may have.
    pub grants: usize,
}

/// Why a token was refused. The texts are for the client and hold nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not an account's login with its passcode, nor a token. Which of the two is wrong is not told.
    #[error("the login or the passcode is wrong")]
    BadLogin,
    /// Not three parts of base64 with JSON inside.
    #[error("the token is not a JWT; send one as it was issued, without quotes")]
    Malformed,
    /// No key is configured for its `kid` and algorithm.
    #[error(
        "the token was signed with a key that is not configured here; check its `kid` and `alg`"
    )]
    UnknownKey,
    /// The signature is not by the key.
    #[error("the token's signature is wrong; was it issued for this gateway's key?")]
    BadSignature,
    /// A capability where a user's own token is needed.
    #[error("the token is a capability, which is given with a request; connect with another")]
    NotForConnecting,
    /// Another kind of token where a capability is needed.
    #[error("the token is no capability (`typ`); connect with it, or refresh by it")]
    NotACapability,
    /// A capability of another user.
    #[error("the capability is another user's (`sub`)")]
    OtherUser,
    /// The keys could not be fetched.
    #[error("the keys that check tokens can't be reached; try again later")]
    KeysUnavailable,
    /// What is revoked is still to be read, by a node that has started while Redis was away.
    #[error("this node does not know yet which tokens are revoked; try again later")]
    RevocationsUnknown,
    /// The backend that decides about connections says no; with what it wants the client to be
    /// told.
    #[error("{}", .reason.as_deref().unwrap_or("the backend does not let you in"))]
    Rejected {
        /// The text for the client.
        reason: Option<Box<str>>,
    },
    /// That backend can't be asked, or its answer is none.
    #[error("the backend that decides about connections can't be asked; try again later")]
    BackendUnavailable,
    /// `exp` is over.
    #[error("the token has expired; fetch a new one")]
    Expired,
    /// It was revoked, or all that its user had been given.
    #[error("the token was revoked; fetch a new one")]
    Revoked,
    /// `nbf` is yet to come.
    #[error("the token is not valid yet (`nbf`); check the issuer's clock")]
    NotYetValid,
    /// `iss` is not the configured issuer.
    #[error("the token's issuer (`iss`) is not accepted here")]
    WrongIssuer,
    /// `aud` does not have the configured audience.
    #[error("the token is for another audience (`aud`)")]
    WrongAudience,
    /// A claim is not there.
    #[error("the token has no claim {claim:?}; let the issuer add it")]
    MissingClaim {
        /// The claim.
        claim: String,
    },
    /// A claim is not what it should be.
    #[error("the token's claim {claim:?} is not {expected}; let the issuer correct it")]
    BadClaim {
        /// The claim.
        claim: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Token {
    /// Wraps a token as the client sent it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The token, for the one who checks it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

impl Principal {
    /// A user without roles, claims or an expiry.
    pub fn of_user(user: &str) -> Self {
        Self {
            user: user.into(),
            roles: Box::default(),
            claims: Box::default(),
            grants: Grants::default(),
            expires_unix_s: None,
            ends_by_backend: false,
            subject: None,
            token_id: None,
            issued_unix_s: None,
            is_service: false,
        }
    }

    /// Whether a user may be called so: 1-128 bytes without control characters.
    pub fn is_good_name(user: &str) -> bool {
        (1..=USER_MAX_BYTES).contains(&user.len()) && !user.contains(char::is_control)
    }

    /// Whether the user has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| **own == *role)
    }

    /// Whether the claim has this value, or is a list that holds it.
    pub fn has_claim(&self, claim: &str, value: &str) -> bool {
        self.claims_of(claim).any(|own| own == value)
    }

    /// The values of a kept claim.
    pub fn claims_of<'p>(&'p self, claim: &'p str) -> impl Iterator<Item = &'p str> {
        self.claims.iter().filter(move |(name, _)| **name == *claim).map(|(_, value)| &**value)
    }

    /// Whether no rule can tell it from `other`.
    pub fn has_rights_of(&self, other: &Self) -> bool {
        self.user == other.user
            && self.roles == other.roles
            && self.claims == other.claims
            && self.grants == other.grants
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Now) -> bool {
        self.expires_unix_s.is_some_and(|expires| expires <= now.unix_s())
    }
}

impl Capability {
    /// Whether a session of `principal` may use it.
    pub fn is_for(&self, principal: Option<&Principal>) -> bool {
        let user = principal.map(|principal| &principal.user);
        self.user.is_none() || self.user.as_ref() == user
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: Now) -> bool {
        self.expires_unix_s <= now.unix_s()
    }
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway_s: 30,
            require_exp: true,
            user_claim: "sub".into(),
            roles_claim: "roles".into(),
            kept_claims: Vec::new(),
            grants_claim: "fanlight".into(),
            grants: 64,
        }
    }
}

impl TokenRules {
    /// Checks the claims of a token whose signature is good.
    pub fn principal(&self, claims: &Claims, now: Now) -> Result<Principal, AuthError> {
        let expires_unix_s = self.check_times(claims, now)?;
        self.check_issuer_and_audience(claims)?;
        Ok(Principal {
            user: self.user(claims)?,
            roles: self.roles(claims)?,
            claims: self.kept(claims),
            grants: self.granted(claims)?,
            expires_unix_s,
            ends_by_backend: false,
            subject: None,
            token_id: token_id(claims),
            issued_unix_s: issued(claims),
            is_service: false,
        })
    }

    /// Checks the claims of a capability token whose signature is good. It must have an end, and
    /// grant something.
    pub fn capability(&self, claims: &Claims, now: Now) -> Result<Capability, AuthError> {
        let missing = |claim: &str| AuthError::MissingClaim { claim: claim.to_owned() };
        let expires_unix_s = self.check_times(claims, now)?.ok_or_else(|| missing("exp"))?;
        self.check_issuer_and_audience(claims)?;
        let is_bound = claims.contains_key(&self.user_claim);
        let user = if is_bound { Some(self.user(claims)?) } else { None };
        let grants = self.granted(claims)?;
        if grants.is_empty() {
            return Err(missing(&self.grants_claim));
        }
        Ok(Capability {
            user,
            grants,
            expires_unix_s,
            token_id: token_id(claims),
            issued_unix_s: issued(claims),
        })
    }

    /// What these claims grant beside the policy's rules.
    pub fn granted(&self, claims: &Claims) -> Result<Grants, AuthError> {
        let claim = claims.get(&self.grants_claim).unwrap_or(&Value::Null);
        Grants::read(claim, self.grants).map_err(|bad| AuthError::BadClaim {
            claim: self.grants_claim.clone(),
            expected: bad.0,
        })
    }

    fn check_times(&self, claims: &Claims, now: Now) -> Result<Option<u64>, AuthError> {
        let now_s = now.unix_s();
        if seconds(claims, "nbf")?.is_some_and(|nbf| nbf > now_s.saturating_add(self.leeway_s)) {
            return Err(AuthError::NotYetValid);
        }
        let expires = seconds(claims, "exp")?.map(|exp| exp.saturating_add(self.leeway_s));
        match expires {
            Some(expires) if expires <= now_s => Err(AuthError::Expired),
            None if self.require_exp => Err(AuthError::MissingClaim { claim: "exp".into() }),
            expires => Ok(expires),
        }
    }

    fn check_issuer_and_audience(&self, claims: &Claims) -> Result<(), AuthError> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        if self.issuer.is_some() && issuer != self.issuer.as_deref() {
            return Err(AuthError::WrongIssuer);
        }
        let Some(audience) = &self.audience else {
            return Ok(());
        };
        let named = match claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if named { Ok(()) } else { Err(AuthError::WrongAudience) }
    }

    fn user(&self, claims: &Claims) -> Result<Arc<str>, AuthError> {
        let claim = || self.user_claim.clone();
        let value = claims
            .get(&self.user_claim)
            .ok_or_else(|| AuthError::MissingClaim { claim: claim() })?;
        let user = match value {
            Value::String(name) => Some(name.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        user.filter(|user| Principal::is_good_name(user)).map(Into::into).ok_or_else(|| {
            AuthError::BadClaim {
                claim: claim(),
                expected: "a name of 1-128 bytes without control characters",
            }
        })
    }

    fn roles(&self, claims: &Claims) -> Result<Box<[Box<str>]>, AuthError> {
        let bad = || AuthError::BadClaim {
            claim: self.roles_claim.clone(),
            expected: "a list of strings",
        };
        match claims.get(&self.roles_claim) {
            None | Some(Value::Null) => Ok(Box::default()),
            Some(Value::String(roles)) => Ok(roles.split_whitespace().map(Into::into).collect()),
            Some(Value::Array(roles)) => {
                roles.iter().map(|role| role.as_str().map(Into::into).ok_or_else(bad)).collect()
            }
            Some(_) => Err(bad()),
        }
    }

    /// Of these, the claims that the policy names.
    pub fn kept(&self, claims: &Claims) -> Box<[(Box<str>, Box<str>)]> {
        let mut kept = Vec::new();
        for name in &self.kept_claims {
            let values = match claims.get(name) {
                Some(Value::Array(values)) => values.as_slice(),
                Some(value) => std::slice::from_ref(value),
                None => &[],
            };
            let texts = values.iter().filter_map(text_of);
            kept.extend(texts.map(|text| (name.as_str().into(), text.into())));
        }
        kept.into()
    }
}

impl AuthError {
    /// How a session ends for it.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Expired => CloseReason::TokenExpired,
            Self::Revoked => CloseReason::Revoked,
            _ if self.is_temporary() => CloseReason::Unavailable,
            _ => CloseReason::Unauthorized,
        }
    }

    /// Whether the same token may be good a little later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::KeysUnavailable | Self::RevocationsUnknown | Self::BackendUnavailable)
    }
}

fn token_id(claims: &Claims) -> Option<Box<str>> {
    claims.get("jti").and_then(Value::as_str).map(Into::into)
}

fn issued(claims: &Claims) -> Option<u64> {
    seconds(claims, "iat").ok().flatten()
}

/// A `NumericDate` (RFC 7519 §2): seconds, perhaps with a fraction.
fn seconds(claims: &Claims, claim: &str) -> Result<Option<u64>, AuthError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    let whole = value.as_u64();
    #[expect(clippy::cast_sign_loss, reason = "a float cast saturates: a negative date becomes 0")]
    let seconds = whole.or_else(|| value.as_f64().map(|seconds| seconds as u64));
    let expected = "a number of seconds since 1970";
    seconds.map(Some).ok_or_else(|| AuthError::BadClaim { claim: claim.into(), expected })
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Leaves room for a path in a user destination of 255 bytes.
const USER_MAX_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Now = Now { mono_ms: 0, unix_ms: 1_000_000_000 };

    fn principal(rules: &TokenRules, claims: Value) -> Result<Principal, AuthError> {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        rules.principal(&claims, NOW)
    }

    fn refusal(rules: &TokenRules, claims: Value) -> AuthError {
        principal(rules, claims).expect_err("refused")
    }

    #[test]
    fn a_good_token_becomes_a_principal_with_only_the_claims_that_rules_name() {
        let rules =
            TokenRules { kept_claims: vec!["org".into(), "level".into()], ..TokenRules::default() };
        let claims = json!({
            "sub": "ann", "exp": 1_000_100, "jti": "t-1", "roles": ["admin", "ops"],
            "org": ["a", "b", "", {}], "level": 3, "email": "ann@example.com",
        });
        let ann = principal(&rules, claims).unwrap();
        assert_eq!(&*ann.user, "ann");
        assert!(ann.has_role("ops") && !ann.has_role("op"));
        assert!(ann.has_claim("org", "b") && ann.has_claim("level", "3"));
        assert_eq!(ann.claims.len(), 3);
        assert_eq!(ann.expires_unix_s, Some(1_000_130));
        assert_eq!(ann.token_id.as_deref(), Some("t-1"));
    }

    #[test]
    fn times_are_checked_with_leeway_to_the_second() {
        let rules = TokenRules::default();
        let expired = |exp: Value| principal(&rules, json!({"sub": "a", "exp": exp})).err();
        assert_eq!(expired(json!(999_970)), Some(AuthError::Expired));
        assert_eq!(expired(json!(999_971)), None);
        assert_eq!(expired(json!(999_971.9)), None);
        assert_eq!(expired(json!(-5)), Some(AuthError::Expired));
        assert!(matches!(expired(json!("soon")), Some(AuthError::BadClaim { .. })));
        let early = |nbf: u64| principal(&rules, json!({"sub": "a", "exp": 2e6, "nbf": nbf})).err();
        assert_eq!(early(1_000_030), None);
        assert_eq!(early(1_000_031), Some(AuthError::NotYetValid));
    }

    #[test]
    fn a_token_without_exp_is_refused_unless_configured() {
        let claims = || json!({"sub": "a"});
        let missing = AuthError::MissingClaim { claim: "exp".into() };
        assert_eq!(refusal(&TokenRules::default(), claims()), missing);
        let lenient = TokenRules { require_exp: false, ..TokenRules::default() };
        assert_eq!(principal(&lenient, claims()).unwrap().expires_unix_s, None);
    }

    #[test]
    fn issuer_and_audience_must_be_the_configured_ones() {
        let rules = TokenRules {
            issuer: Some("https://id".into()),
            audience: Some("fanlight".into()),
            ..TokenRules::default()
        };
        let with = |iss: Value, aud: Value| {
            principal(&rules, json!({"sub": "a", "exp": 2e6, "iss": iss, "aud": aud})).err()
        };
        assert_eq!(with(json!("https://id"), json!("fanlight")), None);
        assert_eq!(with(json!("https://id"), json!(["x", "fanlight"])), None);
        assert_eq!(with(json!("https://evil"), json!("fanlight")), Some(AuthError::WrongIssuer));
        assert_eq!(with(Value::Null, json!("fanlight")), Some(AuthError::WrongIssuer));
        assert_eq!(with(json!("https://id"), json!("other")), Some(AuthError::WrongAudience));
        assert_eq!(with(json!("https://id"), Value::Null), Some(AuthError::WrongAudience));
    }

    #[test]
    fn the_user_is_a_short_plain_name_from_the_configured_claim() {
        let rules = TokenRules { user_claim: "uid".into(), ..TokenRules::default() };
        let user = |uid: Value| {
            principal(&rules, json!({"uid": uid, "exp": 2e6})).map(|p| p.user.to_string()).ok()
        };
        assert_eq!(user(json!("bob")), Some("bob".into()));
        assert_eq!(user(json!(42)), Some("42".into()));
        for bad in [json!(""), json!("a\nb"), json!(["x"]), json!("x".repeat(129))] {
            assert_eq!(user(bad.clone()), None, "{bad}");
        }
        let missing = AuthError::MissingClaim { claim: "uid".into() };
        assert_eq!(refusal(&rules, json!({"exp": 2e6})), missing);
    }

    #[test]
    fn rights_are_the_users_name_roles_and_claims_and_not_the_tokens_own_data() {
        let ann = Principal::of_user("ann");
        let role = Principal { roles: ["ops".into()].into(), ..ann.clone() };
        let claim = Principal { claims: [("org".into(), "a".into())].into(), ..ann.clone() };
        let token =
            Principal { expires_unix_s: Some(1), token_id: Some("t".into()), ..ann.clone() };
        assert!(ann.has_rights_of(&token));
        for other in [role, claim, Principal::of_user("bob")] {
            assert!(!ann.has_rights_of(&other) && !other.has_rights_of(&ann), "{other:?}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(redacted)");
    }
}
