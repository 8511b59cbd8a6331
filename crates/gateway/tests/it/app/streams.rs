//! Routes to streams, with a consumer group that answers through the server API.

use fanlight_testkit::{RedisCluster, RedisConnection, RedisServer, Reply};
use serde_json::{Value, json};

use crate::http;
use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};

const ROUTES: &str = r#"
[app]
stream_max_length = 100
[[app.routes]]
destination = "/app/in/{room}"
stream = "chat-in"
[[api.keys]]
name = "chat"
secret = "the key of a backend that consumes a stream"
"#;

async fn node(config: &str) -> Gateway {
    let api = "admin = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n";
    let config = config
        .replace("admin = \"127.0.0.1:0\"\n", api)
        .replace("sessions_per_user = 0\n", "sessions_per_user = 0\nmessages_per_second = 0\n");
    let gateway = Gateway::with_config(&format!("{config}\n{ROUTES}")).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// The fields of the next entry that the group is given, and its id.
fn next(redis: &mut RedisConnection, key: &str) -> (String, Vec<(String, Vec<u8>)>) {
    let words = ["XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", key, ">"];
    let streams = redis.call(&words).unwrap().array().unwrap();
    let stream = streams.into_iter().next().unwrap().array().unwrap();
    let entries = stream.into_iter().nth(1).unwrap().array().unwrap();
    let mut entry = entries.into_iter().next().unwrap().array().unwrap().into_iter();
    let id = entry.next().unwrap().text().unwrap();
    let fields = entry.next().unwrap().array().unwrap();
    let bytes = |reply: &Reply| match reply {
        Reply::Bulk(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    let pairs = fields.chunks(2).map(|pair| (pair[0].clone().text().unwrap(), bytes(&pair[1])));
    (id, pairs.collect())
}

/// What a client sends is in the stream once it is acknowledged, and the backend answers the
/// session that sent it.
async fn consumed(gateway: &Gateway, redis: &mut RedisConnection, key: &str) {
    let create = ["XGROUP", "CREATE", key, "g", "0", "MKSTREAM"];
    redis.call(&create).unwrap().ok().unwrap();
    let (mut ann, mut other) =
        (RawClient::stomp(gateway, "ann").await, RawClient::stomp(gateway, "ann").await);
    for client in [&mut ann, &mut other] {
        let to = "/user/queue/replies";
        client.send(&format!("SUBSCRIBE\nid:1\nreceipt:s\ndestination:{to}\n\n\0")).await;
        client.expect("RECEIPT").await;
    }
    let frame = "SEND\ndestination:/app/in/7\nreceipt:1\nx-a:b\nidempotency-key:k\n\
                 content-type:image/png\ncontent-length:3\n\n\0\u{1}\n\0";
    ann.send(frame).await;
    ann.expect("receipt-id:1").await;
    let (id, fields) = next(redis, key);
    let text = |name: &str| {
        let field = fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        String::from_utf8(field.unwrap_or_else(|| panic!("no {name} in {fields:?}"))).unwrap()
    };
    for (name, value) in [
        ("type", "message"),
        ("user", "ann"),
        ("destination", "/app/in/7"),
        ("route", "/app/in/{room}"),
        ("variables", r#"{"room":"7"}"#),
        ("headers", r#"{"x-a":"b"}"#),
        ("key", "k"),
        ("content_type", "image/png"),
        ("data", "\0\u{1}\n"),
    ] {
        assert_eq!(text(name), value, "{name}");
    }
    let body = json!({ "to": "/user/queue/replies", "session": text("session"), "data": "done" });
    let bearer = "Bearer the key of a backend that consumes a stream";
    let headers = [("Authorization", bearer)];
    let api = gateway.api.unwrap();
    let target = "/api/v1/users/ann/messages";
    let answer = http::post(api, target, &headers, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    redis.call(&["XACK", key, "g", &id]).unwrap().ok().unwrap();
    ann.expect("\"done\"").await;
    let to_all = json!({ "to": "/user/queue/replies", "data": "for all" });
    http::post(api, target, &headers, &to_all.to_string()).await;
    for client in [&mut ann, &mut other] {
        client.expect("for all").await;
    }

    // A request over HTTP comes from no session, whichever it names.
    let named = text("session");
    let bearer = crate::returning::bearer("ann").await;
    let body = json!({ "to": "/app/in/8", "data": 1, "session": named }).to_string();
    let headers = [("Authorization", &*bearer)];
    let answer = http::post(gateway.public, "/publish", &headers, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (id, fields) = next(redis, key);
    redis.call(&["XACK", key, "g", &id]).unwrap().ok().unwrap();
    let field = |name: &str| fields.iter().find(|(own, _)| own == name).map(|(_, value)| value);
    assert_eq!(field("session"), None, "{fields:?}");
    assert_eq!(field("answer_session"), Some(&named.into_bytes()), "{fields:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_what_was_acknowledged_and_is_bounded_and_a_redis_that_is_away_is_told() {
    let mut redis = RedisServer::start().unwrap();
    let gateway = node(&with_redis(CONFIG, &redis)).await;
    // The tag is that of the name, and does not change.
    let key = "fl:{401}:app:chat-in";
    consumed(&gateway, &mut redis.control().unwrap(), key).await;

    let mut flood = RawClient::native(&gateway, "bob").await;
    for first in (0..600).step_by(60) {
        let batch: Vec<_> = (first..first + 60)
            .map(|n| json!({ "type": "send", "to": "/app/in/1", "data": n, "id": n }))
            .collect();
        flood.send(&json!(batch).to_string()).await;
        for n in first..first + 60 {
            flood.expect(&format!(r#"{{"type":"ok","id":{n},"#)).await;
        }
    }
    let length = redis.call(&["XLEN", key]).unwrap().integer().unwrap();
    assert!((100..300).contains(&length), "{length}");
    let newest = ["XREVRANGE", key, "+", "-", "COUNT", "1"];
    let newest = format!("{:?}", redis.call(&newest).unwrap());
    assert!(newest.contains(&format!("{:?}", b"599".to_vec())), "{newest}");

    redis.kill();
    flood.send(r#"{"type":"send","to":"/app/in/1","data":1,"id":"away"}"#).await;
    let told = flood.expect(r#""id":"away""#).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["type"], "error", "{told}");
    assert!(["unavailable", "unknown"].contains(&told["code"].as_str().unwrap()), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_redis_cluster_a_stream_is_on_the_master_of_its_tag() {
    let redis = RedisCluster::start(3, 0).unwrap();
    let broker = format!("[broker]\nkind = \"redis\"\n[redis]\nurl = \"{}\"\n", redis.url());
    let config = CONFIG.replace("[broker]\nkind = \"memory\"\n", &broker);
    let gateway = node(&config).await;
    let key = "fl:{401}:app:chat-in";
    let slot = redis.slot_of(key).unwrap();
    let master = redis.master_of_slot(slot).unwrap();
    consumed(&gateway, &mut redis.node(master).control().unwrap(), key).await;
}
