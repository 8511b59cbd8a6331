//! A node's life: config → build → run → drain.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use fanlight_engine::app::AppHandler;
use fanlight_engine::broker::WorkerId;
use fanlight_engine::session::Rules;
use http::StatusCode;
use rustls::ServerConfig;
use socket2::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Barrier, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, HttpServer};
use crate::admission::Admission;
use crate::api::{self, Keys};
use crate::app::{App, Backends, Handlers};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, ServeOptions, ServerTls};
use crate::descriptors::Allowance;
use crate::drain::{self, Draining, Trigger};
use crate::hooks::Hooks;
use crate::jwt::Authenticator;
use crate::lifecycle::Subscriber;
use crate::mail::Mailroom;
use crate::node::{Node, Readiness};
use crate::problem::Problem;
use crate::rebalance::Rebalance;
use crate::registry::Cluster;
use crate::telemetry::{self, Metrics};
use crate::traces::{Exporting, Tracer};
use crate::transport::stomp_tcp::StompServer;
use crate::transport::{Station, cors, events, poll, publish, sockjs, ws};
use crate::upkeep::Upkeep;
use crate::webhook::Webhooks;
use crate::worker::{InboxReceiver, Worker, WorkerHandle, WorkerShared, inbox};
use crate::{admin, config, dead_letters, descriptors, dev, ecs, health, tls};

/// A node within a program, with the program's own handlers of messages to `/app/...`.
///
/// `examples/embedded.rs` shows a whole one.
#[derive(Debug)]
pub struct Server {
    options: ServeOptions,
    handlers: Handlers,
}

impl Server {
    /// A node of this configuration.
    pub fn new(options: ServeOptions) -> Self {
        Self { options, handlers: Handlers::default() }
    }

    /// Has `handler` handle what the routes have that name it: those with `handler = "name"` among
    /// `[[app.routes]]`. It runs on the runtime that [`Server::run`] runs on.
    #[must_use]
    pub fn app_handler(mut self, name: impl Into<String>, handler: impl AppHandler) -> Self {
        self.handlers.add(name, Arc::new(handler));
        self
    }

    /// Runs it until the process is told to end, by SIGTERM, SIGINT or `POST /drain`, and it has
    /// drained. Once in a process: it installs the process' log and metrics.
    pub async fn run(self) -> anyhow::Result<()> {
        run(self.options, &self.handlers).await
    }
}

/// Runs a node until it is told to end and has drained.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    Server::new(options).run().await
}

