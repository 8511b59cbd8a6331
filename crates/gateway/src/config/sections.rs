//! Every option of the gateway, its default and its meaning. The doc comments are the reference.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use fanlight_proto::{DestinationPattern, PatternError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::Account;
use super::api::Api;
use super::app::App;
use super::jwks::Jwks;
use super::limits::Limits;
use super::listen::Listen;
use super::queues::{Mode, Queue};
use super::rebalance::Rebalance;
use super::redis::Redis;
use super::relay::Relay;
use super::traces::Traces;
use super::values::{OriginRule, Secret, Size, Span, as_text, words};
use super::webhooks::{EventWebhook, Hooks, Webhook};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Threads that carry connections. 0: one per core.
    pub workers: u16,
    /// Where the gateway listens.
    pub listen: Listen,
    /// Who clients are: tokens and the keys that sign them.
    pub auth: Auth,
    /// Which web pages may connect.
    pub origin: Origin,
    /// The WebSocket endpoint.
    pub websocket: WebSocket,
    /// SockJS, for clients that can't have a WebSocket.
    pub sockjs: SockJs,
    /// Polling, for clients that can do nothing else.
    pub poll: Poll,
    /// STOMP.
    pub stomp: Stomp,
    /// The native protocol, `fanlight.v1.json`.
    pub native: Native,
    /// Bounds on everything a client can make the gateway hold. Exceeding one gives a typed error
    /// or close, never silence.
    pub limits: Limits,
    /// What destinations are like, by pattern; the first match wins. A destination that none
    /// matches can't be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Who may do what. What no rule allows is denied.
    pub policy: Policy,
    /// What backends ask of the cluster, over HTTP at `listen.api`.
    pub api: Api,
    /// Which backends handle what clients send to `/app/...`.
    pub app: App,
    /// Backends that are asked and told things over HTTP; other options name them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
    /// Which backends have a say in sessions: each is the name of one of `webhooks`.
    pub hooks: Hooks,
    /// How it is told who comes and goes, in namespaces with `presence = true`.
    pub presence: Presence,
    /// What carries messages between nodes.
    pub broker: Broker,
    /// The connection to Redis or Valkey, where that is the broker.
    pub redis: Redis,
    /// This node among the others.
    pub cluster: Cluster,
    /// What is told of sessions, to webhooks and to whoever reads the event streams in Redis.
    pub events: Events,
    /// What `fanlight relay` brings from another cell into the one of this configuration.
    pub relay: Relay,
    /// How sessions leave a node that goes away.
    pub drain: Drain,
    /// How sessions move to nodes that have fewer.
    pub rebalance: Rebalance,
    /// The log, on standard error.
    pub log: Log,
    /// What is told of this node beside `/metrics`.
    pub telemetry: Telemetry,
}

/// Who clients are: tokens and the keys that sign them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Auth {
    /// What a token's `iss` must be. Empty: not checked.
    pub issuer: String,
    /// What a token's `aud` must be, alone or in a list. Empty: not checked.
    pub audience: String,
    /// By how much the clocks of the token's issuer and this node may differ.
    pub leeway: Span,
    /// Whether a token without `exp` is refused.
    pub require_exp: bool,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that lists the user's roles: an array, or one text with spaces between.
    pub roles_claim: String,
    /// The claim with what a token grants beyond the policy: an object of lists of destinations or
    /// patterns under "subscribe", "publish", "presence" and "history". A rule that denies wins.
    pub grants_claim: String,
    /// How many destinations and patterns one token may grant.
    pub grants: u32,
    /// The cookie to read a token from. Empty: no cookie. With a cookie, every request that
    /// carries it needs a good `Origin`.
    pub cookie: String,
    /// Whether a token may come as the query parameter `access_token`, which the browser's
    /// WebSocket needs where it can't use a cookie or a subprotocol.
    pub query: bool,
    /// The keys that tokens may be signed with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<AuthKey>,
    /// Where further keys are fetched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jwks: Vec<Jwks>,
    /// Services that connect by STOMP's `login` and `passcode`, such as Spring's broker relay. They
    /// act for many: neither rates nor `limits.sessions_per_user` bound them, and once connected
    /// they do not count towards `limits.connections_per_ip`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Account>,
}

