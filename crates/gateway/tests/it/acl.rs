//! The rights that operators are told to give the gateway in Redis are all that it uses.

use std::fs;
use std::net::SocketAddr;

use fanlight_testkit::{RedisCluster, RedisConnection, RedisServer, Reply, redis_command};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::http::{get, post};
use crate::prometheus::shipped;
use crate::relay::{Relay, relaying};
use crate::returning::{bearer, nodes_with};
use crate::support::{
    API_KEY, CONFIG, Gateway, Got, QUEUES_AND_BACKENDS, RawClient, eventually, with_redis_at,
};

const USER: &str = "fanlight";
const TOPIC: &str = "/topic/open.a";

/// `fanlight on >password ~fl:* ...`, as the documentation has it.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(shipped("docs/cluster.md")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn terraform_gives_the_rights_that_are_documented() {
    let text = fs::read_to_string(shipped("terraform/modules/cache/users.tf")).unwrap();
    let (_, rest) = text.split_once("access_string = join(\" \", [").unwrap();
    let (list, _) = rest.split_once("])").unwrap();
    let of_terraform: Vec<_> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .flat_map(str::split_whitespace)
        // Where a new user of Redis begins.
        .filter(|rule| *rule != "-@all")
        .collect();
    let documented = documented();
    let rights = documented.iter().skip(1).map(String::as_str);
    let rights: Vec<_> = rights.filter(|rule| !rule.starts_with('>')).collect();
    assert_eq!(of_terraform, rights);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_all_that_a_gateway_and_a_relay_use() {
    let redis = RedisCluster::start(3, 0).unwrap();
    let source = RedisServer::start().unwrap();
    let masters: Vec<_> = (0..3).map(|index| redis.node(index)).chain([&source]).collect();
    for server in &masters {
        let words = ["ACL", "SETUSER"].map(str::to_owned).into_iter().chain(documented());
        server.call(&words.collect::<Vec<_>>()).unwrap().ok().unwrap();
    }
    let backend = Backend::start().await;
    let config = config(&redis.url(), &backend);
    let [a, mut b]: [Gateway; 2] = nodes_with(&config).await;
    let there: [Gateway; 1] = nodes_with(&self::config(&source.url(), &backend)).await;
    let relaying = relaying("b", "a", &as_user(&source.url()));
    let relay = Relay::with_config(&(config + &relaying)).await;
    relay.is("active").await;

    sessions(&a, &b).await;
    backends(&a, &b).await;
    relayed(&there[0], &a).await;
    eventually("an event is told", async || {
        a.metric("fanlight_webhook_events_total").await > 0
            || b.metric("fanlight_webhook_events_total").await > 0
    })
    .await;
    // The other one reaps what it has entered.
    let _left_behind = RawClient::native(&b, "zoe").await;
    b.signal("KILL").await;
    assert_eq!(b.end_code().await, None, "it was killed");
    let nodes = async || asked(&a, "GET", "/cluster", "").await["nodes"].as_array().unwrap().len();
    eventually("the dead node is reaped", async || nodes().await == 1).await;

    for server in &masters {
        let mut control = server.control().unwrap();
        let log = control.call(&["ACL", "LOG"]).unwrap().array().unwrap();
        assert!(log.is_empty(), "refused by Redis at {}: {log:?}", server.address());
        check_users(&mut control);
    }
    refused_is_logged(&source);
}

/// All of Redis' clients but who asks here are this user.
fn check_users(control: &mut RedisConnection) {
    let clients = control.call(&["CLIENT", "LIST"]).unwrap().text().unwrap();
    let own = format!("user={USER} ");
    let (ours, others): (Vec<_>, Vec<_>) =
        clients.lines().filter(|line| !line.is_empty()).partition(|line| line.contains(&own));
    assert!(ours.len() > 1, "{clients}");
    assert!(others.iter().all(|line| line.contains("cmd=client")), "{others:?}");
}

