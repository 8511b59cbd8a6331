//! A program with Fanlight in it, and handlers of its own: this very test binary, run again.

use std::time::Instant;

use fanlight::app::{AppBody, AppFailure, AppHandler, AppMessage, AppReply};
use fanlight::config::{Config, Layers, ServeOptions};
use fanlight::server::Server;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{CONFIG, Gateway, PATIENCE, RawClient};

const ROUTES: &str = r#"
[app]
timeout = "1s"
concurrency = 2
[[app.routes]]
destination = "/app/rooms/{room}/{what}"
handler = "rooms"
send_to = "/topic/open.{room}"
[[app.routes]]
destination = "/app/other"
handler = "rooms"
anonymous = true
"#;

/// Does what the last segment says.
struct Rooms;

impl AppHandler for Rooms {
    fn handle(&self, message: AppMessage) -> BoxFuture<'static, Result<AppReply, AppFailure>> {
        async move {
            let told = json!({ "room": message.variable("room"), "from": message.user() });
            match message.variable("what").unwrap_or_default() {
                "panic" => panic!("as it was told"),
                "wait" => std::future::pending().await,
                "refuse" => return Err(AppFailure::refused("not_now", "Later")),
                _ => {}
            }
            Ok(AppReply::reply(AppBody::json(&told)))
        }
        .boxed()
    }
}

/// Not a test: the node of the one below, in a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by another"]
async fn a_node_with_handlers() {
    let Ok(file) = std::env::var("EMBEDDED_CONFIG") else { return };
    let layers = Layers { file: Some(file.into()), ..Layers::default() };
    let config = Config::load(&layers).unwrap().checked().unwrap();
    let options = ServeOptions { config, warnings: Vec::new(), dev: false, conformance: false };
    Server::new(options).app_handler("rooms", Rooms).run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_handles_messages_itself_and_its_panics_and_waits_stay_with_their_messages() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), format!("{CONFIG}\n{ROUTES}")).unwrap();
    let program = std::env::current_exe().unwrap();
    let args = ["app::embedded::a_node_with_handlers", "--exact", "--ignored", "--nocapture"];
    let env = [("EMBEDDED_CONFIG", file.path().to_str().unwrap())];
    let node = Gateway::with_program(program.to_str().unwrap(), &args, &env).await;

    let mut bob = RawClient::native(&node, "bob").await;
    bob.send(r#"{"type":"subscribe","to":"/topic/open.7","id":1}"#).await;
    bob.expect("\"ok\"").await;
    let mut ann = RawClient::native(&node, "ann").await;
    ann.send(r#"{"type":"send","to":"/app/rooms/7/say","data":1,"id":1}"#).await;
    ann.expect(r#"{"type":"ok","id":1,"#).await;
    bob.expect(r#""data":{"from":"ann","room":"7"}"#).await;
    ann.send(r#"{"type":"subscribe","to":"/app/rooms/8/members","id":2}"#).await;
    ann.expect(r#""data":{"from":"ann","room":"8"}"#).await;
    ann.expect(r#"{"type":"ok","id":2}"#).await;
    for (what, told) in [
        ("panic", r#""code":"internal""#),
        ("refuse", r#""code":"not_now","message":"Later""#),
        ("wait", r#""code":"timeout""#),
    ] {
        ann.send(&format!(r#"{{"type":"send","to":"/app/rooms/7/{what}","data":1,"id":3}}"#)).await;
        ann.expect(told).await;
    }
    // Without a route's send_to, a message has no reply.
    ann.send(r#"{"type":"send","to":"/app/other","data":1,"id":4}"#).await;
    ann.expect(r#""code":"bad_answer""#).await;

    // Both turns are taken, and then free again.
    let freed = CancellationToken::new();
    let mut waiting = JoinSet::new();
    for name in ["waits1", "waits2"] {
        waiting.spawn(keeps_a_turn(RawClient::native(&node, name).await, freed.clone()));
    }
    says_until(&mut ann, "\"overloaded\"").await;
    freed.cancel();
    waiting.join_all().await;
    says_until(&mut ann, "\"ok\"").await;
}

/// Has a message handled that waits, and another when it is given up, until one was after `freed`.
async fn keeps_a_turn(mut client: RawClient, freed: CancellationToken) {
    loop {
        let ends = freed.is_cancelled();
        client.send(r#"{"type":"send","to":"/app/rooms/7/wait","data":1,"id":5}"#).await;
        let answer = client.expect(r#""id":5"#).await;
        if ends && answer.contains("\"timeout\"") {
            return;
        }
    }
}

/// Says something again and again, until it is told `told`.
async fn says_until(client: &mut RawClient, told: &str) {
    let begun = Instant::now();
    loop {
        client.send(r#"{"type":"send","to":"/app/rooms/7/say","data":1,"id":6}"#).await;
        let answer = client.expect(r#""id":6"#).await;
        if answer.contains(told) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never {told}: {answer}");
    }
}
