//! A node's life: config → build → run → drain.

use std::io::Write;
use std::iter;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use axum::Router;
use fanlight_engine::app::AppHandler;
use fanlight_engine::broker::WorkerId;
use fanlight_engine::session::Rules;
use http::StatusCode;
use rustls::ServerConfig;
use socket2::Socket;
use tokio::sync::{Barrier, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::HttpServer;
use crate::api::{self, Keys};
use crate::app::{App, Backends, Handlers};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, ServeOptions, ServerTls};
use crate::descriptors::Allowance;
use crate::drain::{self, Draining, Trigger};
use crate::handshakes::Handshakes;
use crate::hooks::Hooks;
use crate::jwt::Authenticator;
use crate::lifecycle::Subscriber;
use crate::listeners::{OwnServer, Reserved, log_end, reachable};
use crate::mail::Mailroom;
use crate::node::{Node, Readiness};
use crate::problem::Problem;
use crate::rebalance::Rebalance;
use crate::registry::Cluster;
use crate::signals::Signals;
use crate::telemetry::{self, Metrics};
use crate::traces::{Exporting, Tracer};
use crate::transport::stomp_tcp::StompServer;
use crate::transport::{Station, cors, events, poll, publish, sockjs, ws};
use crate::upkeep::Upkeep;
use crate::webhook::Webhooks;
use crate::worker::{InboxReceiver, Worker, WorkerHandle, WorkerShared, inbox};
use crate::{admin, dead_letters, descriptors, dev, ecs, health, tls};

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

    let listeners = Listeners::reserve(&config)?;
    let addresses = listeners.addresses();
    let inboxes: Vec<_> = (0..config.worker_count()).map(|_| inbox(INBOX_MESSAGES)).collect();
    let clock = Clock::start();
    let workers: Vec<WorkerHandle> = inboxes.iter().map(|(handle, _)| handle.clone()).collect();
    let senders = workers.clone();
    let (answerer, address) =
        (Arc::new(Mailroom::new(workers.clone())), reachable(addresses.public));
    let mut cluster =
        Cluster::join(&config, workers, answerer, address, clock, &tracker, &shutdown)?;
    let (spans, exporting) = Exporting::configured(&config, clock)?.unzip();
    let tasks = Tasks { tracker: &tracker, shutdown: &shutdown };
    let shared = worker_shared(&config, &mut cluster, handlers, spans, clock, &tasks)?;
    fetch_keys(&shared.authenticator, &tracker, &shutdown).await;
    let keys = Keys::new(&config.api.keys).map_err(ConfigError::from)?;
    let node = Arc::new(new_node(config, &shared, &cluster, (dev, conformance)));

    let (moving, until) = (dead_letters::run(Arc::clone(&shared)), shutdown.clone());
    tracker.spawn(async move { until.run_until_cancelled(moving).await });
    await_broker(&node).await;
    let Open { doors, own } = listeners.open(inboxes.len())?;
    let workers = start_workers(&node, &shared, inboxes, doors, &shutdown)?;

    serve_own(&node, &shared, own, keys, metrics.clone(), &tasks)?;
    start_rebalance(&node, &shared, &senders, &tracker, &shutdown);
    let upkeep = Upkeep { metrics, node: Arc::clone(&node), shared, inboxes: senders };
    upkeep.start(&tracker, &shutdown);
    ecs::start(&node, &tracker, &shutdown);
    announce(&node, &addresses);

    let is_to_end = tokio::select! {
        () = signals.next() => true,
        () = node.drain.begun() => false,
    };
    // A signal gives the time there is until a kill follows.
    let hurry = (!is_to_end).then(CancellationToken::new);
    let leave = async {
        drain_workers(&node, workers, hurry.clone()).await;
        cluster.leave().await;
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
    };
    signals.end_with(leave, hurry.clone()).await;
    shutdown.cancel();
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
    Ok(())
}

fn new_node(
    config: Config,
    shared: &WorkerShared,
    cluster: &Cluster,
    (dev, conformance): (bool, bool),
) -> Node {
    // Their digests do from here on; only `--dev` shows its key.
    let config = if dev { config } else { config.without_api_secrets() };
    let mut node = Node::new(config, shared);
    node.dev = dev;
    node.conformance = conformance;
    node.lease = cluster.lease();
    node
}

/// Serves operators, and backends that have a key.
fn serve_own(
    node: &Arc<Node>,
    shared: &Arc<WorkerShared>,
    own: Own,
    keys: Keys,
    metrics: Metrics,
    Tasks { tracker, shutdown }: &Tasks<'_>,
) -> anyhow::Result<()> {
    let admin = OwnServer {
        name: "the admin listener",
        limits: &node.config.limits,
        allowance: Allowance::All,
        tracker,
        shutdown,
    };
    admin.start(own.admin, admin::routes(node, shared, metrics));
    match own.api {
        Some(listener) => serve_api(node, keys, listener, tracker, shutdown),
        None => Ok(()),
    }
}