/// The log would have told.
fn refused_is_logged(server: &RedisServer) {
    server.command("ACL SETUSER other on >pw ~fl:* +@all -config").unwrap();
    let mut connection = RedisConnection::open(server.address()).unwrap();
    connection.call(&["AUTH", "other", "pw"]).unwrap().ok().unwrap();
    let refused = connection.call(&["CONFIG", "GET", "maxmemory"]).unwrap();
    assert!(matches!(refused, Reply::Error(_)), "{refused:?}");
    let log = redis_command(server.address(), &["ACL", "LOG"]).unwrap().array().unwrap();
    assert_eq!(log.len(), 1, "{log:?}");
}

/// The same servers, logged in to as the user that is documented.
fn as_user(url: &str) -> String {
    let documented = documented();
    assert_eq!(documented[0], USER);
    let password = documented.iter().find_map(|rule| rule.strip_prefix('>')).unwrap();
    url.replacen("://", &format!("://{USER}:{password}@"), 1)
}

/// Everything that reaches Redis is on.
fn config(redis: &str, backend: &Backend) -> String {
    let before_broker = "api = \"127.0.0.1:0\"\n[cluster]\nlease = \"3s\"\n\
                         lease_renew = \"500ms\"\n[broker]\n";
    let kept = "match = \"/topic/**\"\npresence = true\nevents = true\n\
                history = { size = 100, ttl = \"1m\" }\n";
    let more = format!(
        r#"
[events]
enabled = true
[[events.webhooks]]
webhook = "backend"
[[app.routes]]
destination = "/app/in"
stream = "in"
{QUEUES_AND_BACKENDS}"#
    );
    let config = with_redis_at(CONFIG, &as_user(redis))
        .replace("[broker]\n", before_broker)
        .replace("match = \"/topic/**\"\n", kept)
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nmessages_per_second = 0")
        .replace("sessions_per_user = 0", "sessions_per_user = 20");
    config + &backend.config(&more)
}

/// What clients do: publish and recover, be present, work on queues, send to backends, poll.
async fn sessions(a: &Gateway, b: &Gateway) {
    let mut ann = RawClient::native(a, "ann").await;
    let asked = |what: Value| what.to_string();
    ann.send(&asked(json!({ "type": "subscribe", "to": TOPIC, "presence": true, "id": "s" })))
        .await;
    let ok: Value = serde_json::from_str(&until(&mut ann, "\"ok\"").await).unwrap();
    let mut bob = RawClient::native(b, "bob").await;
    for id in ["first", "again"] {
        let send = json!({ "type": "send", "to": TOPIC, "data": 1, "key": "k", "id": id });
        bob.send(&asked(send)).await;
        until(&mut bob, &format!("\"{id}\"")).await;
    }
    until(&mut ann, "\"message\"").await;
    let since = json!({ "epoch": ok["epoch"], "offset": ok["offset"] });
    bob.send(&asked(json!({ "type": "subscribe", "to": TOPIC, "since": since, "id": "r" }))).await;
    // What it missed comes before the answer.
    until(&mut bob, "\"message\"").await;
    until(&mut bob, "\"r\"").await;
    bob.send(&asked(json!({ "type": "presence", "to": TOPIC, "id": "p" }))).await;
    until(&mut bob, "\"p\"").await;
    bob.send(&asked(json!({ "type": "history", "to": TOPIC, "limit": 9, "id": "h" }))).await;
    until(&mut bob, "\"h\"").await;
    bob.send(&asked(json!({ "type": "send", "to": "/app/in", "data": 1, "id": "to app" }))).await;
    until(&mut bob, "to app").await;

    let mut worker = RawClient::stomp(a, "cid").await;
    worker.send("SUBSCRIBE\nid:q\nack:client\nreceipt:q\ndestination:/queue/jobs\n\n\0").await;
    until(&mut worker, "receipt-id:q").await;
    bob.send(&asked(json!({ "type": "send", "to": "/queue/jobs", "data": 1, "id": "job" }))).await;
    until(&mut bob, "job").await;
    let job = until(&mut worker, "MESSAGE").await;
    let ack = job.lines().find_map(|line| line.strip_prefix("ack:")).unwrap();
    worker.send(&format!("ACK\nid:{ack}\nreceipt:a\n\n\0")).await;
    until(&mut worker, "receipt-id:a").await;

    // The second request comes to the node that does not have the mailbox.
    let headers = [("Authorization", &*bearer("dan").await)];
    let target = format!("/poll?destination={TOPIC}&wait=0");
    let first = get(a.public, &target, &headers).await.json();
    let next = format!("{target}&cursor={}", first["cursor"].as_str().unwrap());
    assert_eq!(get(b.public, &next, &headers).await.status, 200);
}

