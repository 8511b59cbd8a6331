//! Names and values of the headers that the protocol asks for.

use super::Transport;

/// Of greetings, errors and the answers to what is sent.
pub const TEXT: &str = "text/plain; charset=UTF-8";
/// Of `info`.
pub const JSON: &str = "application/json; charset=UTF-8";
/// Of pages.
pub const HTML: &str = "text/html; charset=UTF-8";
/// Of frames that are lines or scripts.
pub const SCRIPT: &str = "application/javascript; charset=UTF-8";
/// Of frames that are events.
pub const EVENTS: &str = "text/event-stream";

/// `Cache-Control` of everything that belongs to a session, and of `info`.
pub const NO_CACHE: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

/// A header's name in lower case, and its value.
pub type Header<'a> = (&'static str, &'a str);

/// Of the iframe's page and of answers to OPTIONS: they may be kept for a year.
///
/// `Expires` is for caches from before `Cache-Control`, which goes before it (RFC 9111 §5.3); so it
/// need not know today's date.
pub const CACHED: [Header<'static>; 2] =
    [("cache-control", "public, max-age=31536000"), ("expires", "Fri, 31 Dec 2100 23:59:59 GMT")];

/// Methods that `info` allows.
pub const INFO_METHODS: &str = "OPTIONS, GET";

impl Transport {
    /// The method that it answers; others get 405, except OPTIONS where [`Self::is_cors`].
    pub fn method(self) -> &'static str {
        match self {
            Self::Xhr | Self::XhrSend | Self::XhrStreaming | Self::JsonpSend => "POST",
            Self::EventSource | Self::HtmlFile | Self::Jsonp | Self::WebSocket => "GET",
        }
    }

    /// `Allow`, and `Access-Control-Allow-Methods` where [`Self::is_cors`].
    pub fn methods(self) -> &'static str {
        match self {
            Self::Xhr | Self::XhrSend | Self::XhrStreaming => "OPTIONS, POST",
            Self::EventSource => "OPTIONS, GET",
            Self::JsonpSend => "POST",
            Self::HtmlFile | Self::Jsonp | Self::WebSocket => "GET",
        }
    }

    /// Whether scripts of other origins may call it, so that its answers carry [`cors`].
    pub fn is_cors(self) -> bool {
        matches!(self, Self::Xhr | Self::XhrSend | Self::XhrStreaming | Self::EventSource)
    }

    /// `Content-Type` of its answers. `xhr_send` has one even though it has no body: some browsers
    /// take it for XML otherwise. A WebSocket has none.
    pub fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::Jsonp => Some(SCRIPT),
            Self::XhrSend | Self::JsonpSend => Some(TEXT),
            Self::EventSource => Some(EVENTS),
            Self::HtmlFile => Some(HTML),
            Self::WebSocket => None,
        }
    }

    /// Headers of its answers, besides those of [`cors`].
    pub fn headers(self) -> impl Iterator<Item = Header<'static>> {
        let content_type = self.content_type().map(|value| ("content-type", value));
        let no_cache = content_type.map(|_| ("cache-control", NO_CACHE));
        // A script that begins with a name of the client's choice must not be taken for another type.
        let no_sniff = (self == Self::Jsonp).then_some(("x-content-type-options", "nosniff"));
        [content_type, no_cache, no_sniff].into_iter().flatten()
    }

    /// Status and body of the answer to what was sent and accepted.
    pub fn accepted(self) -> (u16, &'static str) {
        // Konqueror does weird things on 204.
        if self == Self::JsonpSend { (200, "ok") } else { (204, "") }
    }
}

/// Headers that let a script of another origin read the answer: for the request's `Origin` and its
/// `Access-Control-Request-Headers`. Whether the origin is welcome is decided before.
pub fn cors<'a>(
    origin: Option<&'a str>,
    requested_headers: Option<&'a str>,
) -> impl Iterator<Item = Header<'a>> {
    let requested_headers = requested_headers.filter(|headers| !headers.is_empty());
    [
        Some(("access-control-allow-origin", origin.unwrap_or("*"))),
        origin.map(|_| ("access-control-allow-credentials", "true")),
        Some(("vary", "Origin")),
        requested_headers.map(|headers| ("access-control-allow-headers", headers)),
    ]
    .into_iter()
    .flatten()
}

/// Headers of the answer to OPTIONS, besides those of [`cors`]; its status is 204.
pub fn preflight(methods: &'static str) -> impl Iterator<Item = Header<'static>> {
    CACHED
        .into_iter()
        .chain([("access-control-allow-methods", methods), ("access-control-max-age", "31536000")])
}
