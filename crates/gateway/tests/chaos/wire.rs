//! What clients write and read, in both protocols; pure.

use anyhow::{Context, bail};
use fanlight_proto::Position;
use serde_json::{Value, json};

use crate::record::Content;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Native,
    Stomp,
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Connected {
        session: String,
    },
    /// A request was done.
    Done(Done),
    /// A request was refused, or the session ends.
    Refused {
        id: Option<String>,
        code: String,
    },
    Message {
        to: String,
        position: Option<Position>,
        content: Option<Content>,
        lost: Option<String>,
        mark: Mark,
    },
    Lost {
        to: String,
        reason: String,
        position: Position,
    },
    /// A page of history.
    History {
        messages: Vec<(Option<Position>, Option<Content>)>,
        more: bool,
        reason: Option<String>,
    },
    /// A page of the members of a destination.
    Members {
        users: Vec<(String, u64)>,
        cursor: Option<String>,
    },
    /// A sign of life.
    Alive,
}

/// An answer that says yes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    pub id: String,
    pub position: Option<Position>,
    pub degraded: bool,
    pub recovered: Option<bool>,
    pub reason: Option<String>,
}

/// What a message of a queue says of its delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// By what to acknowledge it.
    pub ack: Option<String>,
    /// 1 where it is not marked as redelivered, 0 where it is without a count.
    pub count: u64,
    /// Of a dead letter.
    pub original: Option<String>,
}

impl Protocol {
    /// The WebSocket subprotocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "fanlight.v1.json",
            Self::Stomp => "v12.stomp",
        }
    }

    pub fn connect(self) -> String {
        match self {
            Self::Native => json!({ "type": "connect" }).to_string(),
            Self::Stomp => {
                frame("CONNECT", &[("accept-version", "1.2"), ("heart-beat", "0,1000")], "")
            }
        }
    }

    pub fn ping(self) -> String {
        match self {
            Self::Native => json!({ "type": "ping" }).to_string(),
            // The server beats by itself; ours is not promised but welcome.
            Self::Stomp => "\n".to_owned(),
        }
    }

    pub fn subscribe(self, to: &str, id: &str, since: Option<Position>) -> String {
        match self {
            Self::Native => {
                let mut message = json!({ "type": "subscribe", "to": to, "id": id });
                if let Some(since) = since {
                    message["since"] = position_value(since);
                }
                message.to_string()
            }
            Self::Stomp => {
                let position =
                    since.map(|since| (format!("{:x}", since.epoch), since.offset.to_string()));
                let mut headers = vec![("id", to), ("destination", to), ("receipt", id)];
                if let Some((epoch, offset)) = &position {
                    headers.extend([("epoch", epoch.as_str()), ("offset", offset)]);
                }
                frame("SUBSCRIBE", &headers, "")
            }
        }
    }

    /// Subscribes to a queue.
    pub fn consume(self, to: &str, id: &str, ack: &str, prefetch: u16) -> String {
        match self {
            Self::Native => json!({
                "type": "subscribe", "to": to, "id": id, "ack": ack, "prefetch": prefetch,
            })
            .to_string(),
            Self::Stomp => {
                let prefetch = prefetch.to_string();
                let headers = [
                    ("id", id),
                    ("destination", to),
                    ("receipt", id),
                    ("ack", ack),
                    ("prefetch-count", &prefetch),
                ];
                frame("SUBSCRIBE", &headers, "")
            }
        }
    }

    /// Ends the subscription that [`Protocol::consume`] made.
    pub fn unsubscribe(self, to: &str, id: &str) -> String {
        match self {
            Self::Native => json!({ "type": "unsubscribe", "to": to }).to_string(),
            Self::Stomp => frame("UNSUBSCRIBE", &[("id", id)], ""),
        }
    }

    /// Acknowledges a message of a queue.
    pub fn ack(self, ack: &str, id: &str) -> String {
        match self {
            Self::Native => json!({ "type": "ack", "ids": [ack], "id": id }).to_string(),
            Self::Stomp => frame("ACK", &[("id", ack), ("receipt", id)], ""),
        }
    }

    /// Refuses a message of a queue.
    pub fn nack(self, ack: &str, id: &str) -> String {
        match self {
            Self::Native => json!({ "type": "nack", "ids": [ack], "id": id }).to_string(),
            Self::Stomp => frame("NACK", &[("id", ack), ("receipt", id)], ""),
        }
    }

    /// Publishes; a body may be so much longer than it needs to be.
    pub fn send(
        self,
        to: &str,
        id: &str,
        key: Option<&str>,
        content: Content,
        padding_bytes: usize,
    ) -> String {
        let body = body(content, padding_bytes);
        match self {
            Self::Native => {
                let mut message = json!({ "type": "send", "to": to, "id": id, "data": body });
                if let Some(key) = key {
                    message["key"] = key.into();
                }
                message.to_string()
            }
            Self::Stomp => {
                let mut headers = vec![
                    ("destination", to),
                    ("receipt", id),
                    ("content-type", "application/json"),
                ];
                headers.extend(key.map(|key| ("idempotency-key", key)));
                frame("SEND", &headers, &body.to_string())
            }
        }
    }

    /// Asks for what came after a position, or after the newest page; native only.
    pub fn history(to: &str, since: Position) -> String {
        let since = position_value(since);
        json!({ "type": "history", "to": to, "id": "history", "since": since, "limit": 128 })
            .to_string()
    }

    /// Asks who is at a destination; native only.
    pub fn presence(to: &str, cursor: Option<&str>) -> String {
        let mut message = json!({ "type": "presence", "to": to, "id": "members", "limit": 1000 });
        if let Some(cursor) = cursor {
            message["cursor"] = cursor.into();
        }
        message.to_string()
    }

    /// Reads one WebSocket message.
    pub fn read(self, text: &str) -> anyhow::Result<Vec<Incoming>> {
        match self {
            Self::Native => match serde_json::from_str(text)? {
                Value::Array(messages) => messages.iter().map(read_native).collect(),
                message => Ok(vec![read_native(&message)?]),
            },
            Self::Stomp => read_stomp(text),
        }
    }
}