/// A key that tokens may be signed with. The algorithm is fixed here and never taken from a token.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct AuthKey {
    /// Its `kid`. A token with this `kid` is checked with this key only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// HS*: the shared secret, at least as long as the hash (32 bytes for HS256).
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
    /// HS*: a file that holds the shared secret; a final newline is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// All others: the public key as PEM text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub public_key_pem: String,
    /// All others: a PEM file with the public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
}

words! {
    /// A signature algorithm (RFC 7518 §3.1, RFC 8037).
    Algorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
        /// RSA PKCS #1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// RSA PKCS #1 v1.5 with SHA-384.
        Rs384 = "RS384",
        /// RSA PKCS #1 v1.5 with SHA-512.
        Rs512 = "RS512",
        /// RSA-PSS with SHA-256.
        Ps256 = "PS256",
        /// RSA-PSS with SHA-384.
        Ps384 = "PS384",
        /// RSA-PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA with P-256 and SHA-256.
        Es256 = "ES256",
        /// ECDSA with P-384 and SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

/// Which web pages may connect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Origin {
    /// The allowed values of `Origin`: exact, `https://*.example.com`, or `*` for any. Empty: only
    /// pages of the gateway's own host.
    pub allow: Vec<OriginRule>,
}

/// The WebSocket endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct WebSocket {
    /// The path that clients connect to.
    pub path: String,
    /// Whether to agree to compression (permessage-deflate). Costs CPU and saves bandwidth. A
    /// compressed message may not unfold to more than `limits.message`.
    pub compression: bool,
    /// Messages of fewer bytes are sent uncompressed.
    pub compression_min_bytes: u32,
}

/// SockJS, for clients that can't have a WebSocket. No request needs to come to the node that had
/// the one before.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct SockJs {
    /// The path that clients are given, without a slash at its end.
    pub path: String,
    /// How long a session lives without a connection that receives.
    pub disconnect_delay: Span,
    /// How often a connection that receives nothing else is sent a heartbeat.
    pub heartbeat: Span,
    /// How much a streaming response carries before it ends and the client makes another: browsers
    /// keep all of it in memory.
    pub stream_bytes: Size,
    /// Where the page in an iframe, for old browsers, loads the client from.
    pub client_url: String,
    /// Where clients are to connect to, told in `info`. Empty: where they asked.
    pub base_url: String,
}

/// Polling, for clients that can do nothing else.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Poll {
    /// The longest that a poll may wait. Keep it below the idle timeout of the load balancer.
    pub max_wait: Span,
    /// How long messages are kept for who does not poll. With a history, they are there longer.
    pub linger: Span,
}

/// STOMP.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Stomp {
    /// How often the server offers to send a heartbeat. "0s": never.
    pub heartbeat_send: Span,
    /// How often the server wants to hear from the client. "0s": never.
    pub heartbeat_receive: Span,
}

/// The native protocol, `fanlight.v1.json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Native {
    /// How often either side sends something; twice that without hearing anything ends the
    /// session. Keep it well below the idle timeout of the load balancer.
    pub heartbeat: Span,
}

/// What the destinations of a pattern are like.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "they are options that have nothing in common")]
pub struct Namespace {
    /// Its name, in metrics and broker keys: 1-64 letters, digits, `_` and `-`.
    pub name: String,
    /// The destinations that belong to it: `?`, `*`, `**` and `{variable}` as in Spring.
    #[serde(rename = "match")]
    pub pattern: Pattern,
    /// Whether clients may subscribe to patterns here. Every node then gets all messages of the
    /// namespace for which it has any subscriber.
    #[serde(default)]
    pub patterns: bool,
    /// Whether sessions without a token may use it, as far as the policy allows.
    #[serde(default)]
    pub anonymous: bool,
    /// Whether it is kept who is subscribed to each destination here, for those to see whom the
    /// policy allows the action "presence".
    #[serde(default)]
    pub presence: bool,
    /// Whether it is recorded who subscribes here, and which destinations have subscribers at
    /// all. Needs `events.enabled`, and does not go with `patterns`.
    #[serde(default)]
    pub events: bool,
    /// One of `webhooks`, asked whether a session may subscribe here, or read the history or who is
    /// there, once the policy allows it. Absent: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe_hook: Option<String>,
    /// One of `webhooks`, asked whether a session may publish here, once the policy allows it; it may
    /// also change what is published. Absent: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_hook: Option<String>,
    /// One of `webhooks`, told when a destination here gets its first subscriber of the whole
    /// cluster, and when it has lost its last. Needs `events.enabled`, and does not go with
    /// `patterns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupancy: Option<String>,
    /// What is kept of each destination's messages, for clients that were away. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// A subscriber gets one message of a key in this time, the latest; who is too slow even for
    /// that gets the latest once it can, and is not closed. Absent: it gets each. Does not go with
    /// `history` or queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflate: Option<Span>,
    /// The header that is the key of a message beside its destination; messages without it have
    /// one key together. Empty: the destination alone. For namespaces with `conflate` only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub conflate_key: String,
    /// "topic" gives each message to all who are subscribed; "queue" keeps it until one of them
    /// has acknowledged it. Queues have no patterns, history or presence. Default: "topic".
    #[serde(default)]
    pub mode: Mode,
    /// How queues behave; for `mode = "queue"` only.
    #[serde(default, skip_serializing_if = "Queue::is_default")]
    pub queue: Queue,
}

