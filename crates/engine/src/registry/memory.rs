//! The registry of a node that is alone.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fanlight_proto::CloseReason;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{
    Command, Entered, Entry, EventSink, Handle, Lifecycle, NodeStatus, Occurrence, Order, Registry,
    RegistryUnavailable, SessionKind, SessionLimit, SessionStatus, Sessions, SubscriptionChange,
    Target, Told, UserStatus, WhenFull, since_unix_ms,
};
use crate::broker::Channel;
use crate::publication::SessionId;

/// Keeps the sessions in this process.
pub struct MemoryRegistry {
    node: NodeStatus,
    limit: SessionLimit,
    sessions: Arc<dyn Sessions>,
    users: Mutex<HashMap<Arc<str>, Held>>,
    /// Of all sessions, those without a user included.
    count: AtomicU64,
    events: OnceLock<Arc<dyn EventSink>>,
    /// How many subscriptions each destination has, where that is told.
    occupied: Mutex<HashMap<Channel, u64>>,
}

/// The sessions of a user. Most have one, which needs no memory of its own.
enum Held {
    One(SessionId, Place),
    /// Session ids are ordered by time, so the first is the oldest.
    Many(BTreeMap<SessionId, Place>),
}

#[derive(Clone, Copy)]
struct Place {
    handle: Handle,
    kind: SessionKind,
}

impl MemoryRegistry {
    /// An empty one; `node` describes this node.
    pub fn new(node: NodeStatus, limit: SessionLimit, sessions: Arc<dyn Sessions>) -> Self {
        Self {
            node,
            limit,
            sessions,
            users: Mutex::default(),
            count: AtomicU64::new(0),
            events: OnceLock::new(),
            occupied: Mutex::default(),
        }
    }

    /// Has `events` told from now on what comes about; for the first one only.
    pub fn tell(&self, events: Arc<dyn EventSink>) {
        let _ = self.events.set(events);
    }

    fn session_event(&self, occurrence: Occurrence, entry: &Entry, reason: Option<CloseReason>) {
        if let Some(events) = self.events.get() {
            let (session, user) = (Some(entry.session), entry.user.clone());
            events.tell(Lifecycle { occurrence, session, user, destination: None, reason });
        }
    }

    /// Enters; who has to give way, or `None` where the newcomer has to.
    fn admit(&self, user: &Arc<str>, entry: &Entry) -> Option<Vec<(SessionId, Place)>> {
        let mut users = self.users();
        let mut replaced = Vec::new();
        let most = self.limit.sessions_per_user as usize;
        if let Some(held) = users.get(user)
            && entry.is_limited
            && most > 0
            && held.all().all(|(session, _)| session != entry.session)
        {
            let too_many = (held.all().count() + 1).saturating_sub(most);
            if too_many > 0 && self.limit.when_full == WhenFull::Reject {
                return None;
            }
            replaced.extend(held.all().take(too_many));
        }
        for (session, _) in &replaced {
            remove(&mut users, user, *session);
        }
        insert(&mut users, user, entry);
        Some(replaced)
    }

