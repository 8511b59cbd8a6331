//! The options of the connection to Redis, and what they come to.

use std::path::PathBuf;

use fanlight_redis::RedisConfig;
use fanlight_redis::config::{ClientCertificate, Credentials, Servers, TlsConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::values::{Secret, Span};

/// The connection to Redis or Valkey.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Redis {
    /// One server: `redis://[user:password@]host:port[/db]`. By sentinels:
    /// `redis-sentinel://h1:p1,h2:p2,h3:p3/master-name[/db]`. A cluster, by some of its nodes:
    /// `redis-cluster://h1:p1,h2:p2`. Several servers that know nothing of each other, with the
    /// channels and keys spread over them: `redis-shards://h1:p1,h2:p2`. With TLS: `rediss://`,
    /// `rediss-sentinel://`, `rediss-cluster://`, `rediss-shards://`.
    pub url: Secret,
    /// A file that holds the URL, instead of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// The ACL user at the sentinels, where they ask for one; `default` if only the password is
    /// set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sentinel_user: String,
    /// The password at the sentinels.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub sentinel_password: Secret,
    /// What every key and channel begins with; clusters that share a Redis need different ones.
    pub prefix: String,
    /// How long a node stays subscribed to a channel that it no longer needs.
    pub linger: Span,
    /// How long a command may take before it counts as failed.
    pub response_timeout: Span,
    /// How many replicas must have a publication, with history or in a queue, before it is
    /// acknowledged. As many as a master has keep every failover from losing what was
    /// acknowledged, for a round trip to them.
    pub min_replicas_ack: u32,
    /// How long replicas have for that; a publication that waits longer is answered `unknown`. At
    /// most a quarter of `response_timeout`.
    pub replica_ack_timeout: Span,
    /// Connections per master that receive, 1 to 4. More than one is for more than 50,000 channels
    /// on a node, or where one receiving core is not enough.
    pub subscriber_connections: u8,
    /// TLS, for the `rediss` URLs.
    pub tls: RedisTls,
}

/// TLS to Redis, for the `rediss` URLs. The files are PEM, and read anew at every connect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct RedisTls {
    /// The only authorities to trust. Absent: those that browsers trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This node's own certificate, where Redis asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// The key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that Redis' certificates must be for, where it is not the host in the URL.
    pub server_name: String,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            url_file: None,
            sentinel_user: String::new(),
            sentinel_password: Secret::default(),
            prefix: "fl".into(),
            linger: Span::seconds(5),
            response_timeout: Span::seconds(2),
            min_replicas_ack: 0,
            replica_ack_timeout: Span(std::time::Duration::from_millis(250)),
            subscriber_connections: 1,
            tls: RedisTls::default(),
        }
    }
}

impl Redis {
    /// What the broker is started with.
    pub(super) fn to_domain(&self) -> Result<RedisConfig, Problem> {
        let url = self.resolved_url()?;
        let config = RedisConfig::parse_url(url.reveal()).map_err(|error| {
            let told = error.to_string();
            let (fault, remedy) = told.split_once("; ").unwrap_or((&told, URL_FORM));
            Problem::new("redis.url", fault, remedy)
        })?;
        Ok(RedisConfig {
            prefix: format!("{}:", self.prefix.trim_end_matches(':')),
            linger: self.linger.0,
            response_timeout: self.response_timeout.0,
            min_replicas_ack: self.min_replicas_ack,
            replica_ack_timeout: self.replica_ack_timeout.0,
            subscriber_connections: self.subscribers()?,
            sentinel_credentials: self.sentinel_login(&config.servers)?,
            tls: self.tls.to_domain(config.tls.is_some())?,
            ..config
        })
    }

    fn subscribers(&self) -> Result<std::num::NonZeroUsize, Problem> {
        let count = usize::from(self.subscriber_connections);
        std::num::NonZeroUsize::new(count)
            .filter(|count| count.get() <= RedisConfig::MAX_SUBSCRIBER_CONNECTIONS)
            .ok_or_else(|| {
                let remedy = "write a number from 1 to 4; 1 is enough for most";
                Problem::new("redis.subscriber_connections", "out of range", remedy)
            })
    }

