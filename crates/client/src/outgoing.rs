//! Requests, as JSON text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanlight_proto::Position;
use fanlight_proto::native::is_json;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::capability::Capability;
use crate::consumer::AckMode;
use crate::error::RequestError;
use crate::subscription::{Begin, Wants};

/// A request that a client sends.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Outgoing<'r> {
    Connect,
    Subscribe {
        to: &'r str,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Since>,
        #[serde(skip_serializing_if = "Option::is_none")]
        history: Option<u32>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        presence: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        ack: Option<AckMode>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prefetch: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'r str>,
        id: u64,
    },
    Unsubscribe {
        to: &'r str,
    },
    History {
        to: &'r str,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Since>,
        limit: u32,
        id: u64,
    },
    Presence {
        to: &'r str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<&'r str>,
        limit: u32,
        id: u64,
    },
    Ack {
        ids: &'r [Box<str>],
        id: u64,
    },
    Nack {
        ids: &'r [Box<str>],
        id: u64,
    },
    Ping,
}

/// A position, as the server reads it.
#[derive(Debug, Serialize)]
pub(crate) struct Since {
    epoch: String,
    offset: u64,
}

impl From<Position> for Since {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch_text(), offset: position.offset }
    }
}

/// A publication. Apart, because serde does not carry raw JSON through a tagged enum.
#[derive(Debug, Serialize)]
struct Send<'r> {
    r#type: &'static str,
    to: &'r str,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'r str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exclude_self: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'r str>,
    id: u64,
}

/// What else a publication may have.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendOptions<'s> {
    /// What the body is; JSON, unless this says otherwise.
    pub content_type: Option<&'s str>,
    /// Names the publication: within five minutes only the first with this key is published. So it
    /// may be sent again when it is not known whether it was published.
    pub key: Option<&'s str>,
    /// Of the user's sessions, the only one to get it: the id that it was told at its connect. To
    /// be used with `/user/{name}/...`; no history keeps it.
    pub session: Option<&'s str>,
    /// Whether this client does not get it, though it has subscribed: for who shows what it sends
    /// itself already. What it recovers on a later connection may have it all the same, as that is
    /// another session.
    pub exclude_self: bool,
    /// What allows it, where the session's own token does not.
    pub capability: Option<&'s Capability>,
}

impl<'r> Outgoing<'r> {
    pub(crate) fn subscribe(to: &'r str, begin: Begin, wants: &'r Wants, id: u64) -> Self {
        let (since, history) = match begin {
            Begin::Now => (None, None),
            Begin::Newest(newest) => (None, Some(newest)),
            Begin::After(position) => (Some(position.into()), None),
        };
        let Wants { presence, acks, capability } = wants;
        let (ack, prefetch) = acks.map(|acks| (acks.mode, acks.prefetch)).unzip();
        let token = capability.as_ref().map(Capability::as_str);
        Self::Subscribe { to, since, history, presence: *presence, ack, prefetch, token, id }
    }

    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are always JSON")
    }
}

/// A `send` of `body`, which travels as JSON or as base64, as its content type says.
pub(crate) fn send(
    to: &str,
    body: &[u8],
    options: &SendOptions<'_>,
    id: u64,
) -> Result<String, RequestError> {
    let SendOptions { content_type, key, session, exclude_self, capability } = *options;
    let data = if is_json(content_type) {
        serde_json::from_slice::<Box<RawValue>>(body)
    } else {
        to_raw_value(&STANDARD.encode(body))
    };
    let not_json = |error: serde_json::Error| RequestError::NotJson { reason: error.to_string() };
    let data = data.map_err(not_json)?;
    let token = capability.map(Capability::as_str);
    let r#type = "send";
    let send = Send { r#type, to, data, content_type, key, session, exclude_self, token, id };
    serde_json::to_string(&send).map_err(not_json)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use fanlight_proto::native::{ClientMessage, parse};

    use super::*;
    use crate::consumer::Acks;

    #[test]
    fn the_server_reads_what_was_meant() {
        let since = Position { epoch: 14, offset: 3 };
        let individual = Acks { mode: AckMode::ClientIndividual, prefetch: 3 };
        let cumulative = Acks { mode: AckMode::Client, prefetch: 9 };
        for (begin, presence, acks, read) in [
            (Begin::Now, true, None, (None, None)),
            (Begin::Newest(2), false, Some(individual), (None, Some(2))),
            (Begin::After(since), true, Some(cumulative), (Some(since), None)),
        ] {
            let capability = presence.then(|| Capability::new("c.a.p"));
            let wants = Wants { presence, acks, capability };
            let text = Outgoing::subscribe("/topic/\"a", begin, &wants, 7).to_text();
            let read = ClientMessage::Subscribe {
                to: "/topic/\"a".into(),
                since: read.0,
                history: read.1,
                presence,
                ack: acks.map(|acks| match acks.mode {
                    AckMode::Client => "client".into(),
                    AckMode::ClientIndividual => "client-individual".into(),
                }),
                prefetch: acks.map(|acks| acks.prefetch),
                token: presence.then(|| "c.a.p".into()),
                id: Some(7.into()),
            };
            assert_eq!(parse(&text).next(), Some(Ok(read)));
        }
        let text =
            Outgoing::Presence { to: "/topic/a", cursor: Some("c"), limit: 0, id: 7 }.to_text();
        let read = ClientMessage::Presence {
            to: "/topic/a".into(),
            cursor: Some("c".into()),
            limit: Some(0),
            id: 7.into(),
        };
        assert_eq!(parse(&text).next(), Some(Ok(read)));
        let ids: [Box<str>; 2] = ["a".into(), "b".into()];
        let read = [Cow::from("a"), Cow::from("b")];
        let (read, id) = (read.into(), Some(7.into()));
        let text = Outgoing::Ack { ids: &ids, id: 7 }.to_text();
        assert_eq!(parse(&text).next(), Some(Ok(ClientMessage::Ack { ids: read, id })));
        let (read, id) = ([Cow::from("a")].into(), Some(8.into()));
        let text = Outgoing::Nack { ids: &ids[..1], id: 8 }.to_text();
        assert_eq!(parse(&text).next(), Some(Ok(ClientMessage::Nack { ids: read, id })));
        let capability = Capability::new("c.a.p");
        for (body, content_type) in [
            (&br#"{"a": 1}"#[..], None),
            (b"[1]", Some("application/json")),
            (b"plain \xff", Some("text/plain")),
        ] {
            let (key, session, exclude_self) = (Some("k"), Some("s"), content_type.is_none());
            let capability = exclude_self.then_some(&capability);
            let options = SendOptions { content_type, key, session, exclude_self, capability };
            assert!(!format!("{options:?}").contains("c.a.p"));
            let text = send("/user/a/queue/a", body, &options, 1).unwrap();
            let read = ClientMessage::Send {
                to: "/user/a/queue/a".into(),
                body: body.into(),
                content_type: content_type.map(Cow::from),
                headers: Vec::new(),
                key: Some("k".into()),
                session: Some("s".into()),
                exclude_self,
                token: capability.map(|token| token.as_str().into()),
                id: Some(1.into()),
            };
            assert_eq!(parse(&text).next(), Some(Ok(read)));
        }
    }

    #[test]
    fn a_body_that_is_not_the_json_it_claims_to_be_is_refused_here() {
        let error = send("/topic/a", b"hello", &SendOptions::default(), 1).unwrap_err();
        assert!(matches!(error, RequestError::NotJson { .. }), "{error}");
    }
}
