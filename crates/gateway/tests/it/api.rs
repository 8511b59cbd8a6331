//! The server API of two real nodes over a real Redis, as backends use it.

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::api_document;
use crate::http::{self, Response, With};
use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};

pub const KEY: &str = "the key of a backend that may do everything";
const READER: &str = "the key of a backend that may only read orders";
const PUBLISHER: &str = "the key of a backend that publishes orders";

const KEYS: &str = r#"
[[api.keys]]
name = "shop"
secret = "the key of a backend that may do everything"
[[api.keys]]
name = "reports"
secret = "the key of a backend that may only read orders"
scopes = ["history", "presence"]
destinations = ["/topic/open.orders.**", "/user/???/queue/orders"]
[[api.keys]]
name = "support"
secret = "the key of a backend that may only look at users"
scopes = ["users"]
[[api.keys]]
name = "orders"
secret = "the key of a backend that publishes orders"
scopes = ["publish"]
destinations = ["/topic/open.orders.*", "/user/*/queue/orders"]
requests_per_second = 1
request_burst = 12
"#;

/// A node whose topics and queues of users keep history, and whose topics have presence.
pub async fn node(redis: &RedisServer) -> Gateway {
    let kept = "history = { size = 100, ttl = \"5m\" }\n";
    let config = with_redis(CONFIG, redis)
        .replace("admin = \"127.0.0.1:0\"\n", "admin = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n")
        .replace(
            "match = \"/topic/**\"\n",
            &format!("match = \"/topic/**\"\npresence = true\n{kept}"),
        )
        .replace("match = \"/user/**\"\n", &format!("match = \"/user/**\"\n{kept}"))
        .replace("sessions_per_user = 0\n", "sessions_per_user = 0\nmessage = \"8KiB\"\n");
    let gateway = Gateway::with_config(&format!("{config}\n{KEYS}")).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

pub async fn two() -> (RedisServer, Gateway, Gateway) {
    let redis = RedisServer::start().unwrap();
    let (one, other) = (node(&redis).await, node(&redis).await);
    for gateway in [&one, &other] {
        eventually("it knows both", async || {
            let nodes = Backend(gateway, KEY).get("/cluster").await.json();
            nodes["nodes"].as_array().unwrap().len() == 2
        })
        .await;
    }
    (redis, one, other)
}

pub struct Backend<'g>(pub &'g Gateway, pub &'static str);

impl Backend<'_> {
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let bearer = format!("Bearer {}", self.1);
        let mut headers = vec![("Authorization", &*bearer), ("Content-Type", "application/json")];
        headers.extend(more);
        let with = With { headers: &headers, body };
        let response =
            http::ask(self.0.api.unwrap(), method, &format!("/api/v1{path}"), with).await;
        api_document::check(method, path, &response);
        response
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, &[], &body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], "").await
    }
}

