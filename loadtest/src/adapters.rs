//! What a client of each protocol says, and what it understands: text only, no sockets.

mod centrifugo;
mod events;
mod native;
mod poll;
mod socketio;
mod sockjs;
mod stomp;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// A protocol of clients.
pub trait Adapter: Sync {
    /// How messages are cut out of the stream of bytes.
    fn framing(&self) -> Framing {
        Framing::WebSocket
    }

    /// The request that opens the connection.
    fn request(&self, session: &Session<'_>) -> String;

    /// Whether the server speaks first once the connection is open.
    fn is_greeted(&self) -> bool {
        false
    }

    /// What asks for the session. `None`: the request has.
    fn connect(&self, session: &Session<'_>) -> Option<String>;

    /// What asks for the session's destination. `None`: the request has.
    fn subscribe(&self, session: &Session<'_>) -> Option<String>;

    /// Whether it is told when a subscription is live, and when a publication is accepted.
    fn is_answered(&self) -> bool {
        true
    }

    /// What publishes a body, as the client's message number `id`.
    fn publish(&self, to: &str, body: &str, id: u64) -> String;

    /// Who publishes for clients that can't.
    fn publisher(&self) -> Option<&'static dyn Adapter> {
        None
    }

    /// What a client has promised to say within 20 s.
    fn heartbeat(&self) -> Option<&'static str> {
        None
    }

    /// Tells what a message means; it may mean several things.
    fn read(&self, message: &str, tell: &mut dyn FnMut(Incoming));

    /// The names of a place.
    fn names(&self, place: Place) -> Names {
        match place {
            Place::Room(number) => Names::same(format!("/topic/room.{number}")),
            Place::User(number) => Names {
                subscribe: "/user/queue/load".into(),
                publish: format!("/user/{}/queue/load", user_name(number)),
            },
        }
    }
}

/// What a client knows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// `Host`.
    pub host: &'a str,
    /// A JWT.
    pub token: &'a str,
    /// What it subscribes to.
    pub destination: &'a str,
    /// Different for every connection that is ever made.
    pub number: u64,
    /// Behind which position it goes on.
    pub since: Option<&'a Position>,
    /// What the last answer said to go on from, where each message is asked for.
    pub cursor: Option<&'a str>,
    /// Whether it wants to be told who comes and goes.
    pub presence: bool,
}

/// A place in a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub epoch: String,
    /// The place.
    pub offset: u64,
}

/// What a message of the server means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Speak.
    Greeting,
    /// The session is there.
    Connected,
    /// The subscription is live.
    Subscribed {
        /// Where it is live from.
        position: Option<Position>,
        /// What became of a position that was given back.
        recovered: Option<bool>,
    },
    /// The oldest publication that was not answered is accepted.
    Published,
    /// A publication.
    Delivery {
        /// Which.
        stamp: Stamp,
        /// Its place in a history.
        offset: Option<u64>,
    },
    /// Say this.
    Reply(&'static str),
    /// Somebody came or went.
    Presence,
    /// The server is about to close the connection, and says so.
    Leaving {
        /// For how long it advises to stay away.
        after_ms: Option<u64>,
    },
    /// For how long to stay away, should the connection break.
    Retry {
        /// That long.
        after_ms: u64,
    },
    /// What was asked for is answered, and the next may be asked for.
    Answered {
        /// From where on.
        cursor: String,
    },
    /// The request was refused.
    Refused {
        /// For how long it advises to stay away.
        after_ms: Option<u64>,
        /// By what.
        answer: String,
    },
    /// Refused, or not understood.
    Fault(String),
}

/// How messages are cut out of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An upgrade, then frames.
    WebSocket,
    /// An answer that is a stream of events and never ends.
    Events,
    /// An answer for each request.
    Answers,
}

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A topic.
    Room(usize),
    /// One user, privately.
    User(usize),
}

/// What a place is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// By those who subscribe.
    pub subscribe: String,
    /// By those who publish.
    pub publish: String,
}

impl Names {
    fn same(name: String) -> Self {
        Self { publish: name.clone(), subscribe: name }
    }
}

/// The adapters, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// `fanlight.v1.json`
    Native,
    /// STOMP 1.2 with receipts
    Stomp,
    /// STOMP 1.2 as Spring's simple broker speaks it: without receipts
    SpringStomp,
    /// SockJS's WebSocket, STOMP inside
    #[value(name = "sockjs")]
    #[serde(rename = "sockjs")]
    SockJs,
    /// Server-sent events; publishers use POST
    Events,
    /// Long polling; publishers use POST
    Poll,
    /// Centrifugo's JSON protocol
    Centrifugo,
    /// Socket.IO 4, with the events `subscribe`, `publish` and `message`
    #[value(name = "socketio")]
    #[serde(rename = "socketio")]
    SocketIo,
}

impl Protocol {
    /// The adapter of this name.
    pub fn adapter(self) -> &'static dyn Adapter {
        match self {
            Self::Native => &native::Native,
            Self::Stomp => &stomp::Stomp { has_receipts: true },
            Self::SpringStomp => &stomp::Stomp { has_receipts: false },
            Self::SockJs => &sockjs::SockJs,
            Self::Events => &events::Events,
            Self::Poll => &poll::Poll,
            Self::Centrifugo => &centrifugo::Centrifugo,
            Self::SocketIo => &socketio::SocketIo,
        }
    }
}

/// The user with this number.
pub fn user_name(number: usize) -> String {
    format!("user-{number}")
}

/// The request that upgrades to a WebSocket.
fn upgrade(session: &Session<'_>, path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
        session.host
    )
}

/// The value after `name` in JSON that was written without spaces, up to where it ends.
fn field<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    let at = message.rfind(name)? + name.len();
    let rest = message[at..].trim_start_matches('"');
    Some(&rest[..rest.find(['"', ',', '}'])?])
}

fn not_understood(message: &str) -> Incoming {
    Incoming::Fault(format!("not understood: {}", shortened(message)))
}

/// As much of a message as an error can show.
fn shortened(message: &str) -> String {
    message.chars().take(200).collect()
}
