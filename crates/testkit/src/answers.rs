//! A node's sessions that answer what they are asked, as the request says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanlight_engine::peers::{Answerer, ClaimName};
use fanlight_engine::registry::Handle;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// An [`Answerer`] that keeps what it was asked. It answers with the request, but: `none` has no
/// such session, `hold` waits for [`Answers::let_go`], `bytes:{n}` is answered with so many.
#[derive(Debug)]
pub struct Answers {
    asked: Mutex<Vec<(Handle, Bytes)>>,
    asked_itself: Mutex<Vec<Bytes>>,
    lost: Mutex<Vec<(ClaimName, Handle)>>,
    held: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

/// Counts an answer as held until it is given, or given up.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Answers {
    /// Without requests.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            asked_itself: Mutex::default(),
            lost: Mutex::default(),
            held: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
        })
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<(Handle, Bytes)> {
        lock(&self.asked).clone()
    }

    /// What the node itself was asked, in order.
    pub fn asked_itself(&self) -> Vec<Bytes> {
        lock(&self.asked_itself).clone()
    }

    /// Whose claims were lost, in order.
    pub fn lost(&self) -> Vec<(ClaimName, Handle)> {
        lock(&self.lost).clone()
    }

    /// How many answers are held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Lets so many held answers go.
    pub fn let_go(&self, answers: usize) {
        self.go.add_permits(answers);
    }
}

impl Answerer for Answers {
    fn answer(&self, handle: Handle, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        lock(&self.asked).push((handle, request.clone()));
        self.said(request)
    }

    fn answer_node(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        lock(&self.asked_itself).push(request.clone());
        self.said(request)
    }

    fn lost(&self, name: ClaimName, handle: Handle) -> BoxFuture<'static, ()> {
        lock(&self.lost).push((name, handle));
        Box::pin(std::future::ready(()))
    }
}

impl Answers {
    fn said(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        if request == "none" {
            return Box::pin(std::future::ready(None));
        }
        let text = std::str::from_utf8(&request).unwrap_or_default();
        if let Some(bytes) = text.strip_prefix("bytes:").and_then(|bytes| bytes.parse().ok()) {
            return Box::pin(std::future::ready(Some(Bytes::from(vec![b'x'; bytes]))));
        }
        let go = text.starts_with("hold").then(|| Arc::clone(&self.go));
        let held = go.as_ref().map(|_| {
            self.held.fetch_add(1, Ordering::SeqCst);
            Held(Arc::clone(&self.held))
        });
        Box::pin(async move {
            if let Some(go) = go {
                go.acquire_owned().await.ok()?.forget();
            }
            drop(held);
            Some(request)
        })
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
