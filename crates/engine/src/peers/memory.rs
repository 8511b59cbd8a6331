//! The peers of a node that is alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, lazy, select};

use super::{Answerer, Claim, ClaimName, Holder, MESSAGE_MAX_BYTES, PeerError, Peers};
use crate::registry::Handle;

/// Waits for a while; this crate has no clock of its own.
pub type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// Keeps the claims in this process, and answers what is asked here.
pub struct MemoryPeers {
    owner: Arc<str>,
    answerer: Arc<dyn Answerer>,
    sleep: Sleep,
    claims: Arc<Mutex<HashMap<ClaimName, Handle>>>,
}

impl MemoryPeers {
    /// Without claims; `owner` names this life of this node.
    pub fn new(owner: Arc<str>, answerer: Arc<dyn Answerer>, sleep: Sleep) -> Self {
        Self { owner, answerer, sleep, claims: Arc::default() }
    }

    fn has(&self, holder: &Holder) -> bool {
        let claimed_by = self.claims().get(&holder.name).copied();
        holder.owner == self.owner && claimed_by == Some(holder.handle)
    }

    fn within(
        &self,
        patience: Duration,
        answering: BoxFuture<'static, Option<Bytes>>,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let sleeping = (self.sleep)(patience);
        async move {
            match select(answering, sleeping).await {
                Either::Left((Some(answer), _)) if answer.len() > MESSAGE_MAX_BYTES => {
                    Err(PeerError::TooLarge)
                }
                Either::Left((answer, _)) => answer.ok_or(PeerError::Gone),
                Either::Right(_) => Err(PeerError::Timeout),
            }
        }
        .boxed()
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<ClaimName, Handle>> {
        lock(&self.claims)
    }
}

fn lock(claims: &Mutex<HashMap<ClaimName, Handle>>) -> MutexGuard<'_, HashMap<ClaimName, Handle>> {
    claims.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers for MemoryPeers {
    fn claim(
        &self,
        name: ClaimName,
        handle: Handle,
    ) -> BoxFuture<'static, Result<Claim, PeerError>> {
        let (claims, owner) = (Arc::clone(&self.claims), Arc::clone(&self.owner));
        // Not before it is polled: who drops it has claimed nothing.
        lazy(move |_| {
            let held = *lock(&claims).entry(name.clone()).or_insert(handle);
            let holder = Holder { name, owner, handle: held };
            Ok(if held == handle { Claim::Ours(holder) } else { Claim::Theirs(holder) })
        })
        .boxed()
    }

    fn holder(&self, name: ClaimName) -> BoxFuture<'static, Result<Option<Holder>, PeerError>> {
        let handle = self.claims().get(&name).copied();
        let holder = handle.map(|handle| Holder { name, owner: Arc::clone(&self.owner), handle });
        ready(Ok(holder)).boxed()
    }

    fn release(&self, name: ClaimName, handle: Handle) {
        if let Entry::Occupied(held) = self.claims().entry(name)
            && *held.get() == handle
        {
            held.remove();
        }
    }

    fn ask(
        &self,
        holder: &Holder,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        if request.len() > MESSAGE_MAX_BYTES {
            return ready(Err(PeerError::TooLarge)).boxed();
        }
        if !self.has(holder) {
            return ready(Err(PeerError::Gone)).boxed();
        }
        self.within(patience, self.answerer.answer(holder.handle, request))
    }

    fn ask_node(
        &self,
        node: &Arc<str>,
        request: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        if request.len() > MESSAGE_MAX_BYTES {
            return ready(Err(PeerError::TooLarge)).boxed();
        }
        if *node != self.owner {
            return ready(Err(PeerError::Gone)).boxed();
        }
        self.within(patience, self.answerer.answer_node(request))
    }

    fn settle(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

impl fmt::Debug for MemoryPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPeers").field("claims", &self.claims().len()).finish_non_exhaustive()
    }
}
