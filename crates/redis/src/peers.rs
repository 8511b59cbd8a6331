//! `RedisPeers`: the contract of peers over Redis.
//!
//! A claim is a key that holds `boot:generation handle`. It counts while that owner's lease does,
//! so its own time to live only has to outlast outages; the claims of a node are renewed many at a
//! time, and one that has got into other hands ends its session. Requests and answers go over the
//! channels that nodes have of their own, and what is lost on the way is a timeout.

mod asks;
mod claims;
mod inbox;
mod keep;
mod meters;
mod serve;
mod wire;

use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{Channel, PublishError};
use fanlight_engine::peers::{
    Answerer, Claim, ClaimName, Holder, MESSAGE_MAX_BYTES, PeerError, Peers,
};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use fanlight_engine::registry::Handle;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::broker::RedisBroker;
use crate::command;
use crate::lease::{DEAD, LEASES, Lease, boot_of, held_partition_of, refuse_errors};
use crate::names::{Kind, Names, Partition};
use crate::pipeline::Answer;
use crate::registry::unix_ms;
use crate::resp3::Value;
use crate::scripts;
use crate::shards::Shards;

use asks::{Asks, Waiting};
use claims::{Claims, Stamp, Standing, Terms};
pub use inbox::PeerInbox;
pub(crate) use inbox::{PeerSink, inbox};
pub(crate) use wire::is_message;
use wire::{Ask, Message};

/// Claims names in Redis and asks other nodes over it.
pub struct RedisPeers {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Arc<Shards>,
    names: Names,
    lease: Arc<Lease>,
    boot: Uuid,
    answerer: Arc<dyn Answerer>,
    claims: Mutex<Claims>,
    /// Says that claims may be due before their time.
    renew: Notify,
    releases: keep::Releases,
    asks: Arc<Asks>,
    /// How many requests of other nodes are being answered.
    answering: watch::Sender<usize>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl RedisPeers {
    /// Starts the peers of this node. Its registry must be started too: that one subscribes to the
    /// node's channel, whose inbox is taken from that registry's before
    /// ([`ControlInbox::peers`](crate::ControlInbox::peers)).
    pub fn start(
        broker: &RedisBroker,
        lease: &Arc<Lease>,
        answerer: Arc<dyn Answerer>,
        inbox: PeerInbox,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let (shards, names, _) = broker.parts();
        let inner = Arc::new(Inner {
            shards,
            names,
            boot: Uuid::parse_str(lease.boot()).expect("a lease's boot is a UUID"),
            lease: Arc::clone(lease),
            answerer,
            claims: Mutex::default(),
            renew: Notify::new(),
            releases: keep::Releases::default(),
            asks: Asks::new(ASKS_MAX),
            answering: watch::Sender::new(0),
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
        });
        inner.run(Arc::clone(&inner).serve(inbox).boxed());
        inner.run(Arc::clone(&inner).renew_all().boxed());
        inner.run(Arc::clone(&inner).release_all().boxed());
        Arc::new(Self { inner })
    }
}

impl Peers for RedisPeers {
    fn claim(
        &self,
        name: ClaimName,
        handle: Handle,
    ) -> BoxFuture<'static, Result<Claim, PeerError>> {
        let inner = &self.inner;
        if let Some((holder, Standing::Sure)) = inner.claims().holder(&name, &inner.terms()) {
            let claimed = inner.own_holder(name, holder);
            let claim =
                Ok(if holder == handle { Claim::Ours(claimed) } else { Claim::Theirs(claimed) });
            meters::claimed(&claim);
            return ready(claim).boxed();
        }
        if !inner.lease.is_held() {
            // Others may take this node for dead, and what it claims for nobody's.
            let unavailable = Err(PeerError::Unavailable);
            meters::claimed(&unavailable);
            return ready(unavailable).boxed();
        }
        let attempt = Attempt::begin(inner, name, handle);
        let first = attempt.send("");
        async move {
            let result = attempt.conclude(first).await;
            meters::claimed(&result);
            result
        }
        .boxed()
    }

