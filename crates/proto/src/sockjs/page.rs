//! The resources besides sessions: the greeting, `info` and the iframe's page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha1::{Digest as _, Sha1};

/// The body at the base URL.
pub const GREETING: &str = "Welcome to SockJS!\n";

/// What a client asks before it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Info<'a> {
    /// Whether the transport `websocket` is there.
    pub websocket: bool,
    /// Whether the load balancer needs a cookie to find the session's node.
    pub cookie_needed: bool,
    /// Unpredictable, and new in each answer.
    pub entropy: u32,
    /// Where to connect, if not where this was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<&'a str>,
    /// Ignored by clients.
    origins: [&'static str; 1],
}

impl<'a> Info<'a> {
    /// What the service says of itself. Only a service that is behind sticky sessions needs a cookie.
    pub fn new(websocket: bool, entropy: u32) -> Self {
        Self { websocket, cookie_needed: false, entropy, base_url: None, origins: ["*:*"] }
    }

    /// With `cookie_needed`.
    #[must_use]
    pub fn with_cookie_needed(self, cookie_needed: bool) -> Self {
        Self { cookie_needed, ..self }
    }

    /// With a `base_url`.
    #[must_use]
    pub fn with_base_url(self, base_url: Option<&'a str>) -> Self {
        Self { base_url, ..self }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }
}

/// The page that lets a script of another origin use this one's transports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iframe {
    /// The page.
    pub html: String,
    /// Its `ETag`, quotes included: the same for as long as the page is.
    pub etag: String,
}

impl Iframe {
    /// The page that loads a client from this URL.
    pub fn new(client_url: &str) -> Self {
        let mut html = String::from(IFRAME_HEAD);
        for character in client_url.chars() {
            match character {
                '&' => html.push_str("&amp;"),
                '"' => html.push_str("&quot;"),
                '<' => html.push_str("&lt;"),
                '>' => html.push_str("&gt;"),
                _ => html.push(character),
            }
        }
        html.push_str(IFRAME_REST);
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha1::digest(&html)));
        Self { html, etag }
    }

    /// Whether `If-None-Match` names this page, so that the answer is 304 (RFC 9110 §13.1.2).
    pub fn is_known_to(&self, if_none_match: &str) -> bool {
        let known = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == self.etag;
        if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || known(tag))
    }
}

const IFRAME_HEAD: &str = r#"<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src=""#;

const IFRAME_REST: &str = r#""></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_says_what_the_client_asks() {
        let info = Info::new(true, 4_294_967_295);
        let expected =
            r#"{"websocket":true,"cookie_needed":false,"entropy":4294967295,"origins":["*:*"]}"#;
        assert_eq!(info.to_json(), expected);
        let info = Info::new(false, 0).with_cookie_needed(true).with_base_url(Some("http://a/\"b"));
        let expected = r#"{"websocket":false,"cookie_needed":true,"entropy":0,"base_url":"http://a/\"b","origins":["*:*"]}"#;
        assert_eq!(info.to_json(), expected);
    }

    #[test]
    fn the_iframe_is_the_page_of_the_suite() {
        let expected = r#"
<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="/sockjs.min.js"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
"#;
        assert_eq!(Iframe::new("/sockjs.min.js").html, expected.trim());
    }

    #[test]
    fn no_url_gets_out_of_its_attribute() {
        let html = Iframe::new("/a?b&c\"><script>").html;
        assert!(html.contains(r#"<script src="/a?b&amp;c&quot;&gt;&lt;script&gt;"></script>"#));
    }

    #[test]
    fn the_tag_changes_with_the_page_only() {
        let page = Iframe::new("/a.js");
        assert_eq!(page, Iframe::new("/a.js"));
        assert_ne!(page.etag, Iframe::new("/b.js").etag);
        let tag = page.etag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap();
        assert!(!tag.is_empty() && tag.bytes().all(|b| b.is_ascii_graphic() && b != b'"'));
    }

    #[test]
    fn a_page_that_the_client_has_is_not_sent_again() {
        let page = Iframe::new("/a.js");
        let tag = &page.etag;
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            assert!(page.is_known_to(&known), "{known}");
        }
        for unknown in ["", "\"x\"", tag.trim_matches('"'), "\"*\""] {
            assert!(!page.is_known_to(unknown), "{unknown}");
        }
    }
}
