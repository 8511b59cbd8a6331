//! What the server sends; clients and tests read it back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::value::RawValue;

use crate::position::Position;

use super::{PresenceChange, PresenceMember, Problem, RequestId, body};

/// One message of the server. A `message` is written by [`super::write_message`] and read here.
///
/// Reading ignores fields that it does not know, and works with `serde_json` only, whose raw values
/// it keeps.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The session is open.
    Connected {
        /// The session's id.
        session: String,
        /// The user, unless anonymous.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// When the token expires, in milliseconds since the Unix epoch.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<u64>,
        /// How often either side lets itself be heard; twice that in silence ends the session.
        heartbeat_ms: u32,
        /// What the client must keep to.
        limits: SessionLimits,
    },
    /// A request was done.
    Ok(Confirmed),
    /// What was published before.
    History(History),
    /// Publications on a subscribed destination were missed and can't be had.
    Lost {
        /// The destination.
        to: String,
        /// Why: a stable code.
        reason: Cow<'static, str>,
        /// The history that the subscription goes on in.
        epoch: String,
        /// What comes has a higher offset than this.
        offset: u64,
    },
    /// A request was refused, or the session ends.
    Error {
        /// The request, where it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<RequestId>,
        /// A stable code to switch on.
        code: Cow<'static, str>,
        /// What is wrong and what to do, for people.
        message: String,
        /// When to try again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// The subscription that has ended with it, and nothing else has.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// A backend has subscribed this session to a destination.
    Subscribed {
        /// The destination, by which it can be unsubscribed from.
        to: String,
        /// Whether the broker can't be reached, so that messages come once it can.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        degraded: bool,
        /// With `offset`, the position behind which the subscription is live.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<String>,
        /// See `epoch`.
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A backend has ended this session's subscription to a destination.
    Unsubscribed {
        /// The destination.
        to: String,
    },
    /// A publication on a subscribed destination.
    Message(Message),
    /// Who came to and went from a destination, for a subscriber that asked for it.
    Presence {
        /// The destination.
        to: String,
        /// What changed.
        #[serde(flatten)]
        change: PresenceChange,
    },
    /// Some of the members of a destination: the answer to `presence`.
    Members {
        /// The request.
        id: RequestId,
        /// The destination.
        to: String,
        /// The members of this page.
        users: Vec<PresenceMember>,
        /// How many members there are in all.
        count: u64,
        /// What to ask for the next page with; absent on the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    /// The session is about to be closed; connect anew.
    Reconnect {
        /// When to.
        after_ms: u64,
        /// Why: the close reason's code.
        reason: Cow<'static, str>,
    },
    /// The answer to `ping`.
    Pong {
        /// The request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<RequestId>,
    },
}

/// A request was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Confirmed {
    /// The request.
    pub id: RequestId,
    /// The id of what a `send` published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Whether only this node's subscribers were reached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Whether it had been published before under the same `key`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// With `offset`, the position: of what was published, or behind which a subscription is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// See `epoch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether a `subscribe` with `since` was given all that came after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// Why it was not: a stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// How many publications of the history it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// What was published before, as much as fits one message.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct History {
    /// The request.
    pub id: RequestId,
    /// The destination.
    pub to: String,
    /// Oldest first, without a gap.
    pub messages: Vec<Message>,
    /// With `offset`, the position up to which this goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// See `epoch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether there is more behind that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Why what came after `since` can't be given: a stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
}

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, DeriveDeserialize, JsonSchema)]
pub struct SessionLimits {
    /// The largest message, in bytes.
    pub message_bytes: u64,
    /// The most subscriptions.
    pub subscriptions: u32,
}

/// A publication on a subscribed destination, as a client reads it.
#[derive(Debug, Clone, Serialize, DeriveDeserialize, JsonSchema)]
pub struct Message {
    /// The destination.
    pub to: String,
    /// The publication's id.
    pub id: String,
    /// The body: any JSON, or base64 when `content_type` is one that is not JSON.
    #[schemars(with = "serde_json::Value")]
    pub data: Box<RawValue>,
    /// What the body is; absent means `application/json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The user that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The history it has its `offset` in. A string, as it may exceed what a JSON number holds in
    /// `JavaScript`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Its number in that history, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The sender's headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Whether the client is to acknowledge it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ack: bool,
    /// Whether it was delivered before, to this or another consumer of its queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redelivered: bool,
    /// How often it has been delivered, if more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_count: Option<u32>,
}

impl ServerMessage {
    /// Appends the message as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, self).expect("a Vec takes all that is written");
    }
}

impl Confirmed {
    /// The answer to `id`, and nothing more.
    pub fn new(id: RequestId) -> Self {
        Self {
            id,
            message_id: None,
            degraded: false,
            duplicate: false,
            epoch: None,
            offset: None,
            recovered: None,
            reason: None,
            count: None,
        }
    }

    /// The position, where there is one.
    pub fn position(&self) -> Option<Position> {
        position(self.epoch.as_deref(), self.offset)
    }
}

impl History {
    /// The position up to which it goes.
    pub fn position(&self) -> Option<Position> {
        position(self.epoch.as_deref(), self.offset)
    }
}

impl Message {
    /// The body, as the publisher sent it.
    pub fn body(&self) -> Result<Bytes, Problem> {
        body::decode_by_type(&self.data, self.content_type.as_deref())
    }

    /// Its place in the destination's history, where one is kept.
    pub fn position(&self) -> Option<Position> {
        position(self.epoch.as_deref(), self.offset)
    }
}

impl<'de> Deserialize<'de> for ServerMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Flat::deserialize(deserializer)?.into_message()
    }
}

