//! The resources besides sessions: the greeting, `info` and the iframe's page.

use std::fmt::Write as _;

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
        let mut etag = String::new();
        let digest = URL_SAFE_NO_PAD.encode(Sha1::digest(&html));
        let _ = write!(etag, "\"{digest}\"");
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
