//! A request's body: bounded in bytes and in time, and answered so that its client hears it.

use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http::{HeaderValue, header};
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is larger than it may be.
    TooLarge,
    /// It did not come in time.
    Late,
    /// It broke off, or is not what HTTP has as a body.
    Cut,
}

/// All of a body of at most `limit` bytes, if it comes within `time`.
pub async fn read(body: Body, limit: usize, time: Duration) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLarge);
    }
    timeout(time, collect(body.into_data_stream(), limit)).await.unwrap_or(Err(Unread::Late))
}

async fn collect(mut body: BodyDataStream, limit: usize) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    while let Some(next) = body.next().await {
        let bytes = next.map_err(|_| Unread::Cut)?;
        if bytes.len() > limit - whole.len() {
            return Err(Unread::TooLarge);
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// A request's body, lent to who answers: what that leaves of it is still there then.
#[derive(Debug)]
pub struct Lent<B>(Arc<Mutex<B>>);

impl<B> Clone for Lent<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Lent<B>
where
    B: HttpBody<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    /// To be lent.
    pub fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// The response, and a refusal before the rest of the body. The stream would otherwise be reset
    /// right behind it (RFC 9113 §8.1), and some clients drop an answer then that is there.
    pub fn answered(self, response: Response) -> Response {
        let status = response.status();
        let is_refusal = status.is_client_error() || status.is_server_error();
        if !is_refusal || self.body().is_end_stream() {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        if let Some(bytes) = body.size_hint().exact() {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(bytes));
        }
        let rest = Body::new(self).into_data_stream();
        let nothing = stream::once(timeout(REST_TIME, skim(rest))).filter_map(|_| ready(None));
        Response::from_parts(parts, Body::from_stream(body.into_data_stream().chain(nothing)))
    }

    fn body(&self) -> MutexGuard<'_, B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> HttpBody for Lent<B>
where
    B: HttpBody<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

/// Reads on, and keeps nothing.
async fn skim(mut rest: BodyDataStream) {
    let mut left = REST_BYTES;
    while let Some(Ok(bytes)) = rest.next().await {
        if bytes.len() > left {
            return;
        }
        left -= bytes.len();
    }
}

/// How much of a refused body is read, and for how long.
const REST_BYTES: usize = 1 << 20;
const REST_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    fn body_of(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(pieces.iter().map(|piece| Ok::<_, axum::Error>(*piece))))
    }

    /// Two bytes, and never an end.
    fn endless() -> Body {
        Body::from_stream(stream::iter([Ok::<_, axum::Error>("ab")]).chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_of_as_many_bytes_as_may_be_is_read_whole_and_one_more_is_too_many() {
        assert_eq!(read(body_of(&["ab", "cd"]), 4, TIME).await.unwrap(), "abcd");
        assert_eq!(read(Body::empty(), 0, TIME).await.unwrap(), "");
        for body in [body_of(&["ab", "cde"]), Body::from("abcde")] {
            assert_eq!(read(body, 4, TIME).await, Err(Unread::TooLarge));
        }
        let broken = stream::iter([Ok("ab"), Err(axum::Error::new("reset"))]);
        assert_eq!(read(Body::from_stream(broken), 4, TIME).await, Err(Unread::Cut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_to_its_end_is_waited_for_no_longer_than_it_may_take() {
        assert_eq!(read(endless(), 4, TIME).await, Err(Unread::Late));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_comes_before_the_rest_of_the_body_which_is_waited_for_a_while() {
        let lent = Lent::new(endless());
        drop(Body::new(lent.clone()));
        let refusal = (StatusCode::UNAUTHORIZED, "refused").into_response();
        let response = lent.answered(refusal);
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "7");
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "refused");
        assert!(timeout(REST_TIME / 2, body.next()).await.is_err());
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_served_or_had_no_more_to_say_ends_with_its_answer() {
        for (body, status) in
            [(endless(), StatusCode::OK), (Body::empty(), StatusCode::UNAUTHORIZED)]
        {
            let response = Lent::new(body).answered((status, "said").into_response());
            let mut body = response.into_body().into_data_stream();
            assert_eq!(body.next().await.unwrap().unwrap(), "said");
            assert!(body.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn of_a_large_rest_no_more_is_read_than_a_bound() {
        let chunk = Bytes::from(vec![b'x'; 1 << 16]);
        let whole = stream::repeat_with(move || Ok::<_, axum::Error>(chunk.clone()));
        let refusal = StatusCode::PAYLOAD_TOO_LARGE.into_response();
        let response = Lent::new(Body::from_stream(whole)).answered(refusal);
        assert_eq!(read(response.into_body(), 0, TIME).await.unwrap(), "");
    }
}
