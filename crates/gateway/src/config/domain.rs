//! From options to what the rest of the gateway works with.

use std::num::NonZeroUsize;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanlight_engine::auth::TokenRules;
use fanlight_engine::conflate::Conflate;
use fanlight_engine::limits::{Heartbeats, Limits, Rate};
use fanlight_engine::outbox::OutboxLimits;
use fanlight_engine::peers::MESSAGE_MAX_BYTES;
use fanlight_engine::policy::{self, Policy, PolicyError, PolicyRule, RuleEffect, Who};
use fanlight_engine::queue::QueueOptions;
use fanlight_engine::registry::{SessionLimit, WhenFull};
use fanlight_engine::session;
use fanlight_redis::PresenceOptions;
use fanlight_redis::config::RedisConfig;
use rand::RngCore as _;

use super::app;
use super::problem::Problem;
use super::values::Secret;
use super::{
    Action, Config, Drain, Effect, Mode, Namespace, OnForbidden, OnSessionLimit, Origin, Presence,
    Queue, Rule,
};

impl Config {
    /// How many worker threads to run.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            workers => workers.into(),
        }
    }

    /// The same without the secrets of `api.keys`, once these have been read.
    #[must_use]
    pub fn without_api_secrets(mut self) -> Self {
        self.api.keys.iter_mut().for_each(|key| key.secret = Secret::default());
        self
    }

    /// Namespaces, rules and the routes of `/app`, compiled.
    pub fn compiled_policy(&self) -> Result<Policy, Problem> {
        let namespaces: Vec<_> = self.namespaces.iter().map(Namespace::to_domain).collect();
        let rules: Vec<_> = self.policy.rules.iter().map(Rule::to_domain).collect();
        Policy::new(&namespaces, &rules)
            .map_err(|error| self.policy_problem(&error))?
            .with_app_routes(&self.app.to_domain())
            .map_err(|error| app::route_problem(&error))
    }

    /// What tokens must say; `policy` says which of their claims to keep.
    pub fn token_rules(&self, policy: &Policy) -> TokenRules {
        let auth = &self.auth;
        let unless_empty = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        TokenRules {
            issuer: unless_empty(&auth.issuer),
            audience: unless_empty(&auth.audience),
            leeway_s: auth.leeway.0.as_secs(),
            require_exp: auth.require_exp,
            user_claim: auth.user_claim.clone(),
            roles_claim: auth.roles_claim.clone(),
            kept_claims: policy.claim_names(),
            grants_claim: auth.grants_claim.clone(),
            grants: auth.grants as usize,
        }
    }

    /// What one session may use.
    pub fn session_limits(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            message_bytes: limits.message.as_bytes(),
            pre_auth_frame_bytes: limits.pre_auth_frame.as_bytes(),
            headers: limits.headers as usize,
            header_bytes: limits.header.as_bytes(),
            subscriptions: limits.subscriptions as usize,
            messages: Rate { per_s: limits.messages_per_second, burst: limits.message_burst },
            commands: Rate { per_s: limits.commands_per_second, burst: limits.command_burst },
            connect_timeout_ms: limits.connect_time.as_ms(),
            transactions: limits.transactions as usize,
            transaction_frames: limits.transaction_frames as usize,
            transaction_bytes: limits.transaction.as_bytes(),
            ..Limits::default()
        }
    }

    /// How often this node admits somebody.
    pub fn handshake_rate(&self) -> Rate {
        Rate { per_s: self.limits.handshakes_per_second, burst: self.limits.handshakes_burst }
    }

    /// How often it admits one address.
    pub fn handshake_rate_per_ip(&self) -> Rate {
        let limits = &self.limits;
        let per_s = limits.handshakes_per_second_per_ip;
        Rate { per_s, burst: limits.handshakes_burst_per_ip }
    }

    /// How often it admits one user.
    pub fn handshake_rate_per_user(&self) -> Rate {
        let limits = &self.limits;
        let per_s = limits.handshakes_per_second_per_user;
        Rate { per_s, burst: limits.handshakes_burst_per_user }
    }

    /// What may wait for one slow connection.
    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { bytes: self.limits.outbox.as_bytes(), frames: self.limits.outbox_frames }
    }

    /// What may wait for a client that comes by requests: any one message whatever its bytes become,
    /// and no more than one answer between nodes carries.
    pub fn mailbox_limits(&self) -> OutboxLimits {
        let one_message = ESCAPED_BYTES * self.limits.message.as_bytes() + BESIDES_BYTES;
        let most = (MESSAGE_MAX_BYTES - ENVELOPE_BYTES).max(one_message);
        let outbox = self.outbox_limits();
        OutboxLimits { bytes: outbox.bytes.clamp(one_message, most), ..outbox }
    }

    /// How often heartbeats go.
    pub fn heartbeats(&self) -> Heartbeats {
        let ms = |span: super::Span| u32::try_from(span.as_ms()).unwrap_or(u32::MAX);
        Heartbeats {
            stomp_send_ms: ms(self.stomp.heartbeat_send),
            stomp_receive_ms: ms(self.stomp.heartbeat_receive),
            native_ms: ms(self.native.heartbeat),
            ..Heartbeats::default()
        }
    }

    /// What follows a denial.
    pub fn on_forbidden(&self) -> session::OnForbidden {
        match self.policy.on_forbidden {
            OnForbidden::Error => session::OnForbidden::ByProtocol,
            OnForbidden::Close => session::OnForbidden::Close,
        }
    }

    /// How many sessions a user may have.
    pub fn session_limit(&self) -> SessionLimit {
        SessionLimit {
            sessions_per_user: self.limits.sessions_per_user,
            when_full: match self.limits.on_session_limit {
                OnSessionLimit::KickOldest => WhenFull::KickOldest,
                OnSessionLimit::Reject => WhenFull::Reject,
            },
        }
    }

    /// What operators call this node.
    pub fn node_name(&self) -> String {
        if !self.cluster.name.is_empty() {
            return self.cluster.name.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        host.trim().to_owned()
    }

    /// The broker's connection.
    pub fn redis_config(&self) -> Result<RedisConfig, Problem> {
        Ok(RedisConfig {
            lease: self.cluster.lease.0,
            lease_renew: self.cluster.lease_renew.0,
            ..self.redis.to_domain()?
        })
    }

    /// How it is told who comes and goes.
    pub fn presence_options(&self) -> PresenceOptions {
        let Presence { interval, changes } = &self.presence;
        PresenceOptions { interval: interval.0, changes_max: *changes }
    }

    pub(super) fn policy_problem(&self, error: &PolicyError) -> Problem {
        let fault = error.to_string();
        let named = |name: &String| self.namespaces.iter().rposition(|own| own.name == *name);
        match error {
            PolicyError::BadName { name } | PolicyError::DuplicateName { name } => {
                let key = format!("namespaces[{}].name", named(name).unwrap_or_default());
                Problem::new(key, fault, "choose a name of its own, as in \"news\"")
            }
            PolicyError::BadNamespacePattern { name, .. } => {
                let key = format!("namespaces[{}].match", named(name).unwrap_or_default());
                Problem::new(key, fault, "write a pattern, as in \"/topic/news.*\"")
            }
            PolicyError::NotForQueues { name } => {
                let key = format!("namespaces[{}].mode", named(name).unwrap_or_default());
                Problem::new(key, fault, "remove `patterns`, `history` and `presence`, or the mode")
            }
            PolicyError::NotForConflation { name } => {
                let key = format!("namespaces[{}].conflate", named(name).unwrap_or_default());
                let remedy = "remove it, or `history` and the mode; what is conflated has no \
                              positions to come back to";
                Problem::new(key, fault, remedy)
            }
            PolicyError::BadConflationKey { name, .. } => {
                let key = format!("namespaces[{}].conflate_key", named(name).unwrap_or_default());
                Problem::new(key, fault, "name a header that publishers set, as in \"symbol\"")
            }
            PolicyError::BadRulePattern { rule, .. } => Problem::new(
                format!("policy.rules[{rule}].destination"),
                fault,
                "write a pattern, as in \"/topic/news.*\"",
            ),
            PolicyError::UnknownVariable { rule, .. }
            | PolicyError::AmbiguousVariable { rule, .. } => Problem::new(
                format!("policy.rules[{rule}].claims"),
                fault,
                "compare with a variable as in destination = \"/topic/rooms/{room}\", \
                 claims = { room = \"{room}\" }",
            ),
        }
    }
}