async fn run(options: ServeOptions, handlers: &Handlers) -> anyhow::Result<()> {
    let ServeOptions { config, warnings, dev, conformance } = options;
    telemetry::init_log(&config.log)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    // First: as process 1 of a container, it would not hear of those that nobody listens for.
    let mut signals = Signals::listen()?;
    descriptors::raise_limit();
    let metrics = Metrics::install(config.broker.kind)?;
    let tracker = TaskTracker::new();
    let shutdown = CancellationToken::new();

    let (public_listener, public) = reserve("listen.public", config.listen.public)?;
    let (admin_listener, admin) = reserve("listen.admin", config.listen.admin)?;
    let stomp = config.listen.stomp.map(|address| reserve("listen.stomp", address)).transpose()?;
    let (stomp_listener, stomp) = stomp.unzip();
    let has_api = !config.api.keys.is_empty();
    let api = has_api.then(|| reserve("listen.api", config.listen.api)).transpose()?;
    let (tls, stomp_tls) = server_tls(&config).map_err(ConfigError::from)?;

    let inboxes: Vec<_> = (0..config.worker_count()).map(|_| inbox(INBOX_MESSAGES)).collect();
    let clock = Clock::start();
    let workers: Vec<WorkerHandle> = inboxes.iter().map(|(handle, _)| handle.clone()).collect();
    let handles = workers.clone();
    let (answerer, address) = (Arc::new(Mailroom::new(workers.clone())), reachable(public));
    let mut cluster =
        Cluster::join(&config, workers, answerer, address, clock, &tracker, &shutdown)?;
    let (spans, exporting) = Exporting::configured(&config, clock)?.unzip();
    let tasks = Tasks { tracker: &tracker, shutdown: &shutdown };
    let shared = worker_shared(&config, &mut cluster, handlers, spans, clock, &tasks)?;
    let mut node = Node::new(config, &shared);
    node.dev = dev;
    node.conformance = conformance;
    node.lease = cluster.lease();
    let node = Arc::new(node);

    let moving = dead_letters::run(Arc::clone(&shared));
    let until = shutdown.clone();
    tracker.spawn(async move { until.run_until_cancelled(moving).await });
    await_broker(&node).await;
    let listeners = Listeners { public: public_listener, tls, stomp: stomp_listener, stomp_tls };
    let workers = start_workers(&node, &shared, inboxes, listeners, &shutdown)?;

    let admin_routes = admin::routes(&node, &shared, metrics.clone());
    let admin_server = own_server(&node, admin_routes, Allowance::All, &tracker, &shutdown);
    tracker.spawn(log_end("the admin listener", admin_server.run(admin_listener)));
    let api = api.map(|listener| serve_api(&node, listener, &tracker, &shutdown)).transpose()?;
    start_rebalance(&node, &shared, &handles, &tracker, &shutdown);
    let upkeep = Upkeep { metrics, node: Arc::clone(&node), shared, inboxes: handles };
    upkeep.start(&tracker, &shutdown);
    ecs::start(&node, &tracker, &shutdown);
    announce(&node, public, stomp, api, admin);

    let is_to_end = tokio::select! {
        () = signals.next() => true,
        () = node.drain.begun() => false,
    };
    drain_and_end(&node, workers, signals, is_to_end).await;
    cluster.leave().await;
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    shutdown.cancel();
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
    Ok(())
}

/// What a listener encrypts with, if it does.
type OwnTls = Option<Arc<ServerConfig>>;

/// That of the public listener, and of the one for STOMP over TCP.
fn server_tls(config: &Config) -> Result<(OwnTls, OwnTls), config::Problem> {
    let listen = &config.listen;
    let public = tls::server_config("listen.tls", &listen.tls, tls::HTTP)?;
    Ok((public, tls::server_config("listen.stomp_tls", &listen.stomp_tls, &[])?))
}

/// Serves the server API to who has a key; where.
fn serve_api(
    node: &Arc<Node>,
    (listener, address): (Socket, SocketAddr),
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let keys = Keys::new(&node.config.api.keys).map_err(ConfigError::from)?;
    let routes = api::routes(node, keys);
    let server = own_server(node, routes, Allowance::AllButSpare, tracker, shutdown);
    tracker.spawn(log_end("the listener of the server API", server.run(listener)));
    Ok(address)
}

/// Gives sessions away to nodes that have fewer, where that is wanted and there are others.
fn start_rebalance(
    node: &Arc<Node>,
    shared: &Arc<WorkerShared>,
    workers: &[WorkerHandle],
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let Some(lease) = node.lease.clone().filter(|_| node.config.rebalance.enabled) else { return };
    let (node, shared) = (Arc::clone(node), Arc::clone(shared));
    let rebalance = Rebalance { node, shared, lease, workers: workers.to_vec() };
    let until = shutdown.clone();
    tracker.spawn(async move { until.run_until_cancelled(rebalance.run()).await });
}