    fn holder(&self, name: ClaimName) -> BoxFuture<'static, Result<Option<Holder>, PeerError>> {
        let inner = Arc::clone(&self.inner);
        if let Some((handle, Standing::Sure)) = inner.claims().holder(&name, &inner.terms()) {
            return ready(Ok(Some(inner.own_holder(name, handle)))).boxed();
        }
        let (partition, key) = inner.key(&name);
        let mut command = Vec::new();
        command::words(&[b"GET", &key], &mut command);
        let answer = inner.shards.call(partition, |_| command);
        async move {
            let answer = answer.await.and_then(refuse_errors);
            let value = match answer.map_err(|_| PeerError::Unavailable)? {
                Value::Null => return Ok(None),
                value => value,
            };
            let holder = read_value(name, &value).ok_or(PeerError::Unavailable)?;
            if inner.is_own(&holder) {
                // One that has released it is still to be taken out.
                return Ok((inner.standing(&holder) != Standing::None).then_some(holder));
            }
            if inner.is_dead(&holder.owner).await { Err(PeerError::Gone) } else { Ok(Some(holder)) }
        }
        .boxed()
    }

    fn release(&self, name: ClaimName, handle: Handle) {
        // What is not there any more was lost, and is another's.
        if self.inner.claims().remove(&name, handle) {
            self.inner.count_claims();
            self.inner.releases.push(name, handle);
        }
    }

    fn ask(
        &self,
        holder: &Holder,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let session = Some((holder.name.clone(), holder.handle));
        within(patience, self.inner.ask(&holder.owner, session, request, patience))
    }

    fn ask_node(
        &self,
        node: &Arc<str>,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        within(patience, self.inner.ask(node, None, request, patience))
    }

    fn settle(&self) -> BoxFuture<'static, ()> {
        let mut answering = self.inner.answering.subscribe();
        async move {
            let settled = answering.wait_for(|under_way| *under_way == 0);
            let _ = timeout(SETTLE_TIME, settled).await;
        }
        .boxed()
    }
}

/// What was asked, with an end, and counted.
fn within(patience: Duration, asking: Result<Asking, PeerError>) -> Asking {
    let mut asked = Asked(None);
    async move {
        let result = match asking {
            Ok(asking) => timeout(patience, asking).await.unwrap_or(Err(PeerError::Timeout)),
            Err(error) => Err(error),
        };
        asked.on_result(&result);
        result
    }
    .boxed()
}

/// An ask under way.
type Asking = BoxFuture<'static, Result<Bytes, PeerError>>;

/// Counts an ask by its result when it is dropped, answered or not.
struct Asked(Option<Result<(), PeerError>>);

impl Asked {
    fn on_result(&mut self, result: &Result<Bytes, PeerError>) {
        self.0 = Some(result.as_ref().map(|_| ()).map_err(|error| *error));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        meters::asked(self.0);
    }
}

impl Inner {
    /// Asks; what this returns waits for the answer without an end.
    fn ask(
        self: &Arc<Self>,
        owner: &Arc<str>,
        session: Option<(ClaimName, Handle)>,
        request: Bytes,
        patience: Duration,
    ) -> Result<Asking, PeerError> {
        if request.len() > MESSAGE_MAX_BYTES {
            return Err(PeerError::TooLarge);
        }
        if boot_of(owner) == self.lease.boot() {
            return Ok(self.answer(session.as_ref(), request)?.map(serve::outcome).boxed());
        }
        let boot = Uuid::parse_str(boot_of(owner)).map_err(|_| PeerError::Gone)?;
        let listed = self.lease.listed();
        let waiting = self.asks.begin().ok_or(PeerError::Overloaded)?;
        let (asker, number) = (self.boot, waiting.number);
        let message = Message::Ask(Ask { asker, number, patience, session, request });
        let sent = self.tell(boot, &message);
        let (inner, owner) = (Arc::clone(self), Arc::clone(owner));
        let cancelling = Cancelling { inner, boot, owner, waiting, is_over: false };
        Ok(cancelling.answered(sent, listed).boxed())
    }

