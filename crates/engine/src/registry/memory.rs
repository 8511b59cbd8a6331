//! The registry of a node that is alone.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanlight_proto::CloseReason;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{
    Entered, Entry, NodeStatus, Order, Registry, RegistryUnavailable, SessionLimit, SessionStatus,
    Sessions, SubscriptionChange, Target, Told, UserStatus, WhenFull,
};
use crate::publication::SessionId;

/// Keeps the sessions in this process.
pub struct MemoryRegistry {
    node: NodeStatus,
    limit: SessionLimit,
    sessions: Arc<dyn Sessions>,
    /// Session ids are ordered by time, so the first of a user is the oldest.
    users: Mutex<HashMap<Arc<str>, BTreeMap<SessionId, Entry>>>,
    /// Of all sessions, those without a user included.
    count: AtomicU64,
}

impl MemoryRegistry {
    /// An empty one; `node` describes this node.
    pub fn new(node: NodeStatus, limit: SessionLimit, sessions: Arc<dyn Sessions>) -> Self {
        Self { node, limit, sessions, users: Mutex::default(), count: AtomicU64::new(0) }
    }

    /// Enters; who has to give way, or `None` where the newcomer has to.
    fn admit(&self, user: &Arc<str>, entry: &Entry) -> Option<Vec<Entry>> {
        let mut users = self.users();
        let sessions = users.entry(Arc::clone(user)).or_default();
        let mut replaced = Vec::new();
        let most = self.limit.sessions_per_user as usize;
        let is_bound = entry.is_limited && most > 0;
        while is_bound && sessions.len() >= most && !sessions.contains_key(&entry.session) {
            if self.limit.when_full == WhenFull::Reject {
                return None;
            }
            replaced.extend(sessions.pop_first().map(|(_, entry)| entry));
        }
        sessions.insert(entry.session, entry.clone());
        Some(replaced)
    }

    fn orders(&self, target: &Target, message: &Arc<str>) -> Vec<Order> {
        let reason = CloseReason::Disconnected;
        let order = |entry: &Entry| Order {
            session: entry.session,
            handle: Some(entry.handle),
            reason,
            message: Arc::clone(message),
        };
        match target {
            Target::User(user) => {
                self.users().get(user).into_iter().flat_map(BTreeMap::values).map(order).collect()
            }
            Target::Session(session) => {
                vec![Order {
                    session: *session,
                    handle: None,
                    reason,
                    message: Arc::clone(message),
                }]
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Arc<str>, BTreeMap<SessionId, Entry>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for MemoryRegistry {
    fn enter(&self, entry: Entry) -> BoxFuture<'static, Entered> {
        let Some(user) = &entry.user else {
            return ready(Entered::Now).boxed();
        };
        let Some(replaced) = self.admit(user, &entry) else {
            return ready(Entered::Full).boxed();
        };
        let sessions = Arc::clone(&self.sessions);
        async move {
            for entry in replaced {
                sessions.disconnect(Order::replaced(&entry)).await;
            }
            Entered::Now
        }
        .boxed()
    }

    fn leave(&self, entry: Entry, _reason: CloseReason) {
        let Some(user) = &entry.user else { return };
        let mut users = self.users();
        if let Some(sessions) = users.get_mut(user) {
            sessions.remove(&entry.session);
            if sessions.is_empty() {
                users.remove(user);
            }
        }
    }

    fn round(&self) -> u64 {
        0
    }

    fn reenter(&self, entry: Entry) -> bool {
        if let Some(user) = &entry.user {
            self.users().entry(Arc::clone(user)).or_default().insert(entry.session, entry);
        }
        true
    }

    fn record(&self, _session: SessionId, _change: SubscriptionChange) {}

    fn status(
        &self,
        asked: Vec<Arc<str>>,
    ) -> BoxFuture<'static, Result<Vec<UserStatus>, RegistryUnavailable>> {
        let users = self.users();
        let status = |user: Arc<str>| {
            let sessions = users.get(&user).into_iter().flat_map(BTreeMap::values);
            let sessions = sessions.map(|entry| SessionStatus {
                session: entry.session,
                node: Arc::clone(&self.node.id),
                since_unix_ms: entry.since_unix_ms(),
            });
            UserStatus { sessions: sessions.collect(), user }
        };
        ready(Ok(asked.into_iter().map(status).collect())).boxed()
    }

    fn disconnect(
        &self,
        target: Target,
        message: Arc<str>,
    ) -> BoxFuture<'static, Result<Told, RegistryUnavailable>> {
        let orders = self.orders(&target, &message);
        let sessions = Arc::clone(&self.sessions);
        async move {
            let known = matches!(target, Target::User(_)).then_some(orders.len());
            let nodes = usize::from(!orders.is_empty());
            for order in orders {
                sessions.disconnect(order).await;
            }
            Ok(Told { sessions: known, nodes })
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
    /// That a newer session took the place of `entry`.
    pub fn replaced(entry: &Entry) -> Self {
        Self {
            session: entry.session,
            handle: Some(entry.handle),
            reason: CloseReason::Replaced,
            message: "a newer session of the same user took this one's place".into(),
        }
    }
}
