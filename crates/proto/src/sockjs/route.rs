//! What a path below the base URL names.

use super::Transport;

/// A resource of a SockJS service. A path that is none of them is answered by 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// The base URL itself, with or without a slash.
    Greeting,
    /// `/info`
    Info,
    /// `/iframe.html`, or `/iframe{version}.html`
    Iframe,
    /// `/websocket`: a WebSocket without the framing of SockJS.
    RawWebSocket,
    /// `/{server}/{session}/{transport}`
    Session {
        /// For load balancers only; it names nothing here.
        server: &'a str,
        /// The session's id as it stands in the path, not decoded.
        session: &'a str,
        /// The transport.
        transport: Transport,
    },
}

impl<'a> Route<'a> {
    /// The longest server or session id, in bytes.
    pub const MAX_ID_BYTES: usize = 128;

    /// Reads what follows the base URL in a request's path, without the query.
    pub fn parse(path: &'a str) -> Option<Self> {
        let Some(path) = path.strip_prefix('/').filter(|path| !path.is_empty()) else {
            return matches!(path, "" | "/").then_some(Self::Greeting);
        };
        let mut parts = path.split('/');
        match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("info", None, ..) => Some(Self::Info),
            ("websocket", None, ..) => Some(Self::RawWebSocket),
            (page, None, ..) => is_iframe(page).then_some(Self::Iframe),
            (server, Some(session), Some(transport), None) if is_id(server) && is_id(session) => {
                let transport = Transport::from_name(transport)?;
                Some(Self::Session { server, session, transport })
            }
            _ => None,
        }
    }
}

fn is_iframe(page: &str) -> bool {
    let version = page.strip_prefix("iframe").and_then(|rest| rest.strip_suffix(".html"));
    let is_plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'-' | b'.' | b'a'..=b'z' | b'_');
    version.is_some_and(|version| version.bytes().all(is_plain))
}

fn is_id(part: &str) -> bool {
    (1..=Route::MAX_ID_BYTES).contains(&part.len()) && !part.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_of_the_protocol_names_its_resource() {
        for (path, route) in [
            ("", Route::Greeting),
            ("/", Route::Greeting),
            ("/info", Route::Info),
            ("/iframe.html", Route::Iframe),
            ("/iframe-.html", Route::Iframe),
            ("/iframe-0.1.2abc-dirty.2144.html", Route::Iframe),
            ("/websocket", Route::RawWebSocket),
        ] {
            assert_eq!(Route::parse(path), Some(route), "{path}");
        }
    }

    #[test]
    fn any_server_and_session_will_do_with_every_transport() {
        for transport in Transport::ALL {
            let longest = "s".repeat(Route::MAX_ID_BYTES);
            for (server, session) in
                [("000", "a"), ("_", "_"), ("a-j%20", "g_i-j%20"), ("websocket", &longest)]
            {
                let path = format!("/{server}/{session}/{}", transport.as_str());
                let route = Route::Session { server, session, transport };
                assert_eq!(Route::parse(&path), Some(route), "{path}");
            }
        }
    }

    #[test]
    fn what_the_protocol_does_not_know_is_no_resource() {
        let long = format!("/0/{}/xhr", "s".repeat(Route::MAX_ID_BYTES + 1));
        for path in [
            "info",
            "//",
            "///",
            "/a",
            "/a.html",
            "/a/a",
            "/a/a/",
            "/a/",
            "/info/",
            "/INFO",
            "/iframe.htm",
            "/iframe",
            "/IFRAME.HTML",
            "/iframe.HTML",
            "/iframe.xml",
            "/iframe-/.html",
            "/iframe A.html",
            "////xhr",
            "/a./a/xhr",
            "/a/a./xhr",
            "/./././xhr",
            "//a/xhr",
            "/a//xhr",
            "/0/a/xhr/",
            "/0/a/XHR",
            "/0/a/b/xhr",
            "/0/a/xhr_sen",
            "/a/xhr",
            &long,
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
