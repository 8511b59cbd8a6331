//! Presence on the wire: what changed, and who is there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ServerMessage;

/// What changed at a destination: the body of a STOMP MESSAGE with `event:presence`, and the rest
/// of a native `presence`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresenceChange {
    /// Who is there now and was not.
    #[serde(default)]
    pub joined: Vec<PresenceMember>,
    /// Who was there and is not any more.
    #[serde(default)]
    pub left: Vec<PresenceMember>,
    /// How many members there are now.
    pub count: u64,
    /// Whether more changed than is listed; then nothing is, and the members are to be read anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A member, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresenceMember {
    /// Its name; absent for a session without a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How many sessions it has there; only in an answer to `presence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

impl PresenceChange {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are always JSON")
    }
}

/// Appends a `presence` about `to`; `change` is a [`PresenceChange`] as JSON. From one that is not
/// readable, a client learns that it should read the members anew.
pub fn write_presence(out: &mut Vec<u8>, to: &str, change: &[u8]) {
    let change = serde_json::from_slice(change)
        .unwrap_or(PresenceChange { truncated: true, ..PresenceChange::default() });
    ServerMessage::Presence { to: to.to_owned(), change }.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(change: &str) -> String {
        let mut out = Vec::new();
        write_presence(&mut out, "/topic/a", change.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_change_is_passed_on_and_what_is_none_asks_to_read_anew() {
        assert_eq!(
            presence(r#"{"joined":[{"user":"a\"b"},{}],"left":[],"count":7}"#),
            r#"{"type":"presence","to":"/topic/a","joined":[{"user":"a\"b"},{}],"left":[],"count":7}"#,
        );
        for bad in ["", "[]", r#"{"joined":[]}"#, r#"{"count":1}}"#] {
            let written = presence(bad);
            assert!(written.ends_with(r#""count":0,"truncated":true}"#), "{written}");
        }
    }

    #[test]
    fn clients_read_back_what_is_written() {
        let member = PresenceMember { user: Some("ann".into()), sessions: None };
        let change =
            PresenceChange { joined: vec![member.clone()], count: 3, ..Default::default() };
        let text = presence(std::str::from_utf8(&change.to_json()).unwrap());
        match serde_json::from_str(&text).unwrap() {
            ServerMessage::Presence { to, change: read } => {
                assert_eq!((&*to, read), ("/topic/a", change));
            }
            other => panic!("{other:?}"),
        }
        let users = vec![PresenceMember { sessions: Some(2), ..member }];
        let members = ServerMessage::Members {
            id: 7.into(),
            to: "/topic/a".into(),
            users: users.clone(),
            count: 1,
            cursor: Some("c".into()),
        };
        let mut out = Vec::new();
        members.write(&mut out);
        match serde_json::from_slice(&out).unwrap() {
            ServerMessage::Members { users: read, cursor, count: 1, .. } => {
                assert_eq!((read, cursor.as_deref()), (users, Some("c")));
            }
            other => panic!("{other:?}"),
        }
    }
}
