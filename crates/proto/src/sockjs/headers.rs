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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_types_of_the_suite_and_are_not_cached() {
        for (transport, content_type) in [
            (Transport::Xhr, "application/javascript;charset=UTF-8"),
            (Transport::XhrSend, "text/plain;charset=UTF-8"),
            (Transport::XhrStreaming, "application/javascript;charset=UTF-8"),
            (Transport::EventSource, "text/event-stream"),
            (Transport::HtmlFile, "text/html;charset=UTF-8"),
            (Transport::Jsonp, "application/javascript;charset=UTF-8"),
            (Transport::JsonpSend, "text/plain;charset=UTF-8"),
        ] {
            let headers: Vec<_> = transport.headers().collect();
            let (name, value) = headers[0];
            assert_eq!((name, value.replace(' ', "").as_str()), ("content-type", content_type));
            assert_eq!(headers[1], ("cache-control", NO_CACHE));
            let no_sniff = headers.contains(&("x-content-type-options", "nosniff"));
            assert_eq!(no_sniff, transport == Transport::Jsonp);
            assert_eq!(headers.len(), if no_sniff { 3 } else { 2 });
        }
        assert_eq!(Transport::WebSocket.headers().count(), 0);
        assert_eq!(NO_CACHE, "no-store, no-cache, no-transform, must-revalidate, max-age=0");
    }

    #[test]
    fn each_transport_answers_its_methods() {
        use Transport as T;
        for (transport, method, methods, is_cors) in [
            (T::Xhr, "POST", "OPTIONS, POST", true),
            (T::XhrSend, "POST", "OPTIONS, POST", true),
            (T::XhrStreaming, "POST", "OPTIONS, POST", true),
            (T::EventSource, "GET", "OPTIONS, GET", true),
            (T::HtmlFile, "GET", "GET", false),
            (T::Jsonp, "GET", "GET", false),
            (T::JsonpSend, "POST", "POST", false),
            (T::WebSocket, "GET", "GET", false),
        ] {
            let found = (transport.method(), transport.methods(), transport.is_cors());
            assert_eq!(found, (method, methods, is_cors), "{transport:?}");
        }
        assert_eq!(Transport::XhrSend.accepted(), (204, ""));
        assert_eq!(Transport::JsonpSend.accepted(), (200, "ok"));
    }

    #[test]
    fn an_origin_is_echoed_with_credentials_and_none_is_any() {
        let headers = |origin, requested| cors(origin, requested).collect::<Vec<_>>();
        for origin in ["test", "null"] {
            let expected = [
                ("access-control-allow-origin", origin),
                ("access-control-allow-credentials", "true"),
                ("vary", "Origin"),
            ];
            assert_eq!(headers(Some(origin), None), expected);
            assert_eq!(headers(Some(origin), Some("")), expected);
        }
        let expected = [
            ("access-control-allow-origin", "*"),
            ("vary", "Origin"),
            ("access-control-allow-headers", "a, b, c"),
        ];
        assert_eq!(headers(None, Some("a, b, c")), expected);
    }

    #[test]
    fn the_answer_to_options_may_be_kept_for_a_year() {
        let headers: Vec<_> = preflight(INFO_METHODS).collect();
        let expected = [
            ("cache-control", "public, max-age=31536000"),
            ("expires", "Fri, 31 Dec 2100 23:59:59 GMT"),
            ("access-control-allow-methods", "OPTIONS, GET"),
            ("access-control-max-age", "31536000"),
        ];
        assert_eq!(headers, expected);
    }
}
