//! Webhooks: where backends are asked and told things, and what must hold of that.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::problem::Problem;
use super::values::{Network, Secret, Size, Span, words};
use crate::tls;
use crate::webhook::{Guard, Settings, SigningKey};

/// A backend that is asked and told things over HTTP. Other options name it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Webhook {
    /// Its name, in other options, in metrics and logs: 1-64 letters, digits, `_` and `-`.
    pub name: String,
    /// Where requests are sent, by POST: `https`, or `http` to addresses that `allow_private` or
    /// `allow_addresses` allow. Redirects are not followed.
    pub url: String,
    /// What requests are signed with, as Standard Webhooks has it: at least 32 random characters,
    /// whose bytes are the key; or `whsec_` and the key in base64.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
    /// A file that holds the secret; a final newline is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// The secret that was good before, while not all of the backend's processes have the new one:
    /// requests are signed with both.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub previous_secret: Secret,
    /// A file that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret_file: Option<PathBuf>,
    /// How long an answer may take once a request has its turn, with all tries. "3s" if not set.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many requests of this node may be under way at once. Events take half of them at most,
    /// and all but questions about sessions (`connect`, `refresh`, `subscribe`) three quarters. 64 if
    /// not set.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// How many may wait for their turn, each for no longer than `timeout`. One more is refused at
    /// once; a quarter of all is kept for questions about sessions too. 1024 if not set.
    #[serde(default = "default_waiting")]
    pub waiting: u32,
    /// How many lifecycle events one request may tell, 1 to 64. With 1, each has a request of its
    /// own; with more, they come in a list, of which there is one for each of the event streams at a
    /// time. 1 if not set.
    #[serde(default = "default_event_batch")]
    pub event_batch: u32,
    /// The largest answer that is read. "1MiB" if not set.
    #[serde(default = "default_max_answer")]
    pub max_answer: Size,
    /// After so many failures in a row of one kind, nothing of that kind is sent for
    /// `breaker_pause`; then one request tries whether it works again. 10 if not set.
    #[serde(default = "default_breaker_failures")]
    pub breaker_failures: u32,
    /// For how long nothing is sent. "5s" if not set.
    #[serde(default = "default_breaker_pause")]
    pub breaker_pause: Span,
    /// Whether it may be at a private or loopback address. Addresses of clouds' metadata and of
    /// the local link are refused all the same.
    #[serde(default)]
    pub allow_private: bool,
    /// Ranges of addresses where it may be whatever else is said, as in "10.0.0.0/8".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_addresses: Vec<Network>,
    /// The only authorities to trust, a PEM file, for an `https` URL. Absent: those that browsers
    /// trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Headers that are sent along, as in `{ authorization = "Bearer ..." }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

/// A webhook that is told of sessions.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct EventWebhook {
    /// One of `webhooks`.
    pub webhook: String,
    /// What it is told. Absent or empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<EventKind>,
}

words! {
    /// What comes about of sessions and destinations.
    EventKind {
        /// A session has begun.
        Connected = "connected",
        /// A session has ended.
        Disconnected = "disconnected",
        /// A session has subscribed to a destination of a namespace with events.
        Subscribed = "subscribed",
        /// Such a subscription has ended.
        Unsubscribed = "unsubscribed",
        /// The first subscription of the whole cluster to such a destination.
        Occupied = "occupied",
        /// The last one has ended.
        Vacated = "vacated",
    }
}

/// Which backends have a say in sessions: each is the name of one of `webhooks`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Hooks {
    /// Asked before a session begins: it may refuse it, and say whose it is, with which roles and
    /// claims, and until when. Tokens that no key of `auth.keys` is for are its to check. Without
    /// `refresh` it is asked anew when a client sends a new token. Empty: nobody is asked.
    pub connect: String,
    /// For how long `connect` is not asked anew about `POST /publish`, once it has let a request in:
    /// for the same token, address and forwarded headers, and no longer than its `expires_at`. Who
    /// is revoked is refused at once. "0s": it is asked each time. At most "5m".
    pub connect_reuse: Span,
    /// Asked when the time of a session is over, or its client has sent a new token: it may let it
    /// go on. Empty: nobody is asked.
    pub refresh: String,
    /// The headers of a client's request that `connect` is told, as in `["cookie"]`.
    pub forward_headers: Vec<String>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            connect: String::new(),
            connect_reuse: Span::seconds(0),
            refresh: String::new(),
            forward_headers: Vec::new(),
        }
    }
}

