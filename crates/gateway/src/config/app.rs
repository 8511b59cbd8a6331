//! Where messages to `/app/...` go: the options of routes to backends, and what must hold of them.

use fanlight_engine::policy::{self, AppRouteError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::sections::Pattern;
use super::values::Span;
use super::{BrokerKind, Config};

/// Which backends handle what clients send to `/app/...`, or subscribe to there.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct App {
    /// How long a message may take: its handler, and what that wants sent. Its sender waits, and
    /// is told `timeout` then.
    pub timeout: Span,
    /// How many messages of a route with `handler` this node has handled at once; more are refused
    /// as `overloaded`. Webhooks have bounds of their own.
    pub concurrency: u32,
    /// Messages that each stream keeps, about; older ones are dropped, whether consumed or not.
    pub stream_max_length: u64,
    /// Which backend has which destinations. The first route that matches has a message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<AppRoute>,
}

/// A route to a backend: to exactly one of `webhook`, `stream` and `handler`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct AppRoute {
    /// The destinations in /app that it has: `?`, `*`, `**` and `{variable}` as in Spring.
    pub destination: Pattern,
    /// The name of one of `webhooks`, which is asked for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// A stream in Redis, which backends consume: 1-64 letters, digits, `_`, `-` and `.`. It takes
    /// messages only, as it can't answer who subscribes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The name of a handler in the program that Fanlight is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Where the `reply` to a message goes: a topic, a queue or the sender's own
    /// `/user/queue/...`, with variables of `destination`. Absent: a message has no `reply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_to: Option<String>,
    /// Whether a `send_to` of `/user/queue/...` is for all of the sender's sessions, or only for
    /// the one that asked. Default: true.
    #[serde(default = "yes")]
    pub broadcast: bool,
    /// The user must have one of these roles. Absent or empty: any user may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whether sessions without a token may use it.
    #[serde(default)]
    pub anonymous: bool,
}

impl Default for App {
    fn default() -> Self {
        Self {
            timeout: Span::seconds(10),
            concurrency: 1024,
            stream_max_length: 10_000,
            routes: Vec::new(),
        }
    }
}

impl App {
    /// The routes, as the policy wants them.
    pub(super) fn to_domain(&self) -> Vec<policy::AppRoute> {
        self.routes.iter().map(AppRoute::to_domain).collect()
    }
}

impl AppRoute {
    /// A route of these destinations to no backend yet, for every user.
    pub fn new(destination: Pattern) -> Self {
        Self {
            destination,
            webhook: None,
            stream: None,
            handler: None,
            send_to: None,
            broadcast: true,
            roles: Vec::new(),
            anonymous: false,
        }
    }

    fn to_domain(&self) -> policy::AppRoute {
        policy::AppRoute {
            destination: self.destination.to_string(),
            roles: self.roles.clone(),
            anonymous: self.anonymous,
            requests: self.stream.is_none(),
            send_to: self.send_to.clone(),
            broadcast: self.broadcast,
        }
    }
}

/// A route that can't be, as a problem of its option.
pub(super) fn route_problem(error: &AppRouteError) -> Problem {
    let (route, option, remedy) = match error {
        AppRouteError::BadPattern { route, .. } | AppRouteError::NotApp { route } => {
            (route, "destination", "write a pattern, as in \"/app/chat/{room}\"")
        }
        AppRouteError::RepeatedVariable { route, .. } => {
            (route, "destination", "give each variable a name of its own")
        }
        AppRouteError::NeverReached { route, .. } => {
            (route, "destination", "move it before that route, or remove it")
        }
        AppRouteError::UnknownVariable { route, .. } => {
            (route, "send_to", "use a variable of the route's destination")
        }
        AppRouteError::BadSendTo { route, .. }
        | AppRouteError::BadVariable { route }
        | AppRouteError::NotForReplies { route } => {
            (route, "send_to", "write it as in \"/topic/chat.{room}\" or \"/user/queue/replies\"")
        }
        AppRouteError::NotOneSessions { route } => {
            (route, "broadcast", "leave it true, or set send_to = \"/user/queue/...\"")
        }
    };
    Problem::new(format!("app.routes[{route}].{option}"), error.to_string(), remedy)
}

/// Webhooks that are given up before they count as failed.
pub(super) fn warnings(config: &Config) -> impl Iterator<Item = Problem> {
    let routes = &config.app.routes;
    let of_app =
        move |name: &str| routes.iter().any(|route| route.webhook.as_deref() == Some(name));
    let webhooks = config.webhooks.iter().enumerate();
    let late = webhooks.filter(move |(_, webhook)| {
        webhook.timeout.as_ms() >= config.app.timeout.as_ms() && of_app(&webhook.name)
    });
    late.map(|(at, _)| {
        let fault = "not shorter than app.timeout, which ends first: a silent backend is asked on";
        let remedy = "make it shorter, or app.timeout longer";
        Problem::new(format!("webhooks[{at}].timeout"), fault, remedy)
    })
}