/// What backends ask.
async fn backends(a: &Gateway, b: &Gateway) {
    let mut eve = RawClient::native(b, "eve").await;
    eve.send(&json!({ "type": "subscribe", "to": "/user/queue/x", "id": 1 }).to_string()).await;
    until(&mut eve, "\"ok\"").await;
    let session = eve_session(a).await;
    let for_eve = json!({ "to": "/user/queue/x", "data": "hello" });
    for (target, body) in [
        ("/users/eve/messages", for_eve),
        ("/batch", json!({ "messages": [{ "to": TOPIC, "data": 2 }] })),
        ("/users/status", json!({ "users": ["eve", "bob"] })),
        ("/users/eve/subscribe", json!({ "destination": "/topic/open.b" })),
        ("/users/eve/unsubscribe", json!({ "destination": "/topic/open.b" })),
        ("/revoke", json!({ "token": "some", "ttl_s": 60 })),
    ] {
        asked(a, "POST", target, &body.to_string()).await;
    }
    until(&mut eve, "hello").await;
    for target in [
        &*format!("/sessions/{session}"),
        &format!("/presence?destination={TOPIC}&limit=9"),
        &format!("/history?destination={TOPIC}&limit=9"),
        "/cluster",
    ] {
        asked(a, "GET", target, "").await;
    }
    asked(a, "DELETE", &format!("/history?destination={TOPIC}"), "").await;
    asked(a, "POST", "/users/eve/disconnect", "{}").await;
}

/// The next text with this part; joins and leaves come in between, and no error.
async fn until(client: &mut RawClient, part: &str) -> String {
    loop {
        match client.next().await {
            Got::Text(text) if !text.starts_with("ERROR") && !text.contains("\"error\"") => {
                if text.contains(part) {
                    return text;
                }
            }
            got => panic!("a text with {part:?} was expected, not {got:?}"),
        }
    }
}

async fn eve_session(a: &Gateway) -> String {
    let sessions = async || asked(a, "GET", "/users/eve", "").await["sessions"].clone();
    eventually("eve is in the registry", async || sessions().await[0].is_object()).await;
    sessions().await[0]["session"].as_str().unwrap().to_owned()
}

async fn asked(node: &Gateway, method: &str, target: &str, body: &str) -> Value {
    let api: SocketAddr = node.api.unwrap();
    let target = format!("/api/v1{target}");
    let headers = [("X-API-Key", API_KEY)];
    let answer = match method {
        "POST" => post(api, &target, &headers, body).await,
        _ => crate::http::ask(api, method, &target, crate::http::headers(&headers)).await,
    };
    assert_eq!(answer.status, 200, "{target}: {answer:?}");
    answer.json()
}

/// What is published in the other cell comes here.
async fn relayed(there: &Gateway, here: &Gateway) {
    let mut listener = RawClient::native(here, "fay").await;
    let to = "/topic/open.relayed";
    listener.send(&json!({ "type": "subscribe", "to": to, "id": 1 }).to_string()).await;
    until(&mut listener, "\"ok\"").await;
    let mut publisher = RawClient::native(there, "gus").await;
    let send = json!({ "type": "send", "to": to, "data": "from there", "id": 1 });
    publisher.send(&send.to_string()).await;
    until(&mut publisher, "\"ok\"").await;
    until(&mut listener, "from there").await;
}