pub async fn subscribed(gateway: &Gateway, user: &str, to: &str) -> RawClient {
    let mut client = RawClient::native(gateway, user).await;
    client.send(&json!({ "type": "subscribe", "to": to, "id": 1 }).to_string()).await;
    client.expect("\"ok\"").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_publishes_to_subscribers_of_every_node() {
    let (_redis, one, other) = two().await;
    let mut here = subscribed(&one, "ann", "/topic/open.orders.1").await;
    let mut there = subscribed(&other, "bob", "/topic/open.orders.1").await;
    let backend = Backend(&one, KEY);
    let message = json!({ "to": "/topic/open.orders.1", "data": { "state": "paid" },
        "headers": { "trace": "7" } });
    let told = backend.post("/publish", &message).await;
    assert_eq!((told.status, &told.json()["offset"]), (200, &json!(1)), "{told:?}");
    for client in [&mut here, &mut there] {
        let got: Value = serde_json::from_str(&client.expect("\"message\"").await).unwrap();
        assert_eq!(got["data"], json!({ "state": "paid" }));
        assert_eq!(got["headers"], json!({ "trace": "7" }));
        assert_eq!(got["id"], told.json()["message_id"]);
        assert!(got.get("from").is_none());
    }
    let raw = json!({ "to": "/topic/open.orders.1", "content_type": "text/plain", "data": "aGk=" });
    let text = json!({ "to": "/topic/open.orders.1", "encoding": "text", "data": "hi" });
    for message in [&raw, &text] {
        assert_eq!(backend.post("/publish", message).await.status, 200);
        let got: Value = serde_json::from_str(&there.expect("\"message\"").await).unwrap();
        assert_eq!((&got["content_type"], &got["data"]), (&json!("text/plain"), &json!("aGk=")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_twice_under_one_key_goes_out_once_whichever_node_is_asked() {
    let (_redis, one, second) = two().await;
    let message = json!({ "to": "/topic/open.a", "data": 1 }).to_string();
    let key = [("Idempotency-Key", "order-42")];
    let first = Backend(&one, KEY).ask("POST", "/publish", &key, &message).await.json();
    let again = Backend(&second, KEY).ask("POST", "/publish", &key, &message).await.json();
    assert_eq!((&again["duplicate"], &again["offset"]), (&json!(true), &first["offset"]));
    // It names this message, and is given once.
    let other = json!({ "to": "/topic/open.a", "data": 2 }).to_string();
    let reused = Backend(&second, KEY).ask("POST", "/publish", &key, &other).await;
    assert_eq!(reused.problem(), (422, "key_reused".into()));
    let batch = json!({ "messages": [{ "to": "/topic/open.a", "data": 3, "key": "order-42" }] });
    let outcomes = Backend(&one, KEY).post("/batch", &batch).await.json()["outcomes"].take();
    assert_eq!(outcomes[0]["error"]["code"], "key_reused");
    let within = json!({ "to": "/topic/open.a", "data": 1, "key": "order-43" }).to_string();
    let two_keys = Backend(&one, KEY).ask("POST", "/publish", &key, &within).await;
    let detail = two_keys.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(two_keys.problem(), (400, "bad_key".into()));
    assert!(detail.contains("\"order-42\"") && detail.contains("\"order-43\""), "{detail}");
    let kept = Backend(&one, KEY).get("/history?destination=/topic/open.a").await.json();
    assert_eq!(kept["messages"].as_array().unwrap().len(), 1);
    // The key of one backend is no other's.
    let to_orders = message.replace("open.a", "open.orders.1");
    for backend in [KEY, PUBLISHER] {
        let told = Backend(&one, backend).ask("POST", "/publish", &key, &to_orders).await.json();
        assert!(told.get("duplicate").is_none(), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_are_published_in_order_and_each_is_answered_for() {
    let (_redis, one, other) = two().await;
    let mut client = subscribed(&other, "ann", "/topic/open.a").await;
    let backend = Backend(&one, KEY);
    let send = |n: usize| json!({ "to": "/topic/open.a", "data": n });
    let mut messages: Vec<Value> = (0..200).map(send).collect();
    messages.insert(100, json!({ "to": "/queue/x", "data": 0 }));
    messages.insert(50, json!({ "to": "/topic/open.a", "data": "x".repeat(9000) }));
    messages.insert(20, json!({ "to": "/topic/open.a", "dota": 0 }));
    let answer = backend.post("/batch", &json!({ "messages": messages })).await.json();
    assert_eq!(answer["published"], 200);
    let code = |at: usize| answer["outcomes"][at]["error"]["code"].as_str().unwrap().to_owned();
    assert_eq!([code(20), code(51), code(102)], ["bad_body", "too_large", "forbidden"]);
    for n in 0..200 {
        client.expect(&format!("\"data\":{n},")).await;
    }
    let to: Vec<_> = (0..50).map(|n| format!("/topic/open.b{n}")).collect();
    let mut last = subscribed(&other, "bob", "/topic/open.b49").await;
    let answer = backend.post("/broadcast", &json!({ "to": to, "data": "all" })).await.json();
    assert_eq!(answer["published"], 50);
    last.expect("\"all\"").await;
    for (path, body) in [
        ("/batch", json!({ "messages": [] })),
        ("/broadcast", json!({ "to": vec!["/topic/open.a"; 1001], "data": 1 })),
        ("/broadcast", json!({ "to": ["/topic/open.a"] })),
        ("/publish", json!([1])),
    ] {
        assert_eq!(backend.post(path, &body).await.problem().0, 400, "{path} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_reached_by_name_online_or_later() {
    let (_redis, one, other) = two().await;
    let mut ann = subscribed(&other, "ann b/c", "/user/queue/orders").await;
    let backend = Backend(&one, KEY);
    let message = json!({ "to": "/user/queue/orders", "data": "paid" });
    let told = backend.post("/users/ann%20b%2Fc/messages", &message).await;
    assert_eq!(told.status, 200, "{told:?}");
    let got = ann.expect("\"paid\"").await;
    assert!(got.contains("\"/user/queue/orders\""), "{got}");
    assert_eq!(backend.post("/users/bob/messages", &message).await.status, 200);
    let kept = backend.get("/history?destination=/user/bob/queue/orders").await.json();
    assert_eq!(kept["messages"][0]["data"], "paid");
    let elsewhere = json!({ "to": "/topic/open.a", "data": 1 });
    let refused = backend.post("/users/bob/messages", &elsewhere).await;
    assert_eq!(refused.problem(), (400, "bad_destination".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_read_page_by_page_from_any_position() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let messages: Vec<_> =
        (1..=30).map(|n| json!({ "to": "/topic/open.orders.9", "data": n })).collect();
    backend.post("/batch", &json!({ "messages": messages })).await;
    let reader = Backend(&other, READER);
    let path = "/history?destination=/topic/open.orders.9";
    let newest = reader.get(&format!("{path}&limit=3")).await.json();
    let offsets = |page: &Value| -> Vec<u64> {
        let messages = page["messages"].as_array().unwrap().iter();
        messages.map(|message| message["offset"].as_u64().unwrap()).collect()
    };
    assert_eq!((offsets(&newest), &newest["more"]), (vec![28, 29, 30], &json!(false)));
    let epoch = newest["position"].as_str().unwrap().split(':').next().unwrap().to_owned();
    let (mut since, mut seen) = (format!("{epoch}:0"), Vec::new());
    loop {
        let page = reader.get(&format!("{path}&since={since}&limit=7")).await.json();
        seen.extend(offsets(&page));
        page["position"].as_str().unwrap().clone_into(&mut since);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    let lost = reader.get(&format!("{path}&since=1:5")).await.json();
    assert_eq!(lost["lost"], "epoch_changed");
    for query in [
        "",
        "?destination=/topic/open.orders.9&since=x",
        "?destination=/topic/open.orders.9&limit=0",
    ] {
        assert_eq!(reader.get(&format!("/history{query}")).await.problem().0, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_where_and_online_is_read_on_any_node_and_sessions_are_ended() {
    let (_redis, one, other) = two().await;
    let mut ann = subscribed(&one, "ann", "/topic/open.a").await;
    let _bob = subscribed(&other, "bob", "/topic/open.a").await;
    let backend = Backend(&other, KEY);
    eventually("both are there", async || {
        backend.get("/presence/stats?destination=/topic/open.a").await.json()["count"] == 2
    })
    .await;
    for (limit, status) in [("1000", 200), ("1001", 400), ("-1", 400)] {
        let page = backend.get(&format!("/presence?destination=/topic/open.a&limit={limit}")).await;
        assert_eq!(page.status, status, "{limit}: {page:?}");
    }
    let page = backend.get("/presence?destination=/topic/open.a").await.json();
    let mut users: Vec<_> =
        page["members"].as_array().unwrap().iter().map(|member| member["user"].clone()).collect();
    users.sort_by_key(ToString::to_string);
    assert_eq!(users, ["ann", "bob"]);

    let session = async |user: &str| {
        let status = backend.get(&format!("/users/{user}")).await.json();
        status["sessions"][0]["session"].as_str().map(str::to_owned)
    };
    let anns = session("ann").await.unwrap();
    let status = backend.get("/users/ann").await.json();
    let kind = (&status["sessions"][0]["transport"], &status["sessions"][0]["protocol"]);
    assert_eq!(kind, (&json!("websocket"), &json!("native")));
    let many = backend.post("/users/status", &json!({ "users": ["ann", "eve"] })).await.json();
    assert_eq!(
        (&many["users"][0]["online"], &many["users"][1]["online"]),
        (&json!(true), &json!(false))
    );

    let ended =
        backend.post(&format!("/sessions/{anns}/disconnect"), &json!({ "reason": "bye" })).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    ann.expect("\"bye\"").await;
    eventually("ann is gone", async || session("ann").await.is_none()).await;
    let ended = backend.ask("POST", "/users/bob/disconnect", &[], "").await;
    assert_eq!((ended.status, &ended.json()["sessions"]), (200, &json!(1)));
    eventually("bob is gone", async || session("bob").await.is_none()).await;
    // As the document says, which has the body optional.
    let null = backend.post("/users/bob/disconnect", &Value::Null).await;
    assert_eq!((null.status, &null.json()["sessions"]), (200, &json!(0)), "{null:?}");
    let refused = backend.ask("POST", "/sessions/x/disconnect", &[], "").await;
    assert_eq!(refused.problem().0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_do_what_its_scopes_and_destinations_allow_and_nothing_else() {
    let (_redis, one, _other) = two().await;
    let (reader, publisher) = (Backend(&one, READER), Backend(&one, PUBLISHER));
    let to = |to: &str| json!({ "to": to, "data": 1 });
    let forbidden = (403, "forbidden".to_owned());
    assert_eq!(reader.post("/publish", &to("/topic/open.orders.1")).await.problem(), forbidden);
    assert_eq!(reader.get("/users/ann").await.problem(), forbidden);
    assert_eq!(reader.get("/cluster").await.problem(), forbidden);
    assert_eq!(reader.get("/history?destination=/topic/open.a").await.problem(), forbidden);
    let stats = "/presence/stats?destination=/topic/open.orders.1";
    assert_eq!(reader.get(stats).await.status, 200);
    // What counts is the name itself, not how it is spelt: three letters, and one.
    let orders_of = async |user: &str| {
        reader.get(&format!("/history?destination=/user/{user}/queue/orders")).await
    };
    assert_eq!(orders_of("ann").await.status, 200);
    assert_eq!(orders_of("%2561nn").await.status, 200);
    assert_eq!(orders_of("%2561").await.problem(), forbidden);

    assert_eq!(publisher.post("/publish", &to("/topic/open.orders.1")).await.status, 200);
    assert_eq!(publisher.post("/publish", &to("/topic/open.a")).await.problem(), forbidden);
    let mine = to("/user/queue/orders");
    assert_eq!(publisher.post("/users/ann/messages", &mine).await.status, 200);
    let others = to("/user/queue/secrets");
    assert_eq!(publisher.post("/users/ann/messages", &others).await.problem(), forbidden);
    assert_eq!(publisher.get(stats).await.problem(), forbidden);
    let mixed = json!({ "to": ["/topic/open.orders.2", "/topic/open.a"], "data": 1 });
    let answer = publisher.post("/broadcast", &mixed).await.json();
    assert_eq!(
        (&answer["published"], &answer["outcomes"][1]["error"]["code"]),
        (&json!(1), &json!("forbidden"))
    );
    assert_eq!(
        Backend(&one, KEY).get("/cluster").await.json()["nodes"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_or_asks_too_often_is_refused_and_a_good_key_is_not() {
    let (_redis, one, _other) = two().await;
    let wrong = Backend(&one, "no key of anybody");
    let mut statuses = Vec::new();
    for _ in 0..40 {
        let response = wrong.get("/cluster").await;
        if response.status == 429 {
            assert!(response.header("retry-after").is_some());
        }
        statuses.push(response.problem().0);
    }
    assert!(statuses[..20].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(
        Backend(&one, KEY).get("/namespaces").await.json()["namespaces"][0]["name"],
        "topic"
    );
    let by_header = [("X-API-Key", KEY)];
    let api = one.api.unwrap();
    let with = http::headers(&by_header);
    assert_eq!(http::ask(api, "GET", "/api/v1/cluster", with).await.status, 200);
    let from_a_page = [("X-API-Key", KEY), ("Origin", "http://a.example")];
    let refused = http::ask(api, "GET", "/api/v1/cluster", http::headers(&from_a_page)).await;
    assert_eq!(refused.problem(), (403, "foreign_origin".into()));

    let publisher = Backend(&one, PUBLISHER);
    let message = json!({ "to": "/topic/open.orders.1", "data": 1 });
    let mut limited = 0;
    for _ in 0..40 {
        limited += usize::from(publisher.post("/publish", &message).await.status == 429);
    }
    assert!((1..=28).contains(&limited), "{limited}");
    let document = http::ask(api, "GET", "/api/v1/openapi.json", http::BARE).await;
    assert_eq!(document.json()["openapi"], "3.1.0");
    let nothing = Backend(&one, KEY).get("/nothing").await;
    assert_eq!(nothing.problem(), (404, "not_found".into()));
    let by_get = Backend(&one, KEY).get("/publish").await;
    assert_eq!(by_get.problem(), (405, "method_not_allowed".into()));
    assert_eq!(by_get.header("allow"), Some("POST"));
    let long = "x".repeat(40_000);
    let refused = Backend(&one, KEY).ask("GET", "/cluster", &[("X-Long", &long)], "").await;
    assert_eq!(refused.problem(), (431, "head_too_large".into()));
    let no_name = Backend(&one, KEY).get("/users/%ff").await;
    assert_eq!(no_name.problem(), (400, "bad_path".into()));
    assert!(one.metric("fanlight_api_requests_total").await >= 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_redis_did_not_take_is_not_acknowledged() {
    let (mut redis, one, _other) = two().await;
    redis.kill();
    let backend = Backend(&one, KEY);
    let refused = backend.post("/publish", &json!({ "to": "/topic/open.a", "data": 1 })).await;
    let (status, code) = refused.problem();
    assert!(matches!((status, &*code), (503, "unavailable") | (504, "unknown")), "{status} {code}");
    assert_eq!(backend.get("/users/ann").await.problem().0, 503);
    assert_eq!(backend.get("/presence?destination=/topic/open.a").await.problem().0, 503);
    assert_eq!(
        backend.ask("DELETE", "/history?destination=/topic/open.a", &[], "").await.problem().0,
        503
    );
}
