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
        // Browsers leave it out where a page reads from its own origin, and say so (Fetch Metadata).
        let is_own = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
        return if by_cookie && !is_own { Err(OriginError::Missing) } else { Ok(()) };
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let admitted = allowed.admits(origin, host);
    if admitted {
        return Ok(());
    }
    Err(OriginError::Foreign { origin: origin.chars().take(MAX_SHOWN).collect() })
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
    fn a_foreign_page_is_refused_and_named() {
        assert!(checked(Some("https://chat.example.com"), &[], true));
        assert!(!checked(Some("https://evil.example.com"), &[], false));
    }

    #[test]
    fn only_a_request_without_a_cookie_may_lack_an_origin() {
        assert!(checked(None, &[], false));
        assert!(!checked(None, &["*"], true));
    }
}