/// What serves a listener that is not for clients. Its connections are counted apart from theirs,
/// who must not be able to shut operators and backends out.
fn own_server(
    node: &Node,
    router: Router,
    allowance: Allowance,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> HttpServer {
    HttpServer {
        router,
        tracker: tracker.clone(),
        shutdown: shutdown.clone(),
        head_time: node.config.limits.request_head_time.0,
        admission: Admission::new(OWN_CONNECTIONS, 0, &[]),
        tls: None,
        patience: node.config.limits.send_time.0,
        max_streams: node.config.limits.http2_streams,
        leaving: shutdown.clone(),
        allowance,
    }
}

/// Lets no client in before the broker can be asked, if it can soon: a proxy without health checks
/// sends clients to a node as soon as it listens, and whoever comes back then would be told that its
/// history is unavailable. A node that starts while the broker is away serves all the same.
async fn await_broker(node: &Node) {
    let is_ready = async {
        while !matches!(node.readiness(), Readiness::Ready) {
            tokio::time::sleep(BROKER_LOOK).await;
        }
    };
    if tokio::time::timeout(BROKER_TIME, is_ready).await.is_err() {
        tracing::warn!("the broker can't be asked yet; clients are served without it meanwhile");
    }
}

fn reserve(option: &str, address: SocketAddr) -> anyhow::Result<(Socket, SocketAddr)> {
    accept::reserve(address).with_context(|| {
        format!("{option}: can't listen on {address}; free the port or choose another address")
    })
}

/// Where a node's tasks are counted, and what ends them.
struct Tasks<'t> {
    tracker: &'t TaskTracker,
    shutdown: &'t CancellationToken,
}

fn worker_shared(
    config: &Config,
    cluster: &mut Cluster,
    handlers: &Handlers,
    tracer: Option<Arc<Tracer>>,
    clock: Clock,
    Tasks { tracker, shutdown }: &Tasks<'_>,
) -> anyhow::Result<Arc<WorkerShared>> {
    let policy = config.compiled_policy().map_err(ConfigError::from)?;
    let token_rules = config.token_rules(&policy);
    let authenticator =
        Authenticator::new(&config.auth, token_rules).map_err(ConfigError::Invalid)?;
    let authenticator = Arc::new(authenticator);
    let webhooks = Arc::new(Webhooks::start(config, clock, (*shutdown).clone())?);
    let subscribers = Subscriber::all(config, &webhooks, policy.namespaces());
    cluster.deliver_events(config, clock, &subscribers);
    let hooks = Hooks::new(config, Arc::clone(&webhooks), Arc::clone(&authenticator));
    let rules = Rules {
        policy,
        limits: config.session_limits(),
        heartbeats: config.heartbeats(),
        on_forbidden: config.on_forbidden(),
        hooks: hooks.of_sessions(),
    };
    let rules = Arc::new(rules);
    let backends = Backends { webhooks: &webhooks, cluster, handlers, tracker };
    let app = App::new(config, &rules, clock, &backends).map_err(ConfigError::from)?;
    Ok(Arc::new(WorkerShared {
        rules,
        authenticator,
        hooks: Arc::new(hooks),
        broker: Arc::clone(&cluster.broker),
        presence: Arc::clone(&cluster.presence),
        queues: Arc::clone(&cluster.queues),
        registry: Arc::clone(&cluster.registry),
        peers: Arc::clone(&cluster.peers),
        clock,
        outbox_limits: config.outbox_limits(),
        mailbox_limits: config.mailbox_limits(),
        send_time_ms: config.limits.send_time.as_ms(),
        deflate_min_bytes: config.websocket.compression_min_bytes as usize,
        sessions: AtomicU64::new(0),
        tracer,
        app: Arc::new(app),
    }))
}

/// Where one worker's connections come from.
struct Listeners {
    public: Socket,
    tls: Option<Arc<ServerConfig>>,
    stomp: Option<Socket>,
    stomp_tls: Option<Arc<ServerConfig>>,
}

impl Listeners {
    /// Others on the same addresses.
    fn share(&self) -> anyhow::Result<Self> {
        let share = |listener: &Socket| {
            let address = listener.local_addr()?.as_socket().context("not an internet address")?;
            anyhow::Ok(accept::share(address)?)
        };
        Ok(Self {
            public: share(&self.public)?,
            tls: self.tls.clone(),
            stomp: self.stomp.as_ref().map(share).transpose()?,
            stomp_tls: self.stomp_tls.clone(),
        })
    }
}

