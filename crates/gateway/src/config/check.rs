//! Checks that concern more than one option: what is missing, and what does not fit together.

use super::accounts;
use super::api;
use super::app;
use super::jwks;
use super::problem::Problem;
use super::queues;
use super::rebalance;
use super::relay;
use super::values::{OriginRule, Span};
use super::webhooks;
use super::{BrokerKind, Config, Drain, Limits, ServerTls};
use crate::ecs;
use crate::jwt;
use crate::tls;

/// Everything that keeps `config` from being served.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    listen(config, &mut problems);
    identity(config, &mut problems);
    namespaces(config, &mut problems);
    queues::problems(config, &mut problems);
    app::problems(config, &mut problems);
    api::problems(&config.api, &mut problems);
    webhooks::problems(config, &mut problems);
    limits(config, &mut problems);
    drain(&config.drain, &mut problems);
    broker(config, &mut problems);
    cluster(config, &mut problems);
    if config.relay.is_set() {
        relay::problems(config, &mut problems);
    }
    rebalance::problems(config, &mut problems);
    let service = &config.telemetry.service;
    if service.is_empty() || !service.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        let fault = "empty, or with more than letters, digits and signs of ASCII";
        problems.push(Problem::new("telemetry.service", fault, "name it, as in \"fanlight\""));
    }
    problems.extend(config.telemetry.traces.settings().err());
    log(config, &mut problems);
    problems
}

/// Everything that keeps a relay from running, which needs little of the rest.
pub(super) fn relay_problems(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    namespaces(config, &mut problems);
    broker(config, &mut problems);
    relay::problems(config, &mut problems);
    log(config, &mut problems);
    problems
}

fn log(config: &Config, problems: &mut Vec<Problem>) {
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
        problems.push(Problem::new(
            "log.level",
            error.to_string(),
            "use error, warn, info, debug or trace, or directives as in \"info,fanlight=debug\"",
        ));
    }
}

/// What is allowed, but hardly meant.
pub(super) fn warnings(config: &Config) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, fault: &str, remedy: &str| {
        warnings.push(Problem::new(key, fault, remedy));
    };
    if config.policy.rules.is_empty() {
        warn(
            "policy.rules",
            "there are none, so every subscription and every message is denied",
            "add a [[policy.rules]] for each thing that clients may do",
        );
    }
    if config.origin.allow.contains(&OriginRule::Any) {
        warn("origin.allow", "any web page may connect", "list the origins of your own pages");
    }
    if !config.auth.require_exp {
        warn("auth.require_exp", "tokens without `exp` are good for ever", "leave it true");
    }
    let shared_issuer =
        !config.auth.jwks.is_empty() || config.auth.keys.iter().any(|key| !key.algorithm.is_hmac());
    if shared_issuer && config.auth.issuer.is_empty() && config.auth.audience.is_empty() {
        warn(
            "auth.audience",
            "any token that the key's owner signs is accepted, also one made for another service",
            "set auth.audience, auth.issuer or both",
        );
    }
    warnings.extend(jwks::warnings(&config.auth.jwks));
    warnings.extend(accounts::warnings(&config.auth.accounts));
    warnings.extend(app::warnings(config));
    for (option, fault) in ecs::problems(config) {
        warnings.push(Problem::new(option, fault, "leave it out outside ECS"));
    }
    let stomp_is_open = config.listen.stomp.is_some_and(|address| !address.ip().is_loopback());
    if stomp_is_open && config.listen.stomp_tls == ServerTls::default() {
        warnings.push(Problem::new(
            "listen.stomp",
            "without TLS, passcodes and messages can be read on the way",
            "set listen.stomp_tls, or keep the port within a network that you trust",
        ));
    }
    warnings
}