impl Webhook {
    /// What it comes to; `option` is where it stands.
    pub fn settings(&self, option: &str) -> Result<Settings, Problem> {
        let url = self.parsed_url(option)?;
        let is_encrypted = url.scheme_str() == Some("https");
        if self.ca_file.is_some() && !is_encrypted {
            let (fault, remedy) = ("set, but the url is not encrypted", "begin it with https");
            return Err(Problem::new(format!("{option}.ca_file"), fault, remedy));
        }
        let allowed = self.allow_addresses.iter().map(|network| network.0).collect();
        Ok(Settings {
            name: self.name.clone(),
            url,
            key: self.signing_key(option)?,
            timeout: self.timeout.0,
            concurrency: self.concurrency as usize,
            waiting: self.waiting as usize,
            event_batch: self.event_batch as usize,
            answer_max_bytes: self.max_answer.as_bytes(),
            breaker_failures: self.breaker_failures,
            breaker_pause: self.breaker_pause.0,
            guard: Guard { allow_private: self.allow_private, allowed, is_encrypted },
            roots: tls::roots(&format!("{option}.ca_file"), self.ca_file.as_deref())?,
            headers: self.parsed_headers(option)?,
        })
    }

    fn parsed_url(&self, option: &str) -> Result<Uri, Problem> {
        let remedy = "write it as in \"https://backend.example.com/fanlight\"";
        let problem = |fault: &str| Problem::new(format!("{option}.url"), fault, remedy);
        let url: Uri = self.url.parse().map_err(|_| problem("not a URL"))?;
        let authority = url.authority().ok_or_else(|| problem("not a whole URL"))?;
        if authority.as_str().contains('@') {
            let remedy = "put them into headers, as in { authorization = \"Basic ...\" }";
            // Under its own key it would be shown.
            return Err(Problem::new(option, "the url holds a user or password", remedy));
        }
        if authority.host().is_empty() || self.url.contains('#') {
            return Err(problem("not a URL to send to"));
        }
        match url.scheme_str() {
            Some("https") => Ok(url),
            Some("http") if self.allow_private || !self.allow_addresses.is_empty() => Ok(url),
            Some("http") => {
                let fault = "not encrypted, and no private address is allowed";
                let remedy = "begin it with https; or, for a backend in the same network, set \
                              allow_private or allow_addresses";
                Err(Problem::new(format!("{option}.url"), fault, remedy))
            }
            _ => Err(problem("neither http nor https")),
        }
    }

    fn signing_key(&self, option: &str) -> Result<SigningKey, Problem> {
        let secret =
            super::secret::read(option, "secret", &self.secret, self.secret_file.as_deref())?;
        let key = signing_key_of(&secret, option, "secret")?;
        let (previous, file) = (&self.previous_secret, self.previous_secret_file.as_deref());
        if previous.is_empty() && file.is_none() {
            return Ok(key);
        }
        let previous = super::secret::read(option, PREVIOUS, previous, file)?;
        if previous.reveal() == secret.reveal() {
            let remedy = "give the one that was good before, or remove it";
            let option = format!("{option}.{PREVIOUS}");
            return Err(Problem::new(option, "the same as secret", remedy));
        }
        Ok(key.with_previous(signing_key_of(&previous, option, PREVIOUS)?))
    }

    fn parsed_headers(&self, option: &str) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let problem = |fault: String| {
                let remedy = "write { name = \"value\" }, with letters, digits and - in the name";
                Problem::new(format!("{option}.headers"), fault, remedy)
            };
            let parsed: HeaderName =
                name.parse().map_err(|_| problem(format!("{name:?} is no header's name")))?;
            if OWN_HEADERS.contains(&parsed.as_str()) {
                return Err(problem(format!("{name} is set by the gateway itself")));
            }
            let mut value: HeaderValue = value
                .reveal()
                .parse()
                .map_err(|_| problem(format!("the value of {name} is no header's")))?;
            value.set_sensitive(true);
            headers.insert(parsed, value);
        }
        Ok(headers)
    }
}

/// What a secret called `name` of what stands at `option` is as a key.
fn signing_key_of(secret: &Secret, option: &str, name: &str) -> Result<SigningKey, Problem> {
    let weak = |fault: String| {
        let remedy = "use a random one, as from `openssl rand -hex 32`";
        Problem::new(format!("{option}.{name}"), fault, remedy)
    };
    if let Some(encoded) = secret.reveal().strip_prefix(SigningKey::PREFIX) {
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| weak("begins with whsec_, but what follows is not base64".to_owned()))?;
        if key.len() < KEY_MIN_BYTES {
            return Err(weak(format!("fewer than {KEY_MIN_BYTES} bytes can be guessed")));
        }
        return Ok(SigningKey::new(&key));
    }
    if secret.reveal().len() < SECRET_MIN_BYTES {
        return Err(weak(format!("fewer than {SECRET_MIN_BYTES} characters can be guessed")));
    }
    Ok(SigningKey::new(secret.reveal().as_bytes()))
}

