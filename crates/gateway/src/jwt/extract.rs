//! Where a request carries its token.

use axum::extract::Query;
use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, Uri};

use crate::config::Auth;

/// Where a token was found, which decides what else the request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer ...`
    Header,
    /// `Sec-WebSocket-Protocol: bearer.<token>`
    Subprotocol,
    /// The query parameter `access_token`.
    Query,
    /// The configured cookie. The browser adds it to any page's request, so such a request also
    /// needs a good `Origin`.
    Cookie,
}

/// The token that a request carries. What only its own page can have put there comes before the
/// cookie, which any page's request carries.
pub fn token_from(headers: &HeaderMap, uri: &Uri, auth: &Auth) -> Option<(String, TokenSource)> {
    from_authorization(headers)
        .map(|token| (token, TokenSource::Header))
        .or_else(|| Some((from_subprotocol(headers)?, TokenSource::Subprotocol)))
        .or_else(|| Some((from_query(uri).filter(|_| auth.query)?, TokenSource::Query)))
        .or_else(|| Some((from_cookie(headers, &auth.cookie)?, TokenSource::Cookie)))
}

/// RFC 6750 §2.1. Other schemes are not for us: a proxy in front may have asked for them.
fn from_authorization(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn from_subprotocol(headers: &HeaderMap) -> Option<String> {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offers.filter_map(|offer| offer.trim().strip_prefix("bearer.")).map(str::to_owned).next()
}

fn from_query(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs.into_iter().find(|(name, _)| name == "access_token").map(|(_, token)| token)
}

/// RFC 6265 §4.2.1: pairs separated by semicolons; a value may be quoted. HTTP/2 may split them
/// over several headers.
fn from_cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(own, _)| own.trim() == name)?;
    let value = value.trim();
    let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Some(unquoted.unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        headers: &[(&'static str, &str)],
        uri: &str,
        auth: &Auth,
    ) -> Option<(String, TokenSource)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        token_from(&map, &uri.parse().unwrap(), auth)
    }

    #[test]
    fn a_token_is_found_wherever_a_client_can_put_it() {
        let auth = Auth { cookie: "sid".into(), ..Auth::default() };
        for (headers, uri, source) in [
            (&[("authorization", "Bearer t.o.k")][..], "/ws", TokenSource::Header),
            (&[("authorization", "bearer  t.o.k")], "/ws", TokenSource::Header),
            (
                &[("sec-websocket-protocol", "v12.stomp, bearer.t.o.k")],
                "/ws",
                TokenSource::Subprotocol,
            ),
            (
                &[
                    ("sec-websocket-protocol", "v12.stomp"),
                    ("sec-websocket-protocol", "bearer.t.o.k"),
                ],
                "/ws",
                TokenSource::Subprotocol,
            ),
            (&[], "/ws?a=b&access_token=t.o.k", TokenSource::Query),
            (&[], "/ws?access_token=t%2Eo.k", TokenSource::Query),
            (&[("cookie", "xsid=no; sid=t.o.k; b=c")], "/ws", TokenSource::Cookie),
            (&[("cookie", "a=b"), ("cookie", "sid=\"t.o.k\"")], "/ws", TokenSource::Cookie),
        ] {
            assert_eq!(
                found(headers, uri, &auth),
                Some(("t.o.k".into(), source)),
                "{headers:?} {uri}"
            );
        }
    }

    #[test]
    fn what_is_switched_off_or_not_for_us_is_not_read() {
        let auth = Auth { query: false, ..Auth::default() };
        for (headers, uri) in [
            (&[("authorization", "Basic dTpw")][..], "/ws"),
            (&[], "/ws?access_token=t.o.k"),
            (&[("cookie", "sid=t.o.k")], "/ws"),
            (&[("sec-websocket-protocol", "v12.stomp")], "/ws"),
        ] {
            assert_eq!(found(headers, uri, &auth), None, "{headers:?} {uri}");
        }
    }

    #[test]
    fn a_cookie_counts_only_where_nothing_stronger_is_given() {
        let auth = Auth { cookie: "sid".into(), ..Auth::default() };
        let both = [("cookie", "sid=weak"), ("authorization", "Bearer strong")];
        assert_eq!(found(&both, "/ws", &auth), Some(("strong".into(), TokenSource::Header)));
    }
}
