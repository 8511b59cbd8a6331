//! `/app/...`: real clients, real nodes over a real Redis, and a real backend.

mod backend;
mod embedded;
mod streams;

use std::time::{Duration, Instant};

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::http::{self, Stream, headers};
use crate::returning::{bearer, named};
use crate::stompjs::StompJs;
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};
use backend::{Backend, Says};

const ROUTES: &str = r#"
[[app.routes]]
destination = "/app/chat/{room}/send"
webhook = "backend"
send_to = "/topic/open.{room}"
[[app.routes]]
destination = "/app/whisper"
webhook = "backend"
send_to = "/user/queue/replies"
broadcast = false
[[app.routes]]
destination = "/app/admin/**"
webhook = "backend"
roles = ["admin"]
[[app.routes]]
destination = "/app/slow"
webhook = "slow"
[[app.routes]]
destination = "/app/{what}"
webhook = "backend"
"#;

/// What a room's backend would say.
fn answers(asked: &Value) -> Says {
    let destination = asked["destination"].as_str().unwrap();
    let reply = |data: Value| Says::Json(json!({ "reply": { "data": data } }));
    let send = |send: Value| Says::Json(json!({ "send": [send] }));
    match destination {
        "/app/members" => reply(json!({ "members": ["ann", "bob"] })),
        "/app/whisper" => reply(asked["data"].clone()),
        "/app/all" => send(json!({ "to": "/user/queue/replies", "data": asked["data"] })),
        "/app/mine" => {
            let to = json!({
                "to": "/user/queue/replies", "only": "session", "data": asked["data"],
            });
            send(to)
        }
        "/app/bob" => send(json!({ "to": "/user/bob/queue/replies", "data": asked["data"] })),
        "/app/texts" => Says::Json(json!({ "send": [
            { "to": "/topic/open.7", "data": "plain", "content_type": "text/plain" },
            { "to": "/topic/open.7", "data": "AAH/", "content_type": "image/png",
              "headers": { "x-size": "3" } },
        ]})),
        "/app/no" => Says::Json(json!({ "error": { "code": "room_full", "message": "Full" } })),
        "/app/nowhere" => send(json!({ "to": "/queue/of/no/namespace", "data": 1 })),
        "/app/broken" => Says::Status(500),
        "/app/slow" => Says::Nothing,
        _ if destination.starts_with("/app/chat/") => reply(json!({
            "room": asked["variables"]["room"], "text": asked["data"], "from": asked["user"],
        })),
        _ => Says::Status(204),
    }
}