/// Starts a thread for each inbox, each with listeners of its own on the same addresses.
fn start_workers(
    node: &Arc<Node>,
    shared: &Arc<WorkerShared>,
    inboxes: Vec<(WorkerHandle, InboxReceiver)>,
    first: Listeners,
    shutdown: &CancellationToken,
) -> anyhow::Result<Vec<Draining>> {
    let mut listeners = vec![first];
    while listeners.len() < inboxes.len() {
        listeners.push(listeners[0].share()?);
    }
    let all_served = Arc::new(Barrier::new(inboxes.len()));
    let parts = inboxes.into_iter().zip(listeners).enumerate();
    parts
        .map(|(at, ((handle, receiver), listeners))| {
            let thread = WorkerThread {
                id: WorkerId(at as u16),
                node: Arc::clone(node),
                shared: Arc::clone(shared),
                handle,
                receiver,
                listeners,
                shutdown: shutdown.clone(),
                all_served: Arc::clone(&all_served),
            };
            thread.start()
        })
        .collect()
}

/// What one worker thread is made of.
struct WorkerThread {
    id: WorkerId,
    node: Arc<Node>,
    shared: Arc<WorkerShared>,
    handle: WorkerHandle,
    receiver: InboxReceiver,
    listeners: Listeners,
    shutdown: CancellationToken,
    /// Where each waits until the sessions of all have ended.
    all_served: Arc<Barrier>,
}

impl WorkerThread {
    fn start(self) -> anyhow::Result<Draining> {
        let (ended, end) = oneshot::channel();
        let handle = self.handle.clone();
        thread::Builder::new().name(format!("worker-{}", self.id.0)).spawn(move || {
            // Without one of its workers a node would go on with half its connections dead.
            match catch_unwind(AssertUnwindSafe(|| self.run())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "a worker has failed; the node ends");
                    std::process::exit(1);
                }
                Err(_) => {
                    tracing::error!("a worker has panicked; the node ends");
                    std::process::exit(1);
                }
            }
            let _ = ended.send(());
        })?;
        Ok(Draining { handle, ended: end })
    }

    fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let tracker = TaskTracker::new();
            let ending = self.shutdown.child_token();
            let Listeners { public, tls, stomp, stomp_tls } = self.listeners;
            if let Some(listener) = stomp {
                let (node, worker) = (Arc::clone(&self.node), self.handle.clone());
                let server = StompServer::new(node, worker, stomp_tls, tracker.clone());
                let end = server.run(listener, ending.clone());
                tracker.spawn(log_end("a listener for STOMP over TCP", end));
            }
            let node = Arc::clone(&self.node);
            let station = Station { node, worker: self.handle, ending: ending.clone() };
            let server = HttpServer {
                router: public_routes(&station),
                tracker: tracker.clone(),
                shutdown: ending.clone(),
                head_time: self.node.config.limits.request_head_time.0,
                admission: Arc::clone(&self.node.http_admission),
                tls,
                patience: self.node.config.limits.send_time.0,
                max_streams: self.node.config.limits.http2_streams,
                leaving: self.node.leaving.clone(),
                allowance: Allowance::AllButSpare,
            };
            tracker.spawn(log_end("a public listener", server.run(public)));
            let worker = Worker::new(self.id, self.shared, self.receiver, rand::random())?;
            worker.run().await?;
            // Requests come here also for sessions of other workers, which are still to be told.
            self.all_served.wait().await;
            // What waits here for sessions of other nodes is still to be answered.
            ending.cancel();
            tracker.close();
            tracker.wait().await;
            Ok(())
        })
    }
}

