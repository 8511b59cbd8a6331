//! One request's way: into the line, to its turn, to the backend and back.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::breaker::{Breakers, Open, Passage};
use super::connect::{Connector, connector};
use super::meters::{Counted, Meters};
use super::{Answer, CallOptions, Settings, SigningKey, WebhookError};
use crate::body::{self, Unread};
use crate::clock::Clock;
use crate::repeated::Repeated;

/// Where the requests of one webhook wait for their turn.
pub(super) struct Line {
    name: String,
    node: Arc<str>,
    url: Uri,
    headers: HeaderMap,
    key: SigningKey,
    timeout: Duration,
    answer_max_bytes: usize,
    client: Client<HttpsConnector<Connector>, Body>,
    /// For those under way, of which there are at most so many.
    turns: Semaphore,
    concurrency: usize,
    event_batch: usize,
    /// For these and those that wait.
    places: Arc<Semaphore>,
    /// The part of the turns that is for all but questions about sessions: so these have some
    /// however many messages and events there are.
    common_turns: Semaphore,
    /// The same part of the places.
    common_places: Arc<Semaphore>,
    breakers: Breakers,
    meters: Meters,
    clock: Clock,
    failures: Repeated,
}

/// A request in the line.
pub(super) struct Entered {
    kind: &'static str,
    id: Box<str>,
    body: Bytes,
    traceparent: Option<HeaderValue>,
    idempotent: bool,
    passage: Passage,
    waiting: Option<Counted>,
    _place: OwnedSemaphorePermit,
    _common: Option<OwnedSemaphorePermit>,
}

/// What every request says, and what comes behind it.
#[derive(Serialize)]
struct Envelope<'e, F> {
    r#type: &'static str,
    id: &'e str,
    time: String,
    node: &'e str,
    #[serde(flatten)]
    fields: &'e F,
}

