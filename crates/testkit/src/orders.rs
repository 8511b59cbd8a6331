//! A node's sessions that record what they are told.

use std::sync::{Arc, Mutex, PoisonError};

use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Command, Handle, Order, Sessions};
use fanlight_proto::CloseReason;
use futures_util::future::BoxFuture;

/// [`Sessions`] that keep every order and obey none.
#[derive(Debug, Default)]
pub struct Orders(Mutex<Vec<Order>>);

impl Orders {
    /// Without orders.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What was ordered, in order.
    pub fn all(&self) -> Vec<Order> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why this session is to end, if it is.
    pub fn reason_for(&self, session: SessionId, handle: Option<Handle>) -> Option<CloseReason> {
        let orders = self.all();
        let is_it = |order: &&Order| order.session == session && order.handle == handle;
        orders.iter().find(is_it).and_then(|order| match order.command {
            Command::End { reason, .. } => Some(reason),
            _ => None,
        })
    }
}

impl Sessions for Orders {
    fn order(&self, order: Order) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        Box::pin(std::future::ready(()))
    }
}
