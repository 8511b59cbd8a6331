//! A fault in our own code ends the connection that met it, and no other (design invariant 8).

use std::panic::{AssertUnwindSafe, catch_unwind};

use fanlight_engine::hub::SessionKey;
use fanlight_proto::CloseReason;

use super::{Worker, read_buffer};

impl Worker {
    /// Runs one connection's turn. A panic in it ends this connection.
    pub(super) fn guarded(&mut self, key: SessionKey, turn: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| turn(self))).is_err() {
            self.on_panic(key);
        }
    }

    /// Puts back together what the turn may have left half done.
    fn on_panic(&mut self, key: SessionKey) {
        count_panic();
        self.effects.clear();
        if self.buffers.read.is_empty() {
            self.buffers.read = read_buffer();
        }
        self.cut(key, CloseReason::Internal, self.shared.clock.now());
        // Whatever the session knew of its subscriptions: the next one in this slot has none.
        self.hub.forget(key);
        self.queues.consumers.forget(key);
    }
}

/// The panic itself is on standard error already.
pub(super) fn count_panic() {
    tracing::error!("a fault in Fanlight has ended a connection or lost a delivery; report it");
    metrics::counter!("fanlight_panics_total").increment(1);
}