fn position_value(position: Position) -> Value {
    json!({ "epoch": format!("{:x}", position.epoch), "offset": position.offset })
}

fn body(content: Content, padding_bytes: usize) -> Value {
    let mut body = json!({ "p": content.publisher, "n": content.number, "d": content.destination });
    if padding_bytes > 0 {
        body["padding"] = "x".repeat(padding_bytes).into();
    }
    body
}

fn read_body(body: &Value) -> Option<Content> {
    let number = |name: &str| body.get(name)?.as_u64();
    Some(Content {
        publisher: number("p")?.try_into().ok()?,
        number: number("n")?,
        destination: number("d")?.try_into().ok()?,
    })
}

fn position(epoch: Option<&str>, offset: Option<u64>) -> Option<Position> {
    Some(Position { epoch: u64::from_str_radix(epoch?, 16).ok()?, offset: offset? })
}

fn read_native(message: &Value) -> anyhow::Result<Incoming> {
    let text = |name: &str| message[name].as_str().map(str::to_owned);
    let at = |message: &Value| position(message["epoch"].as_str(), message["offset"].as_u64());
    Ok(match message["type"].as_str().context("no type")? {
        "connected" => {
            Incoming::Connected { session: text("session").context("no session")?.replace('-', "") }
        }
        "ok" => Incoming::Done(Done {
            id: text("id").context("no id")?,
            position: at(message),
            degraded: message["degraded"].as_bool().unwrap_or_default(),
            recovered: message["recovered"].as_bool(),
            reason: text("reason"),
        }),
        "error" => Incoming::Refused { id: text("id"), code: text("code").context("no code")? },
        "message" => Incoming::Message {
            to: text("to").context("no destination")?,
            position: at(message),
            content: read_body(&message["data"]),
            lost: text("lost"),
            mark: native_mark(message),
        },
        "lost" => Incoming::Lost {
            to: text("to").context("no destination")?,
            reason: text("reason").context("no reason")?,
            position: at(message).context("no position")?,
        },
        "history" => {
            let messages = message["messages"].as_array().context("no messages")?;
            Incoming::History {
                messages: messages
                    .iter()
                    .map(|each| (at(each), read_body(&each["data"])))
                    .collect(),
                more: message["more"].as_bool().unwrap_or_default(),
                reason: text("reason"),
            }
        }
        "members" => {
            let users = message["users"].as_array().context("no users")?;
            let user = |member: &Value| {
                let name = member["user"].as_str().unwrap_or("nobody").to_owned();
                Some((name, member["sessions"].as_u64()?))
            };
            Incoming::Members {
                users: users.iter().map(user).collect::<Option<_>>().context("no sessions")?,
                cursor: text("cursor"),
            }
        }
        "pong" | "reconnect" => Incoming::Alive,
        other => bail!("unexpected {other}"),
    })
}

