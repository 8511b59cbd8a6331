//! `RedisConfig`: where Redis is and how to talk to it; parsed once, at the edge.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Where Redis is and how to talk to it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How to log in; `None` when no password is set.
    pub credentials: Option<Credentials>,
    /// The database of keys. Channels are the same in all of them.
    pub database: u32,
    /// What every key and channel of this cluster begins with.
    pub prefix: String,
    /// Connections that receive, each with its part of the channels; at most
    /// [`RedisConfig::MAX_SUBSCRIBER_CONNECTIONS`].
    pub subscriber_connections: NonZeroUsize,
    /// How long a channel that nobody here wants any more stays subscribed.
    pub linger: Duration,
    /// The longest time for connecting and logging in.
    pub connect_timeout: Duration,
    /// The longest time for the answer to a command.
    pub response_timeout: Duration,
    /// The longest wait for a subscription to be confirmed before it is `Degraded`.
    pub join_timeout: Duration,
    /// How often a silent subscriber connection is pinged; twice that without a byte ends it.
    pub keepalive: Duration,
    /// How often delivery is probed.
    pub canary_interval: Duration,
    /// The longest wait between two attempts to connect; the waits grow from 50 ms, fully jittered.
    pub reconnect_max: Duration,
    /// How many replicas must have a publication that is kept, by its history or its idempotency
    /// key, before it is acknowledged; until then and without them its outcome is unknown.
    pub min_replicas_ack: u32,
    /// The longest wait for these replicas; at most a quarter of the response timeout.
    pub replica_ack_timeout: Duration,
    /// The most publications that wait to be written.
    pub publish_queue_messages: usize,
    /// The most bytes that wait to be written.
    pub publish_queue_bytes: usize,
}

/// A host and a port; the name is resolved again at every connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A login; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; `default` for servers with just a password.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Why a text is not the URL of a Redis. No message repeats the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// `rediss://`
    #[error(
        "TLS to Redis (rediss://) is not supported in this version; use redis:// inside a private network"
    )]
    TlsUnsupported,
    /// Another scheme, or none.
    #[error("the Redis URL must begin with redis://")]
    UnknownScheme,
    /// Nothing between `//` and the port.
    #[error("the Redis URL names no host; write redis://HOST:PORT")]
    MissingHost,
    /// A port that is none.
    #[error("the Redis URL's port is not a number from 1 to 65535")]
    BadPort,
    /// A path that is not a database number.
    #[error("the Redis URL's path must be a database number, as in redis://HOST:PORT/0")]
    BadDatabase,
    /// `%` without two hexadecimal digits, or not UTF-8.
    #[error("the Redis URL's user or password is not percent-encoded UTF-8; write % as %25")]
    BadCredentials,
    /// `?...` or `#...`
    #[error("the Redis URL has a query or fragment, which is not supported")]
    QueryUnsupported,
}

impl RedisConfig {
    /// More connections per Redis gain nothing.
    pub const MAX_SUBSCRIBER_CONNECTIONS: usize = 4;

    /// The defaults, for the Redis at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            credentials: None,
            database: 0,
            prefix: "fl:".to_owned(),
            subscriber_connections: NonZeroUsize::MIN,
            linger: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(2),
            join_timeout: Duration::from_secs(2),
            keepalive: Duration::from_secs(3),
            canary_interval: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(5),
            min_replicas_ack: 0,
            replica_ack_timeout: Duration::from_millis(250),
            publish_queue_messages: 16 * 1024,
            publish_queue_bytes: 32 << 20,
        }
    }

    /// Reads `redis://[user[:password]@]host[:port][/database]`; the rest are the defaults.
    pub fn parse_url(url: &str) -> Result<Self, UrlError> {
        let rest = match url.split_once("://") {
            Some(("redis", rest)) => rest,
            Some(("rediss", _)) => return Err(UrlError::TlsUnsupported),
            _ => return Err(UrlError::UnknownScheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::QueryUnsupported);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let mut config = Self::new(address.parse()?);
        config.credentials = login.map(parse_login).transpose()?.flatten();
        if !path.is_empty() {
            config.database = path.parse().map_err(|_| UrlError::BadDatabase)?;
        }
        Ok(config)
    }
}

impl std::str::FromStr for Endpoint {
    type Err = UrlError;

    /// Reads `host[:port]` or `[ipv6][:port]`; the port's default is 6379.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(UrlError::MissingHost)?;
                match after {
                    "" => (host, None),
                    _ => (host, Some(after.strip_prefix(':').ok_or(UrlError::BadPort)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(UrlError::MissingHost);
        }
        let port = match port.map_or(Ok(DEFAULT_PORT), str::parse) {
            Ok(port) if port > 0 => port,
            _ => return Err(UrlError::BadPort),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &"(redacted)")
            .finish()
    }
}

/// `user:password`, `:password`, or nothing. A user alone logs in nowhere.
fn parse_login(login: &str) -> Result<Option<Credentials>, UrlError> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (percent_decode(user)?, percent_decode(password)?),
        None if login.is_empty() => return Ok(None),
        None => return Err(UrlError::BadCredentials),
    };
    let user = if user.is_empty() { "default".to_owned() } else { user };
    Ok(Some(Credentials { user, password }))
}

fn percent_decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let (digits, plain) = piece.split_at_checked(2).ok_or(UrlError::BadCredentials)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(UrlError::BadCredentials);
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError::BadCredentials)?);
        bytes.extend_from_slice(plain.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| UrlError::BadCredentials)
}

const DEFAULT_PORT: u16 = 6379;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_gives_endpoint_login_and_database() {
        for (url, endpoint, login, database) in [
            ("redis://localhost", "localhost:6379", None, 0),
            ("redis://10.0.0.7:7000/", "10.0.0.7:7000", None, 0),
            ("redis://[::1]:7000/3", "[::1]:7000", None, 3),
            ("redis://:p%40ss@h", "h:6379", Some(("default", "p@ss")), 0),
            ("redis://ann:a:b@h/15", "h:6379", Some(("ann", "a:b")), 15),
            ("redis://@h", "h:6379", None, 0),
        ] {
            let config = RedisConfig::parse_url(url).unwrap();
            assert_eq!(config.endpoint.to_string(), endpoint, "{url}");
            let found = config.credentials.as_ref();
            let found = found.map(|login| (login.user.as_str(), login.password.as_str()));
            assert_eq!(found, login, "{url}");
            assert_eq!(config.database, database, "{url}");
        }
    }

    #[test]
    fn what_is_not_a_redis_url_says_why() {
        for (url, error) in [
            ("rediss://h", UrlError::TlsUnsupported),
            ("http://h", UrlError::UnknownScheme),
            ("localhost:6379", UrlError::UnknownScheme),
            ("redis://", UrlError::MissingHost),
            ("redis://:6379", UrlError::MissingHost),
            ("redis://h:0", UrlError::BadPort),
            ("redis://h:70000", UrlError::BadPort),
            ("redis://[::1]7", UrlError::BadPort),
            ("redis://h/keys", UrlError::BadDatabase),
            ("redis://a:%zz@h", UrlError::BadCredentials),
            ("redis://ann@h", UrlError::BadCredentials),
            ("redis://h?db=1", UrlError::QueryUnsupported),
        ] {
            assert_eq!(RedisConfig::parse_url(url).unwrap_err(), error, "{url}");
        }
    }

    #[test]
    fn no_debug_output_shows_the_password() {
        let config = RedisConfig::parse_url("redis://ann:hunter2@h").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(rest in "\\PC{0,40}") {
            let _ = RedisConfig::parse_url(&format!("redis://{rest}"));
        }
    }
}
