//! A worker over a broker that stalls or panics when it is told to.

use std::net::{IpAddr, TcpListener};

use bytes::Bytes;
use fanlight_engine::auth::{Capability, Principal, TokenRules};
use fanlight_engine::broker::{
    BrokerHealth, Joined, MemoryBroker, PublishError, Published, Reach, WallClock,
};
use fanlight_engine::conflate::Conflate;
use fanlight_engine::history::{
    History, HistoryError, HistoryPage, HistoryQuery, IdempotencyKey, Removed,
};
use fanlight_engine::limits::{Heartbeats, Limits};
use fanlight_engine::peers::MemoryPeers;
use fanlight_engine::policy::{
    Grants, Namespace, NamespaceOptions, Policy, PolicyRule, PublishPermit, RemovalPermit,
    RuleEffect,
};
use fanlight_engine::presence::MemoryPresence;
use fanlight_engine::publication::Publication;
use fanlight_engine::registry::{MemoryRegistry, NodeStatus, SessionLimit, WhenFull};
use fanlight_engine::revocation::{MemoryRevocations, Revocation, Revoked};
use fanlight_engine::session::{Handshake, OnForbidden, Protocol};
use fanlight_testkit::{Orders, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};

mod conflation;
mod recovery;

use super::*;
use crate::admission::Admission;
use crate::config::{Auth, Config};
use crate::hooks::Hooks;
use crate::mail::Mailroom;
use crate::socket::Socket;

/// Does what the body of a publication says.
struct ToldBroker {
    /// What a publication that stalls waits for.
    go_on: Arc<Semaphore>,
}

impl Broker for ToldBroker {
    fn publish(
        &self,
        _permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        assert!(&*publication.body != b"\"panic\"", "as it was told");
        let stalls = &*publication.body == b"\"stall\"";
        let go_on = Arc::clone(&self.go_on);
        async move {
            if stalls {
                let _ = go_on.acquire().await;
            }
            Ok(Published { id: publication.id, position: None, reach: Reach::Cluster })
        }
        .boxed()
    }

    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        _key: IdempotencyKey,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        self.publish(permit, publication)
    }

    fn history(
        &self,
        _query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        std::future::ready(Err(HistoryError::Unavailable)).boxed()
    }

    fn remove_history(
        &self,
        _permit: RemovalPermit,
    ) -> BoxFuture<'static, Result<Removed, HistoryError>> {
        std::future::ready(Err(HistoryError::Unavailable)).boxed()
    }

    fn subscribe(&self, _worker: WorkerId, _channel: &Channel) -> BoxFuture<'static, Joined> {
        std::future::ready(Joined::Live).boxed()
    }

    fn unsubscribe(&self, _worker: WorkerId, _channel: &Channel) {}

    fn health(&self) -> BrokerHealth {
        BrokerHealth::Healthy
    }
}

fn presence() -> MemoryPresence {
    let clock: WallClock = Arc::new(|| 0);
    MemoryPresence::new(Arc::new(MemoryBroker::new(Vec::new(), Arc::clone(&clock))), clock, 1, 1)
}

const OUTBOX: OutboxLimits = OutboxLimits { bytes: 1 << 20, frames: 1000 };
/// Of `/topic/conflated/**`.
const CONFLATE_MS: u64 = 50;
/// What that may take.
const CONFLATION_BYTES: usize = 1 << 20;

fn alone() -> NodeStatus {
    NodeStatus {
        id: "n".into(),
        name: String::new(),
        address: String::new(),
        started_unix_ms: 0,
        sessions: 0,
        lease_left_ms: 0,
        is_self: true,
    }
}

