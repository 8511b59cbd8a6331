//! Configuration: defaults, file, environment and flags, into one validated [`Config`].

mod accounts;
mod api;
mod app;
mod check;
mod domain;
mod layers;
mod limits;
mod listen;
mod load;
mod problem;
mod queues;
mod rebalance;
mod redis;
pub mod reference;
mod relay;
mod secret;
mod sections;
mod traces;
mod values;
mod webhooks;

pub use accounts::Account;
pub use api::{Api, ApiKey, Scope};
pub use app::{App, AppRoute};
pub use domain::DrainPlan;
pub use layers::{ENV_PREFIX, Flag, Layers};
pub use limits::{Limits, OnSessionLimit};
pub use listen::{Listen, ServerTls};
pub use load::Loaded;
pub use problem::{ConfigError, Problem};
pub use queues::{DeadLetter, Mode, Queue};
pub use rebalance::Rebalance;
pub use redis::{Redis, RedisTls};
pub use relay::{Relay, RelaySource};
pub use sections::{
    Action, Algorithm, Auth, AuthKey, Broker, BrokerKind, Cluster, Config, Drain, Effect, Events,
    History, Log, LogFormat, Namespace, Native, OnForbidden, Origin, Pattern, Policy, Presence,
    Rule, Stomp, Telemetry, WebSocket,
};
pub use traces::Traces;
pub use values::{
    BadNetwork, BadOrigin, BadSize, BadSpan, Network, OriginRule, Secret, Size, Span,
};
pub use webhooks::{EventKind, EventWebhook, Hooks, Webhook};

/// What `fanlight serve` serves.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The configuration, checked.
    pub config: Config,
    /// What it says that is hardly meant; to be logged at the start.
    pub warnings: Vec<Problem>,
    /// Whether the development preset is on: the secret and ready-made tokens are printed, and a
    /// page to try things is served.
    pub dev: bool,
    /// Whether the endpoints for public conformance suites are mounted. Only with `dev`.
    pub conformance: bool,
}

#[cfg(test)]
mod tests;