    fn sentinel_login(&self, servers: &Servers) -> Result<Option<Credentials>, Problem> {
        let is_set = !self.sentinel_user.is_empty() || !self.sentinel_password.is_empty();
        match servers {
            _ if !is_set => Ok(None),
            Servers::Sentinel { .. } if self.sentinel_password.is_empty() => Err(Problem::new(
                "redis.sentinel_user",
                "set without redis.sentinel_password",
                "set both, or none",
            )),
            Servers::Sentinel { .. } => {
                let user = Some(&self.sentinel_user).filter(|user| !user.is_empty());
                Ok(Some(Credentials {
                    user: user.map_or("default", String::as_str).to_owned(),
                    password: self.sentinel_password.reveal().to_owned(),
                }))
            }
            Servers::Standalone(_) | Servers::Cluster { .. } => Err(Problem::new(
                "redis.sentinel_password",
                "set, but redis.url names no sentinels",
                "remove it, or use redis-sentinel://",
            )),
        }
    }

    /// The URL, from wherever it is configured.
    fn resolved_url(&self) -> Result<Secret, Problem> {
        let url = match &self.url_file {
            Some(_) if !self.url.is_empty() => {
                return Err(Problem::new(
                    "redis.url_file",
                    "set together with redis.url",
                    "remove one",
                ));
            }
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    let fault = format!("can't read {}: {error}", path.display());
                    Problem::new("redis.url_file", fault, "check the path and its permissions")
                })?;
                Secret::new(text.trim())
            }
            None => self.url.clone(),
        };
        if url.is_empty() {
            return Err(Problem::new(
                "redis.url",
                "not set",
                "set it to redis://host:6379, by file, FANLIGHT__REDIS__URL or --redis; for a \
                 single node without Redis set broker.kind = \"memory\"",
            ));
        }
        Ok(url)
    }
}

impl RedisTls {
    /// `is_encrypted` is what the URL's scheme says.
    fn to_domain(&self, is_encrypted: bool) -> Result<Option<TlsConfig>, Problem> {
        if !is_encrypted && *self == Self::default() {
            return Ok(None);
        }
        if !is_encrypted {
            let remedy = "remove it, or begin the URL with rediss";
            return Err(Problem::new("redis.tls", "set, but redis.url is not encrypted", remedy));
        }
        let client = match (&self.certificate_file, &self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate_file: certificate.clone(),
                key_file: key.clone(),
            }),
            (Some(_), None) | (None, Some(_)) => {
                let fault = "only one of certificate_file and key_file is set";
                return Err(Problem::new("redis.tls", fault, "set both, or none"));
            }
        };
        let server_name = Some(self.server_name.clone()).filter(|name| !name.is_empty());
        Ok(Some(TlsConfig { ca_file: self.ca_file.clone(), client, server_name }))
    }
}

const URL_FORM: &str = "write redis://[user:password@]host:port[/db], or one of the other forms";

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Redis)) -> Option<String> {
        let mut redis = Redis { url: Secret::new("redis://h"), ..Redis::default() };
        change(&mut redis);
        redis.to_domain().err().map(|problem| problem.to_string())
    }

    #[test]
    fn what_does_not_fit_the_url_is_refused() {
        assert_eq!(problem(|_| {}), None);
        let sentinel = |redis: &mut Redis| redis.url = Secret::new("redis-sentinel://h/m");
        assert_eq!(problem(sentinel), None);
        let told = |change: fn(&mut Redis)| problem(change).unwrap_or_default();
        assert!(told(|redis| redis.tls.server_name = "h".into()).contains("not encrypted"));
        assert!(told(|redis| redis.sentinel_password = Secret::new("x")).contains("no sentinels"));
        assert!(told(|redis| redis.subscriber_connections = 5).contains("1 to 4"));
        assert!(
            told(|redis| {
                redis.url = Secret::new("rediss://h");
                redis.tls.key_file = Some("key.pem".into());
            })
            .contains("only one of")
        );
    }

    #[test]
    fn the_prefix_is_set_apart_from_what_follows() {
        for (written, prefix) in [("fl", "fl:"), ("fl:", "fl:"), ("a:b", "a:b:")] {
            let redis =
                Redis { url: Secret::new("redis://h"), prefix: written.into(), ..Redis::default() };
            assert_eq!(redis.to_domain().unwrap().prefix, prefix);
        }
    }
}