/// What keeps routes from being used, apart from what their patterns say.
pub(super) fn problems(config: &Config, problems: &mut Vec<Problem>) {
    let app = &config.app;
    for (key, value) in [
        ("app.timeout", app.timeout.as_ms()),
        ("app.concurrency", app.concurrency.into()),
        ("app.stream_max_length", app.stream_max_length),
    ] {
        if value == 0 {
            problems.push(Problem::new(key, "zero", "set it above zero, or remove it"));
        }
    }
    for (at, route) in app.routes.iter().enumerate() {
        let option = |name: &str| format!("app.routes[{at}].{name}");
        let AppRoute { webhook, stream, handler, send_to, .. } = route;
        let backends = [webhook, stream, handler].into_iter().flatten().count();
        if backends != 1 {
            let fault = if backends == 0 { "names no backend" } else { "names several backends" };
            let remedy = "set one of webhook, stream and handler";
            problems.push(Problem::new(format!("app.routes[{at}]"), fault, remedy));
        }
        problems.extend(
            webhook.as_ref().and_then(|name| config.webhook_problem(&option("webhook"), name)),
        );
        if handler.as_ref().is_some_and(String::is_empty) {
            let remedy = "name a handler of the program, as in \"chat\"";
            problems.push(Problem::new(option("handler"), "empty", remedy));
        }
        let Some(stream) = stream else { continue };
        let is_good = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if !(1..=NAME_MAX_BYTES).contains(&stream.len()) || !stream.bytes().all(is_good) {
            let fault = "not a name of 1-64 letters, digits, _, - and .";
            let remedy = "name the stream, as in \"chat-in\"";
            problems.push(Problem::new(option("stream"), fault, remedy));
        }
        if send_to.is_some() {
            let fault = "set, but a stream gives no reply";
            let remedy = "remove it; let the backend publish through the server API";
            problems.push(Problem::new(option("send_to"), fault, remedy));
        }
        if config.broker.kind == BrokerKind::Memory {
            let fault = "set, but without Redis there are no streams";
            let remedy = "use a webhook, or set broker.kind = \"redis\"";
            problems.push(Problem::new(option("stream"), fault, remedy));
        }
    }
}

fn yes() -> bool {
    true
}

const NAME_MAX_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn routes_that_could_not_work_are_refused_and_say_why() {
        const GOOD: &str = "destination = '/app/{a}/x'\nhandler = 'h'";
        for (route, told) in [
            ("destination = '/app/x'", "app.routes[0]: names no backend"),
            ("destination = '/app/x'\nhandler = 'a'\nstream = 'b'", "names several backends"),
            ("destination = '/app/x'\nwebhook = 'b'", "app.routes[0].webhook: there is no"),
            ("destination = '/app/x'\nstream = 'a b'", "app.routes[0].stream: not a name"),
            ("destination = '/app/x'\nstream = 'a'", "without Redis there are no streams"),
            ("destination = '/app/x'\nstream = 'a'\nsend_to = '/topic/a'", "gives no reply"),
            ("destination = '/topic/x'\nhandler = 'h'", "begins with /app/"),
            ("destination = '/app/{a}/{a}'\nhandler = 'h'", "{a} occurs twice"),
            (&format!("{GOOD}\nsend_to = '/topic/{{b}}'"), "the destination has no {b}"),
            (&format!("{GOOD}\nsend_to = '/topic/{{a'"), "a malformed {variable}"),
            (&format!("{GOOD}\nsend_to = '/topics/a'"), "send_to: destination must begin with"),
            (&format!("{GOOD}\nsend_to = '/user/{{a}}/queue/x'"), "the sender's own"),
            (&format!("{GOOD}\nsend_to = '/app/{{a}}'"), "a reply goes to a topic"),
            (&format!("{GOOD}\nsend_to = '/topic/a'\nbroadcast = false"), "[0].broadcast: only"),
            (&format!("{GOOD}\nbroadcast = false"), "[0].broadcast: only"),
            (
                &format!("{GOOD}\n[[app.routes]]\ndestination = '/app/b/x'\nhandler = 'h'"),
                "app.routes[1].destination: never reached: the route 0",
            ),
        ] {
            let text = format!("broker.kind = 'memory'\n[[app.routes]]\n{route}\n");
            let config: Config = toml::from_str(&text).unwrap();
            let problems: Vec<_> =
                check::problems(&config).iter().map(ToString::to_string).collect();
            assert!(
                problems.iter().any(|problem| problem.contains(told)),
                "{route}: {problems:#?}"
            );
        }
        let narrower_first = "[[app.routes]]\ndestination = '/app/a/x'\nhandler = 'h'\n\
                              [[app.routes]]\ndestination = '/app/{a}/x'\nhandler = 'h'\n\
                              send_to = '/user/queue/{a}'\nbroadcast = false";
        let config: Config = toml::from_str(narrower_first).unwrap();
        let problems = check::problems(&config);
        assert!(!problems.iter().any(|problem| problem.key.starts_with("app.")), "{problems:#?}");
    }

    #[test]
    fn a_webhook_that_is_given_up_before_it_can_fail_is_warned_of() {
        for (timeout, is_told) in [("9s", false), ("10s", true)] {
            let text = format!(
                "[[webhooks]]\nname = 'b'\nurl = 'https://a.test/'\nsecret = 's'\n\
                 timeout = '{timeout}'\n[[webhooks]]\nname = 'hooks'\nurl = 'https://a.test/'\n\
                 secret = 's'\ntimeout = '1m'\n[[app.routes]]\ndestination = '/app/x'\n\
                 webhook = 'b'\n"
            );
            let config: Config = toml::from_str(&text).unwrap();
            let told: Vec<_> = config.warnings().into_iter().map(|warning| warning.key).collect();
            assert_eq!(told.iter().any(|key| key == "webhooks[0].timeout"), is_told, "{told:?}");
            assert!(!told.iter().any(|key| key == "webhooks[1].timeout"), "{told:?}");
        }
    }
}