fn listen(config: &Config, problems: &mut Vec<Problem>) {
    if config.listen.public == config.listen.admin && config.listen.public.port() != 0 {
        problems.push(Problem::new(
            "listen.admin",
            "the same address as listen.public",
            "give the admin listener a port of its own, which the public can't reach",
        ));
    }
    if !config.api.keys.is_empty() {
        for (other, address) in
            [("listen.public", config.listen.public), ("listen.admin", config.listen.admin)]
        {
            if config.listen.api == address && address.port() != 0 {
                problems.push(Problem::new(
                    "listen.api",
                    format!("the same address as {other}"),
                    "give the server API a port of its own, which the public can't reach",
                ));
            }
        }
    }
    for (other, address) in
        [("listen.public", config.listen.public), ("listen.admin", config.listen.admin)]
    {
        if config.listen.stomp == Some(address) && address.port() != 0 {
            problems.push(Problem::new(
                "listen.stomp",
                format!("the same address as {other}"),
                "give STOMP over TCP a port of its own, as in 61613",
            ));
        }
    }
    if let Err(problem) = tls::server_config("listen.tls", &config.listen.tls, tls::HTTP) {
        problems.push(problem);
    }
    match tls::server_config("listen.stomp_tls", &config.listen.stomp_tls, &[]) {
        Err(problem) => problems.push(problem),
        Ok(Some(_)) if config.listen.stomp.is_none() => problems.push(Problem::new(
            "listen.stomp_tls",
            "set, but there is no listener for it",
            "set listen.stomp, or remove it",
        )),
        Ok(_) => {}
    }
    let (websocket, sockjs) = (&*config.websocket.path, &*config.sockjs.path);
    path("websocket.path", websocket, "\"/ws\"", sockjs, problems);
    path("sockjs.path", sockjs, "\"/sockjs\"", websocket, problems);
    if sockjs.ends_with('/') {
        let remedy = "leave out the slash at its end, as in \"/sockjs\"";
        problems.push(Problem::new("sockjs.path", "ends with a slash", remedy));
    }
}

/// A path of an endpoint's own.
fn path(option: &'static str, path: &str, example: &str, other: &str, problems: &mut Vec<Problem>) {
    if !path.starts_with('/') || path.contains(['?', '#', '{', '}', '*', ' ']) {
        let remedy = format!("begin it with /, without a query, as in {example}");
        problems.push(Problem::new(option, "not a path", remedy));
    }
    if TAKEN.contains(&path) || path == other {
        let remedy = format!("choose a path of its own, as in {example}");
        problems.push(Problem::new(option, "taken by another endpoint", remedy));
    }
}

fn identity(config: &Config, problems: &mut Vec<Problem>) {
    let auth = &config.auth;
    if let Err(key_problems) = jwt::check_keys(&auth.keys) {
        problems.extend(key_problems);
    }
    jwks::problems(&auth.jwks, problems);
    accounts::problems(&auth.accounts, problems);
    let anonymous = config.namespaces.iter().any(|namespace| namespace.anonymous);
    let is_asked = !config.hooks.connect.is_empty();
    let has_keys = !auth.keys.is_empty() || !auth.jwks.is_empty();
    if !has_keys && auth.accounts.is_empty() && !anonymous && !is_asked {
        problems.push(Problem::new(
            "auth.keys",
            "there are none, so nobody could connect",
            "add an [[auth.keys]] with `algorithm` and `secret_file` or `public_key_file`, an \
             [[auth.jwks]] with `url`, or a namespace with `anonymous = true`, or have a backend \
             decide by hooks.connect; to try Fanlight out, use `fanlight serve --dev`",
        ));
    }
    for (key, claim) in [
        ("auth.user_claim", &auth.user_claim),
        ("auth.roles_claim", &auth.roles_claim),
        ("auth.grants_claim", &auth.grants_claim),
    ] {
        if claim.is_empty() {
            problems.push(Problem::new(key, "empty", "name a claim, or remove the option"));
        }
    }
    if auth.grants > GRANTS_MAX {
        let remedy = "each is compared with each request; use patterns, or capabilities";
        problems.push(Problem::new("auth.grants", "more than 1000", remedy));
    }
    if !auth.cookie.is_empty() {
        let legal = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
        if !auth.cookie.chars().all(legal) {
            problems.push(Problem::new(
                "auth.cookie",
                "not the name of a cookie",
                "use letters, digits, - and _",
            ));
        }
        if config.origin.allow.contains(&OriginRule::Any) {
            problems.push(Problem::new(
                "origin.allow",
                "\"*\" together with auth.cookie: any web page could act as its visitor",
                "list the origins of your own pages, or don't use a cookie",
            ));
        }
    }
}

