//! A Rust client for Fanlight's native protocol, `fanlight.v1.json`, over tokio.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fanlight_client::{Client, ConnectOptions};
//!
//! let options = ConnectOptions::new("ws://127.0.0.1:8080/ws")?.token("eyJhbGciOi...");
//! let client = Client::connect(options).await?;
//! let mut orders = client.subscribe("/topic/orders.42").await?;
//! client.send("/topic/orders.42", br#"{"state":"paid"}"#, None).await?;
//! let message = orders.recv().await?;
//! println!("{} {}", message.to, message.data);
//! # Ok(())
//! # }
//! ```
//!
//! A lost connection is made anew by itself, with jittered backoff or as the server advised, and
//! every subscription is renewed. Where the server keeps a history, each goes on where it was: what
//! was published in between is received, once and in order, or [`RecvError::Lost`] tells that it
//! can't be. Without a history it is missed. Closes that would only repeat themselves end the client
//! instead; [`LinkError::advice`] tells which.
//!
//! Messages of queues that are to be acknowledged come by [`Client::consume`]. An acknowledgement
//! belongs to the connection on which the message came, so one of a former connection is refused
//! ([`RequestError::NotHeld`]); the message comes again.
//!
//! Everything is bounded: see [`ConnectOptions`]. A [`Client`] owns one task, which ends when the
//! client is closed or dropped.

mod capability;
mod client;
mod consumer;
mod driver;
mod entry;
mod error;
mod handshake;
mod link;
mod options;
mod outgoing;
mod postponed;
mod recent;
mod subscription;

pub use capability::Capability;
pub use client::{Client, Event, Events, Members, Page, Sent};
pub use consumer::{AckMode, ConsumeOptions, Consumer, Delivery};
pub use error::{LinkError, RecvError, RequestError, UrlError};
pub use fanlight_proto::native::{
    MAX_HISTORY, Message, PresenceChange, PresenceMember, SessionLimits,
};
pub use fanlight_proto::{Position, ReconnectAdvice};
pub use link::SessionInfo;
pub use options::{Backoff, ConnectOptions};
pub use outgoing::SendOptions;
pub use subscription::{Begin, Missed, Received, SubscribeOptions, Subscription};
