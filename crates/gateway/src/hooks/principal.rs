//! The principal that a backend makes of a client, or of a session that is to go on.

use std::sync::Arc;

use fanlight_engine::auth::{AuthError, Principal};
use fanlight_engine::policy::Grants;

use super::UNAVAILABLE;
use super::identity::Identity;
use super::verdict::{Connected, shown};
use crate::jwt::Authenticator;

/// Of a client that is let in: what the answer leaves out is as its token says. `None`: it is
/// nobody in particular.
pub(super) fn connected(
    answer: Connected,
    identity: &Identity,
    authenticator: &Authenticator,
) -> Result<Option<Arc<Principal>>, AuthError> {
    let answer = allowed(answer)?;
    let known = identity.principal.as_deref();
    let user: Arc<str> = match (named(&answer)?, known) {
        (Some(user), _) => user,
        (None, Some(known)) => Arc::clone(&known.user),
        (None, None) if answer.roles.is_none() && answer.claims.is_none() => return Ok(None),
        (None, None) => return Err(unusable("`user` is missing")),
    };
    let own = by_token(identity, &user);
    let base = known.map_or_else(|| Principal::of_user(&user), Principal::clone);
    let end = match answer.expires_at {
        None => (base.expires_unix_s, false),
        expires => (expires, true),
    };
    Ok(Some(Arc::new(said(answer, base, user, own, end, authenticator)?)))
}

/// Of a session that goes on: what the answer leaves out stays as the session has it, not as a new
/// token says. Only the time is that of the new token, unless a backend has said how long the
/// session may last.
pub(super) fn renewed(
    answer: Connected,
    former: &Principal,
    identity: &Identity,
    authenticator: &Authenticator,
) -> Result<Arc<Principal>, AuthError> {
    let answer = allowed(answer)?;
    let known = identity.principal.as_deref();
    let is_same = |known: &Principal| {
        known.user == former.user || former.subject.as_ref() == Some(&known.user)
    };
    let user = match (named(&answer)?, known) {
        (Some(user), _) => user,
        // The session refuses it: it is another user's.
        (None, Some(known)) if !is_same(known) => Arc::clone(&known.user),
        (None, _) => Arc::clone(&former.user),
    };
    let own = if known.is_some() || identity.token.is_some() {
        by_token(identity, &user)
    } else {
        ByToken::of(former)
    };
    let end = match (answer.expires_at, known) {
        (Some(expires), _) => (Some(expires), true),
        (None, Some(known)) if !former.ends_by_backend => (known.expires_unix_s, false),
        (None, _) => (former.expires_unix_s, former.ends_by_backend),
    };
    Ok(Arc::new(said(answer, former.clone(), user, own, end, authenticator)?))
}

/// By which token somebody has come, so that it can be revoked.
struct ByToken {
    token_id: Option<Box<str>>,
    issued_unix_s: Option<u64>,
    subject: Option<Arc<str>>,
}

impl ByToken {
    fn of(principal: &Principal) -> Self {
        let Principal { token_id, issued_unix_s, subject, .. } = principal;
        Self { token_id: token_id.clone(), issued_unix_s: *issued_unix_s, subject: subject.clone() }
    }
}

/// A token that only the backend can check has the name that one of ours without a `jti` has.
fn by_token(identity: &Identity, user: &Arc<str>) -> ByToken {
    match identity.principal.as_deref() {
        Some(known) => {
            let subject = Some(&known.user).filter(|subject| *subject != user).cloned();
            ByToken { subject, ..ByToken::of(known) }
        }
        None => ByToken { token_id: identity.token_name(), issued_unix_s: None, subject: None },
    }
}

/// `base` with what the answer says instead.
fn said(
    answer: Connected,
    base: Principal,
    user: Arc<str>,
    ByToken { token_id, issued_unix_s, subject }: ByToken,
    (expires_unix_s, ends_by_backend): (Option<u64>, bool),
    authenticator: &Authenticator,
) -> Result<Principal, AuthError> {
    // As with a token: its claims also say what is granted.
    let (grants, claims): (Grants, _) = match &answer.claims {
        Some(claims) => {
            let grants = authenticator.granted(claims);
            let grants = grants.map_err(|error| unusable(&error.to_string()))?;
            (grants, authenticator.kept_claims(claims))
        }
        None => (base.grants, base.claims),
    };
    Ok(Principal {
        user,
        roles: answer.roles.map_or(base.roles, Into::into),
        claims,
        grants,
        expires_unix_s,
        ends_by_backend,
        subject,
        token_id,
        issued_unix_s,
        is_service: false,
    })
}

fn allowed(answer: Connected) -> Result<Connected, AuthError> {
    if answer.allow {
        Ok(answer)
    } else {
        Err(AuthError::Rejected { reason: shown(answer.reason) })
    }
}

