//! The session state machine: transport messages in, effects out.
#![allow(missing_docs, unused_variables)]
use std::sync::Arc;
use fanlight_proto::CloseReason;
use crate::auth::{AuthError, Principal, Token};
use crate::broker::{Channel, Joined, Published, PublishError};
use crate::hub::{Hub, SessionKey};
use crate::ids::Ids;
use crate::policy::{Policy, PublishPermit};
use crate::publication::{Publication, SessionId};
use crate::time::Now;
pub struct Rules { pub policy: Policy }
pub struct Cx<'a> { pub now: Now, pub rules: &'a Rules, pub hub: &'a mut Hub, pub ids: &'a mut Ids, pub effects: &'a mut Vec<Effect> }
pub enum Effect { Write { text: bool, payload: Vec<u8> }, Ping, Authenticate(Token), Publish(PublishPermit, Publication), Join(Channel), Leave(Channel), Close(CloseReason) }
pub enum Done { Authenticated(Result<Principal, AuthError>), Published(Result<Published, PublishError>), Joined(Joined) }
pub struct Activity { pub last_received_ms: u64, pub last_sent_ms: u64 }
pub struct Handshake { pub principal: Option<Arc<Principal>> }
#[derive(Clone, Copy)]
pub enum Protocol { Native, Stomp }
pub enum Incoming<'a> { Text(&'a str), Binary(&'a [u8]) }
pub struct Session {}
impl Session {
    pub fn new(key: SessionKey, id: SessionId, protocol: Option<Protocol>, handshake: Handshake, cx: &mut Cx) -> Self { Self {} }
    pub fn on_message(&mut self, cx: &mut Cx, message: Incoming<'_>) {}
    pub fn on_done(&mut self, cx: &mut Cx, done: Done) {}
    pub fn on_sweep(&mut self, cx: &mut Cx, activity: Activity) {}
    pub fn on_drain(&mut self, cx: &mut Cx, retry_after_ms: u64) {}
    pub fn close_with_error(&mut self, cx: &mut Cx, reason: CloseReason, message: &str) {}
    pub fn on_closed(&mut self, cx: &mut Cx) {}
    pub fn is_busy(&self) -> bool { false }
    pub fn max_message_bytes(&self, rules: &Rules) -> usize { 0 }
}
