//! A program with Fanlight in it: it handles messages to `/app/...` itself.
//!
//! ```text
//! cargo run -p fanlight --example embedded
//! ```
//!
//! Then open the page that it names, connect, subscribe to `/topic/rooms.blue`, and send JSON to
//! `/app/rooms/blue`. A subscription to `/app/rooms/blue` is answered once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use fanlight::app::{AppBody, AppFailure, AppHandler, AppKind, AppMessage, AppReply};
use fanlight::config::{AppRoute, Config, Layers, ServeOptions};
use fanlight::server::Server;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;

/// Counts what is said, and refuses to be shouted at.
#[derive(Default)]
struct Rooms {
    said: AtomicU64,
    last: Mutex<Option<String>>,
}

impl AppHandler for Rooms {
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>> {
        let room = message.variable("room").unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match message.kind() {
            AppKind::Request => {
                let said = self.said.load(Ordering::Relaxed);
                Ok(AppReply::reply(AppBody::json(&json!({ "said": said, "last": *last }))))
            }
            AppKind::Message if text.len() > 1000 => {
                Err(AppFailure::refused("too_long", "Say it in fewer words"))
            }
            AppKind::Message => {
                let number = self.said.fetch_add(1, Ordering::Relaxed) + 1;
                *last = Some(text.clone());
                let said = json!({ "room": room, "text": text, "by": message.user() });
                // The reply goes where `send_to` of the route says; a receipt to who has said it.
                let receipt = AppBody::json(&json!({ "number": number }));
                let reply = AppReply::reply(AppBody::json(&said));
                Ok(reply.send_to_session("/user/queue/receipts", receipt))
            }
        };
        std::future::ready(answer).boxed()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // As `fanlight serve --dev` reads it: this machine only, in memory, open rules.
    let layers = Layers { dev: true, ..Layers::default() }.with_process_env();
    let mut config = Config::load(&layers)?.checked()?;
    config.app.routes.push(AppRoute {
        handler: Some("rooms".to_owned()),
        send_to: Some("/topic/rooms.{room}".to_owned()),
        ..AppRoute::new("/app/rooms/{room}".parse()?)
    });
    let options = ServeOptions { config, warnings: Vec::new(), dev: true, conformance: false };
    Server::new(options).app_handler("rooms", Rooms::default()).run().await
}
