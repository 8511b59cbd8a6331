//! What a node asks where it is a task of ECS: the load balancer, whether the task is taken out, which
//! is told before SIGTERM; and its agent, that it be left alone while it has connections.

mod signature;
mod target;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::target::Balancer;
pub use self::target::TargetGroup;
use crate::config::Config;
use crate::http_client::{Answer, AskError, BaseUrl};
use crate::node::Node;

/// Something that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// What the load balancer thinks of the task: `drain.watch_target_group`.
    TargetHealth,
    /// That the task be protected: `drain.ecs_task_protection`.
    Protection,
}

/// Starts what is configured and can be had; what can't is told by [`problems`].
pub fn start(node: &Arc<Node>, tracker: &TaskTracker, shutdown: &CancellationToken) {
    if Call::TargetHealth.is_wanted(&node.config)
        && let Ok(balancer) = Balancer::of(&node.config)
    {
        let (node, until) = (Arc::clone(node), shutdown.clone());
        tracker.spawn(async move {
            until.run_until_cancelled(target::watch(&node, balancer, Failures::default())).await
        });
    }
    if Call::Protection.is_wanted(&node.config)
        && let Ok(base) = base_of(AGENT_URI)
    {
        let agent = Agent { base, failures: Failures::default() };
        let (node, until) = (Arc::clone(node), shutdown.clone());
        tracker.spawn(async move { until.run_until_cancelled(protect(&node, agent)).await });
    }
}

/// The options that are on in vain, each with the reason.
pub fn problems(config: &Config) -> impl Iterator<Item = (&'static str, String)> {
    let wanted = Call::ALL.into_iter().filter(|call| call.is_wanted(config));
    wanted.filter_map(|call| {
        let fault = match call {
            Call::TargetHealth => Balancer::of(config).err(),
            Call::Protection => base_of(AGENT_URI).err(),
        };
        Some((call.option(), fault?))
    })
}

/// Keeps the task protected while it has connections and no drain, by leases that end by themselves.
async fn protect(node: &Node, mut agent: Agent) {
    let mut lease = Lease::default();
    loop {
        let is_draining = node.is_draining();
        let wanted = !is_draining && node.admission.connections() > 0;
        if lease.is_due(wanted, Instant::now()) {
            let body = if wanted {
                json!({ "ProtectionEnabled": true, "ExpiresInMinutes": LEASE.as_secs() / 60 })
            } else {
                json!({ "ProtectionEnabled": false })
            };
            let answer = agent.ask(Method::PUT, STATE_PATH, Some(body.to_string().into())).await;
            let outcome = answer.and_then(|answer| protection(&answer, wanted));
            lease.note(wanted, outcome.is_ok(), Instant::now());
            match outcome {
                Ok(()) => agent.failures.over(Call::Protection),
                Err(error) => agent.failures.count(Call::Protection, &error),
            }
        }
        let is_held = lease.is_held(Instant::now());
        metrics::gauge!("fanlight_ecs_task_protected").set(u8::from(is_held));
        if is_draining && lease.is_released() {
            return;
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = node.drain.begun(), if !is_draining => {}
        }
    }
}

/// The agent of this machine, or of Fargate.
struct Agent {
    base: BaseUrl,
    failures: Failures,
}

impl Agent {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
    ) -> Result<Answer, AgentError> {
        Ok(self.base.ask(method, path, json, PATIENCE).await?)
    }
}

/// Why somebody did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("can't be reached: {0}")]
    Unreachable(String),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silence(Duration),
    #[error("the role's credentials can't be sent")]
    Credentials,
    #[error("it answers {status}: {reason:?}")]
    Refused { status: u16, reason: String },
    #[error("it answers something else: {0}")]
    Unreadable(serde_json::Error),
}

impl Call {
    const ALL: [Self; 2] = [Self::TargetHealth, Self::Protection];

    fn is_wanted(self, config: &Config) -> bool {
        match self {
            Self::TargetHealth => !config.drain.watch_target_group.is_empty(),
            Self::Protection => config.drain.ecs_task_protection,
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::TargetHealth => "drain.watch_target_group",
            Self::Protection => "drain.ecs_task_protection",
        }
    }

    /// As metrics call it.
    fn name(self) -> &'static str {
        match self {
            Self::TargetHealth => "target_health",
            Self::Protection => "protection",
        }
    }
}

/// What ECS has set in this container.
fn base_of(variable: &str) -> Result<BaseUrl, String> {
    let text = std::env::var(variable)
        .map_err(|_| format!("on, but ECS has not set {variable}: this is none of its tasks"))?;
    text.parse::<BaseUrl>().map_err(|error| format!("on, but {variable} is {error}"))
}