fn native_mark(message: &Value) -> Mark {
    let needs_ack = message["ack"].as_bool().unwrap_or_default();
    Mark {
        ack: message["id"].as_str().filter(|_| needs_ack).map(str::to_owned),
        count: count(
            message["redelivered"].as_bool().unwrap_or_default(),
            message["delivery_count"].as_u64(),
        ),
        original: message["headers"]["original-destination"].as_str().map(str::to_owned),
    }
}

/// A dead letter that comes for the first time has the count of the queue that it was in.
fn count(redelivered: bool, count: Option<u64>) -> u64 {
    if redelivered { count.unwrap_or_default() } else { 1 }
}

/// Reads the frames and beats of one message; the server splits no frame.
fn read_stomp(mut text: &str) -> anyhow::Result<Vec<Incoming>> {
    let mut incoming = Vec::new();
    loop {
        text = text.trim_start_matches('\n');
        if text.is_empty() {
            incoming.push(Incoming::Alive);
            return Ok(incoming);
        }
        let (head, rest) = text.split_once("\n\n").context("no end of headers")?;
        let (command, headers) = head.split_once('\n').unwrap_or((head, ""));
        let header = |name: &str| {
            let of_name = |line: &str| {
                let (found, value) = line.split_once(':')?;
                (found == name).then(|| value.replace("\\c", ":"))
            };
            headers.lines().find_map(of_name)
        };
        let length = match header("content-length") {
            Some(length) => length.parse()?,
            None => rest.find('\0').context("no end of frame")?,
        };
        let body = rest.get(..length).context("a body cut short")?;
        text = rest.get(length + 1..).context("no end of frame")?;
        incoming.extend(read_frame(command, &header, body)?);
    }
}

fn read_frame(
    command: &str,
    header: &dyn Fn(&str) -> Option<String>,
    body: &str,
) -> anyhow::Result<Option<Incoming>> {
    let offset = header("offset").map(|offset| offset.parse()).transpose()?;
    let position = position(header("epoch").as_deref(), offset);
    Ok(Some(match command {
        "CONNECTED" => Incoming::Connected {
            session: header("session").context("no session")?.replace('-', ""),
        },
        "RECEIPT" => Incoming::Done(Done {
            id: header("receipt-id").context("no receipt-id")?,
            position,
            degraded: header("degraded").is_some_and(|degraded| degraded == "true"),
            recovered: header("recovered").map(|recovered| recovered == "true"),
            reason: header("reason"),
        }),
        "MESSAGE" => Incoming::Message {
            to: header("destination").context("no destination")?,
            position,
            content: serde_json::from_str(body).ok().as_ref().and_then(read_body),
            lost: header("lost"),
            mark: Mark {
                ack: header("ack"),
                count: count(
                    header("redelivered").is_some_and(|redelivered| redelivered == "true"),
                    header("delivery-count").and_then(|count| count.parse().ok()),
                ),
                original: header("original-destination"),
            },
        },
        "ERROR" => {
            Incoming::Refused { id: header("receipt-id"), code: header("code").context("no code")? }
        }
        other => bail!("unexpected {other}"),
    }))
}

fn frame(command: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    format!("{command}\n{}\n{body}\0", headers.concat())
}
