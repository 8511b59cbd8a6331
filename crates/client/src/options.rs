//! How a client connects, and its bounds.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;

use crate::error::UrlError;

/// How a client connects, and its bounds. Every bound has a default.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(crate) target: Target,
    pub(crate) token: Token,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Whether the first connection is tried again too, as later ones are. Otherwise
    /// [`Client::connect`](crate::Client::connect) fails at once.
    pub retry_first: bool,
    /// From the first packet to the open session.
    pub connect_timeout: Duration,
    /// From a request to its answer, with the time it waits for a connection.
    pub request_timeout: Duration,
    /// Messages that wait in one subscription; when it is full, later ones are dropped and
    /// counted ([`RecvError::Missed`](crate::RecvError::Missed)), so that one slow reader does
    /// not hold up the others.
    pub subscription_queue: usize,
    /// Requests that wait for the connection; more wait in their callers.
    pub request_queue: usize,
    /// The largest message that is accepted from the server.
    pub message_max_bytes: usize,
}

/// Full jitter: each wait is random between nothing and a bound that doubles from `first` to
/// `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub first: Duration,
    /// The bound that is not exceeded.
    pub longest: Duration,
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `host:port`, to connect to.
    pub(crate) address: String,
    /// The value of `Host`.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
}

#[derive(Clone)]
pub(crate) enum Token {
    None,
    Fixed(Arc<str>),
    Fetched(Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>),
}

impl ConnectOptions {
    /// Connects to `url`, as in `ws://127.0.0.1:8080/ws`, without a token.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(Self {
            target: Target::parse(url)?,
            token: Token::None,
            backoff: Backoff::default(),
            retry_first: false,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            subscription_queue: 1024,
            request_queue: 64,
            message_max_bytes: 1 << 20,
        })
    }

    /// Authenticates with this token. When it has expired, the client ends.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.token = Token::Fixed(token.into());
        self
    }

    /// Asks `fetch` for a token before each connection.
    #[must_use]
    pub fn token_with<F, T, E>(mut self, fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.token = Token::Fetched(Arc::new(move || {
            let token = fetch();
            Box::pin(async move { token.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// Waits between attempts as `backoff` says.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(20) }
    }
}

impl Backoff {
    /// The bound of the wait after `failures` failures in a row.
    pub(crate) fn bound(self, failures: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.longest)
    }

    pub(crate) fn wait(self, failures: u32) -> Duration {
        self.bound(failures).mul_f64(rand::random())
    }
}

impl Token {
    /// The token to present; `Err` when the callback failed.
    pub(crate) async fn fetch(&self) -> Result<Option<String>, String> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(token) => Ok(Some(token.to_string())),
            Self::Fetched(fetch) => fetch().await.map(Some),
        }
    }

    /// Whether the next one may be another.
    pub(crate) fn can_change(&self) -> bool {
        matches!(self, Self::Fetched(_))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no token",
            Self::Fixed(_) => "a token",
            Self::Fetched(_) => "a token callback",
        })
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self, UrlError> {
        // A URL may hold a token in its query, which errors must not repeat.
        let shown = || url.split(['?', '#']).next().unwrap_or_default().to_owned();
        let malformed = || UrlError::Malformed { url: shown() };
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(UrlError::Tls { url: shown() }),
            Some(_) => return Err(UrlError::Scheme { url: shown() }),
            None => return Err(malformed()),
        }
        let authority = uri.authority().ok_or_else(malformed)?;
        let host = authority.host();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(malformed());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            address: format!("{host}:{}", authority.port_u16().unwrap_or(80)),
            host: authority.to_string(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_address_host_and_path() {
        for (url, address, host, path) in [
            ("ws://a.test/ws", "a.test:80", "a.test", "/ws"),
            ("ws://a.test:8080/ws?x=1", "a.test:8080", "a.test:8080", "/ws?x=1"),
            ("ws://[::1]:9/", "[::1]:9", "[::1]:9", "/"),
            ("ws://a.test", "a.test:80", "a.test", "/"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((&*target.address, &*target.host, &*target.path), (address, host, path));
        }
    }

    #[test]
    fn a_url_that_can_not_be_used_says_why_without_its_query() {
        let error = |url: &str| Target::parse(url).unwrap_err().to_string();
        assert!(error("wss://a.test/ws?access_token=hunter2").contains("TLS"));
        assert!(!error("wss://a.test/ws?access_token=hunter2").contains("hunter2"));
        assert!(error("http://a.test/ws").contains("ws://"));
        assert!(error("a.test/ws").contains("not a URL"));
        assert!(error("ws://user:pw@a.test/ws").contains("not a URL"));
    }

    #[test]
    fn the_wait_is_jittered_and_its_bound_doubles_to_the_longest() {
        let backoff = Backoff::default();
        let bounds: Vec<_> = (0..8).map(|failures| backoff.bound(failures).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
        assert_eq!(backoff.bound(u32::MAX), backoff.longest);
        assert!((0..1000).all(|_| backoff.wait(3) <= backoff.bound(3)));
    }
}