/// What is kept of each destination's messages.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct History {
    /// How many messages of each destination are kept, 1 to 100000: the newest. 100 if not set.
    pub size: u32,
    /// How long they outlive the newest of them, "1s" to "30days". "5m" if not set.
    pub ttl: Span,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// What follows a denial: "error" answers and keeps the session where the protocol can (STOMP
    /// always closes after an ERROR), "close" ends it.
    pub on_forbidden: OnForbidden,
    /// The rules, in order; the first that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

words! {
    /// What follows a denial.
    OnForbidden {
        /// Answer with an error.
        Error = "error",
        /// End the session.
        Close = "close",
    }
}

/// One rule. All conditions that are given must hold.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Rule {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// What it is about. Empty: every action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// The destinations it is about. `{user}` stands for the session's own user, literally; a rule
    /// on `/user/queue/...` or `/user/**` allows only one's own.
    pub destination: Pattern,
    /// true: only with a user; false: only without. Absent: either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
    /// The user must be one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// The user must have one of these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The token must have each of these claims, with this value or with a list that holds it. A
    /// value of `{variable}` is what that variable stands for in the destination.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

words! {
    /// Whether a rule allows or denies.
    Effect {
        /// Allows.
        Allow = "allow",
        /// Denies.
        Deny = "deny",
    }
}

words! {
    /// What a rule is about.
    Action {
        /// Receiving.
        Subscribe = "subscribe",
        /// Sending.
        Publish = "publish",
        /// Reading what was sent before.
        History = "history",
        /// Seeing who is subscribed.
        Presence = "presence",
    }
}

/// How it is told who comes and goes, in namespaces with `presence = true`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Presence {
    /// How long changes of a destination are gathered before they are published together. Who
    /// comes and goes again within it is not told.
    pub interval: Span,
    /// A change of more members than this tells their count only, and clients read the members
    /// anew.
    pub changes: u32,
}

/// What carries messages between nodes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Broker {
    /// "redis" for any number of nodes; "memory" for one node that is alone.
    pub kind: BrokerKind,
    /// How long a node that has lost its broker or its lease goes on to be called ready by `/readyz`.
    /// For supervisors that replace what is not ready, as ECS does: connections stay while Redis
    /// fails over, but not when their node is replaced.
    pub readiness_patience: Span,
}

words! {
    /// What carries messages between nodes.
    BrokerKind {
        /// This process only.
        Memory = "memory",
        /// Redis or Valkey.
        Redis = "redis",
    }
}

/// This node among the others.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Cluster {
    /// What operators call this node. Empty: the machine's host name.
    pub name: String,
    /// How long a node that has gone silent counts as living. Its sessions are removed after that.
    pub lease: Span,
    /// How often a node says that it lives; at most a third of `lease`.
    pub lease_renew: Span,
}

/// What is told of sessions, to webhooks and to whoever reads the event streams in Redis.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Events {
    /// Whether lifecycle events are written.
    pub enabled: bool,
    /// Events that each of the 32 streams keeps, about; older ones are dropped. Without Redis, as
    /// many as wait for a webhook in each of 8 lines.
    pub max_length: u64,
    /// Webhooks that are told of sessions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<EventWebhook>,
}

