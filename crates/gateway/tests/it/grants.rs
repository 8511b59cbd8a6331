//! What tokens grant beyond the policy: the connection's own, and capabilities given with requests.

use std::process::{Output, Stdio};

use fanlight_client::{
    Capability, Client, ConnectOptions, RecvError, RequestError, SendOptions, SubscribeOptions,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::http::{Stream, get, headers, post};
use crate::returning::named;
use crate::support::{CONFIG, Gateway, PATIENCE, RawClient, eventually, minted};

const ORDERS: &str = "/topic/orders.42";

/// [`CONFIG`] with a rule that denies, which no grant may lift.
fn config() -> String {
    let denied = "[[policy.rules]]\neffect = \"deny\"\ndestination = \"/topic/orders.secret\"\n[[policy.rules]]";
    CONFIG.replacen("[[policy.rules]]", denied, 1)
}

/// The same with tokens that end with their time to the second.
fn to_the_second() -> String {
    let config = config().replace("workers = 2", "");
    format!("workers = 2\n[auth]\nleeway = \"0s\"\n{config}")
}

async fn native(gateway: &Gateway, token: &str) -> RawClient {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    RawClient::connect(gateway, "/ws", &headers).await.begun_native().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_s_grants_add_to_the_policy_and_a_refresh_without_them_ends_what_they_allowed() {
    let gateway = Gateway::with_config(&config()).await;
    let grants = ["subscribe:/topic/orders.*", "publish:/topic/orders.{user}"];
    let all: Vec<&str> = grants.iter().flat_map(|grant| ["--grant", grant]).collect();
    let with = minted(&[&["--user", "ann"], &*all].concat()).await;
    let mut ann = native(&gateway, &with).await;
    for (message, answer) in [
        (r#"{"type":"subscribe","to":"/topic/orders.ann","id":1}"#, "\"ok\""),
        (r#"{"type":"send","to":"/topic/orders.bob","data":1,"id":2}"#, "\"forbidden\""),
        // A rule denies it, and no namespace has it.
        (r#"{"type":"subscribe","to":"/topic/orders.secret","id":3}"#, "\"forbidden\""),
        (r#"{"type":"subscribe","to":"/queue/orders.1","id":4}"#, "\"forbidden\""),
        (r#"{"type":"subscribe","to":"/user/bob/queue/x","id":5}"#, "\"forbidden\""),
    ] {
        ann.send(message).await;
        ann.expect(answer).await;
    }
    ann.send(r#"{"type":"send","to":"/topic/orders.ann","data":"mine","id":6}"#).await;
    ann.expect_each(&["\"ok\"", "mine"]).await;
    let without = minted(&["--user", "ann"]).await;
    ann.send(&format!(r#"{{"type":"refresh","token":"{without}","id":7}}"#)).await;
    let told = ann.expect("\"error\"").await;
    assert!(told.contains("forbidden") && told.contains("/topic/orders.ann"), "{told}");
    ann.expect("\"id\":7").await;
    ann.send(r#"{"type":"send","to":"/topic/orders.ann","data":1,"id":8}"#).await;
    ann.expect("\"forbidden\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_allows_what_it_says_to_every_protocol_and_ends_with_its_time() {
    let gateway = Gateway::with_config(&config()).await;
    let grant = format!("subscribe:{ORDERS}");
    let publishing = format!("publish:{ORDERS}");
    let lasting = minted(&["--capability", "--grant", &grant, "--grant", &publishing]).await;
    let [bobs, wide, secret] = [
        minted(&["--capability", "--user", "bob", "--grant", &grant]).await,
        minted(&["--capability", "--grant", "subscribe:/topic/else"]).await,
        minted(&["--capability", "--grant", "subscribe:/topic/orders.secret"]).await,
    ];
    let ann_token = minted(&["--user", "ann"]).await;
    let mut ann = native(&gateway, &ann_token).await;
    let subscribe = |to: &str, token: &str| {
        format!(r#"{{"type":"subscribe","to":"{to}","token":"{token}","id":1}}"#)
    };
    for (to, token, code) in [
        (ORDERS, &*bobs, "bad_capability"),
        (ORDERS, &ann_token, "bad_capability"),
        (ORDERS, "x", "bad_capability"),
        (ORDERS, &wide, "forbidden"),
        ("/topic/orders.secret", &secret, "forbidden"),
    ] {
        ann.send(&subscribe(to, token)).await;
        let told = ann.expect("\"error\"").await;
        assert!(told.contains(code) && !told.contains(token), "{code}: {told}");
    }
    ann.send(&subscribe(ORDERS, &lasting)).await;
    ann.expect("\"ok\"").await;
    // It was for one request.
    ann.send(&format!(r#"{{"type":"send","to":"{ORDERS}","data":1,"id":2}}"#)).await;
    ann.expect("\"forbidden\"").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp
        .send(&format!("SUBSCRIBE\nid:s\nreceipt:r\ntoken:{bobs}\ndestination:{ORDERS}\n\n\0"))
        .await;
    stomp.expect("RECEIPT").await;
    let (authorization, encoded) = (format!("Bearer {ann_token}"), lasting.replace('.', "%2E"));
    let lines = [("Authorization", &*authorization)];
    let query = format!("destination={ORDERS}&token={encoded}");
    let mut events =
        Stream::open(gateway.public, "GET", &format!("/events?{query}"), headers(&lines)).await;
    named(&mut events, "connected").await;
    named(&mut events, "subscribed").await;
    let page = get(gateway.public, &format!("/poll?{query}&wait=0"), &lines).await.json();
    let cursor = page["cursor"].as_str().unwrap();
    let none = get(gateway.public, &format!("/poll?destination={ORDERS}&wait=0"), &lines).await;
    assert_eq!(none.problem(), (403, "forbidden".to_owned()));
    let body = format!(r#"{{"to":"{ORDERS}","data":"posted","token":"{lasting}"}}"#);
    assert_eq!(post(gateway.public, "/publish", &lines, &body).await.status, 200);
    stomp
        .send(&format!("SEND\ndestination:{ORDERS}\nreceipt:p\ntoken:{lasting}\n\nby STOMP\0"))
        .await;
    ann.expect("posted").await;
    stomp.expect_each(&["posted", "by STOMP\0", "RECEIPT"]).await;
    // In base64, as it does not say that it is JSON.
    let message = ann.expect("YnkgU1RPTVA=").await;
    assert!(!message.contains("token"), "{message}");
    assert!(named(&mut events, "message").await.data.contains("posted"));
    let page =
        get(gateway.public, &format!("/poll?{query}&cursor={cursor}&wait=10s"), &lines).await;
    assert!(page.body.contains("posted"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_capability_ends_its_subscription_and_no_other() {
    let gateway = Gateway::with_config(&to_the_second()).await;
    let short = ["--capability", "--expires", "3s", "--grant", "subscribe:/topic/orders.*"];
    let mut ann = native(&gateway, &minted(&["--user", "ann"]).await).await;
    let capability = minted(&short).await;
    ann.send(&format!(r#"{{"type":"subscribe","to":"{ORDERS}","token":"{capability}","id":1}}"#))
        .await;
    ann.expect("\"ok\"").await;
    // What the policy allows needs none, and outlives it.
    ann.send(&format!(
        r#"{{"type":"subscribe","to":"/topic/open.a","token":"{capability}","id":2}}"#
    ))
    .await;
    ann.expect("\"ok\"").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp
        .send(&format!(
            "SUBSCRIBE\nid:s\nreceipt:r\ntoken:{capability}\ndestination:{ORDERS}\n\n\0"
        ))
        .await;
    stomp.expect("RECEIPT").await;
    let told: Value = serde_json::from_str(&ann.expect("\"error\"").await).unwrap();
    assert_eq!(told["code"], "capability_expired");
    assert!(told["message"].as_str().unwrap().contains(ORDERS), "{told}");
    stomp.expect("code:capability_expired").await;
    ann.send(r#"{"type":"send","to":"/topic/open.a","data":"still here","id":9}"#).await;
    ann.expect_each(&["\"ok\"", "still here"]).await;
    ann.send(&format!(r#"{{"type":"subscribe","to":"{ORDERS}","token":"{capability}","id":3}}"#))
        .await;
    ann.expect("bad_capability").await;
    eventually("only the other subscription is left", async || {
        gateway.metric("fanlight_subscriptions").await == 1
    })
    .await;
}

/// The product's own client on the command line, with a capability.
fn fanlight(args: &[&str], token: &str, capability: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(args).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("FANLIGHT_TOKEN", token).env("FANLIGHT_CAPABILITY", capability);
    command
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_and_the_command_line_give_capabilities_and_can_exclude_themselves() {
    let gateway = Gateway::with_config(&to_the_second()).await;
    let url = gateway.ws_url();
    let token = minted(&["--user", "ann"]).await;
    let (subscribe, publish) = (format!("subscribe:{ORDERS}"), format!("publish:{ORDERS}"));
    let reading = minted(&["--capability", "--grant", &subscribe]).await;
    let writing = minted(&["--capability", "--grant", &publish]).await;
    let options = ConnectOptions::new(&url).unwrap().token(token.clone());
    let client = Client::connect(options).await.unwrap();
    let is_forbidden = |error: &RequestError| matches!(error, RequestError::Refused { code, .. } if code == "forbidden");
    assert!(is_forbidden(&client.subscribe(ORDERS).await.unwrap_err()));
    assert!(is_forbidden(&client.send(ORDERS, b"0", None).await.unwrap_err()));
    let by = |token: &str| SubscribeOptions {
        capability: Some(Capability::new(token)),
        ..SubscribeOptions::default()
    };
    let mut orders = client.subscribe_with(ORDERS, by(&reading)).await.unwrap();

    let mut other = fanlight(&["sub", &url, ORDERS, "--count", "1"], &token, &reading);
    let mut other = other.spawn().unwrap();
    let mut notes = BufReader::new(other.stderr.take().unwrap()).lines();
    let note = timeout(PATIENCE, notes.next_line()).await.unwrap().unwrap().unwrap();
    assert!(note.contains("subscribed to"), "{note}");
    let (exclude_self, capability) = (true, Capability::new(writing.clone()));
    let capability = Some(&capability);
    let own = SendOptions { exclude_self, capability, ..SendOptions::default() };
    client.send_with(ORDERS, b"1", &own).await.unwrap();
    let output = timeout(PATIENCE, other.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(succeeded(output), format!("{ORDERS} 1\n"));
    let published = fanlight(&["pub", &url, ORDERS, "2"], &token, &writing).output().await.unwrap();
    succeeded(published);
    assert_eq!(orders.recv().await.unwrap().data.get(), "2");

    let short = ["--capability", "--expires", "3s", "--grant", "subscribe:/topic/orders.*"];
    let short = minted(&short).await;
    let mut passing = client.subscribe_with("/topic/orders.43", by(&short)).await.unwrap();
    let end = timeout(PATIENCE, passing.recv()).await.unwrap().unwrap_err();
    let is_told = matches!(&end, RecvError::Ended(why) if why.contains("capability_expired"));
    assert!(is_told, "{end}");
    client.send_with(ORDERS, b"3", &SendOptions { exclude_self: false, ..own }).await.unwrap();
    assert_eq!(orders.recv().await.unwrap().data.get(), "3");
}