async fn node(redis: &RedisServer, backend: &Backend) -> Gateway {
    let config = with_redis(CONFIG, redis)
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nmessages_per_second = 0");
    let (usual, slow) =
        (backend.webhook("backend", ""), backend.webhook("slow", "timeout = \"400ms\""));
    let gateway = Gateway::with_config(&format!("{config}\n{usual}{slow}{ROUTES}")).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// A `@stomp/stompjs` client that hears rooms, replies and errors.
async fn stomp(gateway: &Gateway, user: &str, roles: &[&str]) -> StompJs {
    let token = token(user, roles).await;
    let mut client = StompJs::connect(&gateway.ws_url(), &token, json!({})).await;
    for destination in ["/topic/open.7", "/user/queue/replies", "/user/queue/errors"] {
        client.subscribe(destination).await;
    }
    client
}

/// The next message, which must have come to this destination.
async fn body(client: &mut StompJs, destination: &str) -> Value {
    let message = client.event("message").await;
    assert_eq!(message["headers"]["destination"], destination, "{message}");
    serde_json::from_str(message["body"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_answer_reaches_whom_springs_annotations_would_send_it_to() {
    let (redis, backend) = (RedisServer::start().unwrap(), Backend::start(answers).await);
    let (a, b) = (node(&redis, &backend).await, node(&redis, &backend).await);
    let mut ann = stomp(&a, "ann", &["writer"]).await;
    let (mut other_ann, mut bob) = (stomp(&b, "ann", &[]).await, stomp(&b, "bob", &[]).await);

    // @SendTo: everybody, on every node.
    ann.publish("/app/chat/7/send", r#"{"say":"hi"}"#, "r1").await;
    ann.receipt("r1").await;
    let said = json!({ "room": "7", "text": { "say": "hi" }, "from": "ann" });
    for client in [&mut ann, &mut other_ann, &mut bob] {
        assert_eq!(body(client, "/topic/open.7").await, said);
    }
    let asked = &backend.asked("/app/chat/7/send")[0];
    for (field, value) in [
        ("type", json!("message")),
        ("user", json!("ann")),
        ("roles", json!(["writer"])),
        ("route", json!("/app/chat/{room}/send")),
        ("variables", json!({ "room": "7" })),
        ("content_type", json!("application/json")),
        ("data", json!({ "say": "hi" })),
        ("headers", json!({})),
    ] {
        assert_eq!(asked[field], value, "{field} of {asked}");
    }
    assert_eq!(asked["session"].as_str().map(str::len), Some(32), "{asked}");

    // @SendToUser: all of the sender's sessions, or with broadcast = false the one that asked.
    ann.publish("/app/all", "1", "r2").await;
    ann.publish("/app/mine", "2", "r3").await;
    ann.publish("/app/whisper", "3", "r4").await;
    ann.publish("/app/bob", "4", "r5").await;
    ann.publish("/app/all", "5", "r6").await;
    for expected in [1, 2, 3, 5] {
        assert_eq!(body(&mut ann, "/user/queue/replies").await, expected);
    }
    for expected in [1, 5] {
        assert_eq!(body(&mut other_ann, "/user/queue/replies").await, expected);
    }
    assert_eq!(body(&mut bob, "/user/queue/replies").await, 4);

    // Of other types than JSON.
    ann.publish("/app/texts", "1", "r7").await;
    let text = bob.event("message").await;
    assert_eq!(
        (&text["body"], &text["headers"]["content-type"]),
        (&json!("plain"), &json!("text/plain"))
    );
    let image = bob.event("message").await;
    assert_eq!((&image["base64"], &image["headers"]["x-size"]), (&json!("AAH/"), &json!("3")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_answered_once_and_errors_go_to_the_session_that_asked() {
    let (redis, backend) = (RedisServer::start().unwrap(), Backend::start(answers).await);
    let (a, b) = (node(&redis, &backend).await, node(&redis, &backend).await);
    let mut ann = stomp(&a, "ann", &[]).await;
    let mut other_ann = stomp(&b, "ann", &[]).await;

    // @SubscribeMapping, with an id of the client's own.
    let subscribe = json!({
        "op": "subscribe", "destination": "/app/members", "id": "m", "receipt": "s1",
        "headers": { "x-page": "2" },
    });
    ann.command(&subscribe).await;
    let answer = ann.event("message").await;
    assert_eq!(answer["headers"]["subscription"], "m", "{answer}");
    assert_eq!(answer["headers"]["destination"], "/app/members", "{answer}");
    assert_eq!(answer["body"], r#"{"members":["ann","bob"]}"#);
    ann.receipt("s1").await;
    let asked = &backend.asked("/app/members")[0];
    assert_eq!((&asked["type"], &asked["data"]), (&json!("request"), &Value::Null));
    assert_eq!(asked["headers"], json!({ "x-page": "2" }));
    ann.command(&json!({ "op": "unsubscribe", "id": "m" })).await;

    // @MessageExceptionHandler: to this session, and the connection goes on.
    for (destination, code) in [
        ("/app/no", "room_full"),
        ("/app/broken", "unavailable"),
        ("/app/slow", "timeout"),
        ("/app/nowhere", "bad_answer"),
    ] {
        let receipt = format!("never {destination}");
        ann.publish(destination, "1", &receipt).await;
        let error = body(&mut ann, "/user/queue/errors").await;
        assert_eq!((&error["code"], &error["destination"]), (&json!(code), &json!(destination)));
        assert_eq!((&error["receipt"], &error["key"]), (&json!(receipt), &Value::Null), "{error}");
    }
    errors_name_what_failed(&mut ann, &a).await;
    ann.publish("/app/all", "7", "r1").await;
    ann.receipt("r1").await;
    for client in [&mut ann, &mut other_ann] {
        assert_eq!(body(client, "/user/queue/replies").await, 7);
    }
    assert!(!ann.has_passed("receipt") && !ann.has_passed("stomp-error"));

    // A native client is told by its request's id too; the route's roles are kept.
    let mut native = RawClient::native(&a, "cid").await;
    native.send(r#"{"type":"send","to":"/app/no","data":1,"id":1}"#).await;
    let told = native.expect("\"error\"").await;
    assert_eq!(told, r#"{"type":"error","id":1,"code":"room_full","message":"Full"}"#);
    native.send(r#"{"type":"send","to":"/app/admin/x","data":1,"id":2}"#).await;
    native.expect("\"forbidden\"").await;
    native.send(r#"{"type":"subscribe","to":"/app/members","id":3}"#).await;
    native.expect(r#""to":"/app/members","#).await;
    native.expect(r#"{"type":"ok","id":3}"#).await;
    assert_eq!(backend.asked("/app/admin/x"), [Value::Null; 0]);
    for (result, count) in [("handled", 3), ("refused", 6), ("failed", 1), ("bad_answer", 1)] {
        let series =
            format!("fanlight_app_messages_total{{route=\"/app/{{what}}\",result=\"{result}\"}}");
        assert_eq!(a.metric_of(&series).await, count, "{series}");
    }
}

/// By what an error says, a client knows the one of several requests that failed.
async fn errors_name_what_failed(ann: &mut StompJs, gateway: &Gateway) {
    let headers = json!({ "idempotency-key": "k-7" });
    ann.command(
        &json!({ "op": "publish", "destination": "/app/no", "body": "1", "headers": headers }),
    )
    .await;
    ann.command(&json!({ "op": "subscribe", "destination": "/app/no", "id": "n" })).await;
    let error = body(ann, "/user/queue/errors").await;
    assert_eq!((&error["key"], &error["receipt"]), (&json!("k-7"), &Value::Null), "{error}");
    let error = body(ann, "/user/queue/errors").await;
    assert_eq!((&error["subscription"], &error["key"]), (&json!("n"), &Value::Null), "{error}");

    let mut native = RawClient::native(gateway, "dan").await;
    native.send(r#"{"type":"subscribe","to":"/user/queue/errors"}"#).await;
    // Ids are told as they came, also those that are no number of any program's.
    for id in ["\"seven\"", "1e999"] {
        let send = format!(r#"{{"type":"send","to":"/app/no","data":1,"key":"k","id":{id}}}"#);
        native.send(&send).await;
        let error = native.expect("/user/queue/errors").await;
        assert!(error.contains(&format!(r#""key":"k","id":{id}}}"#)), "{error}");
        native.expect(r#"{"type":"error""#).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_session_are_handled_in_order_and_a_hanging_backend_holds_up_nobody_else() {
    let (redis, backend) = (RedisServer::start().unwrap(), Backend::start(answers).await);
    let a = node(&redis, &backend).await;
    let mut hearer = RawClient::native(&a, "bob").await;
    hearer.send(r#"{"type":"subscribe","to":"/topic/open.7","id":1}"#).await;
    hearer.expect("\"ok\"").await;
    let mut sender = RawClient::native(&a, "ann").await;
    let batch: Vec<_> = (0..60)
        .map(|n| json!({ "type": "send", "to": "/app/chat/7/send", "data": n, "id": n }))
        .collect();
    sender.send(&json!(batch).to_string()).await;
    for n in 0..60 {
        sender.expect(&format!(r#"{{"type":"ok","id":{n},"#)).await;
        hearer.expect(&format!(r#""text":{n}"#)).await;
    }
    let asked = backend.asked("/app/chat/7/send");
    assert!(
        asked.iter().map(|asked| &asked["data"]).eq(&(0..60).map(Value::from).collect::<Vec<_>>())
    );

    // As many hang as their route has; what others send elsewhere is answered meanwhile.
    let mut hanging = Vec::new();
    for n in 0..20 {
        let mut client = RawClient::native(&a, &format!("slow{n}")).await;
        client.send(r#"{"type":"send","to":"/app/slow","data":1,"id":1}"#).await;
        client.send(r#"{"type":"send","to":"/app/chat/8/send","data":"behind","id":2}"#).await;
        hanging.push(client);
    }
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_millis(200) {
        sender.send(r#"{"type":"send","to":"/app/chat/7/send","data":"on","id":"on"}"#).await;
        sender.expect(r#"{"type":"ok","id":"on""#).await;
        hearer.expect(r#""text":"on""#).await;
        answered += 1;
    }
    assert!(answered > 1, "only {answered} were answered while others hung");
    for client in &mut hanging {
        // The breaker has opened once some have failed.
        let told = client.expect(r#"{"type":"error","id":1,"#).await;
        assert!(told.contains("\"timeout\"") || told.contains("\"unavailable\""), "{told}");
        client.expect(r#"{"type":"ok","id":2,"#).await;
    }
    sender.send(r#"{"type":"send","to":"/app/chat/7/send","data":"after","id":"after"}"#).await;
    sender.expect(r#"{"type":"ok","id":"after""#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_listens_sends_by_post_and_is_answered_there_or_in_the_session_it_names() {
    let (redis, backend) = (RedisServer::start().unwrap(), Backend::start(answers).await);
    let (a, b) = (node(&redis, &backend).await, node(&redis, &backend).await);
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let target = "/events?destination=/user/queue/replies";
    let mut events = Stream::open(a.public, "GET", target, headers(&lines)).await;
    let connected: Value =
        serde_json::from_str(&named(&mut events, "connected").await.data).unwrap();
    named(&mut events, "subscribed").await;
    let post =
        async |body: Value| http::post(b.public, "/publish", &lines, &body.to_string()).await;

    let answer = post(json!({ "to": "/app/mine", "data": 1 })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["messages"][0]["data"], 1, "{answer}");
    // As those who subscribe know it.
    assert_eq!(answer["messages"][0]["to"], "/user/queue/replies", "{answer}");
    let session = &connected["session"];
    let answer = post(json!({ "to": "/app/mine", "data": 2, "session": session })).await;
    assert_eq!((answer.status, &answer.json()["messages"]), (200, &Value::Null), "{answer:?}");
    // Of what went before, only what named the session came there.
    let event: Value = serde_json::from_str(&named(&mut events, "message").await.data).unwrap();
    assert_eq!(event["data"], 2);
    // To be answered is all that naming a session does. It sends nothing, whoever names it, and of
    // another user nothing reaches it.
    let bob = bearer("bob").await;
    let by_bob = json!({ "to": "/app/mine", "data": 3, "session": session }).to_string();
    let answer = http::post(b.public, "/publish", &[("Authorization", &*bob)], &by_bob).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = backend.asked("/app/mine");
    let told: Vec<_> = asked.iter().map(|one| (&one["session"], &one["answer_session"])).collect();
    let (none, named_one) = (&Value::Null, (&Value::Null, session));
    assert_eq!(told, [(none, none), named_one, named_one]);
    assert!(asked.iter().all(|one| one.as_object().unwrap().contains_key("session")));
    post(json!({ "to": "/app/mine", "data": 4, "session": session })).await;
    let event: Value = serde_json::from_str(&named(&mut events, "message").await.data).unwrap();
    assert_eq!(event["data"], 4);
    for (to, problem) in [
        ("/app/no", (422, "room_full")),
        ("/app/broken", (502, "unavailable")),
        ("/app/slow", (504, "timeout")),
        ("/app/admin/x", (403, "forbidden")),
        ("/app/a/b", (403, "no_handler")),
    ] {
        let answer = post(json!({ "to": to, "data": 1 })).await;
        assert_eq!(answer.problem(), (problem.0, problem.1.to_owned()), "{to}");
    }
    let nobody = http::post(b.public, "/publish", &[], r#"{"to":"/app/all","data":1}"#).await;
    assert_eq!(nobody.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_listens_is_answered_when_it_begins_and_each_time_it_comes_back() {
    let (redis, backend) = (RedisServer::start().unwrap(), Backend::start(answers).await);
    let (a, b) = (node(&redis, &backend).await, node(&redis, &backend).await);
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let wanted = "destination=/user/queue/replies&destination=/app/members";
    for (at, gateway) in [&a, &b].into_iter().enumerate() {
        let target = format!("/events?{wanted}");
        let mut events = Stream::open(gateway.public, "GET", &target, headers(&lines)).await;
        named(&mut events, "connected").await;
        named(&mut events, "subscribed").await;
        let answer = named(&mut events, "message").await;
        let data: Value = serde_json::from_str(&answer.data).unwrap();
        assert_eq!((&data["to"], &answer.id), (&json!("/app/members"), &None), "{answer:?}");
        assert_eq!(data["data"], json!({ "members": ["ann", "bob"] }));
        named(&mut events, "subscribed").await;
        assert_eq!(backend.asked("/app/members").len(), at + 1);
        // It goes on with the rest.
        let body = json!({ "to": "/app/all", "data": at });
        http::post(a.public, "/publish", &lines, &body.to_string()).await;
        let reply = named(&mut events, "message").await;
        assert!(reply.data.contains("\"to\":\"/user/queue/replies\""), "{reply:?}");
    }
    let page = http::get(a.public, &format!("/poll?{wanted}"), &lines).await.json();
    let answer = page["messages"].as_array().unwrap().iter().find(|one| one["type"] == "message");
    assert_eq!(answer.unwrap()["data"], json!({ "members": ["ann", "bob"] }), "{page}");
    let cursor = page["cursor"].as_str().unwrap();
    let target = format!("/poll?{wanted}&cursor={cursor}&wait=0");
    let page = http::get(b.public, &target, &lines).await.json();
    assert_eq!((&page["messages"], backend.asked("/app/members").len()), (&json!([]), 3));

    let mut events =
        Stream::open(a.public, "GET", "/events?destination=/app/no", headers(&lines)).await;
    named(&mut events, "connected").await;
    let fault = named(&mut events, "fault").await;
    assert!(fault.data.contains("\"room_full\""), "{fault:?}");
    for (to, code) in [("/app/a/b", "no_handler"), ("/app/admin/x", "forbidden")] {
        let refused = http::get(a.public, &format!("/events?destination={to}"), &lines).await;
        assert_eq!(refused.problem(), (403, code.to_owned()), "{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_refuses_a_message_is_no_failure_of_the_backend() {
    let backend = crate::backend::Backend::start().await;
    let says = |asked: &Value| {
        let status = asked["data"]["status"].as_u64().unwrap_or(404);
        (u16::try_from(status).unwrap(), asked["data"]["body"].clone())
    };
    backend.on("message", says);
    backend.on("request", says);
    let webhook = backend.config("breaker_failures = 2\nbreaker_pause = \"1m\"");
    let gateway = Gateway::with_config(&format!(
        "{CONFIG}\n{webhook}[[app.routes]]\ndestination = \"/app/x\"\nwebhook = \"backend\"\n"
    ))
    .await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    let full = json!({ "error": { "code": "room_full", "message": "Full" } });
    let none = json!({});
    for (id, (status, body, code, message)) in [
        (404, &none, "refused", "does not do this"),
        (409, &full, "room_full", "Full"),
        (403, &full, "room_full", "Full"),
        (422, &json!({ "error": "Unprocessable" }), "refused", "does not do this"),
        // Not what was asked, but how, or when.
        (401, &full, "unavailable", "has failed"),
        (425, &full, "unavailable", "has failed"),
        (429, &full, "unavailable", "has failed"),
    ]
    .into_iter()
    .enumerate()
    {
        let data = json!({ "status": status, "body": body });
        let send = json!({ "type": "send", "to": "/app/x", "data": data, "id": id });
        ann.send(&send.to_string()).await;
        let told: Value = serde_json::from_str(&ann.expect("\"error\"").await).unwrap();
        assert_eq!((&told["id"], &told["code"]), (&json!(id), &json!(code)), "{status}: {told}");
        assert!(told["message"].as_str().unwrap().contains(message), "{status}: {told}");
    }
    ann.send(r#"{"type":"subscribe","to":"/app/x","id":9}"#).await;
    assert!(ann.expect("\"id\":9").await.contains("\"code\":\"refused\""));
    let cy = bearer("cy").await;
    let body = json!({ "to": "/app/x", "data": { "status": 410, "body": full } }).to_string();
    let answer = http::post(gateway.public, "/publish", &[("Authorization", &cy)], &body).await;
    assert_eq!(answer.problem(), (422, "room_full".into()));
    for (result, count) in [("refused", 6), ("failed", 3)] {
        let series = format!("fanlight_app_messages_total{{route=\"/app/x\",result=\"{result}\"}}");
        assert_eq!(gateway.metric_of(&series).await, count, "{series}");
    }
}