    /// Sends a message to a node; how many heard it.
    fn tell(&self, boot: Uuid, message: &Message) -> BoxFuture<'static, Result<i64, PublishError>> {
        let channel = Channel::of_node(&boot.simple().to_string());
        let publication = Publication {
            id: PublicationId(Uuid::now_v7()),
            destination: crate::registry::node_destination(),
            body: message.write().into(),
            content_type: ContentType::Unspecified,
            headers: Box::default(),
            publisher: None,
            at_unix_ms: unix_ms(),
            position: None,
            only_for: None,
            except: None,
            is_json: false,
        };
        let sharded = self.shards.sharded_pubsub();
        let partition = Partition::of(channel.as_str());
        let name = self.names.within(partition, &channel);
        let command = command::publish(&publication, name, sharded);
        let answer = self.shards.call(partition, |_| command);
        let heard = |answer: Answer| match refuse_errors(answer?)? {
            Value::Integer(receivers) => Ok(receivers),
            _ => Err(PublishError::Unknown),
        };
        answer.map(heard).boxed()
    }

    /// What a session of this node answers, if it may be asked, or this node itself.
    fn answer(
        &self,
        session: Option<&(ClaimName, Handle)>,
        request: Bytes,
    ) -> Result<BoxFuture<'static, Option<Bytes>>, PeerError> {
        let Some((name, handle)) = session else { return Ok(self.answerer.answer_node(request)) };
        self.may_answer(name, *handle)?;
        Ok(self.answerer.answer(*handle, request))
    }

    /// Whether this session may be asked: it has the claim, and nobody else can have it.
    fn may_answer(&self, name: &ClaimName, handle: Handle) -> Result<(), PeerError> {
        match self.claims().standing(name, handle, &self.terms()) {
            Standing::Sure => Ok(()),
            Standing::Doubtful => Err(PeerError::Unavailable),
            Standing::None => Err(PeerError::Gone),
        }
    }

    /// Whether an owner's claims count for nothing: it is known to be dead, or was so long ago
    /// that it was forgotten. In doubt it lives.
    async fn is_dead(&self, owner: &str) -> bool {
        if !self.lease.is_live(owner) {
            return true;
        }
        if self.lease.has(owner) || !self.lease.is_calm() {
            return false;
        }
        // It came since the last renewal, or is forgotten.
        let (kinds, arguments) = ([LEASES, DEAD], [owner.as_bytes()]);
        let known = self.lease.call(&scripts::PEER_KNOWN, &kinds, &arguments).await;
        known == Ok(Value::Integer(0))
    }

    fn is_own(&self, holder: &Holder) -> bool {
        boot_of(&holder.owner) == self.lease.boot()
    }

    fn own_holder(&self, name: ClaimName, handle: Handle) -> Holder {
        Holder { name, owner: self.lease.owner(), handle }
    }

    fn standing(&self, holder: &Holder) -> Standing {
        self.claims().standing(&holder.name, holder.handle, &self.terms())
    }

    fn key(&self, name: &ClaimName) -> (Partition, Vec<u8>) {
        let partition = held_partition_of(name.as_str());
        (partition, self.names.key(partition, PEER, name.as_str()))
    }

    fn terms(&self) -> Terms {
        // Asked before the round is: see `Lease::on_renewed`.
        let lease_held = self.lease.is_held();
        Terms { now: self.stamp(), lease_held, ttl: self.ttl() }
    }

    fn stamp(&self) -> Stamp {
        Stamp { round: self.lease.hold().round, at: Instant::now() }
    }

    fn ttl(&self) -> Duration {
        self.lease.lasts() * TTL_LEASES
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_claims(&self) {
        meters::claims(self.claims().len());
    }

    fn run(&self, job: BoxFuture<'static, ()>) {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move { shutdown.run_until_cancelled(job).await });
    }
}

/// A claim that is under way. Dropped before it is settled, it undoes what may have been done.
struct Attempt {
    inner: Arc<Inner>,
    name: ClaimName,
    handle: Handle,
    owner: Arc<str>,
    stamp: Stamp,
    /// Whether Redis may have it, without anybody knowing.
    may_stand: bool,
}

impl Attempt {
    fn begin(inner: &Arc<Inner>, name: ClaimName, handle: Handle) -> Self {
        let hold = inner.lease.hold();
        let stamp = Stamp { round: hold.round, at: Instant::now() };
        inner.claims().begin(&name, handle, stamp);
        let inner = Arc::clone(inner);
        Self { inner, name, handle, owner: hold.owner, stamp, may_stand: true }
    }