/// What keeps webhooks from being used.
pub(super) fn problems(config: &Config, problems: &mut Vec<Problem>) {
    let mut names = HashSet::new();
    for (at, webhook) in config.webhooks.iter().enumerate() {
        let option = format!("webhooks[{at}]");
        let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let name = &webhook.name;
        if !(1..=NAME_MAX_BYTES).contains(&name.len()) || !name.bytes().all(is_good) {
            let fault = "not a name of 1-64 letters, digits, _ and -";
            let remedy = "name the backend, as in \"chat\"";
            problems.push(Problem::new(format!("{option}.name"), fault, remedy));
        }
        if !names.insert(name) {
            let remedy = "give each webhook a name of its own";
            let fault = "the name of another webhook too";
            problems.push(Problem::new(format!("{option}.name"), fault, remedy));
        }
        for (key, value) in [
            ("timeout", webhook.timeout.as_ms()),
            ("concurrency", webhook.concurrency.into()),
            ("max_answer", webhook.max_answer.0),
            ("breaker_failures", webhook.breaker_failures.into()),
            ("breaker_pause", webhook.breaker_pause.as_ms()),
        ] {
            if value == 0 {
                let remedy = "set it above zero, or remove it";
                problems.push(Problem::new(format!("{option}.{key}"), "zero", remedy));
            }
        }
        for (key, value) in [("concurrency", webhook.concurrency), ("waiting", webhook.waiting)] {
            if value > CALLS_MAX {
                let fault = format!("more than {CALLS_MAX}");
                let remedy = "a backend that needs so many is too slow";
                problems.push(Problem::new(format!("{option}.{key}"), fault, remedy));
            }
        }
        if !(1..=EVENT_BATCH_MAX).contains(&webhook.event_batch) {
            let fault = format!("not from 1 to {EVENT_BATCH_MAX}");
            let remedy = "leave it out for a request of each event's own";
            problems.push(Problem::new(format!("{option}.event_batch"), fault, remedy));
        }
        problems.extend(webhook.settings(&option).err());
    }
    hooks(config, problems);
}

/// What refers to webhooks that are not there, or could not do what it is for.
fn hooks(config: &Config, problems: &mut Vec<Problem>) {
    let hooks = &config.hooks;
    for (option, name) in [("hooks.connect", &hooks.connect), ("hooks.refresh", &hooks.refresh)] {
        if !name.is_empty() {
            problems.extend(config.webhook_problem(option, name));
        }
    }
    for (at, name) in hooks.forward_headers.iter().enumerate() {
        if name.parse::<HeaderName>().is_err() {
            let fault = "not the name of a header";
            let option = format!("hooks.forward_headers[{at}]");
            problems.push(Problem::new(option, fault, "name it, as in \"cookie\""));
        }
    }
    if !hooks.forward_headers.is_empty() && hooks.connect.is_empty() {
        let fault = "set, but there is nobody to tell them";
        let remedy = "set hooks.connect, or remove it";
        problems.push(Problem::new("hooks.forward_headers", fault, remedy));
    }
    let reuse = hooks.connect_reuse.0;
    if reuse > CONNECT_REUSE_MAX {
        let fault = "longer than five minutes";
        let remedy = "choose \"5m\" or less, as what `connect` answers may change";
        problems.push(Problem::new("hooks.connect_reuse", fault, remedy));
    }
    if !reuse.is_zero() && hooks.connect.is_empty() {
        let fault = "set, but nobody is asked";
        let remedy = "set hooks.connect, or remove it";
        problems.push(Problem::new("hooks.connect_reuse", fault, remedy));
    }
    for (at, namespace) in config.namespaces.iter().enumerate() {
        for (key, name) in [
            ("subscribe_hook", &namespace.subscribe_hook),
            ("publish_hook", &namespace.publish_hook),
            ("occupancy", &namespace.occupancy),
        ] {
            if let Some(name) = name {
                let option = format!("namespaces[{at}].{key}");
                problems.extend(config.webhook_problem(&option, name));
            }
        }
    }
    for (at, one) in config.events.webhooks.iter().enumerate() {
        let option = format!("events.webhooks[{at}].webhook");
        problems.extend(config.webhook_problem(&option, &one.webhook));
    }
}

