//! What came while a request was under way: orders of backends, and the rest of the transport
//! message behind the request.

use std::collections::VecDeque;

use bytes::Bytes;
use fanlight_proto::native::{ClientMessage, NativeError};

use super::server::Order;
use super::{Cx, Session};

/// What waits; it exists only while the session is busy.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// At most [`super::server::ORDERS_MAX`].
    pub(super) orders: VecDeque<Order>,
    pub(super) input: Option<Input>,
}

/// The rest of a transport message.
#[derive(Debug)]
pub(super) enum Input {
    /// Bytes that the decoder has not seen: no larger than they came.
    Stomp(Bytes),
    /// At most [`fanlight_proto::native::MAX_BATCH`].
    Native(VecDeque<Result<ClientMessage<'static>, NativeError>>),
}

impl Session {
    /// Keeps the rest of a transport message, while the session is busy with what came before it.
    pub(super) fn keep(&mut self, input: Input) {
        self.backlog.get_or_insert_default().input = Some(input);
    }

    /// Goes on with the backlog until the session is busy again. Orders come first: a client that
    /// never pauses must not keep them out.
    pub(super) fn resume(&mut self, cx: &mut Cx<'_>) {
        while !self.is_busy() && !self.is_closed() {
            let Some(backlog) = &mut self.backlog else { return };
            if let Some(order) = backlog.orders.pop_front() {
                self.obey(cx, &order);
            } else if let Some(input) = self.backlog.take().and_then(|backlog| backlog.input) {
                self.resume_input(cx, input);
            }
        }
    }

    fn resume_input(&mut self, cx: &mut Cx<'_>, input: Input) {
        match input {
            Input::Stomp(bytes) => {
                let mut rest: &[u8] = &bytes;
                self.stomp_frames(cx, &mut rest);
                if self.is_busy() && !rest.is_empty() {
                    self.keep(Input::Stomp(bytes.slice_ref(rest)));
                }
            }
            Input::Native(mut messages) => {
                while let Some(message) = messages.pop_front() {
                    self.native_message(cx, message);
                    if self.is_busy() || self.is_closed() {
                        break;
                    }
                }
                if self.is_busy() && !messages.is_empty() {
                    self.keep(Input::Native(messages));
                }
            }
        }
    }
}