    /// Claims it where nobody has it, or where this value stands.
    fn send(&self, instead_of: &str) -> BoxFuture<'static, Answer> {
        let (partition, key) = self.inner.key(&self.name);
        let value = format!("{} {}", self.owner, self.handle);
        let ttl_ms = self.inner.ttl().as_millis().to_string();
        let arguments = [value.as_bytes(), ttl_ms.as_bytes(), instead_of.as_bytes()];
        let command = scripts::PEER_CLAIM.call(&[&key], &arguments);
        self.inner.shards.call_kept(partition, |_| command)
    }

    async fn conclude(
        mut self,
        mut answer: BoxFuture<'static, Answer>,
    ) -> Result<Claim, PeerError> {
        let mut claim: fn(Holder) -> Claim = Claim::Ours;
        for _ in 0..ATTEMPTS {
            let held = match answer.await {
                Ok(Value::Bulk(held)) => held,
                Err(PublishError::Unavailable | PublishError::Overloaded) | Ok(Value::Error(_)) => {
                    self.may_stand = false;
                    return Err(PeerError::Unavailable);
                }
                _ => return Err(PeerError::Unavailable),
            };
            if held.is_empty() {
                self.settle();
                let (name, owner) = (self.name.clone(), Arc::clone(&self.owner));
                return Ok(claim(Holder { name, owner, handle: self.handle }));
            }
            self.may_stand = false;
            let value = Value::Bulk(held.clone());
            let holder = read_value(self.name.clone(), &value).ok_or(PeerError::Unavailable)?;
            let is_free = if self.inner.is_own(&holder) {
                claim = Claim::Ours;
                let is_former = holder.handle == self.handle;
                is_former || self.inner.standing(&holder) == Standing::None
            } else {
                claim = Claim::TakenOver;
                self.inner.is_dead(&holder.owner).await
            };
            if !is_free {
                return Ok(Claim::Theirs(holder));
            }
            self.may_stand = true;
            self.stamp.at = Instant::now();
            answer = self.send(std::str::from_utf8(&held).unwrap_or_default());
        }
        Err(PeerError::Unavailable)
    }

    fn settle(&mut self) {
        self.may_stand = false;
        let inner = &self.inner;
        let before = inner.claims().settle(&self.name, self.handle, self.stamp);
        if let Some(handle) = before {
            // Its claim had run out; this is the node's own business.
            inner.lose(vec![(self.name.clone(), handle)]);
        }
        inner.count_claims();
        if inner.lease.hold().round != self.stamp.round {
            inner.renew.notify_one();
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.inner.claims().abandon(&self.name, self.handle);
        if self.may_stand {
            // It is taken out, unless it was given before.
            self.inner.releases.push(self.name.clone(), self.handle);
        }
    }
}

/// An ask under way. Dropped before it is over, it tells the other node so.
struct Cancelling {
    inner: Arc<Inner>,
    boot: Uuid,
    owner: Arc<str>,
    waiting: Waiting,
    is_over: bool,
}

impl Cancelling {
    async fn answered(
        mut self,
        mut sent: BoxFuture<'static, Result<i64, PublishError>>,
        mut listed: watch::Receiver<()>,
    ) -> Result<Bytes, PeerError> {
        let mut is_sending = true;
        loop {
            select! {
                biased;
                answer = &mut self.waiting.answer => {
                    self.is_over = true;
                    return answer.unwrap_or(Err(PeerError::Unavailable));
                }
                heard = &mut sent, if is_sending => match heard {
                    Ok(0) => {
                        self.is_over = true;
                        return Err(PeerError::Gone);
                    }
                    // It may have been heard, and the answer may come.
                    Ok(_) | Err(PublishError::Unknown) => is_sending = false,
                    Err(_) => {
                        self.is_over = true;
                        return Err(PeerError::Unavailable);
                    }
                },
                Ok(()) = listed.changed() => {
                    // One that dies does not say so, and a poll may wait for a long time.
                    let goes_on = self.inner.lease.goes_on(&self.owner);
                    if !goes_on && self.inner.is_dead(&self.owner).await {
                        self.is_over = true;
                        return Err(PeerError::Gone);
                    }
                }
            }
        }
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if !self.is_over {
            let cancel = Message::Cancel { asker: self.inner.boot, number: self.waiting.number };
            // It is queued by the call; nobody waits for more.
            drop(self.inner.tell(self.boot, &cancel));
        }
    }
}

/// From `boot:generation handle`.
fn read_value(name: ClaimName, value: &Value) -> Option<Holder> {
    let (owner, handle) = value.as_text()?.split_once(' ')?;
    Some(Holder { name, owner: owner.into(), handle: handle.parse().ok()? })
}

impl fmt::Debug for RedisPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPeers")
            .field("claims", &self.inner.claims().len())
            .finish_non_exhaustive()
    }
}

/// Who has a session's name.
const PEER: Kind = Kind("peer");
/// A claim outlasts so many leases, and with them an outage or a failover.
const TTL_LEASES: u32 = 4;
/// How often a claim is tried anew, when who held it changes meanwhile.
const ATTEMPTS: usize = 4;
/// What is still to be answered at the end is known already.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Asks that wait for their answers.
const ASKS_MAX: usize = 64 << 10;