fn shared(broker: Arc<dyn Broker>, outbox_limits: OutboxLimits) -> Arc<WorkerShared> {
    let namespace = Namespace {
        anonymous: true,
        options: NamespaceOptions {
            history: Some(History { size: 100, ttl_ms: 60_000 }),
            ..NamespaceOptions::default()
        },
        ..Namespace::new("open", "/topic/**")
    };
    let conflated = Namespace {
        anonymous: true,
        options: NamespaceOptions {
            conflate: Some(Conflate { interval_ms: CONFLATE_MS, key_header: None }),
            ..NamespaceOptions::default()
        },
        ..Namespace::new("conflated", "/topic/conflated/**")
    };
    let plain = Namespace { anonymous: true, ..Namespace::new("plain", "/topic/plain/**") };
    let namespaces = [conflated, plain, namespace];
    let rule = PolicyRule::new(RuleEffect::Allow, "/topic/**");
    let rules = Rules {
        policy: Policy::new(&namespaces, &[rule]).unwrap(),
        limits: Limits::default(),
        heartbeats: Heartbeats { native_ms: 2000, tolerance_ms: 0, ..Heartbeats::default() },
        on_forbidden: OnForbidden::ByProtocol,
        ..Rules::default()
    };
    let node = alone();
    let unlimited = SessionLimit { sessions_per_user: 0, when_full: WhenFull::KickOldest };
    let (rules, clock) = (Arc::new(rules), Clock::start());
    let app = App::without_routes(Arc::clone(&rules), Arc::clone(&broker), clock);
    let authenticator =
        Arc::new(Authenticator::new(&Auth::default(), TokenRules::default()).unwrap());
    let hooks = Hooks::new(&Config::default(), Arc::default(), Arc::clone(&authenticator));
    Arc::new(WorkerShared {
        rules,
        authenticator,
        handshakes: Arc::new(Handshakes::new(&Config::default())),
        hooks: Arc::new(hooks),
        broker,
        presence: Arc::new(presence()),
        queues: Arc::new(MemoryBroker::new(Vec::new(), Arc::new(|| 0))),
        peers: Arc::new(MemoryPeers::new(
            Arc::clone(&node.id),
            Arc::new(Mailroom::new(Vec::new())),
            Arc::new(|time| tokio::time::sleep(time).boxed()),
        )),
        registry: Arc::new(MemoryRegistry::new(node, unlimited, Orders::new())),
        revocations: Arc::new(MemoryRevocations::new(
            100,
            Arc::new(|| Now { mono_ms: 0, unix_ms: 0 }),
        )),
        clock,
        outbox_limits,
        mailbox_limits: outbox_limits,
        send_time_ms: 10_000,
        deflate_min_bytes: 256,
        conflation_bytes: CONFLATION_BYTES,
        sessions: AtomicU64::new(0),
        movable: Box::default(),
        tracer: None,
        app: Arc::new(app),
    })
}

/// A native client of the worker behind `handle`.
struct Client {
    socket: tokio::net::TcpStream,
    got: Vec<u8>,
    /// Counts the worker's side of it.
    admission: Arc<Admission>,
}

impl Client {
    async fn connect(handle: &WorkerHandle) -> Self {
        let mut client = Self::open(handle, Protocol::Native).await;
        client.send(r#"{"type":"connect"}"#).await;
        client.until("\"connected\"").await;
        client
    }

    async fn open(handle: &WorkerHandle, protocol: Protocol) -> Self {
        Self::open_by(handle, protocol, Carrier::WebSocket { compression: false }).await
    }

    async fn open_by(handle: &WorkerHandle, protocol: Protocol, carrier: Carrier) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = tokio::net::TcpStream::from_std(socket);
        Self::adopted(handle, protocol, carrier, accepted, socket).await
    }

    /// Between the two there is room for a few KiB.
    async fn open_narrow(handle: &WorkerHandle, protocol: Protocol) -> Self {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(4096).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let socket = socket.connect(listener.local_addr().unwrap()).await;
        let (accepted, _) = listener.accept().await.unwrap();
        let carrier = Carrier::WebSocket { compression: false };
        Self::adopted(handle, protocol, carrier, accepted.into_std().unwrap(), socket).await
    }