impl Line {
    pub(super) fn new(settings: Settings, node: Arc<str>, clock: Clock) -> Self {
        let places = settings.concurrency + settings.waiting;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(settings.concurrency)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .build(connector(settings.guard, settings.roots));
        Self {
            meters: Meters::new(&settings.name),
            name: settings.name,
            node,
            url: settings.url,
            headers: settings.headers,
            key: settings.key,
            timeout: settings.timeout,
            answer_max_bytes: settings.answer_max_bytes,
            client,
            turns: Semaphore::new(settings.concurrency),
            concurrency: settings.concurrency,
            event_batch: settings.event_batch,
            places: Arc::new(Semaphore::new(places)),
            common_turns: Semaphore::new(common_part(settings.concurrency)),
            common_places: Arc::new(Semaphore::new(common_part(places))),
            breakers: Breakers::new(settings.breaker_failures, settings.breaker_pause),
            clock,
            failures: Repeated::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn event_batch(&self) -> usize {
        self.event_batch
    }

    pub(super) fn is_broken(&self) -> bool {
        !self.breakers.are_closed()
    }

    /// Takes a place in the line, if there is one and the backend is not left alone just now.
    pub(super) fn enter(
        &self,
        kind: &'static str,
        fields: &impl Serialize,
        options: CallOptions,
    ) -> Result<Entered, WebhookError> {
        let entered = self.try_enter(kind, fields, options);
        if let Err(error) = &entered {
            self.meters.count(kind, error.result());
        }
        entered
    }

    fn try_enter(
        &self,
        kind: &'static str,
        fields: &impl Serialize,
        options: CallOptions,
    ) -> Result<Entered, WebhookError> {
        let place = |places: &Arc<Semaphore>| {
            Arc::clone(places).try_acquire_owned().map_err(|_| WebhookError::Overloaded)
        };
        let common = if is_common(kind) { Some(place(&self.common_places)?) } else { None };
        let place = place(&self.places)?;
        let id = options.id.unwrap_or_else(new_id);
        let at_ms = options.at_unix_ms.unwrap_or_else(|| self.clock.now().unix_ms);
        let time = time(at_ms);
        let envelope = Envelope { r#type: kind, id: &id, time, node: &self.node, fields };
        let body = serde_json::to_vec(&envelope)
            .map_err(|error| WebhookError::Unwritable(error.to_string()))?;
        let traceparent = options.traceparent.and_then(|text| text.parse().ok());
        // Last: who passes is to say what came of it.
        let passage = self.breakers.of(kind).admit(Instant::now());
        let passage = passage.map_err(|Open(after)| WebhookError::BreakerOpen(after))?;
        Ok(Entered {
            kind,
            id,
            body: body.into(),
            traceparent,
            idempotent: options.idempotent,
            passage,
            waiting: Some(self.meters.waiting()),
            _place: place,
            _common: common,
        })
    }

    /// Waits for a turn of this kind, for no longer than for an answer.
    async fn turn(&self, kind: &str) -> Option<(Option<SemaphorePermit<'_>>, SemaphorePermit<'_>)> {
        let turn = async {
            let common =
                if is_common(kind) { Some(self.common_turns.acquire().await.ok()?) } else { None };
            Some((common, self.turns.acquire().await.ok()?))
        };
        timeout(self.timeout, turn).await.ok().flatten()
    }

    /// Sends it, again where that may be and may help, until the deadline.
    async fn answer(&self, request: &Entered, deadline: Instant) -> Result<Answer, WebhookError> {
        let mut tries = 0;
        loop {
            let answer = timeout_at(deadline, self.exchange(request)).await;
            let answer = answer.unwrap_or(Err(WebhookError::Timeout(self.timeout)));
            tries += 1;
            let pause = RETRY_PAUSE * tries + RETRY_PAUSE.mul_f64(rand::random_range(0.0..1.0));
            match answer {
                Err(error)
                    if request.idempotent
                        && error.is_passing()
                        && tries < TRIES_MAX
                        && Instant::now() + pause < deadline =>
                {
                    tracing::debug!(webhook = self.name, %error, "a request is made again");
                    sleep(pause).await;
                }
                answer => return answer,
            }
        }
    }

    async fn exchange(&self, request: &Entered) -> Result<Answer, WebhookError> {
        let response = self.client.request(self.signed(request)).await?;
        let status = response.status();
        if status.is_redirection() {
            return Err(WebhookError::Redirect(status.as_u16()));
        }
        let body = Body::new(response.into_body());
        if WebhookError::is_refusal(status.as_u16()) {
            let most = self.answer_max_bytes.min(REFUSAL_MAX_BYTES);
            let body = body::read(body, most, self.timeout).await.unwrap_or_default();
            return Err(WebhookError::Refused { status: status.as_u16(), body });
        }
        if !status.is_success() {
            return Err(WebhookError::Status(status.as_u16()));
        }
        let body = body::read(body, self.answer_max_bytes, self.timeout).await;
        let body = body.map_err(|unread| match unread {
            Unread::TooLarge => WebhookError::TooLarge,
            Unread::Late => WebhookError::Timeout(self.timeout),
            Unread::Cut => WebhookError::Broken("the answer broke off".into()),
        })?;
        Ok(Answer { status: status.as_u16(), body })
    }

    /// The request, signed for this moment.
    fn signed(&self, entered: &Entered) -> Request<Body> {
        let now_s = self.clock.now().unix_s();
        let signature = self.key.sign(&entered.id, now_s, &entered.body);
        let text = |text: &str| HeaderValue::from_str(text).expect("it is ASCII");
        let mut request = Request::new(Body::from(entered.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.headers.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-id", text(&entered.id));
        headers.insert("webhook-timestamp", now_s.into());
        headers.insert("webhook-signature", text(&signature));
        if let Some(traceparent) = &entered.traceparent {
            headers.insert("traceparent", traceparent.clone());
        }
        request
    }

    fn complain(&self, kind: &'static str, error: &WebhookError) {
        if let Some(suppressed) = self.failures.happened(Instant::now()) {
            tracing::warn!(webhook = self.name, kind, %error, suppressed, "a webhook has failed");
        }
    }
}

impl Entered {
    /// Waits for its turn, then for the answer.
    pub(super) async fn send(mut self, line: Arc<Line>) -> Result<Answer, WebhookError> {
        let mut outcome = line.meters.outcome(self.kind);
        let Some(_turn) = line.turn(self.kind).await else {
            outcome.is(WebhookError::Overloaded.result());
            line.complain(self.kind, &WebhookError::Overloaded);
            return Err(WebhookError::Overloaded);
        };
        self.waiting = None;
        let begun = Instant::now();
        if let Err(Open(after)) = self.passage.still(begun) {
            let error = WebhookError::BreakerOpen(after);
            outcome.is(error.result());
            return Err(error);
        }
        outcome.begin(begun);
        let under_way = line.meters.in_flight();
        let answer = line.answer(&self, begun + line.timeout).await;
        drop(under_way);
        let Self { kind, passage, .. } = self;
        match &answer {
            Ok(_) => {
                passage.succeeded();
                outcome.is("ok");
            }
            Err(error) => {
                outcome.is(error.result());
                if !error.is_answer(kind) {
                    line.complain(kind, error);
                }
                if !error.is_failure() {
                    passage.succeeded();
                } else if passage.failed(Instant::now()) {
                    tracing::warn!(
                        webhook = line.name,
                        kind,
                        "nothing such is sent there for a while"
                    );
                }
            }
        }
        line.meters.breaker(line.breakers.are_closed());
        answer
    }
}

/// Whether a request of this kind is no question about a session.
fn is_common(kind: &str) -> bool {
    !matches!(kind, "connect" | "refresh" | "subscribe")
}

/// Three quarters.
fn common_part(all: usize) -> usize {
    all - all / 4
}

/// A time in Unix milliseconds, as bodies have it.
pub fn time(at_unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(at_unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

fn new_id() -> Box<str> {
    format!("msg_{}", uuid::Uuid::now_v7().simple()).into()
}

const USER_AGENT: &str = concat!("fanlight/", env!("CARGO_PKG_VERSION"));
/// How often a request is made at most.
const TRIES_MAX: u32 = 3;
/// Before the second try; the third has twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that is not used is kept: less than servers keep theirs, or a request
/// meets its end. Node's and uvicorn's keep them for 5 s.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// Of an answer that refuses, which says why and nothing else.
const REFUSAL_MAX_BYTES: usize = 16 << 10;
/// Of an answer.
const HEAD_MAX_BYTES: usize = 64 << 10;
