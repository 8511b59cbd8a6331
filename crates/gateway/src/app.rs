//! Messages to `/app/...`: who handles which, and carrying out what the handlers want sent.

mod answer;
mod embedded;
mod meters;
mod stream;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::app::AppOutcome;
use fanlight_engine::broker::Broker;
use fanlight_engine::ids::Ids;
use fanlight_engine::policy::PublishPermit;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::Rules;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{AppRoute, Config, Problem};
use crate::registry::Cluster;
use crate::repeated::Repeated;
use crate::traces::{self, Handling, Tracer};
use crate::webhook::Webhooks;

pub use embedded::Handlers;
pub use fanlight_engine::app::{
    AppBody, AppError, AppFailure, AppHandler, AppMessage, AppReply, AppSend,
};
pub use fanlight_engine::policy::AppKind;
pub use fanlight_engine::publication::ContentType;
pub(crate) use meters::{BACKENDS, RESULTS};

use embedded::Embedded;
use meters::{Meters, result_of};
use stream::Stream;
use webhook::ByWebhook;

/// The routes of a node, with who handles what they have.
pub struct App {
    routes: Box<[Arc<Route>]>,
    desk: Arc<Desk>,
    timeout: Duration,
    tracker: TaskTracker,
}

/// What came of a message.
#[derive(Debug, Default)]
pub struct Handled {
    /// The answer to a subscription.
    pub reply: Option<AppBody>,
    /// What is for the sender, who has no session.
    pub for_caller: Vec<Publication>,
}

/// Where the routes' backends are.
pub struct Backends<'b> {
    /// Those asked over HTTP.
    pub webhooks: &'b Webhooks,
    /// Where streams are.
    pub cluster: &'b Cluster,
    /// Those within this program.
    pub handlers: &'b Handlers,
    /// Counts what is done for those who don't wait.
    pub tracker: &'b TaskTracker,
    /// Traces what they want sent.
    pub tracer: Option<&'b Arc<Tracer>>,
}

struct Route {
    handler: Arc<dyn AppHandler>,
    /// Of which kind it is: `webhook`, `stream` or `handler`.
    backend: &'static str,
    pattern: String,
    meters: Meters,
    /// Tells of answers that can't be used.
    bad_answers: Repeated,
}

/// Where what handlers want sent is handed in.
struct Desk {
    rules: Arc<Rules>,
    broker: Arc<dyn Broker>,
    clock: Clock,
    tracer: Option<Arc<Tracer>>,
}

impl App {
    /// The routes of `config`, whose policy is among `rules`. What the handlers of this program do
    /// is done on the current runtime.
    pub fn new(
        config: &Config,
        rules: &Arc<Rules>,
        clock: Clock,
        backends: &Backends<'_>,
    ) -> Result<Self, Problem> {
        let route = |(at, route): (usize, &AppRoute)| -> Result<_, Problem> {
            let (backend, handler) = handler_of(config, at, route, backends)?;
            let pattern = route.destination.to_string();
            let meters = Meters::new(&pattern, backend);
            let bad_answers = Repeated::new();
            Ok(Arc::new(Route { handler, backend, pattern, meters, bad_answers }))
        };
        let routes = config.app.routes.iter().enumerate().map(route);
        let (rules, broker) = (Arc::clone(rules), Arc::clone(&backends.cluster.broker));
        let tracer = backends.tracer.cloned();
        Ok(Self {
            routes: routes.collect::<Result<_, _>>()?,
            desk: Arc::new(Desk { rules, broker, clock, tracer }),
            timeout: config.app.timeout.0,
            tracker: backends.tracker.clone(),
        })
    }

    /// No routes.
    #[cfg(test)]
    pub(crate) fn without_routes(rules: Arc<Rules>, broker: Arc<dyn Broker>, clock: Clock) -> Self {
        let desk = Arc::new(Desk { rules, broker, clock, tracer: None });
        let tracker = TaskTracker::new();
        Self { routes: Box::default(), desk, timeout: Duration::ZERO, tracker }
    }

    /// Has a message handled, and publishes what its handler wants sent. The answer is there once
    /// the broker has accepted all of that.
    pub fn handle(
        &self,
        message: AppMessage,
        traced: Option<Handling>,
    ) -> BoxFuture<'static, Result<Handled, AppFailure>> {
        let Some(route) = self.routes.get(message.permit.route()) else {
            // The permit is of another policy.
            return std::future::ready(Err(AppFailure::Internal)).boxed();
        };
        let (route, desk) = (Arc::clone(route), Arc::clone(&self.desk));
        let until = Instant::now() + self.timeout;
        async move {
            let result = route.carry_out(message, traced.as_ref(), &desk, until).await;
            route.meters.count(&result);
            if let Some(traced) = traced {
                traced.end(result_of(&result));
            }
            if let Err(failure) = &result {
                route.tell(failure);
            }
            result
        }
        .boxed()
    }

    /// The same for who may stop waiting: what was begun is carried out all the same.
    pub async fn handle_surely(
        &self,
        message: AppMessage,
        traced: Option<Handling>,
    ) -> Result<Handled, AppFailure> {
        let task = self.tracker.spawn(self.handle(message, traced));
        task.await.unwrap_or(Err(AppFailure::Internal))
    }
}