    fn orders(&self, target: &Target, command: &Command) -> Vec<Order> {
        let order = |(session, at): (SessionId, Place)| Order {
            session,
            handle: Some(at.handle),
            command: command.clone(),
        };
        match target {
            Target::User(user) => {
                self.users().get(user).into_iter().flat_map(Held::all).map(order).collect()
            }
            Target::Session(session) => {
                vec![Order { session: *session, handle: None, command: command.clone() }]
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Arc<str>, Held>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The oldest first.
    fn all(&self) -> impl Iterator<Item = (SessionId, Place)> {
        let (one, many) = match self {
            Self::One(session, handle) => (Some((*session, *handle)), None),
            Self::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flatten().map(|(session, handle)| (*session, *handle));
        one.into_iter().chain(many)
    }
}

fn insert(users: &mut HashMap<Arc<str>, Held>, user: &Arc<str>, entry: &Entry) {
    let place = Place { handle: entry.handle, kind: entry.kind };
    match users.get_mut(user) {
        None => {
            users.insert(Arc::clone(user), Held::One(entry.session, place));
        }
        Some(Held::Many(many)) => {
            many.insert(entry.session, place);
        }
        Some(held) => {
            let mut many: BTreeMap<_, _> = held.all().collect();
            many.insert(entry.session, place);
            *held = Held::Many(many);
        }
    }
}

fn remove(users: &mut HashMap<Arc<str>, Held>, user: &Arc<str>, session: SessionId) {
    let is_empty = match users.get_mut(user) {
        None => return,
        Some(Held::One(own, _)) => *own == session,
        Some(Held::Many(many)) => {
            many.remove(&session);
            many.is_empty()
        }
    };
    if is_empty {
        users.remove(user);
    }
}

impl Registry for MemoryRegistry {
    fn enter(&self, entry: Entry) -> BoxFuture<'static, Entered> {
        let Some(user) = &entry.user else {
            self.session_event(Occurrence::Connected, &entry, None);
            return ready(Entered::Now).boxed();
        };
        let Some(replaced) = self.admit(user, &entry) else {
            return ready(Entered::Full).boxed();
        };
        self.session_event(Occurrence::Connected, &entry, None);
        let sessions = Arc::clone(&self.sessions);
        async move {
            for (session, Place { handle, .. }) in replaced {
                sessions.order(Order::replaced(session, handle)).await;
            }
            Entered::Now
        }
        .boxed()
    }

    fn leave(&self, entry: Entry, reason: CloseReason) {
        if let Some(user) = &entry.user {
            remove(&mut self.users(), user, entry.session);
        }
        self.session_event(Occurrence::Disconnected, &entry, Some(reason));
    }

    fn round(&self) -> u64 {
        0
    }

    fn reenter(&self, entry: Entry) -> bool {
        if let Some(user) = &entry.user {
            insert(&mut self.users(), user, &entry);
        }
        true
    }

    fn record(&self, session: SessionId, change: SubscriptionChange) {
        let Some(events) = self.events.get() else { return };
        let SubscriptionChange { user, destination, began } = change;
        let (occurrence, destination) = if began {
            (Occurrence::Subscribed, Some(destination))
        } else {
            (Occurrence::Unsubscribed, Some(destination))
        };
        let session = Some(session);
        let told = Lifecycle { occurrence, session, user, destination, reason: None };
        let destination = told.destination.clone();
        events.tell(told);
        let Some(channel) = destination.clone() else { return };
        let of_all = |occurrence| Lifecycle {
            occurrence,
            session: None,
            user: None,
            destination,
            reason: None,
        };
        // Held while it is told, so that both keep their order.
        let mut occupied = self.occupied.lock().unwrap_or_else(PoisonError::into_inner);
        if began {
            let count = occupied.entry(channel).or_insert(0);
            *count += 1;
            if *count == 1 {
                events.tell(of_all(Occurrence::Occupied));
            }
        } else if let Some(count) = occupied.get_mut(&channel) {
            *count -= 1;
            if *count == 0 {
                occupied.remove(&channel);
                events.tell(of_all(Occurrence::Vacated));
            }
        }
    }

    fn status(
        &self,
        asked: Vec<Arc<str>>,
    ) -> BoxFuture<'static, Result<Vec<UserStatus>, RegistryUnavailable>> {
        let users = self.users();
        let status = |user: Arc<str>| {
            let sessions = users.get(&user).into_iter().flat_map(Held::all);
            let sessions = sessions.map(|(session, place)| SessionStatus {
                session,
                node: Arc::clone(&self.node.id),
                since_unix_ms: since_unix_ms(session.0),
                kind: Some(place.kind),
            });
            UserStatus { sessions: sessions.collect(), user }
        };
        ready(Ok(asked.into_iter().map(status).collect())).boxed()
    }

    fn order(
        &self,
        target: Target,
        command: Command,
    ) -> BoxFuture<'static, Result<Told, RegistryUnavailable>> {
        let orders = self.orders(&target, &command);
        let sessions = Arc::clone(&self.sessions);
        async move {
            let known = matches!(target, Target::User(_)).then_some(orders.len());
            let nodes = usize::from(!orders.is_empty());
            for order in orders {
                sessions.order(order).await;
            }
            Ok(Told { sessions: known, nodes, unheard: 0 })
        }
        .boxed()
    }

    fn set_sessions(&self, sessions: u64) {
        self.count.store(sessions, Ordering::Relaxed);
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        vec![NodeStatus { sessions: self.count.load(Ordering::Relaxed), ..self.node.clone() }]
    }
}

impl Order {
    /// That a newer session took the place of this one.
    pub fn replaced(session: SessionId, handle: Handle) -> Self {
        Self {
            session,
            handle: Some(handle),
            command: Command::End {
                reason: CloseReason::Replaced,
                message: "a newer session of the same user took this one's place".into(),
            },
        }
    }
}
