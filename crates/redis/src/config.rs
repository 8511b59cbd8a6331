//! `RedisConfig`: where Redis is and how to talk to it; parsed once, at the edge.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Where Redis is and how to talk to it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Which processes there are, and how they are arranged.
    pub servers: Servers,
    /// How connections are encrypted; `None` when they are not.
    pub tls: Option<TlsConfig>,
    /// How to log in; `None` when no password is set.
    pub credentials: Option<Credentials>,
    /// How to log in to sentinels, which have users and passwords of their own.
    pub sentinel_credentials: Option<Credentials>,
    /// The database of keys. Channels are the same in all of them.
    pub database: u32,
    /// What the label `shard` of metrics begins with, where a process has several brokers.
    pub metrics_label: String,
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
    /// How long a node that stopped renewing its lease counts as living.
    pub lease: Duration,
    /// How often the lease is renewed; at most a third of it.
    pub lease_renew: Duration,
}

/// Which Redis processes there are, and how they are arranged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Masters that know nothing of each other, at least one, each with its part of the channels
    /// and keys. Which part is decided by their names as written here, so all nodes must write
    /// them alike; their order means nothing.
    Standalone(Vec<Endpoint>),
    /// One master with replicas, found through sentinels.
    Sentinel {
        /// Where the sentinels listen, at least one.
        sentinels: Vec<Endpoint>,
        /// What they call the master.
        master: String,
    },
    /// Redis Cluster.
    Cluster {
        /// Some of its nodes, at least one; the others are learnt from them.
        seeds: Vec<Endpoint>,
    },
}

/// How connections to Redis are encrypted. The files are read anew at every connect, so renewed
/// certificates are taken up without a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file with the only authorities to be trusted; `None` trusts those that browsers do.
    pub ca_file: Option<PathBuf>,
    /// How this node proves who it is, where Redis asks for it.
    pub client: Option<ClientCertificate>,
    /// The name that the certificates must be for; `None` is the host that is connected to. For
    /// clusters that announce addresses, while their certificates are for a name.
    pub server_name: Option<String>,
}

/// A client certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by those between it and the authority.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
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
    /// Another scheme, or none.
    #[error(
        "the Redis URL must begin with redis://, redis-shards://, redis-sentinel:// or \
         redis-cluster://, or with rediss in place of redis for TLS"
    )]
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
    /// A database other than 0 of a cluster.
    #[error("Redis Cluster has only database 0; leave the path of the Redis URL empty")]
    ClusterDatabase,
    /// Several hosts under `redis://`.
    #[error(
        "the Redis URL names several hosts; begin it with redis-shards://, redis-sentinel:// or \
         redis-cluster://, whichever they are"
    )]
    SeveralHosts,
    /// More hosts than anybody has.
    #[error("the Redis URL names more than {max} hosts", max = RedisConfig::MAX_ENDPOINTS)]
    TooManyHosts,
    /// One host twice.
    #[error("the Redis URL names {endpoint} twice")]
    RepeatedHost {
        /// That host.
        endpoint: Endpoint,
    },
    /// A sentinel URL without the master's name.
    #[error(
        "the Redis URL does not say what the sentinels call the master; write \
         redis-sentinel://HOST:PORT,HOST:PORT/MASTER"
    )]
    MissingMaster,
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

    /// More hosts in one URL are a mistake.
    pub const MAX_ENDPOINTS: usize = 128;

    /// The defaults, for the Redis at `servers`.
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            tls: None,
            credentials: None,
            sentinel_credentials: None,
            database: 0,
            metrics_label: String::new(),
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
            lease: Duration::from_secs(15),
            lease_renew: Duration::from_secs(5),
        }
    }

    /// Reads one of these, and takes the defaults for the rest:
    ///
    /// - `redis://[LOGIN@]HOST[:PORT][/DATABASE]`
    /// - `redis-shards://[LOGIN@]HOST[:PORT],HOST[:PORT],...[/DATABASE]`
    /// - `redis-sentinel://[LOGIN@]HOST[:PORT],HOST[:PORT],.../MASTER[/DATABASE]`
    /// - `redis-cluster://[LOGIN@]HOST[:PORT],HOST[:PORT],...`
    ///
    /// A login is `USER:PASSWORD` or `:PASSWORD`, percent-encoded, and never that of sentinels.
    /// Ports are 6379 by default, those of sentinels 26379. With `rediss` in place of `redis`
    /// every connection is by TLS, those to sentinels too.
    pub fn parse_url(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::UnknownScheme)?;
        let (kind, arrangement) = scheme.split_once('-').unwrap_or((scheme, ""));
        let tls = match kind {
            "redis" => None,
            "rediss" => Some(TlsConfig::default()),
            _ => return Err(UrlError::UnknownScheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::QueryUnsupported);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (servers, path) = match arrangement {
            "" if scheme == kind && hosts.contains(',') => return Err(UrlError::SeveralHosts),
            "" if scheme == kind => (Servers::Standalone(parse_hosts(hosts, DEFAULT_PORT)?), path),
            "shards" => (Servers::Standalone(parse_hosts(hosts, DEFAULT_PORT)?), path),
            "sentinel" => {
                let sentinels = parse_hosts(hosts, DEFAULT_SENTINEL_PORT)?;
                let (master, path) = path.split_once('/').unwrap_or((path, ""));
                let master = percent_decode(master)?;
                if master.is_empty() {
                    return Err(UrlError::MissingMaster);
                }
                (Servers::Sentinel { sentinels, master }, path)
            }
            "cluster" => (Servers::Cluster { seeds: parse_hosts(hosts, DEFAULT_PORT)? }, path),
            _ => return Err(UrlError::UnknownScheme),
        };
        let mut config = Self { tls, ..Self::new(servers) };
        config.credentials = login.map(parse_login).transpose()?.flatten();
        if !path.is_empty() {
            config.database = path.parse().map_err(|_| UrlError::BadDatabase)?;
        }
        if config.database != 0 && arrangement == "cluster" {
            return Err(UrlError::ClusterDatabase);
        }
        Ok(config)
    }
}