impl Config {
    /// What is wrong with an option that is to name a webhook.
    pub fn webhook_problem(&self, option: &str, name: &str) -> Option<Problem> {
        let is_known = self.webhooks.iter().any(|webhook| webhook.name == name);
        (!is_known).then(|| {
            let fault = format!("there is no webhook {name:?}");
            let remedy = "name one of [[webhooks]], or add it there";
            Problem::new(option, fault, remedy)
        })
    }
}

fn default_timeout() -> Span {
    Span::seconds(3)
}

fn default_concurrency() -> u32 {
    64
}

fn default_waiting() -> u32 {
    1024
}

fn default_event_batch() -> u32 {
    1
}

fn default_max_answer() -> Size {
    Size::kib(1024)
}

fn default_breaker_failures() -> u32 {
    10
}

fn default_breaker_pause() -> Span {
    Span::seconds(5)
}

/// As many as are read of a stream at once.
const EVENT_BATCH_MAX: u32 = 64;
/// Headers that requests have anyhow.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];
/// The secret that is on its way out, as options call it.
const PREVIOUS: &str = "previous_secret";
const NAME_MAX_BYTES: usize = 64;
const SECRET_MIN_BYTES: usize = 32;
/// As Standard Webhooks demands.
const KEY_MIN_BYTES: usize = 24;
const CALLS_MAX: u32 = 65_536;
/// The longest that an answer of `connect` may count.
const CONNECT_REUSE_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str, secret: &str) -> Webhook {
        let text = format!("name = 'a'\nurl = '{url}'\nsecret = '{secret}'");
        toml::from_str(&text).unwrap()
    }

    const SECRET: &str = "a secret for tests, thirty-two bytes or more";

    #[test]
    fn plain_http_needs_an_address_that_is_allowed_and_no_url_holds_a_password() {
        let https = webhook("https://a.test/x?y=1", SECRET);
        assert!(https.settings("webhooks[0]").is_ok());
        for (url, fault) in [
            ("http://a.test/", "not encrypted"),
            ("ftp://a.test/", "neither http nor https"),
            ("/fanlight", "not a whole URL"),
            ("https://u:hunter2@a.test/", "a user or password"),
            ("https://a.test/#x", "not a URL"),
            ("https://a b/", "not a URL"),
        ] {
            let told = webhook(url, SECRET).settings("webhooks[0]").unwrap_err().to_string();
            assert!(told.contains(fault), "{url}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let private = Webhook { allow_private: true, ..webhook("http://127.0.0.1:1/", SECRET) };
        assert!(private.settings("webhooks[0]").is_ok());
    }

    #[test]
    fn secrets_are_long_and_never_shown() {
        for (secret, fault) in [
            ("", "empty"),
            ("hunter2", "can be guessed"),
            ("whsec_aHVudGVyMg==", "can be guessed"),
            ("whsec_hunter2!", "not base64"),
        ] {
            let told = webhook("https://a.test/", secret).settings("webhooks[0]").unwrap_err();
            let told = told.to_string();
            assert!(told.contains(fault) && !told.contains("hunter2"), "{secret}: {told}");
        }
        let encoded = STANDARD.encode([7; 24]);
        let webhook = webhook("https://a.test/", &format!("whsec_{encoded}"));
        let signed = |key: &SigningKey| key.sign("msg_1", 5, b"{}");
        let key = webhook.settings("webhooks[0]").unwrap().key;
        let new = signed(&SigningKey::new(&[7; 24]));
        assert_eq!(signed(&key), new);

        // While it is changed, there are two; neither may be weak, and they differ.
        let with_previous = |previous: &str| {
            let webhook = Webhook { previous_secret: Secret::new(previous), ..webhook.clone() };
            webhook.settings("webhooks[0]").map(|settings| signed(&settings.key))
        };
        let old = signed(&SigningKey::new(SECRET.as_bytes()));
        assert_eq!(with_previous(SECRET).unwrap(), format!("{new} {old}"));
        for (previous, fault) in
            [("hunter2", "can be guessed"), (&*format!("whsec_{encoded}"), "the same as secret")]
        {
            let told = with_previous(previous).unwrap_err().to_string();
            assert!(told.contains("webhooks[0].previous_secret") && told.contains(fault), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn headers_of_our_own_and_bad_ones_are_refused_without_their_values() {
        for (name, value) in
            [("webhook-id", "hunter2"), ("a b", "hunter2"), ("x-a", "hunter2\nx-b: 1")]
        {
            let headers = [(name.to_owned(), Secret::new(value))].into();
            let webhook = Webhook { headers, ..webhook("https://a.test/", SECRET) };
            let told = webhook.settings("webhooks[0]").unwrap_err().to_string();
            assert!(told.contains("webhooks[0].headers") && !told.contains("hunter2"), "{told}");
        }
    }
}