impl Route {
    async fn carry_out(
        &self,
        mut message: AppMessage,
        traced: Option<&Handling>,
        desk: &Desk,
        until: Instant,
    ) -> Result<Handled, AppFailure> {
        let asking = traced.map(|traced| traced.ask(self.backend));
        if let Some(asking) = &asking {
            asking.context().put_within(&mut message.headers);
        }
        let begun = Instant::now();
        let answer = timeout_at(until, self.handler.handle(message.clone())).await;
        let answer = answer.unwrap_or(Err(AppFailure::Timeout));
        self.meters.answered(begun.elapsed(), &answer);
        if let Some(asking) = asking {
            asking.answered(result_of(&answer), answer.is_ok());
        }
        let (now, mut ids) = (desk.clock.now(), Ids::new(rand::random()));
        let outcome = message.outcome(&desk.rules, &mut ids, now, answer?)?;
        let AppOutcome { publish, for_caller, mut reply } = outcome;
        let published = timeout_at(until, desk.publish(publish, traced)).await;
        published.unwrap_or(Err(AppFailure::Timeout))?;
        if let (Some(traced), Some(reply)) = (traced, &mut reply) {
            traced.pass_on(&mut reply.headers);
        }
        Ok(Handled { reply, for_caller })
    }

    /// Logs what a backend is to mend in its answers.
    fn tell(&self, failure: &AppFailure) {
        let route = &*self.pattern;
        let suppressed = || self.bad_answers.happened(Instant::now());
        match failure {
            AppFailure::BadAnswer(fault) => {
                if let Some(suppressed) = suppressed() {
                    tracing::warn!(route, ?fault, suppressed, "a backend's answer can't be used");
                }
            }
            AppFailure::Refused(error) => {
                if let Some(code) = error.replaced()
                    && let Some(suppressed) = suppressed()
                {
                    let told = "a backend's error code is told as `refused`; use 1 to 64 letters, \
                                digits, `_`, `-` and `.`";
                    tracing::warn!(route, ?code, suppressed, "{told}");
                }
            }
            _ => {}
        }
    }
}

impl Desk {
    /// Publishes in this order; the broker has accepted all of it then, or not all.
    async fn publish(
        &self,
        sends: Vec<(PublishPermit, Publication)>,
        traced: Option<&Handling>,
    ) -> Result<(), AppFailure> {
        let begun = sends.into_iter().map(|(permit, mut publication)| {
            let traced = self.trace(&mut publication, traced);
            traces::watched(traced, self.broker.publish(permit, publication))
        });
        // All are begun before the first is awaited: that is their order.
        let begun: Vec<_> = begun.collect();
        for published in join_all(begun).await {
            published.map_err(AppFailure::Unpublished)?;
        }
        Ok(())
    }

    /// The span of what is sent for a message that is traced, or with a backend's own span.
    fn trace(
        &self,
        publication: &mut Publication,
        handling: Option<&Handling>,
    ) -> Option<traces::Publishing> {
        let tracer = self.tracer.as_ref()?;
        if let Some(handling) = handling {
            handling.pass_on(&mut publication.headers);
        }
        // No trace begins here that does not show the way to here.
        traces::Context::of(publication)?;
        let publishing = tracer.publish(publication, "app", None)?;
        let namespaces = self.rules.policy.namespaces();
        Some(publishing.within(namespaces.name_of(&publication.destination)))
    }
}

fn handler_of(
    config: &Config,
    at: usize,
    route: &AppRoute,
    backends: &Backends<'_>,
) -> Result<(&'static str, Arc<dyn AppHandler>), Problem> {
    let option = |name: &str| format!("app.routes[{at}].{name}");
    if let Some(name) = &route.webhook {
        let webhook = backends.webhooks.named(name);
        let webhook = webhook.ok_or_else(|| {
            let remedy = "name one of [[webhooks]], or add it there";
            Problem::new(option("webhook"), format!("there is no webhook {name:?}"), remedy)
        })?;
        return Ok(("webhook", Arc::new(ByWebhook(webhook))));
    }
    if let Some(name) = &route.stream {
        let stream = backends.cluster.app_stream(name, config.app.stream_max_length);
        let stream = stream.ok_or_else(|| {
            let remedy = "use a webhook, or set broker.kind = \"redis\"";
            Problem::new(option("stream"), "without Redis there are no streams", remedy)
        })?;
        let route = route.destination.to_string();
        tracing::info!(%route, key = %stream.key(), "messages of a route go to a stream");
        return Ok(("stream", Arc::new(Stream::new(stream, config.node_name()))));
    }
    let name = route.handler.as_deref().unwrap_or_default();
    let handler = backends.handlers.named(name).ok_or_else(|| {
        let known = backends.handlers.names().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        let fault = format!("this program has no handler {name:?}; it has {known}");
        let remedy = "give it to the server with `Server::app_handler`, or use a webhook";
        Problem::new(option("handler"), fault, remedy)
    })?;
    Ok(("handler", Arc::new(Embedded::new(handler, config.app.concurrency))))
}