fn public_routes(station: &Station) -> Router {
    let node = Arc::clone(&station.node);
    let mut router = ws::routes(station.clone())
        .merge(events::routes(station.clone()))
        .merge(poll::routes(station.clone()))
        .merge(publish::routes(station.clone()))
        .merge(sockjs::routes(station))
        .merge(health::routes(&node));
    if node.dev {
        router = router.merge(dev::routes(&node));
    }
    router = router.method_not_allowed_fallback(cors::other_method);
    let clients_connect_to = node.config.websocket.path.clone();
    router.fallback(async move || {
        let detail = format!("there is nothing here; clients connect to {clients_connect_to}");
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    })
}

async fn log_end(what: &'static str, end: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = end.await {
        tracing::error!(%error, "{what} has failed");
    }
}

/// An address to connect to, where the node listens on all.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Says on standard output where the node is to be found; nobody has to listen.
fn announce(
    node: &Node,
    public: SocketAddr,
    stomp: Option<SocketAddr>,
    api: Option<SocketAddr>,
    admin: SocketAddr,
) {
    let (public, admin) = (reachable(public), reachable(admin));
    let path = &node.config.websocket.path;
    let scheme = |tls: &ServerTls, plain, within_tls| {
        if *tls == ServerTls::default() { plain } else { within_tls }
    };
    let listen = &node.config.listen;
    let mut lines = vec![
        "Fanlight is running.".into(),
        format!("  clients   {}://{public}{path}", scheme(&listen.tls, "ws", "wss")),
        format!("  health    http://{admin}/readyz"),
        format!("  metrics   http://{admin}/metrics"),
    ];
    if let Some(api) = api.map(reachable) {
        lines.insert(2, format!("  API       http://{api}/api/v1/openapi.json"));
    }
    if let Some(stomp) = stomp.map(reachable) {
        let scheme = scheme(&listen.stomp_tls, "stomp", "stomp+ssl");
        lines.insert(2, format!("  STOMP     {scheme}://{stomp}"));
    }
    if node.dev {
        let page = format!("{}://{public}", scheme(&listen.tls, "http", "https"));
        lines[0] = format!("Fanlight is running. Open {page}/ in a browser.");
        let keys = node.config.auth.keys.iter().filter(|key| !key.secret.is_empty());
        lines.extend(keys.map(|key| format!("  secret    {}", key.secret.reveal())));
        let keys = node.config.api.keys.iter().filter(|key| !key.secret.is_empty());
        lines.extend(keys.map(|key| format!("  API key   {}", key.secret.reveal())));
        lines.push(format!("  token     curl '{page}/dev/token?user=ann'"));
        lines.push("Development mode: this machine only, open rules. Not for production.".into());
    }
    let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
}

/// SIGTERM and SIGINT: a kill follows.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Drains, without hurry unless a signal said that a kill follows. The first signal gives the time
/// there is until then; whoever signals twice does not want to wait.
async fn drain_and_end(node: &Node, workers: Vec<Draining>, signals: Signals, hurried: bool) {
    let after_signal = node.config.drain.after_sigterm();
    let plan = if hurried { after_signal } else { node.config.drain.unhurried() };
    if hurried {
        node.begin_drain(Trigger::Sigterm);
    }
    let (told, asked_to_hurry) = oneshot::channel();
    let hurry = async {
        match asked_to_hurry.await {
            Ok(()) => after_signal,
            Err(_) => std::future::pending().await,
        }
    };
    let listen = async move {
        let mut signals = signals;
        if !hurried {
            signals.next().await;
            let _ = told.send(());
        }
        signals.next().await;
        tracing::warn!("ended by a second signal, before the drain was over");
        std::process::exit(130);
    };
    tokio::select! {
        () = drain::run(node, workers, plan, hurried, hurry) => {}
        () = listen => {}
    }
}

const OWN_CONNECTIONS: usize = 1024;
/// How long a node that starts waits for its broker before it takes what has connected.
const BROKER_TIME: Duration = Duration::from_secs(3);
const BROKER_LOOK: Duration = Duration::from_millis(10);
/// Messages that may wait for one worker.
const INBOX_MESSAGES: usize = 4096;