impl Namespace {
    pub(super) fn to_domain(&self) -> policy::Namespace {
        policy::Namespace {
            name: self.name.clone(),
            pattern: self.pattern.to_string(),
            patterns: self.patterns,
            anonymous: self.anonymous,
            options: policy::NamespaceOptions {
                history: self.history.map(|history| fanlight_engine::history::History {
                    size: history.size,
                    ttl_ms: history.ttl.as_ms(),
                }),
                presence: self.presence,
                queue: (self.mode == Mode::Queue).then(|| self.queue.to_domain()),
                events: self.events || self.occupancy.is_some(),
                subscribe_hook: self.subscribe_hook.as_deref().map(Into::into),
                publish_hook: self.publish_hook.as_deref().map(Into::into),
                conflate: self.conflate.map(|interval| Conflate {
                    interval_ms: interval.as_ms(),
                    key_header: Some(self.conflate_key.as_str())
                        .filter(|header| !header.is_empty())
                        .map(Into::into),
                }),
            },
        }
    }
}

impl Queue {
    pub(super) fn to_domain(&self) -> QueueOptions {
        QueueOptions {
            prefetch: self.prefetch,
            ack_timeout_ms: self.ack_timeout.as_ms(),
            max_deliveries: self.max_deliveries,
            max_length: self.max_length,
            expires_after_ms: self.expires_after.as_ms(),
            dead_letter: self.dead_letter.as_ref().map(|to| to.0.clone()),
        }
    }
}