fn namespaces(config: &Config, problems: &mut Vec<Problem>) {
    if config.namespaces.is_empty() {
        problems.push(Problem::new(
            "namespaces",
            "there are none, so no destination could be used",
            "add a [[namespaces]] for each part of the destination space, as in \
             `name = \"topic\"`, `match = \"/topic/**\"`",
        ));
    }
    for (at, history) in config.namespaces.iter().map(|one| one.history).enumerate() {
        let Some(history) = history else { continue };
        if !(1..=HISTORY_SIZE_MAX).contains(&history.size) {
            problems.push(Problem::new(
                format!("namespaces[{at}].history.size"),
                "not from 1 to 100000",
                "keep as many messages as come while a client reconnects, as in 100",
            ));
        }
        if !(1000..=HISTORY_TTL_MAX_MS).contains(&history.ttl.as_ms()) {
            problems.push(Problem::new(
                format!("namespaces[{at}].history.ttl"),
                "not from \"1s\" to \"30days\"",
                "keep them for as long as a client may be away, as in \"5m\"",
            ));
        }
    }
    for (at, namespace) in config.namespaces.iter().enumerate() {
        let (option, fault, remedy) = match namespace.conflate.map(Span::as_ms) {
            None if !namespace.conflate_key.is_empty() => {
                let fault = "set without conflate, so it would do nothing";
                ("conflate_key", fault, "set conflate too, as in \"250ms\"")
            }
            Some(interval_ms) if !CONFLATE_MS.contains(&interval_ms) => {
                let remedy = "as often as somebody looks, as in \"250ms\"";
                ("conflate", "not from \"10ms\" to \"1h\"", remedy)
            }
            _ => continue,
        };
        problems.push(Problem::new(format!("namespaces[{at}].{option}"), fault, remedy));
    }
    if let Err(problem) = config.compiled_policy() {
        problems.push(problem);
    }
}

fn drain(drain: &Drain, problems: &mut Vec<Problem>) {
    let group = &drain.watch_target_group;
    if !group.is_empty()
        && let Err(error) = group.parse::<ecs::TargetGroup>()
    {
        let remedy =
            "write it as in \"arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID\"";
        problems.push(Problem::new("drain.watch_target_group", error.to_string(), remedy));
    }
    if !(1000..=60_000).contains(&drain.watch_interval.as_ms()) {
        let fault = "shorter than a second, or longer than a minute";
        problems.push(Problem::new(
            "drain.watch_interval",
            fault,
            "10s suits up to a hundred tasks",
        ));
    }
}

fn limits(config: &Config, problems: &mut Vec<Problem>) {
    let limits = &config.limits;
    for (key, value) in [
        ("limits.message", limits.message.0),
        ("limits.pre_auth_frame", limits.pre_auth_frame.0),
        ("limits.outbox_frames", limits.outbox_frames.into()),
        ("limits.send_time", limits.send_time.as_ms()),
        ("limits.connect_time", limits.connect_time.as_ms()),
        ("limits.request_head_time", limits.request_head_time.as_ms()),
        ("limits.request_body_time", limits.request_body_time.as_ms()),
        ("limits.http2_streams", limits.http2_streams.into()),
        ("limits.subscriptions", limits.subscriptions.into()),
        ("limits.headers", limits.headers.into()),
        ("limits.header", limits.header.0),
        ("native.heartbeat", config.native.heartbeat.as_ms()),
        ("drain.shutdown_timeout", config.drain.shutdown_timeout.as_ms()),
        ("telemetry.emf_interval", config.telemetry.emf_interval.as_ms()),
        ("presence.changes", config.presence.changes.into()),
        ("presence.interval", config.presence.interval.as_ms()),
        ("redis.response_timeout", config.redis.response_timeout.as_ms()),
    ] {
        if value == 0 {
            problems.push(Problem::new(key, "zero", "set it above zero, or remove it"));
        }
    }
    for (key, span) in [
        ("stomp.heartbeat_send", config.stomp.heartbeat_send),
        ("stomp.heartbeat_receive", config.stomp.heartbeat_receive),
        ("native.heartbeat", config.native.heartbeat),
    ] {
        if (1..HEARTBEAT_MIN_MS).contains(&span.as_ms()) {
            problems.push(Problem::new(
                key,
                format!("{span} is less than 2s, and sessions are looked at once a second"),
                "set it to at least \"2s\"",
            ));
        }
    }
    if limits.outbox < limits.message {
        problems.push(Problem::new(
            "limits.outbox",
            format!(
                "smaller than limits.message ({}): such a message could never be sent",
                limits.message
            ),
            "make it several times as large",
        ));
    }
    if limits.message.0 > MESSAGE_MAX_BYTES {
        problems.push(Problem::new(
            "limits.message",
            "more than 1MiB: a byte of it may be six in a frame of SockJS, and what goes from \
             node to node has 8MiB at most",
            "send less at once, or where to fetch it",
        ));
    }
    bursts(limits, problems);
}

