//! Takes a connection's socket away from hyper, unanswered: who takes it writes the answer.
//!
//! So what is left of a connection that streams is its socket, and nothing of hyper's: that would
//! be some ten KiB for as long as it lives.

use std::convert::Infallible;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A socket as it was taken.
pub struct Taken {
    /// The raw socket, non-blocking. Nothing was written to it for the request that took it.
    pub socket: TcpStream,
    /// What the client sent behind that request.
    pub leftover: Bytes,
}

/// What is to be done with a taken socket.
pub(crate) type Then = Box<dyn FnOnce(Taken) -> BoxFuture<'static, ()> + Send>;

/// A request's way to the socket it came on. Its body must have been read to its end before.
#[derive(Clone, Default)]
pub struct Takeover(Arc<Mutex<Option<Then>>>);

impl Takeover {
    /// Takes the socket and goes on with `then`. Does not return: the request ends here.
    pub async fn take<F>(self, then: impl FnOnce(Taken) -> F + Send + 'static) -> Infallible
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let then: Then = Box::new(|taken| Box::pin(then(taken)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(then);
        std::future::pending().await
    }

    /// What is to be done with the socket, once a request has taken it. A request runs within its
    /// connection's own poll, so this is known right behind that.
    pub(crate) fn taken(&self) -> Option<Then> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
