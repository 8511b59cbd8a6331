//! The options of `fanlight relay`, and what they come to.

use std::path::PathBuf;

use fanlight_engine::broker::Channel;
use fanlight_engine::policy::Namespaces;
use fanlight_redis::{RedisConfig, RelayOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::redis::{Redis, RedisTls};
use super::values::{Secret, Span};
use super::{BrokerKind, Config, Mode, Namespace};

/// What `fanlight relay` brings from another cell into the one of this configuration, whose Redis
/// is that of `[redis]`. Nodes don't read it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Relay {
    /// What this cell is called, to which is relayed: 1-32 letters, digits, `_` and `-`.
    pub cell: String,
    /// What the cell is called from which is relayed.
    pub source_cell: String,
    /// The name of this relay, by which it knows how far it has come: another name begins anew.
    /// Empty: that of the source cell.
    pub name: String,
    /// The namespaces to relay, by name. Each keeps a history, and is the same in both cells.
    pub namespaces: Vec<String>,
    /// Whether to relay also what the source cell has got from a third cell. Leave it off where
    /// each cell has a relay from each other.
    pub transit: bool,
    /// How long after a search for destinations the next one begins. Without `patterns`, the first
    /// message of a destination waits for it.
    pub scan_interval: Span,
    /// How often the known destinations are asked for news. With `patterns`, news comes at once.
    pub poll_interval: Span,
    /// How long a process of this relay that went silent counts as living; another one takes over
    /// after that.
    pub lease: Span,
    /// The most destinations that are asked for news. Those beyond are looked at by each search.
    pub destinations: u32,
    /// The most destinations that are worked on at a time; each may take half a mebibyte.
    pub concurrency: u16,
    /// The Redis of the source cell.
    pub source: RelaySource,
}

/// The Redis of the source cell.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct RelaySource {
    /// Its URL, in any of the forms of `redis.url`.
    pub url: Secret,
    /// A file that holds the URL, instead of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// The ACL user at its sentinels, where they ask for one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sentinel_user: String,
    /// The password at its sentinels.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub sentinel_password: Secret,
    /// What every key and channel of the source cell begins with.
    pub prefix: String,
    /// How long a command may take before it counts as failed.
    pub response_timeout: Span,
    /// TLS, for the `rediss` URLs.
    pub tls: RedisTls,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            cell: String::new(),
            source_cell: String::new(),
            name: String::new(),
            namespaces: Vec::new(),
            transit: false,
            scan_interval: Span::seconds(5),
            poll_interval: Span::milliseconds(250),
            lease: Span::seconds(10),
            destinations: 100_000,
            concurrency: 32,
            source: RelaySource::default(),
        }
    }
}

impl Default for RelaySource {
    fn default() -> Self {
        let Redis { url, url_file, prefix, response_timeout, tls, .. } = Redis::default();
        Self {
            url,
            url_file,
            sentinel_user: String::new(),
            sentinel_password: Secret::default(),
            prefix,
            response_timeout,
            tls,
        }
    }
}

impl Relay {
    /// Whether anything is said of it.
    pub(super) fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Its name, in keys, metrics and logs.
    pub fn name(&self) -> &str {
        if self.name.is_empty() { &self.source_cell } else { &self.name }
    }
}

impl RelaySource {
    fn to_domain(&self) -> Result<RedisConfig, Problem> {
        if self.url.is_empty() && self.url_file.is_none() {
            let remedy = "set it to redis://host:6379, by file or FANLIGHT__RELAY__SOURCE__URL";
            return Err(Problem::new("relay.source.url", "not set", remedy));
        }
        let redis = Redis {
            url: self.url.clone(),
            url_file: self.url_file.clone(),
            sentinel_user: self.sentinel_user.clone(),
            sentinel_password: self.sentinel_password.clone(),
            prefix: self.prefix.clone(),
            response_timeout: self.response_timeout,
            tls: self.tls.clone(),
            ..Redis::default()
        };
        redis.to_domain().map_err(|problem| Problem {
            key: problem.key.replace("redis.", "relay.source."),
            fault: problem.fault.replace("redis.", "relay.source."),
            ..problem
        })
    }
}

impl Config {
    /// The connection to the Redis of the source cell.
    pub fn relay_source(&self) -> Result<RedisConfig, Problem> {
        self.relay.source.to_domain()
    }

    /// What the relay does.
    pub fn relay_options(&self) -> Result<RelayOptions, Problem> {
        let relay = &self.relay;
        let is_chosen = |namespace: &Namespace| relay.namespaces.contains(&namespace.name);
        // All of them, as the first that matches a destination has it; those that are not chosen
        // keep nothing here, and so have nothing to relay.
        let namespaces: Vec<_> = self
            .namespaces
            .iter()
            .map(|namespace| {
                let mut domain = namespace.to_domain();
                domain.options.history = domain.options.history.filter(|_| is_chosen(namespace));
                domain
            })
            .collect();
        let channels = self.namespaces.iter().filter(|one| one.patterns && is_chosen(one));
        Ok(RelayOptions {
            name: relay.name().to_owned(),
            source_cell: relay.source_cell.clone(),
            target_cell: relay.cell.clone(),
            channels: channels.map(|one| Channel::of_namespace(&one.name)).collect(),
            namespaces: Namespaces::new(&namespaces)
                .map_err(|error| self.policy_problem(&error))?,
            transit: relay.transit,
            scan_interval: relay.scan_interval.0,
            poll_interval: relay.poll_interval.0,
            lease: relay.lease.0,
            destinations_max: relay.destinations as usize,
            concurrency: relay.concurrency.into(),
        })
    }
}

