//! What came in one transport message behind the request that is under way.

use std::collections::VecDeque;

use bytes::Bytes;
use fanlight_proto::native::{ClientMessage, NativeError};

use super::{Cx, Session};

/// The rest of a transport message; it exists only while the session is busy.
#[derive(Debug)]
pub(super) enum Backlog {
    /// Bytes that the decoder has not seen: no larger than they came.
    Stomp(Bytes),
    /// At most [`fanlight_proto::native::MAX_BATCH`].
    Native(VecDeque<Result<ClientMessage<'static>, NativeError>>),
}

impl Session {
    /// Goes on with the backlog until the session is busy again.
    pub(super) fn resume(&mut self, cx: &mut Cx<'_>) {
        let Some(backlog) = self.backlog.take() else {
            return;
        };
        match *backlog {
            Backlog::Stomp(bytes) => {
                let mut rest: &[u8] = &bytes;
                self.stomp_frames(cx, &mut rest);
                if self.is_busy() && !rest.is_empty() {
                    self.backlog = Some(Box::new(Backlog::Stomp(bytes.slice_ref(rest))));
                }
            }
            Backlog::Native(mut messages) => {
                while let Some(message) = messages.pop_front() {
                    self.native_message(cx, message);
                    if self.is_busy() || self.is_closed() {
                        break;
                    }
                }
                if self.is_busy() && !messages.is_empty() {
                    self.backlog = Some(Box::new(Backlog::Native(messages)));
                }
            }
        }
    }
}