    async fn adopted(
        handle: &WorkerHandle,
        protocol: Protocol,
        carrier: Carrier,
        accepted: std::net::TcpStream,
        socket: io::Result<tokio::net::TcpStream>,
    ) -> Self {
        let admission = Admission::new(0, 0, &[]);
        let adopted = Adopted {
            socket: Socket::plain(accepted),
            answer: Bytes::new(),
            leftover: Bytes::new(),
            opening: Opening::Session(Handshake::default(), Some(protocol)),
            carrier,
            admitted: admission.admit(IpAddr::from([127, 0, 0, 1])).unwrap(),
        };
        assert!(handle.send(Inbox::Adopt(Box::new(adopted))).await);
        Self { socket: socket.unwrap(), got: Vec::new(), admission }
    }

    async fn send(&mut self, text: &str) {
        let mut out = Vec::new();
        ws::frame_masked(&mut out, Opcode::Text, text.as_bytes(), [7, 1, 9, 4]);
        self.socket.write_all(&out).await.unwrap();
    }

    async fn publish(&mut self, data: &str) {
        let send = format!(r#"{{"type":"send","to":"/topic/a","data":"{data}","id":"{data}"}}"#);
        self.send(&send).await;
    }

    /// Reads until `part` has come; all that came until then.
    async fn until(&mut self, part: &str) -> String {
        while !String::from_utf8_lossy(&self.got).contains(part) {
            let read = timeout(Duration::from_secs(30), self.socket.read_buf(&mut self.got)).await;
            let all = String::from_utf8_lossy(&self.got);
            assert!(read.unwrap().unwrap() > 0, "the end came before {part:?}: {all:?}");
        }
        String::from_utf8(std::mem::take(&mut self.got).into_iter().filter(u8::is_ascii).collect())
            .unwrap()
    }

    async fn end(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(30), self.socket.read_to_end(&mut rest)).await.unwrap();
    }
}

/// Runs `test` beside a worker that must outlive it.
fn with_worker(test: impl AsyncFnOnce(WorkerHandle, Arc<Semaphore>)) {
    let go_on = Arc::new(Semaphore::new(0));
    let (handle, receiver) = inbox(64);
    let broker = Arc::new(ToldBroker { go_on: Arc::clone(&go_on) });
    run(receiver, shared(broker, OUTBOX), test(handle, go_on));
}

/// Runs `test` beside a worker that shares `shared`.
fn run(receiver: InboxReceiver, shared: Arc<WorkerShared>, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let worker = Worker::new(WorkerId(0), shared, receiver, 1).unwrap();
        tokio::select! {
            ended = worker.run() => panic!("the worker has ended: {ended:?}"),
            () = test => {}
        }
    });
}

#[tokio::test]
async fn what_was_revoked_while_its_answer_was_on_its_way_is_not_good_any_more() {
    let shared = shared(Arc::new(ToldBroker { go_on: Arc::new(Semaphore::new(0)) }), OUTBOX);
    let worker = Worker::new(WorkerId(0), Arc::clone(&shared), inbox(1).1, 1).unwrap();
    let (what, until_unix_ms) = (Revoked::Token("revoked".into()), u64::MAX);
    shared.revocations.known().add(&Revocation { what, until_unix_ms });
    for (id, is_good) in [("revoked", false), ("another", true)] {
        let (token_id, now) = (Some(id.into()), shared.clock.now());
        let capability = Capability {
            user: None,
            grants: Grants::default(),
            expires_unix_s: u64::MAX,
            token_id: token_id.clone(),
            issued_unix_s: None,
        };
        let principal = Principal { token_id, ..Principal::of_user("ann") };
        let done = worker.unless_revoked(Done::Authenticated(Ok(Arc::new(principal))), now);
        assert_eq!(matches!(done, Done::Authenticated(Ok(_))), is_good, "{done:?}");
        let done = worker.unless_revoked(Done::Authorized(Ok(Arc::new(capability))), now);
        assert_eq!(matches!(done, Done::Authorized(Ok(_))), is_good, "{done:?}");
    }
}