/// Everything that keeps the relay from running.
pub(super) fn problems(config: &Config, problems: &mut Vec<Problem>) {
    let relay = &config.relay;
    let mut tell = |key: &str, fault: &str, remedy: &str| {
        problems.push(Problem::new(format!("relay.{key}"), fault, remedy));
    };
    for (key, name) in [("cell", &relay.cell), ("source_cell", &relay.source_cell)] {
        if !is_name(name) {
            tell(key, "not a name", "use 1-32 letters, digits, _ and -, as in \"eu-west\"");
        }
    }
    if !relay.name.is_empty() && !is_name(&relay.name) {
        tell("name", "not a name", "use 1-32 letters, digits, _ and -, or leave it empty");
    }
    if relay.cell == relay.source_cell && is_name(&relay.cell) {
        tell("source_cell", "the same as relay.cell", "give each cell a name of its own");
    }
    if relay.namespaces.is_empty() {
        tell("namespaces", "there are none", "name those to relay, as in [\"orders\"]");
    }
    for (at, name) in relay.namespaces.iter().enumerate() {
        let key = format!("namespaces[{at}]");
        match config.namespaces.iter().find(|namespace| namespace.name == *name) {
            None => {
                tell(&key, "there is no such namespace", "use the name of one of [[namespaces]]");
            }
            Some(namespace) if namespace.mode == Mode::Queue => {
                tell(&key, "a namespace of queues", "choose topics: queues are not relayed");
            }
            Some(namespace) if namespace.history.is_none() => tell(
                &key,
                "it keeps no history",
                "give it one that lasts longer than any outage, as in history = { size = 1000, \
                 ttl = \"1h\" }",
            ),
            Some(_) => {}
        }
    }
    for (key, span) in
        [("scan_interval", relay.scan_interval), ("poll_interval", relay.poll_interval)]
    {
        if span.as_ms() < INTERVAL_MIN_MS {
            tell(key, "less than 10ms", "make it longer, as in \"1s\"");
        }
    }
    if relay.lease.as_ms() < LEASE_MIN_MS {
        tell("lease", "less than 1s", "make it longer, as in \"10s\"");
    }
    if relay.destinations == 0 {
        tell("destinations", "zero", "set it above zero, as in 100000");
    }
    if !(1..=CONCURRENCY_MAX).contains(&relay.concurrency) {
        tell("concurrency", "not from 1 to 256", "32 is enough for most");
    }
    if config.broker.kind != BrokerKind::Redis {
        problems.push(Problem::new(
            "broker.kind",
            "a relay needs the Redis of its cell",
            "set it to \"redis\"",
        ));
    }
    problems.extend(config.relay_source().err());
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=32).contains(&name.len()) && name.bytes().all(good)
}

const INTERVAL_MIN_MS: u64 = 10;
const LEASE_MIN_MS: u64 = 1000;
const CONCURRENCY_MAX: u16 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    const GOOD: &str = r#"
        redis.url = "redis://eu"
        [relay]
        cell = "eu"
        source_cell = "us"
        namespaces = ["orders"]
        source.url = "redis://us"
        [[namespaces]]
        name = "orders"
        match = "/topic/orders.*"
        patterns = true
        history = { size = 10, ttl = "1m" }
        [[namespaces]]
        name = "rest"
        match = "/topic/**"
        history = { size = 10, ttl = "1m" }
    "#;

    fn loaded(text: &str) -> Result<Config, String> {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let layers = Layers { file: Some(file.path().to_owned()), ..Layers::default() };
        let loaded = Config::load(&layers).map_err(|error| error.to_string())?;
        loaded.checked_for_relay().map_err(|error| error.to_string())
    }

    #[test]
    fn only_chosen_namespaces_keep_a_history_in_the_eyes_of_the_relay() {
        let config = loaded(GOOD).unwrap();
        let options = config.relay_options().unwrap();
        assert_eq!((&*options.name, &*options.target_cell), ("us", "eu"));
        assert_eq!(options.channels, [Channel::of_namespace("orders")]);
        let keeps = |text: &str| options.namespaces.history(&text.parse().unwrap()).is_some();
        assert!(keeps("/topic/orders.1") && !keeps("/topic/other"));
    }

    #[test]
    fn what_keeps_a_relay_from_running_names_its_option() {
        for (good, bad, told) in [
            ("cell = \"eu\"", "cell = \"e u\"", "relay.cell"),
            ("source_cell = \"us\"", "source_cell = \"eu\"", "the same as relay.cell"),
            ("[\"orders\"]", "[]", "relay.namespaces"),
            ("[\"orders\"]", "[\"none\"]", "no such namespace"),
            ("source.url = \"redis://us\"", "", "relay.source.url"),
            ("redis://us", "http://us", "relay.source.url"),
            ("[relay]", "[relay]\nlease = \"10ms\"", "relay.lease"),
            ("[relay]", "[relay]\nconcurrency = 0", "relay.concurrency"),
            ("patterns = true\n        history = { size = 10, ttl = \"1m\" }", "", "no history"),
            ("redis.url", "broker.kind = \"memory\"\nredis.url", "broker.kind"),
        ] {
            assert!(GOOD.contains(good), "{good}");
            let error = loaded(&GOOD.replacen(good, bad, 1)).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }
}
