//! The example that is an application beside the gateway: `examples/ticker`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::http::{Stream, headers};
use crate::returning::{bearer, named};
use crate::support::{Gateway, SECRET};

const PRICES: &str = r#"
[[policy.rules]]
effect = "allow"
actions = ["subscribe", "publish"]
destination = "/topic/prices.*"
authenticated = true
"#;

/// The application, publishing to `gateway`; it ends with this value.
fn ticker(gateway: SocketAddr) -> Child {
    Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/ticker/ticker.mjs"))
        .env("GATEWAY", format!("http://{gateway}"))
        .envs([("SECRET", SECRET), ("PORT", "0"), ("INTERVAL_MS", "50")])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Leads to `gateway`, and cuts the first connection behind its request: what was asked is done,
/// and the answer is lost. Where it listens.
async fn loses_the_first_answer(gateway: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut is_first = true;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut node = TcpStream::connect(gateway).await.unwrap();
            if std::mem::take(&mut is_first) {
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    client.read_buf(&mut request).await.unwrap();
                }
                node.write_all(&request).await.unwrap();
                node.read_u8().await.unwrap();
                continue;
            }
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut node).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticker_publishes_each_tick_once_also_where_it_has_to_send_it_again() {
    let gateway = Gateway::start(PRICES).await;
    let ann = bearer("ann").await;
    let target = "/events?destination=/topic/prices.ACME&destination=/topic/prices.GLOBEX\
                  &destination=/topic/prices.INITECH";
    let authorization = [("Authorization", &*ann)];
    let mut events = Stream::open(gateway.public, "GET", target, headers(&authorization)).await;
    named(&mut events, "connected").await;
    for _ in 0..3 {
        named(&mut events, "subscribed").await;
    }
    let _ticker = ticker(loses_the_first_answer(gateway.public).await);
    let (mut seen, mut symbols) = (HashSet::new(), HashSet::new());
    while seen.len() < 12 {
        let message = named(&mut events, "message").await;
        let message: Value = serde_json::from_str(&message.data).unwrap();
        let symbol = message["data"]["symbol"].to_string();
        assert!(message["data"]["price"].is_string(), "{message}");
        assert!(seen.insert((symbol.clone(), message["data"]["at"].to_string())), "{message}");
        symbols.insert(symbol);
    }
    assert_eq!(symbols.len(), 3, "{symbols:?}");
}