/// Any message of the server. A derived internally tagged enum buffers its content, through which a
/// raw value does not come.
#[derive(DeriveDeserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of all messages side by side")]
struct Flat {
    #[serde(rename = "type")]
    kind: Kind,
    id: Option<Box<RawValue>>,
    session: Option<String>,
    user: Option<String>,
    expires: Option<u64>,
    heartbeat_ms: Option<u32>,
    limits: Option<SessionLimits>,
    message_id: Option<String>,
    #[serde(default)]
    degraded: bool,
    code: Option<String>,
    message: Option<String>,
    retry_after_ms: Option<u64>,
    to: Option<String>,
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    content_type: Option<String>,
    from: Option<String>,
    at: Option<u64>,
    epoch: Option<String>,
    offset: Option<u64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    ack: bool,
    #[serde(default)]
    redelivered: bool,
    delivery_count: Option<u32>,
    after_ms: Option<u64>,
    reason: Option<String>,
    #[serde(default)]
    duplicate: bool,
    recovered: Option<bool>,
    count: Option<u64>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    joined: Vec<PresenceMember>,
    #[serde(default)]
    left: Vec<PresenceMember>,
    #[serde(default)]
    users: Vec<PresenceMember>,
    #[serde(default)]
    truncated: bool,
    cursor: Option<String>,
}

#[derive(DeriveDeserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Connected,
    Ok,
    History,
    Lost,
    Error,
    Subscribed,
    Unsubscribed,
    Message,
    Presence,
    Members,
    Reconnect,
    Pong,
}

impl Flat {
    fn into_message<E: de::Error>(self) -> Result<ServerMessage, E> {
        let request_id = |raw: Option<Box<RawValue>>| {
            raw.map(|raw| RequestId::from_raw(&raw).map_err(E::custom)).transpose()
        };
        Ok(match self.kind {
            Kind::Connected => ServerMessage::Connected {
                session: required(self.session, "session")?,
                user: self.user,
                expires: self.expires,
                heartbeat_ms: required(self.heartbeat_ms, "heartbeat_ms")?,
                limits: required(self.limits, "limits")?,
            },
            Kind::Ok => ServerMessage::Ok(Confirmed {
                id: required(request_id(self.id)?, "id")?,
                message_id: self.message_id,
                degraded: self.degraded,
                duplicate: self.duplicate,
                epoch: self.epoch,
                offset: self.offset,
                recovered: self.recovered,
                reason: self.reason.map(Cow::Owned),
                count: self.count.map(u32::try_from).transpose().map_err(E::custom)?,
            }),
            Kind::History => ServerMessage::History(History {
                id: required(request_id(self.id)?, "id")?,
                to: required(self.to, "to")?,
                messages: required(self.messages, "messages")?,
                epoch: self.epoch,
                offset: self.offset,
                more: self.more,
                reason: self.reason.map(Cow::Owned),
            }),
            Kind::Error => ServerMessage::Error {
                id: request_id(self.id)?,
                code: required(self.code, "code")?.into(),
                message: required(self.message, "message")?,
                retry_after_ms: self.retry_after_ms,
                to: self.to,
            },
            Kind::Members => ServerMessage::Members {
                id: required(request_id(self.id)?, "id")?,
                to: required(self.to, "to")?,
                users: self.users,
                count: required(self.count, "count")?,
                cursor: self.cursor,
            },
            Kind::Reconnect => ServerMessage::Reconnect {
                after_ms: required(self.after_ms, "after_ms")?,
                reason: required(self.reason, "reason")?.into(),
            },
            Kind::Pong => ServerMessage::Pong { id: request_id(self.id)? },
            Kind::Lost | Kind::Message | Kind::Presence | Kind::Subscribed | Kind::Unsubscribed => {
                return self.into_news();
            }
        })
    }

    /// What comes without having been asked for.
    fn into_news<E: de::Error>(self) -> Result<ServerMessage, E> {
        Ok(match self.kind {
            Kind::Lost => ServerMessage::Lost {
                to: required(self.to, "to")?,
                reason: required(self.reason, "reason")?.into(),
                epoch: required(self.epoch, "epoch")?,
                offset: required(self.offset, "offset")?,
            },
            Kind::Subscribed => ServerMessage::Subscribed {
                to: required(self.to, "to")?,
                degraded: self.degraded,
                epoch: self.epoch,
                offset: self.offset,
            },
            Kind::Unsubscribed => ServerMessage::Unsubscribed { to: required(self.to, "to")? },
            Kind::Presence => ServerMessage::Presence {
                to: required(self.to, "to")?,
                change: PresenceChange {
                    joined: self.joined,
                    left: self.left,
                    count: required(self.count, "count")?,
                    truncated: self.truncated,
                },
            },
            _ => ServerMessage::Message(Message {
                to: required(self.to, "to")?,
                id: serde_json::from_str(required(self.id, "id")?.get()).map_err(E::custom)?,
                data: required(self.data, "data")?,
                content_type: self.content_type,
                from: self.from,
                at: required(self.at, "at")?,
                epoch: self.epoch,
                offset: self.offset,
                headers: self.headers,
                ack: self.ack,
                redelivered: self.redelivered,
                delivery_count: self.delivery_count,
            }),
        })
    }
}

fn position(epoch: Option<&str>, offset: Option<u64>) -> Option<Position> {
    Position::from_parts(epoch?, offset?).ok()
}

fn required<T, E: de::Error>(value: Option<T>, field: &'static str) -> Result<T, E> {
    value.ok_or_else(|| E::missing_field(field))
}

/// Keeps a `null` that is there apart from a field that is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}