fn parse_hosts(hosts: &str, default_port: u16) -> Result<Vec<Endpoint>, UrlError> {
    let mut endpoints = Vec::new();
    for host in hosts.split(',') {
        let endpoint = Endpoint::parse(host, default_port)?;
        if endpoints.contains(&endpoint) {
            return Err(UrlError::RepeatedHost { endpoint });
        }
        endpoints.push(endpoint);
        if endpoints.len() > RedisConfig::MAX_ENDPOINTS {
            return Err(UrlError::TooManyHosts);
        }
    }
    Ok(endpoints)
}

impl Endpoint {
    /// Reads `host[:port]` or `[ipv6][:port]`.
    fn parse(text: &str, default_port: u16) -> Result<Self, UrlError> {
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
        let port = match port.map_or(Ok(default_port), str::parse) {
            Ok(port) if port > 0 => port,
            _ => return Err(UrlError::BadPort),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::str::FromStr for Endpoint {
    type Err = UrlError;

    /// Reads `host[:port]` or `[ipv6][:port]`; the port's default is 6379.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text, DEFAULT_PORT)
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
const DEFAULT_SENTINEL_PORT: u16 = 26379;

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
            assert_eq!(
                config.servers,
                Servers::Standalone(vec![endpoint.parse().unwrap()]),
                "{url}"
            );
            let found = config.credentials.as_ref();
            let found = found.map(|login| (login.user.as_str(), login.password.as_str()));
            assert_eq!(found, login, "{url}");
            assert_eq!(config.database, database, "{url}");
        }
    }

    #[test]
    fn the_scheme_says_how_the_servers_are_arranged_and_whether_by_tls() {
        let endpoints = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let shards = Servers::Standalone(endpoints(&["h:1", "[::1]:6379"]));
        let sentinels = Servers::Sentinel {
            sentinels: endpoints(&["h:26379", "i:7"]),
            master: "my/master".to_owned(),
        };
        let cluster = Servers::Cluster { seeds: endpoints(&["h:6379", "i:7"]) };
        for (rest, servers, database) in [
            ("-shards://ann:pw@h:1,[::1]/2", shards, 2),
            ("-sentinel://ann:pw@h,i:7/my%2Fmaster/3", sentinels, 3),
            ("-cluster://ann:pw@h,i:7", cluster, 0),
        ] {
            for (scheme, tls) in [("redis", None), ("rediss", Some(TlsConfig::default()))] {
                let config = RedisConfig::parse_url(&format!("{scheme}{rest}")).unwrap();
                assert_eq!((&config.servers, config.database), (&servers, database), "{rest}");
                assert_eq!(config.tls, tls, "{rest}");
                assert_eq!(config.credentials.unwrap().user, "ann");
            }
        }
    }

    #[test]
    fn what_is_not_a_redis_url_says_why() {
        for (url, error) in [
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
            ("redis-://h", UrlError::UnknownScheme),
            ("redis-pool://h", UrlError::UnknownScheme),
            ("redis://h,i", UrlError::SeveralHosts),
            ("redis-shards://h,", UrlError::MissingHost),
            ("redis-shards://h,h:6379", UrlError::RepeatedHost { endpoint: "h".parse().unwrap() }),
            ("redis-sentinel://h", UrlError::MissingMaster),
            ("redis-sentinel://h//1", UrlError::MissingMaster),
            ("redis-cluster://h/1", UrlError::ClusterDatabase),
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
            for scheme in ["redis", "redis-shards", "rediss-sentinel", "redis-cluster"] {
                let _ = RedisConfig::parse_url(&format!("{scheme}://{rest}"));
            }
        }
    }
}