/// Rates that nothing would come through.
fn bursts(limits: &Limits, problems: &mut Vec<Problem>) {
    if limits.handshakes_per_second > 0 && limits.handshakes_burst == 0 {
        problems.push(Problem::new(
            "limits.handshakes_burst",
            "zero, with limits.handshakes_per_second set: nobody could connect",
            "set it to twice limits.handshakes_per_second",
        ));
    }
    if limits.handshakes_per_second_per_ip > 0 && limits.handshakes_burst_per_ip == 0 {
        problems.push(Problem::new(
            "limits.handshakes_burst_per_ip",
            "zero, with limits.handshakes_per_second_per_ip set: nobody could connect",
            "set it to twice limits.connections_per_ip",
        ));
    }
    if limits.handshakes_per_second_per_user > 0 && limits.handshakes_burst_per_user == 0 {
        problems.push(Problem::new(
            "limits.handshakes_burst_per_user",
            "zero, with limits.handshakes_per_second_per_user set: no user could connect",
            "set it to twice limits.sessions_per_user",
        ));
    }
    if limits.messages_per_second > 0 && limits.message_burst == 0 {
        problems.push(Problem::new(
            "limits.message_burst",
            "zero, with limits.messages_per_second set: nobody could send anything",
            "set it to at least 1",
        ));
    }
}

fn broker(config: &Config, problems: &mut Vec<Problem>) {
    if config.broker.kind != BrokerKind::Redis {
        return;
    }
    if let Err(problem) = config.redis_config() {
        problems.push(problem);
    }
    let prefix = &config.redis.prefix;
    if prefix.is_empty()
        || prefix.contains(|c: char| !c.is_ascii_alphanumeric() && !"-_.:".contains(c))
    {
        problems.push(Problem::new(
            "redis.prefix",
            "not a prefix for keys",
            "use letters, digits and -_.: as in \"fl\"",
        ));
    }
}

fn cluster(config: &Config, problems: &mut Vec<Problem>) {
    let cluster = &config.cluster;
    if cluster.lease_renew.as_ms() == 0 {
        problems.push(Problem::new("cluster.lease_renew", "zero", "set it above zero"));
    } else if cluster.lease_renew.as_ms() * 3 > cluster.lease.as_ms() {
        problems.push(Problem::new(
            "cluster.lease",
            format!("less than three times cluster.lease_renew ({})", cluster.lease_renew),
            "make it longer: a renewal or two may fail",
        ));
    }
    if cluster.name.contains(char::is_control) {
        problems.push(Problem::new("cluster.name", "not a line", "remove control characters"));
    }
    let is_told = !config.events.webhooks.is_empty()
        || config.namespaces.iter().any(|namespace| namespace.occupancy.is_some());
    if config.events.enabled && config.broker.kind == BrokerKind::Memory && !is_told {
        problems.push(Problem::new(
            "events.enabled",
            "set, but without Redis there is nowhere to write events",
            "remove it, name a webhook in events.webhooks, or set broker.kind = \"redis\"",
        ));
    }
    if !config.events.enabled && !config.events.webhooks.is_empty() {
        problems.push(Problem::new(
            "events.webhooks",
            "set, but no events are written",
            "set events.enabled = true",
        ));
    }
    if config.events.enabled && config.events.max_length == 0 {
        problems.push(Problem::new("events.max_length", "zero", "set it above zero"));
    }
    for (at, namespace) in config.namespaces.iter().enumerate() {
        let option = match namespace {
            own if own.events => "events",
            own if own.occupancy.is_some() => "occupancy",
            _ => continue,
        };
        let problem = if !config.events.enabled {
            ("set, but no events are written", "set events.enabled = true")
        } else if namespace.patterns {
            ("set together with patterns", "choose one, or split the namespace")
        } else {
            continue;
        };
        problems.push(Problem::new(format!("namespaces[{at}].{option}"), problem.0, problem.1));
    }
}

/// What the engine holds heartbeats to.
const HEARTBEAT_MIN_MS: u64 = 2000;

/// Bounds of what one destination may keep.
const GRANTS_MAX: u32 = 1000;
const CONFLATE_MS: std::ops::RangeInclusive<u64> = 10..=3_600_000;
const HISTORY_SIZE_MAX: u32 = 100_000;
const HISTORY_TTL_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Six times as much, with its headers, fits one message between nodes
/// ([`fanlight_engine::peers::MESSAGE_MAX_BYTES`]).
const MESSAGE_MAX_BYTES: u64 = 1 << 20;

/// Paths that other endpoints have.
const TAKEN: [&str; 7] = ["/", "/livez", "/readyz", "/startupz", "/events", "/poll", "/publish"];