/// What the agent says of the protection: one of these.
#[derive(Deserialize)]
struct ProtectionAnswer {
    protection: Option<Protected>,
    failure: Option<Refusal>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Protected {
    protection_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    reason: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

fn protection(answer: &Answer, wanted: bool) -> Result<(), AgentError> {
    let ProtectionAnswer { protection, failure, error } = match serde_json::from_slice(&answer.body)
    {
        Ok(answer) => answer,
        Err(error) => return Err(unreadable(answer, error)),
    };
    if protection.is_some_and(|own| own.protection_enabled == wanted) {
        return Ok(());
    }
    let said = failure.or(error).map(|own| {
        let parts = [own.reason, own.code, own.message];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    });
    let reason = said.unwrap_or_else(|| "the protection is not what was asked for".into());
    Err(AgentError::Refused { status: answer.status, reason })
}

fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, AgentError> {
    match serde_json::from_slice(&answer.body) {
        Ok(read) if answer.status == 200 => Ok(read),
        Ok(_) => Err(refused(answer)),
        Err(error) => Err(unreadable(answer, error)),
    }
}

fn unreadable(answer: &Answer, error: serde_json::Error) -> AgentError {
    if answer.status == 200 { AgentError::Unreadable(error) } else { refused(answer) }
}

fn refused(answer: &Answer) -> AgentError {
    let text: String = String::from_utf8_lossy(&answer.body).chars().take(SAID_CHARS).collect();
    AgentError::Refused { status: answer.status, reason: text }
}

/// What is known of the protection, and when it is to be asked for again.
#[derive(Debug, Default)]
struct Lease {
    /// Whether it may be held; after a failure nobody knows.
    may_be_held: bool,
    /// Until when it is surely held.
    held_until: Option<Instant>,
    /// When to renew it, or to try again.
    again_at: Option<Instant>,
    /// What was asked for last.
    asked: bool,
    /// Failures since the last success.
    failed: u32,
}

impl Lease {
    fn is_due(&self, wanted: bool, now: Instant) -> bool {
        if wanted != self.asked {
            return true;
        }
        let has_work = wanted || self.may_be_held;
        has_work && self.again_at.is_none_or(|at| now >= at)
    }

    fn note(&mut self, wanted: bool, done: bool, now: Instant) {
        self.asked = wanted;
        self.may_be_held = wanted || self.may_be_held && !done;
        if done {
            self.held_until = wanted.then_some(now + LEASE);
        }
        self.failed = if done { 0 } else { self.failed + 1 };
        let wait = match self.failed {
            0 => RENEW_EVERY,
            failed => (LOOK_EVERY * 2u32.saturating_pow(failed - 1)).min(RETRY_MAX),
        };
        self.again_at = Some(now + wait);
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    fn is_released(&self) -> bool {
        !self.may_be_held
    }
}

/// Failures of one kind of call: each is counted, and now and then one is logged.
#[derive(Debug, Default)]
struct Failures {
    logged_at: Option<Instant>,
    since: u64,
}

impl Failures {
    fn count(&mut self, call: Call, error: &AgentError) {
        metrics::counter!("fanlight_ecs_failures_total", "call" => call.name()).increment(1);
        self.since += 1;
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            let (option, failures) = (call.option(), self.since);
            tracing::warn!(%error, failures, "{option}: nothing can be learned; trying on");
            self.logged_at = Some(Instant::now());
        }
    }

    fn over(&mut self, call: Call) {
        if self.logged_at.take().is_some() {
            tracing::info!(failures = self.since, "{}: there are answers again", call.option());
        }
        self.since = 0;
    }
}

/// Where a container finds its own metadata.
const METADATA_URI: &str = "ECS_CONTAINER_METADATA_URI_V4";
/// Where it finds the agent that protects it.
const AGENT_URI: &str = "ECS_AGENT_URI";
const STATE_PATH: &str = "/task-protection/v1/state";
const LOOK_EVERY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the protection outlives a node that hangs.
const LEASE: Duration = Duration::from_secs(300);
const RENEW_EVERY: Duration = Duration::from_secs(120);
const RETRY_MAX: Duration = Duration::from_secs(60);
const LOG_EVERY: Duration = Duration::from_secs(60);
const SAID_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer { status, body: body.into() }
    }

    #[test]
    fn only_the_protection_that_was_asked_for_is_a_success() {
        let on = r#"{"protection":{"ExpirationDate":"2026-11-29T03:00:00Z","ProtectionEnabled":true,"TaskArn":"arn"}}"#;
        assert!(protection(&answer(200, on), true).is_ok());
        assert!(protection(&answer(200, on), false).is_err());
        for (status, body, said) in [
            (
                200,
                r#"{"failure":{"Arn":"arn","Detail":null,"Reason":"DEPLOYMENT_BLOCKED"}}"#,
                "DEPLOYMENT_BLOCKED",
            ),
            (
                400,
                r#"{"requestID":"1","error":{"Arn":"arn","Code":"AccessDeniedException","Message":"no"}}"#,
                "AccessDeniedException: no",
            ),
            (502, "Bad Gateway", "it answers 502: \"Bad Gateway\""),
            (200, "{}", "not what was asked for"),
        ] {
            let error = protection(&answer(status, body), true).expect_err(body).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_lease_is_renewed_long_before_its_end_and_given_back_once() {
        let (mut lease, start) = (Lease::default(), Instant::now());
        assert!(!lease.is_due(false, start), "nothing was ever held");
        assert!(lease.is_due(true, start));
        lease.note(true, true, start);
        assert!(!lease.is_due(true, start + RENEW_EVERY / 2));
        assert!(lease.is_due(true, start + RENEW_EVERY));
        assert!(RENEW_EVERY + RETRY_MAX < LEASE && lease.is_held(start + RENEW_EVERY));
        assert!(!lease.is_held(start + LEASE), "not renewed, it ends by itself");
        assert!(lease.is_due(false, start));
        lease.note(false, true, start);
        assert!(lease.is_released() && !lease.is_due(false, start + RENEW_EVERY));
    }

    #[test]
    fn what_failed_is_tried_again_ever_more_seldom_and_may_be_held_all_the_same() {
        let (mut lease, start) = (Lease::default(), Instant::now());
        lease.note(true, false, start);
        assert!(!lease.is_due(true, start) && lease.is_due(true, start + LOOK_EVERY));
        lease.note(true, false, start);
        assert!(!lease.is_due(true, start + LOOK_EVERY));
        for _ in 0..20 {
            lease.note(true, false, start);
        }
        assert!(lease.is_due(true, start + RETRY_MAX));
        assert!(!lease.is_released(), "the answer may have been lost");
        lease.note(false, false, start);
        assert!(!lease.is_released() && lease.is_due(false, start + RETRY_MAX));
    }
}
