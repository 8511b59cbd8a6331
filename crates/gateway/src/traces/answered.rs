//! When the broker answered: a worker learns of it only at its next turn.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

/// A future that notes when it was last woken, which is when what it waits for came.
pub(super) struct Answered<F> {
    future: F,
    woken: Arc<Woken>,
}

struct Woken(Mutex<State>);

struct State {
    /// Whoever polls the future.
    waker: Waker,
    at: Option<SystemTime>,
}

impl<F: Future + Unpin> Answered<F> {
    pub(super) fn new(future: F) -> Self {
        let state = State { waker: Waker::noop().clone(), at: None };
        Self { future, woken: Arc::new(Woken(Mutex::new(state))) }
    }
}

impl<F: Future + Unpin> Future for Answered<F> {
    /// With the time; what was ready at the first poll comes without.
    type Output = (F::Output, Option<SystemTime>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.woken.state().waker.clone_from(cx.waker());
        let waker = Waker::from(Arc::clone(&self.woken));
        let output = Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker));
        output.map(|output| (output, self.woken.state().at))
    }
}

impl Woken {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let mut state = self.state();
        state.at = Some(SystemTime::now());
        let waker = state.waker.clone();
        drop(state);
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn the_time_is_that_of_the_answer_and_not_of_the_turn_that_takes_it() {
        let (answer, waiting) = oneshot::channel();
        let mut answered = Answered::new(waiting);
        assert_eq!((&mut answered).now_or_never(), None);
        let before = SystemTime::now();
        answer.send(7).unwrap();
        let after = SystemTime::now();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let (value, at) = answered.await;
        assert_eq!(value, Ok(7));
        assert!(at.is_some_and(|at| (before..=after).contains(&at)), "{at:?}");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let (answer, waiting) = oneshot::channel();
        let ((value, _), ()) = tokio::join!(Answered::new(waiting), async {
            tokio::task::yield_now().await;
            answer.send(7).unwrap();
        });
        assert_eq!(value, Ok(7));
    }
}