impl Rule {
    fn to_domain(&self) -> PolicyRule {
        let action = |action: &Action| match action {
            Action::Subscribe => policy::Action::Subscribe,
            Action::Publish => policy::Action::Publish,
            Action::History => policy::Action::History,
            Action::Presence => policy::Action::Presence,
        };
        PolicyRule {
            effect: match self.effect {
                Effect::Allow => RuleEffect::Allow,
                Effect::Deny => RuleEffect::Deny,
            },
            actions: self.actions.iter().map(action).collect(),
            destination: self.destination.to_string(),
            who: match self.authenticated {
                None => Who::Anyone,
                Some(true) => Who::Authenticated,
                Some(false) => Who::Anonymous,
            },
            users: self.users.clone(),
            roles: self.roles.clone(),
            claims: self.claims.clone(),
        }
    }
}

impl Origin {
    /// Whether a request with this `Origin` may go on; `host` is what the request was made to.
    ///
    /// A request without an origin does not come from a web page: whether it may go on is not for
    /// this rule to say, except that one which a cookie authenticates may not.
    pub fn admits(&self, origin: &str, host: Option<&str>) -> bool {
        if self.allow.is_empty() {
            let own = origin.split_once("://").map(|(_, authority)| authority);
            return own.is_some_and(|own| host.is_some_and(|host| own.eq_ignore_ascii_case(host)));
        }
        self.allow.iter().any(|rule| rule.admits(origin))
    }
}

/// The steps of one drain, compressed to fit the time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// Readiness has failed; nothing is closed yet.
    pub grace: Duration,
    /// Sessions are closed at a steady pace.
    pub window: Duration,
    /// What has not closed is waited for, then cut.
    pub deadline: Duration,
}

impl Drain {
    /// The plan for a drain that nothing hurries, as `POST /drain` starts it.
    pub fn unhurried(&self) -> DrainPlan {
        DrainPlan { grace: self.grace.0, window: self.window.0, deadline: self.deadline.0 }
    }

    /// The plan when the process must have ended after `left`: the window gives way first, but
    /// never below half of what is left.
    pub fn within(&self, left: Duration) -> DrainPlan {
        let plan = self.unhurried();
        let deadline = plan.deadline.min(left / 6);
        let grace = plan.grace.min(left / 3);
        let window = plan.window.min(left.saturating_sub(grace + deadline));
        DrainPlan { grace, window, deadline }
    }

    /// The plan after SIGTERM.
    pub fn after_sigterm(&self) -> DrainPlan {
        self.within(self.shutdown_timeout.0)
    }
}

/// A secret of 256 random bits, as text.
pub(super) fn random_secret() -> Secret {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

/// What one byte may become in JSON: `\u0001`.
const ESCAPED_BYTES: usize = 6;
/// What a message has besides its body, in JSON or STOMP.
const BESIDES_BYTES: usize = 64 << 10;
/// What a page has besides its messages: a cursor.
const ENVELOPE_BYTES: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_allow_list_only_pages_of_the_own_host_are_admitted() {
        let origin = Origin::default();
        for (page, host, admitted) in [
            ("https://chat.example.com", Some("chat.example.com"), true),
            ("http://localhost:8080", Some("localhost:8080"), true),
            ("http://localhost:8080", Some("localhost:9090"), false),
            ("https://evil.test", Some("chat.example.com"), false),
            ("https://evil.test", None, false),
            ("null", Some("null"), false),
        ] {
            assert_eq!(origin.admits(page, host), admitted, "{page} to {host:?}");
        }
    }

    #[test]
    fn an_allow_list_stands_in_for_the_own_host() {
        let origin = Origin { allow: vec!["https://*.example.com".parse().unwrap()] };
        assert!(origin.admits("https://app.example.com", Some("rt.example.com")));
        assert!(!origin.admits("https://rt.example.net", Some("rt.example.net")));
    }

    #[test]
    fn the_defaults_are_those_of_the_engine() {
        let config = Config::default();
        assert_eq!(config.session_limits(), Limits::default());
        assert_eq!(config.heartbeats(), Heartbeats::default());
        assert_eq!(Queue::default().to_domain(), QueueOptions::default());
        let policy = config.compiled_policy().unwrap();
        assert_eq!(config.token_rules(&policy), TokenRules::default());
    }

    #[test]
    fn a_drain_fits_the_time_there_is_and_keeps_half_of_it_for_closing() {
        let drain = Drain::default();
        for seconds in [1, 6, 30, 60, 120, 255, 1000] {
            let left = Duration::from_secs(seconds);
            let plan = drain.within(left);
            assert!(plan.grace + plan.window + plan.deadline <= left, "{plan:?} in {left:?}");
            assert!(plan.window >= (left / 2).min(drain.window.0), "{plan:?} in {left:?}");
        }
        assert_eq!(drain.within(Duration::from_secs(255)), drain.unhurried());
    }
}
