//! Which web pages may connect: the check of a browser's `Origin` (RFC 6455 §10.2).

use http::{HeaderMap, header};

use crate::config::Origin;

/// Why a page may not connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The origin is not allowed.
    #[error("pages of {origin:?} may not connect; add it to origin.allow to let them")]
    Foreign {
        /// What the browser sent, cut to a sensible length.
        origin: String,
    },
    /// A cookie without an origin could be anyone's request.
    #[error("a request that is authenticated by a cookie needs an Origin header")]
    Missing,
}

/// Checks the `Origin` of a handshake.
///
/// Without one it is no browser, and it passes unless it is authenticated by a cookie, which only
/// browsers send on behalf of pages.
pub fn check(headers: &HeaderMap, allowed: &Origin, by_cookie: bool) -> Result<(), OriginError> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return if by_cookie { Err(OriginError::Missing) } else { Ok(()) };
    };
    let origin = origin.to_str().unwrap_or_default();
    let admitted = if allowed.allow.is_empty() {
        is_same(origin, headers)
    } else {
        allowed.allow.iter().any(|rule| rule.admits(origin))
    };
    if admitted {
        return Ok(());
    }
    Err(OriginError::Foreign { origin: origin.chars().take(MAX_SHOWN).collect() })
}

/// Whether `origin` is the host that was asked, whatever the scheme: TLS may end before this node.
fn is_same(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    host.is_some_and(|host| {
        let host = host.strip_suffix(default_port).unwrap_or(host);
        matches!(scheme, "http" | "https") && host.eq_ignore_ascii_case(authority)
    })
}

const MAX_SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(origin: Option<&str>, allow: &[&str], by_cookie: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "chat.example.com".parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        check(&headers, &Origin { allow }, by_cookie).is_ok()
    }

    #[test]
    fn without_a_list_only_the_own_host_may_connect() {
        assert!(checked(Some("https://chat.example.com"), &[], true));
        assert!(!checked(Some("https://evil.example.com"), &[], false));
        assert!(!checked(Some("https://chat.example.com.evil.org"), &[], false));
        assert!(!checked(Some("null"), &[], false));
    }

    #[test]
    fn a_list_replaces_the_own_host() {
        assert!(checked(Some("https://a.example.com"), &["https://*.example.com"], false));
        assert!(!checked(Some("http://chat.example.com"), &["https://other.org"], false));
    }

    #[test]
    fn only_a_request_without_a_cookie_may_lack_an_origin() {
        assert!(checked(None, &[], false));
        assert!(!checked(None, &["*"], true));
    }
}