/// The user that the answer names.
fn named(answer: &Connected) -> Result<Option<Arc<str>>, AuthError> {
    match &answer.user {
        Some(user) if Principal::is_good_name(user) => Ok(Some(user.as_str().into())),
        Some(_) => Err(unusable("`user` is not a user's name")),
        None => Ok(None),
    }
}

fn unusable(fault: &str) -> AuthError {
    tracing::warn!(fault, "what a webhook has answered about a client can't be used");
    UNAVAILABLE
}

#[cfg(test)]
mod tests {
    use fanlight_engine::auth::{Token, TokenRules};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Auth;

    fn authenticator() -> Authenticator {
        let rules = TokenRules { kept_claims: vec!["org".into()], ..TokenRules::default() };
        Authenticator::new(&Auth::default(), rules).unwrap()
    }

    fn answer(answer: Value) -> Connected {
        serde_json::from_value(answer).unwrap()
    }

    /// `sub` with the role that the token says.
    fn by(sub: &str, expires_unix_s: u64) -> Identity {
        let principal = Principal {
            roles: ["of-token".into()].into(),
            expires_unix_s: Some(expires_unix_s),
            token_id: Some(format!("jti-{sub}").into()),
            issued_unix_s: Some(7),
            ..Principal::of_user(sub)
        };
        Identity { principal: Some(Arc::new(principal)), ..Identity::default() }
    }

    fn opaque(token: &str) -> Identity {
        Identity { token: Some(Token::new(token)), ..Identity::default() }
    }

    #[test]
    fn what_a_refresh_leaves_out_is_as_the_session_has_it_and_not_as_the_token_says() {
        let authenticator = authenticator();
        let renewed = |told: Value, former: &Principal, identity: &Identity| {
            renewed(answer(told), former, identity, &authenticator)
        };
        let told = json!({ "allow": true, "user": "internal", "roles": [], "expires_at": 100,
            "claims": { "org": "acme" } });
        let mapped = connected(answer(told), &by("ann", 900), &authenticator).unwrap().unwrap();
        assert_eq!((&*mapped.user, mapped.subject.as_deref()), ("internal", Some("ann")));
        let bare = json!({ "allow": true });
        for identity in [by("ann", 5000), by("internal", 5000), opaque("x"), Identity::default()] {
            let same = renewed(bare.clone(), &mapped, &identity).unwrap();
            assert!(same.has_rights_of(&mapped), "{identity:?}: {same:?}");
            assert_eq!((same.expires_unix_s, same.ends_by_backend), (Some(100), true));
        }
        assert_eq!(*renewed(bare.clone(), &mapped, &Identity::default()).unwrap(), *mapped);
        // Another's token is another's, unless the backend says whose it is.
        let other = renewed(bare.clone(), &mapped, &by("bob", 5000)).unwrap();
        assert_eq!(&*other.user, "bob");
        let told =
            json!({ "allow": true, "user": "internal", "roles": ["new"], "expires_at": 200 });
        let again = renewed(told, &mapped, &by("bob", 5000)).unwrap();
        assert_eq!((&*again.user, again.subject.as_deref()), ("internal", Some("bob")));
        assert_eq!(again.token_id.as_deref(), Some("jti-bob"));
        assert!(again.has_role("new") && again.has_claim("org", "acme"));
        assert_eq!(again.expires_unix_s, Some(200));

        // Where no backend has said how long, that is the token's to say.
        let plain = connected(answer(bare.clone()), &by("ann", 900), &authenticator);
        let plain = plain.unwrap().unwrap();
        assert!(plain.has_role("of-token") && plain.subject.is_none());
        let longer = renewed(bare, &plain, &by("ann", 5000)).unwrap();
        assert_eq!((longer.expires_unix_s, longer.ends_by_backend), (Some(5000), false));
        let refused = renewed(json!({ "allow": false, "reason": "no" }), &plain, &opaque("x"));
        assert_eq!(refused, Err(AuthError::Rejected { reason: Some("no".into()) }));
    }

    #[test]
    fn a_token_that_only_the_backend_knows_can_be_named_and_a_passcode_can_not() {
        let authenticator = authenticator();
        let told = || answer(json!({ "allow": true, "user": "ann" }));
        let ann = connected(told(), &opaque("t-ann"), &authenticator).unwrap().unwrap();
        let id = ann.token_id.as_deref().unwrap();
        assert!(id.starts_with('#') && !id.contains("t-ann"), "{id}");
        let passcode = Identity { passcode: Some(Token::new("x")), ..Identity::default() };
        let ann = connected(told(), &passcode, &authenticator).unwrap().unwrap();
        assert_eq!(ann.token_id, None);
    }
}