/// How sessions leave a node that goes away.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Drain {
    /// From failing readiness to the first close: longer than the load balancer takes to notice.
    /// Whoever it sends meanwhile is served; after that, handshakes are refused. Left out where
    /// nobody is connected and nobody has ever asked `/readyz`.
    pub grace: Span,
    /// The time over which sessions are closed, evenly and in random order.
    pub window: Span,
    /// After the window: how long sockets that have not closed are waited for.
    pub deadline: Span,
    /// From SIGTERM to the end of the process, at most. `grace`, `window` and `deadline` are
    /// compressed to fit. Keep it just below the time after which the supervisor kills.
    pub shutdown_timeout: Span,
    /// The ARN of the target group of Elastic Load Balancing through which a task of Amazon ECS gets
    /// its clients. The task begins to drain when its target is taken out, which comes before SIGTERM:
    /// it asks as its role, which must be allowed `elasticloadbalancing:DescribeTargetHealth`. Empty:
    /// it does not ask.
    pub watch_target_group: String,
    /// How often it asks; at most a minute. AWS bounds the questions of an account, so hundreds of
    /// tasks need longer.
    pub watch_interval: Span,
    /// Whether a task of Amazon ECS has itself protected from scale-in and deployments while it has
    /// connections. A drain gives that up.
    pub ecs_task_protection: bool,
}

/// The log, on standard error.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Log {
    /// "json" for machines, "pretty" for people.
    pub format: LogFormat,
    /// "error", "warn", "info", "debug" or "trace"; or different ones for parts of the program, as
    /// in `"info,fanlight_redis=debug"`.
    pub level: String,
}

/// What is told of this node beside `/metrics`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Telemetry {
    /// What this service is called in metrics of CloudWatch, where nodes of one name are counted
    /// together, and in traces.
    pub service: String,
    /// Whether a line of metrics is written to standard output now and then, in the Embedded Metric
    /// Format of Amazon CloudWatch, which makes metrics of it where it arrives as a log.
    pub emf: bool,
    /// How often that is. CloudWatch keeps one value a minute.
    pub emf_interval: Span,
    /// Traces, told by OTLP to a collector of OpenTelemetry.
    pub traces: Traces,
}

words! {
    /// How the log is written.
    LogFormat {
        /// For people.
        Pretty = "pretty",
        /// For machines.
        Json = "json",
    }
}

/// A pattern over destinations, as an option.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(pub DestinationPattern);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Pattern, "Pattern", { "type": "string", "title": "pattern" });

impl Default for History {
    fn default() -> Self {
        Self { size: 100, ttl: Span::seconds(300) }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            leeway: Span::seconds(30),
            require_exp: true,
            user_claim: "sub".into(),
            roles_claim: "roles".into(),
            grants_claim: "fanlight".into(),
            grants: 64,
            cookie: String::new(),
            query: true,
            keys: Vec::new(),
            jwks: Vec::new(),
            accounts: Vec::new(),
        }
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { path: "/ws".into(), compression: false, compression_min_bytes: 256 }
    }
}

impl Default for SockJs {
    fn default() -> Self {
        Self {
            path: "/sockjs".into(),
            disconnect_delay: Span::seconds(5),
            heartbeat: Span::seconds(25),
            stream_bytes: Size::kib(128),
            client_url: "https://cdn.jsdelivr.net/npm/sockjs-client@1/dist/sockjs.min.js".into(),
            base_url: String::new(),
        }
    }
}

impl Default for Poll {
    fn default() -> Self {
        Self { max_wait: Span::seconds(50), linger: Span::seconds(30) }
    }
}

impl Default for Stomp {
    fn default() -> Self {
        Self { heartbeat_send: Span::seconds(10), heartbeat_receive: Span::seconds(10) }
    }
}

impl Default for Native {
    fn default() -> Self {
        Self { heartbeat: Span::seconds(25) }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { on_forbidden: OnForbidden::Error, rules: Vec::new() }
    }
}

impl Default for Presence {
    fn default() -> Self {
        Self { interval: Span::milliseconds(500), changes: 100 }
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self { kind: BrokerKind::Redis, readiness_patience: Span::seconds(0) }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self { name: String::new(), lease: Span::seconds(15), lease_renew: Span::seconds(5) }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { enabled: false, max_length: 100_000, webhooks: Vec::new() }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            grace: Span::seconds(10),
            window: Span::seconds(240),
            deadline: Span::seconds(5),
            shutdown_timeout: Span::seconds(30),
            watch_target_group: String::new(),
            watch_interval: Span::seconds(10),
            ecs_task_protection: false,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            service: "fanlight".into(),
            emf: false,
            emf_interval: Span::seconds(60),
            traces: Traces::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, level: "info".into() }
    }
}