#[test]
fn a_panic_in_one_session_ends_it_and_no_other() {
    with_worker(async |handle, _| {
        let mut other = Client::connect(&handle).await;
        for _ in 0..3 {
            let mut client = Client::connect(&handle).await;
            client.send(r#"{"type":"subscribe","to":"/topic/a","id":1}"#).await;
            client.until("\"ok\"").await;
            client.publish("panic").await;
            client.end().await;
        }
        other.publish("fine").await;
        other.until(r#""id":"fine""#).await;
    });
}

#[test]
fn a_stream_whose_client_promised_no_heartbeat_is_left_to_the_keep_alive_of_tcp() {
    with_worker(async |handle, _| {
        let protocol = Protocol::Stomp(fanlight_proto::stomp::Version::V12);
        let mut quiet = Client::open_by(&handle, protocol, Carrier::Stream).await;
        quiet.socket.write_all(b"CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0").await.unwrap();
        quiet.until("CONNECTED").await;
        let mut silent = Client::connect(&handle).await;
        silent.until("heartbeat_timeout").await;
        quiet.socket.write_all(b"DISCONNECT\nreceipt:1\n\n\0").await.unwrap();
        quiet.until("receipt-id:1").await;
    });
}

#[test]
fn a_session_whose_input_waits_for_the_broker_is_not_accused_of_silence() {
    with_worker(async |handle, go_on| {
        let mut waiting = Client::connect(&handle).await;
        waiting.publish("stall").await;
        // What it sends now is not read before the broker answers.
        waiting.send(r#"{"type":"ping","id":"alive"}"#).await;
        let mut silent = Client::connect(&handle).await;
        silent.until("heartbeat_timeout").await;
        go_on.add_permits(1);
        let got = waiting.until(r#""id":"alive""#).await;
        assert!(got.contains(r#""id":"stall""#), "{got}");
    });
}

#[test]
fn who_has_gone_while_its_input_waits_is_noticed() {
    with_worker(async |handle, _| {
        let mut client = Client::connect(&handle).await;
        client.publish("stall").await;
        client.socket.set_zero_linger().unwrap();
        let Client { socket, admission, .. } = client;
        drop(socket);
        eventually("it is gone", || admission.connections() == 0).await;
    });
}

#[test]
fn who_sends_nothing_more_is_owed_an_answer_but_not_for_ever() {
    with_worker(async |handle, go_on| {
        let mut client = Client::connect(&handle).await;
        client.publish("stall").await;
        client.socket.shutdown().await.unwrap();
        go_on.add_permits(1);
        client.until(r#""id":"stall""#).await;
        client.end().await;
        go_on.forget_permits(1);
        let mut client = Client::connect(&handle).await;
        client.publish("stall").await;
        client.socket.shutdown().await.unwrap();
        client.end().await;
        eventually("it is gone", || client.admission.connections() == 0).await;
    });
}

#[test]
fn a_drained_session_whose_answer_does_not_come_is_told_to_go_before_the_rest_is_cut() {
    with_worker(async |handle, _| {
        let mut waiting = Client::connect(&handle).await;
        waiting.publish("stall").await;
        // It has its answer, so the worker has taken the other's request too.
        let mut other = Client::connect(&handle).await;
        other.publish("fine").await;
        other.until(r#""id":"fine""#).await;
        let began = Instant::now();
        let (window, deadline) = (Duration::ZERO, Duration::from_secs(4));
        let let_in = Admission::new(0, 0, &[]);
        assert!(handle.send(Inbox::Drain { window, deadline, let_in }).await);
        other.until("\"reconnect\"").await;
        waiting.until("\"reconnect\"").await;
        assert!(began.elapsed() < deadline);
    });
}

#[test]
fn who_was_let_in_before_a_drain_and_comes_behind_its_beginning_finds_the_worker_and_goes_at_once()
{
    with_worker(async |handle, _| {
        let let_in = Admission::new(0, 0, &[]);
        let on_the_way = let_in.admit(IpAddr::from([127, 0, 0, 1])).unwrap();
        let (window, deadline) = (Duration::from_secs(3600), Duration::from_secs(4));
        assert!(handle.send(Inbox::Drain { window, deadline, let_in }).await);
        Client::open(&handle, Protocol::Native).await.end().await;
        drop(on_the_way);
    });
}