/// Serves the server API to who has a key, on a thread of its own, as Redis is heard on this one.
fn serve_api(
    node: &Arc<Node>,
    keys: Keys,
    listener: Socket,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let routes = api::routes(node, keys);
    let (node, shutdown) = (Arc::clone(node), shutdown.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, end) = oneshot::channel::<()>();
    thread::Builder::new().name("api".into()).spawn(move || {
        runtime.block_on(async {
            let tracker = TaskTracker::new();
            let server = OwnServer {
                name: "the listener of the server API",
                limits: &node.config.limits,
                allowance: Allowance::AllButSpare,
                tracker: &tracker,
                shutdown: &shutdown,
            };
            server.start(listener, routes);
            shutdown.cancelled().await;
            tracker.close();
            let _ = tokio::time::timeout(API_END_TIME, tracker.wait()).await;
        });
        drop(ended);
    })?;
    tracker.spawn(async move {
        let _ = end.await;
    });
    Ok(())
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

/// Begins to keep keys from URLs new, and waits for the first, which is bounded by their timeout.
async fn fetch_keys(
    authenticator: &Authenticator,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) {
    for task in authenticator.tasks() {
        let until = shutdown.clone();
        tracker.spawn(async move { until.run_until_cancelled(task).await });
    }
    authenticator.begun().await;
}

/// Lets no client in before the broker can be asked, if it can soon: a proxy without health checks
/// sends clients to a node as soon as it listens, and whoever comes back then would be told that its
/// history is unavailable. A node that starts while the broker is away serves all the same, but for
/// those who come by a token: it does not know which are revoked.
async fn await_broker(node: &Node) {
    let is_ready = async {
        while !matches!(node.readiness(), Readiness::Ready) {
            tokio::time::sleep(BROKER_LOOK).await;
        }
    };
    if tokio::time::timeout(BROKER_TIME, is_ready).await.is_err() {
        tracing::warn!(
            "the broker can't be asked yet; clients are served without it meanwhile, but for those \
             with tokens, as it is not known which of these are revoked"
        );
    }
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
    let authenticator = Arc::new(authenticator.with_revoked(cluster.revocations.known()));
    let webhooks = Arc::new(Webhooks::start(config, clock, (*shutdown).clone())?);
    let subscribers = Subscriber::all(config, &webhooks, policy.namespaces());
    cluster.deliver_events(config, clock, &subscribers);
    let hooks = Hooks::new(config, Arc::clone(&webhooks), Arc::clone(&authenticator), clock);
    let rules = Rules {
        policy,
        limits: config.session_limits(),
        heartbeats: config.heartbeats(),
        on_forbidden: config.on_forbidden(),
        hooks: hooks.of_sessions(),
    };
    let rules = Arc::new(rules);
    let backends =
        Backends { webhooks: &webhooks, cluster, handlers, tracker, tracer: tracer.as_ref() };
    let app = App::new(config, &rules, clock, &backends).map_err(ConfigError::from)?;
    Ok(Arc::new(WorkerShared {
        rules,
        authenticator,
        handshakes: Arc::new(Handshakes::new(config)),
        hooks: Arc::new(hooks),
        broker: Arc::clone(&cluster.broker),
        presence: Arc::clone(&cluster.presence),
        queues: Arc::clone(&cluster.queues),
        registry: Arc::clone(&cluster.registry),
        revocations: Arc::clone(&cluster.revocations),
        peers: Arc::clone(&cluster.peers),
        clock,
        outbox_limits: config.outbox_limits(),
        mailbox_limits: config.mailbox_limits(),
        send_time_ms: config.limits.send_time.as_ms(),
        conflation_bytes: config.limits.conflation.as_bytes(),
        deflate_min_bytes: config.websocket.compression_min_bytes as usize,
        sessions: AtomicU64::new(0),
        movable: (0..config.worker_count()).map(|_| AtomicU64::new(0)).collect(),
        tracer,
        app: Arc::new(app),
    }))
}

/// What the node listens on, once it can serve.
struct Listeners {
    public: Reserved,
    tls: Option<Arc<ServerConfig>>,
    stomp: Option<Reserved>,
    stomp_tls: Option<Arc<ServerConfig>>,
    admin: Reserved,
    api: Option<Reserved>,
}

/// Where that is.
struct Addresses {
    public: SocketAddr,
    stomp: Option<SocketAddr>,
    admin: SocketAddr,
    api: Option<SocketAddr>,
}

/// All of it, listening.
struct Open {
    /// One for each worker.
    doors: Vec<Doors>,
    own: Own,
}

/// Where those come who are no clients.
struct Own {
    admin: Socket,
    api: Option<Socket>,
}

/// Where one worker's connections come from.
struct Doors {
    public: Socket,
    tls: Option<Arc<ServerConfig>>,
    stomp: Option<Socket>,
    stomp_tls: Option<Arc<ServerConfig>>,
}

impl Listeners {
    fn reserve(config: &Config) -> anyhow::Result<Self> {
        let listen = &config.listen;
        let stomp = listen.stomp.map(|address| Reserved::new("listen.stomp", address));
        let has_api = !config.api.keys.is_empty();
        Ok(Self {
            public: Reserved::new("listen.public", listen.public)?,
            tls: tls::server_config("listen.tls", &listen.tls, tls::HTTP)
                .map_err(ConfigError::from)?,
            stomp: stomp.transpose()?,
            stomp_tls: tls::server_config("listen.stomp_tls", &listen.stomp_tls, &[])
                .map_err(ConfigError::from)?,
            admin: Reserved::new("listen.admin", listen.admin)?,
            api: has_api.then(|| Reserved::new("listen.api", listen.api)).transpose()?,
        })
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            public: self.public.address(),
            stomp: self.stomp.as_ref().map(Reserved::address),
            admin: self.admin.address(),
            api: self.api.as_ref().map(Reserved::address),
        }
    }

    /// Listens: for clients by a socket for each worker.
    fn open(self, workers: usize) -> anyhow::Result<Open> {
        let public = self.public.listen_by(workers)?;
        let stomp = self.stomp.map(|stomp| stomp.listen_by(workers)).transpose()?;
        let stomp = stomp.into_iter().flatten().map(Some).chain(iter::repeat_with(|| None));
        let doors = public.into_iter().zip(stomp).map(|(public, stomp)| Doors {
            public,
            tls: self.tls.clone(),
            stomp,
            stomp_tls: self.stomp_tls.clone(),
        });
        let admin = self.admin.listen()?;
        let api = self.api.map(Reserved::listen).transpose()?;
        Ok(Open { doors: doors.collect(), own: Own { admin, api } })
    }
}

