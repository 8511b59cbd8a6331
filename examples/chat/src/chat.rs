//! What becomes of what is sent to `/app`, and what those who subscribe there get.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Api;
use crate::message::{Draft, Message, Name, Place, Room};
use crate::store::{Kept, Store};

pub struct Chat {
    pub store: Store,
    pub api: Api,
}

/// What the gateway asks; other kinds have other fields.
#[derive(Deserialize)]
pub struct Event {
    r#type: String,
    user: Option<String>,
    /// The pattern of the configuration.
    #[serde(default)]
    route: String,
    /// What is in the place of its variables.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    data: Value,
}

/// What is the sender's fault, and what it is told.
struct Refusal {
    code: &'static str,
    message: &'static str,
}

/// An answer, a refusal, or a failure that may be gone when it is tried again.
type Answer = anyhow::Result<Result<Value, Refusal>>;

impl Chat {
    /// What the gateway is to do.
    pub async fn answer(&self, event: Event, now_ms: i64) -> anyhow::Result<Value> {
        let answer = match (&*event.r#type, event.user.as_deref().and_then(Name::parse)) {
            ("message", Some(user)) => self.message(&event, &user, now_ms).await?,
            ("request", Some(user)) => self.request(&event, &user).await?,
            ("message" | "request", None) => refuse("bad_name", "no name to be called by"),
            _ => Ok(json!({})),
        };
        Ok(answer.unwrap_or_else(
            |Refusal { code, message }| json!({"error": {"code": code, "message": message}}),
        ))
    }

    /// A SEND.
    async fn message(&self, event: &Event, user: &Name, now_ms: i64) -> Answer {
        match (&*event.route, event.variable("action").as_deref()) {
            ("/app/chat/{room}/{action}", Some("send")) => {
                let Some(room) = event.room() else { return Ok(no_room()) };
                self.say(event, user, Place::Room(room), now_ms).await
            }
            ("/app/chat/{room}/{action}", Some("typing")) => {
                let Some(room) = event.room() else { return Ok(no_room()) };
                let to = format!("/topic/typing.{}", room.as_str());
                Ok(Ok(json!({"send": [{"to": to, "data": {"user": user.as_str()}}]})))
            }
            ("/app/private/{to}", _) => {
                let Some(to) = event.variable("to").as_deref().and_then(Name::parse) else {
                    return Ok(refuse("bad_name", "nobody is called so"));
                };
                self.say(event, user, Place::To(to), now_ms).await
            }
            _ => Ok(nothing_here()),
        }
    }

    async fn say(&self, event: &Event, user: &Name, place: Place, now_ms: i64) -> Answer {
        let Ok(draft) = Draft::deserialize(&event.data) else {
            return Ok(refuse("bad_message", "a message has `id` and `text`"));
        };
        if let Some(fault) = draft.fault() {
            return Ok(refuse("bad_message", fault));
        }
        let Kept::Message(message) = self.store.keep(user, &place, &draft, now_ms).await? else {
            return Ok(refuse("bad_message", "this `id` was used elsewhere"));
        };
        // Also where it was kept before: it may not have been published. Whoever has it already
        // knows it by its `seq`.
        let mut send = sends(&message, &place);
        if let Place::Room(room) = &place
            && self.store.opens(room, now_ms).await?
        {
            send.push(json!({"to": "/topic/rooms", "data": {"room": room.as_str()}}));
        }
        Ok(Ok(json!({"send": send})))
    }

    /// A SUBSCRIBE: the reply goes to that subscription, once.
    async fn request(&self, event: &Event, user: &Name) -> Answer {
        let data = match (&*event.route, event.variable("action").as_deref()) {
            ("/app/rooms", _) => json!(self.store.rooms().await?),
            ("/app/private", _) => json!(self.store.private(user).await?),
            ("/app/chat/{room}/{action}", Some("history")) => {
                let Some(room) = event.room() else { return Ok(no_room()) };
                json!(self.store.before(&room, u64::MAX).await?)
            }
            ("/app/chat/{room}/{action}", Some("members")) => {
                let Some(room) = event.room() else { return Ok(no_room()) };
                json!(self.api.members(&room).await?)
            }
            ("/app/chat/{room}/before/{seq}", _) => {
                let Some(room) = event.room() else { return Ok(no_room()) };
                let Some(Ok(seq)) = event.variable("seq").map(|seq| seq.parse()) else {
                    return Ok(refuse("bad_message", "`seq` is a number"));
                };
                json!(self.store.before(&room, seq).await?)
            }
            _ => return Ok(nothing_here()),
        };
        Ok(Ok(json!({"reply": {"data": data}})))
    }
}

impl Event {
    fn variable(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
    }

    fn room(&self) -> Option<Room> {
        self.variable("room").as_deref().and_then(Room::parse)
    }
}

/// Who gets a message: a room, or its recipient and its author, on all their devices.
fn sends(message: &Message, place: &Place) -> Vec<Value> {
    match place {
        Place::Room(room) => {
            vec![json!({"to": format!("/topic/chat.{}", room.as_str()), "data": message})]
        }
        Place::To(name) => {
            let name = utf8_percent_encode(name.as_str(), RESERVED);
            vec![
                json!({"to": format!("/user/{name}/queue/private"), "data": message}),
                json!({"to": "/user/queue/private", "data": message}),
            ]
        }
    }
}

fn refuse(code: &'static str, message: &'static str) -> Result<Value, Refusal> {
    Err(Refusal { code, message })
}

fn no_room() -> Result<Value, Refusal> {
    refuse("bad_room", "a room has 1 to 32 lower-case letters, digits or `-`")
}

fn nothing_here() -> Result<Value, Refusal> {
    refuse("no_handler", "nothing is done here")
}

/// What is encoded in a user's destination (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
