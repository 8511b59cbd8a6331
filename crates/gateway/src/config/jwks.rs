//! Where keys are fetched: the options, and what must hold of them.

use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::values::Span;

/// A URL with the public keys of who issues tokens, as a JSON Web Key Set. A token must name its
/// key by `kid`; the key's algorithm is what the set says, or else what its kind has (RSA: RS256).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Jwks {
    /// The URL. Redirects are not followed.
    pub url: String,
    /// How often the keys are fetched. A token with a key that is not known has them fetched at
    /// once.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// How long after a fetch nothing is fetched for a key that is not known; also how soon a fetch
    /// that failed is tried again.
    #[serde(default = "cooldown")]
    pub cooldown: Span,
    /// How old keys may become while they can't be fetched. After that no token is accepted that
    /// they are needed for.
    #[serde(default = "max_stale")]
    pub max_stale: Span,
    /// How long a fetch may take; so long may a client wait whose token has a new key.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// A PEM file with the authorities to trust. Absent: those that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

fn refresh() -> Span {
    Span::seconds(600)
}

fn cooldown() -> Span {
    Span::seconds(30)
}

fn max_stale() -> Span {
    Span::seconds(24 * 3600)
}

fn timeout() -> Span {
    Span::seconds(5)
}

/// What keeps keys from being fetched.
pub(super) fn problems(all: &[Jwks], problems: &mut Vec<Problem>) {
    for (at, jwks) in all.iter().enumerate() {
        let mut problem = |option: &str, fault: &str, remedy: &str| {
            problems.push(Problem::new(format!("auth.jwks[{at}].{option}"), fault, remedy));
        };
        if !is_good(&jwks.url) {
            let remedy = "write it as in \"https://id.example.com/.well-known/jwks.json\"";
            problem("url", "not a URL of http or https without a user", remedy);
        }
        let times = [
            ("refresh", jwks.refresh, 100, DAY_MS),
            ("cooldown", jwks.cooldown, 100, DAY_MS),
            ("max_stale", jwks.max_stale, jwks.refresh.as_ms(), 30 * DAY_MS),
            ("timeout", jwks.timeout, 100, 60_000),
        ];
        for (option, time, min_ms, max_ms) in times {
            if !(min_ms..=max_ms).contains(&time.as_ms()) {
                let fault = match option {
                    "max_stale" => "less than refresh, or more than 30 days",
                    "timeout" => "not from \"100ms\" to \"1m\"",
                    _ => "not from \"100ms\" to \"1day\"",
                };
                problem(option, fault, "leave it at its default");
            }
        }
    }
}

/// What is allowed, but hardly meant.
pub(super) fn warnings(all: &[Jwks]) -> impl Iterator<Item = Problem> {
    let is_open = |jwks: &Jwks| {
        let uri = jwks.url.parse::<Uri>().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let is_own = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        (uri.scheme_str() == Some("http") && !is_own).then_some(())
    };
    all.iter().enumerate().filter_map(move |(at, jwks)| {
        is_open(jwks).map(|()| {
            Problem::new(
                format!("auth.jwks[{at}].url"),
                "without TLS, whoever is on the way can put in keys of his own",
                "use https",
            )
        })
    })
}

fn is_good(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
    is_http && !has_user && uri.host().is_some_and(|host| !host.is_empty()) && !url.contains('#')
}

const DAY_MS: u64 = 24 * 3_600_000;