/// Starts a thread for each inbox, each with doors of its own on the same addresses.
fn start_workers(
    node: &Arc<Node>,
    shared: &Arc<WorkerShared>,
    inboxes: Vec<(WorkerHandle, InboxReceiver)>,
    doors: Vec<Doors>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Vec<Draining>> {
    let all_served = Arc::new(Barrier::new(inboxes.len()));
    let parts = inboxes.into_iter().zip(doors).enumerate();
    parts
        .map(|(at, ((handle, receiver), doors))| {
            let thread = WorkerThread {
                id: WorkerId(at as u16),
                node: Arc::clone(node),
                shared: Arc::clone(shared),
                handle,
                receiver,
                doors,
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
    doors: Doors,
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
            let Doors { public, tls, stomp, stomp_tls } = self.doors;
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

/// Says on standard output where the node is to be found; nobody has to listen.
fn announce(node: &Node, addresses: &Addresses) {
    let (public, admin) = (reachable(addresses.public), reachable(addresses.admin));
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
    if let Some(api) = addresses.api.map(reachable) {
        lines.insert(2, format!("  API       http://{api}/api/v1/openapi.json"));
    }
    if let Some(stomp) = addresses.stomp.map(reachable) {
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

/// Drains, without hurry while nothing says that a kill follows: a signal before, where `hurry` is
/// not given, or `hurry`.
async fn drain_workers(node: &Node, workers: Vec<Draining>, hurry: Option<CancellationToken>) {
    let after_signal = node.config.drain.after_sigterm();
    let Some(hurry) = hurry else {
        node.begin_drain(Trigger::Sigterm);
        return drain::run(node, workers, after_signal, true, std::future::pending()).await;
    };
    let hurried = async {
        hurry.cancelled().await;
        after_signal
    };
    drain::run(node, workers, node.config.drain.unhurried(), false, hurried).await;
}

/// How long a node that starts waits for its broker before it takes what has connected.
const BROKER_TIME: Duration = Duration::from_secs(3);
/// How long requests of backends that are under way may take at the end.
const API_END_TIME: Duration = Duration::from_millis(500);
const BROKER_LOOK: Duration = Duration::from_millis(10);
/// Messages that may wait for one worker.
const INBOX_MESSAGES: usize = 4096;
