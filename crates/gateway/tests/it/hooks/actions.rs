//! What a subscription asks for beside its messages, a backend has to agree to as well: who comes
//! and goes, and the newest of the history. And 403 is a refusal.

use serde_json::{Value, json};

use super::{guarded, with_api};
use crate::api::{self, KEY};
use crate::backend::Backend;
use crate::http::{Stream, get, headers};
use crate::returning::{bearer, named};
use crate::support::{Gateway, RawClient, token};

const A: &str = "/topic/open.guarded.a";

/// Agrees to these actions only.
fn agrees_to(backend: &Backend, actions: &'static [&'static str]) {
    backend.on("subscribe", |event| {
        let action = event["action"].as_str().unwrap();
        (200, json!({ "allow": actions.contains(&action), "reason": format!("no {action}") }))
    });
}

async fn asked(client: &mut RawClient, kind: &str, more: Value, id: u32) -> String {
    let mut request = json!({ "type": kind, "to": A, "id": id });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.send(&request.to_string()).await;
    client.expect(&format!("\"id\":{id}")).await
}

fn assert_refused(told: &str, action: &str) {
    assert!(told.contains("forbidden") && told.contains(&format!("no {action}")), "{told}");
}

/// With a history and presence where the backend has a say, and the server API.
async fn readable(backend: &Backend) -> Gateway {
    let pattern = "match = \"/topic/open.guarded.*\"\n";
    let more = "history = { size = 10, ttl = \"1m\" }\npresence = true\n";
    let config = guarded(backend, "").replace(pattern, &format!("{pattern}{more}"));
    with_api(&config, "").await
}

/// What it was asked about, in this order.
fn actions(backend: &Backend) -> Vec<String> {
    let questions = backend.seen(&["subscribe"]).into_iter();
    questions.map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_and_history_with_a_subscription_need_the_backends_consent_to_each() {
    let backend = Backend::start().await;
    agrees_to(&backend, &["subscribe"]);
    let gateway = readable(&backend).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    // As options, and with a subscription that has none of them.
    let told = asked(&mut ann, "subscribe", json!({ "presence": true }), 1).await;
    assert_refused(&told, "presence");
    assert!(told.contains("\"presence: no presence\""), "{told}");
    let told = asked(&mut ann, "subscribe", json!({ "history": 3 }), 2).await;
    assert_refused(&told, "history");
    assert!(asked(&mut ann, "subscribe", json!({}), 3).await.contains("\"ok\""));
    assert_refused(&asked(&mut ann, "presence", json!({}), 4).await, "presence");
    assert_refused(&asked(&mut ann, "history", json!({ "limit": 5 }), 5).await, "history");
    let mut first = actions(&backend);
    // What is asked at the same time comes in any order.
    first.chunks_mut(2).for_each(<[String]>::sort);
    let (three, last) = (["presence", "history", "presence"], ["history".to_owned()]);
    let each = three.iter().flat_map(|action| {
        let mut both = [(*action).to_owned(), "subscribe".to_owned()];
        both.sort();
        both
    });
    assert_eq!(first, each.chain(last).collect::<Vec<_>>());

    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp.send(&format!("SUBSCRIBE\nid:1\ndestination:{A}\npresence:true\n\n\0")).await;
    assert_refused(&stomp.expect("ERROR").await, "presence");
    // Before the status of streams and polls.
    let fay = bearer("fay").await;
    let lines = [("Authorization", &*fay)];
    for path in ["/events", "/poll"] {
        let target = format!("{path}?destination={A}&wait=0&presence=true");
        let refused = get(gateway.public, &target, &lines).await;
        assert_eq!(refused.problem(), (403, "forbidden".into()), "{path}");
        assert!(refused.json()["detail"].as_str().unwrap().contains("presence: no presence"));
    }
    let poll = format!("/poll?destination={A}&wait=0");
    assert_eq!(get(gateway.public, &poll, &lines).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_has_agreed_to_or_made_it_is_not_asked_about_again() {
    let backend = Backend::start().await;
    agrees_to(&backend, &["subscribe"]);
    let gateway = readable(&backend).await;
    let asked_so_far = || actions(&backend).len();
    let mut ann = RawClient::native(&gateway, "ann").await;
    assert!(asked(&mut ann, "subscribe", json!({}), 1).await.contains("\"ok\""));

    // Whom it has subscribed may read, until a subscription of its own takes that over.
    let mut dan = RawClient::native(&gateway, "dan").await;
    let order = json!({ "destination": A });
    let subscribed = api::Backend(&gateway, KEY).post("/users/dan/subscribe", &order).await;
    assert_eq!(subscribed.status, 200, "{subscribed:?}");
    dan.expect("\"subscribed\"").await;
    assert!(asked(&mut dan, "presence", json!({}), 1).await.contains("\"members\""));
    assert!(!asked(&mut dan, "history", json!({ "limit": 5 }), 2).await.contains("\"error\""));
    assert_eq!(asked_so_far(), 1);
    let told = asked(&mut dan, "subscribe", json!({ "presence": true }), 3).await;
    assert_refused(&told, "presence");

    // With the subscription, or since.
    agrees_to(&backend, &["subscribe", "presence", "history"]);
    let mut eve = RawClient::native(&gateway, "eve").await;
    let before = asked_so_far();
    let options = json!({ "presence": true, "history": 3 });
    assert!(asked(&mut eve, "subscribe", options, 1).await.contains("\"ok\""));
    assert!(asked(&mut eve, "presence", json!({}), 2).await.contains("\"members\""));
    assert!(!asked(&mut eve, "history", json!({ "limit": 5 }), 3).await.contains("\"error\""));
    assert_eq!(asked_so_far(), before + 3);
    for id in 2..4 {
        assert!(asked(&mut ann, "presence", json!({}), id).await.contains("\"members\""));
    }
    assert_eq!(asked_so_far(), before + 4);
    let (events, fay) = (format!("/events?destination={A}&presence=true"), bearer("fay").await);
    let lines = [("Authorization", &*fay)];
    let mut stream = Stream::open(gateway.public, "GET", &events, headers(&lines)).await;
    for name in ["connected", "subscribed"] {
        named(&mut stream, name).await;
    }
    assert_eq!(asked_so_far(), before + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_of_a_hook_refuses_and_other_statuses_do_not() {
    let backend = Backend::start().await;
    backend.on("connect", |event| match event["user"].as_str() {
        Some("mallory") => (403, json!({ "reason": "banned" })),
        Some("stranger") => (401, json!({ "reason": "banned" })),
        _ => (200, json!({ "allow": true })),
    });
    backend.on("subscribe", |event| {
        if event["destination"] == A { (200, json!({ "allow": true })) } else { (403, json!({})) }
    });
    backend.on("publish", |event| match event["data"].as_u64() {
        Some(status) => (u16::try_from(status).unwrap(), json!({ "reason": "bad\nword" })),
        None => (200, json!({ "allow": true })),
    });
    let config = guarded(&backend, "breaker_failures = 2");
    let config = format!("{config}\n[hooks]\nconnect = \"backend\"\n");
    let gateway = Gateway::with_config(&config).await;
    for (user, words, code) in [("mallory", "banned", 4502), ("stranger", "try again later", 1013)]
    {
        let bearer = format!("Bearer {}", token(user, &[]).await);
        let native = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
        let mut client = RawClient::connect(&gateway, "/ws", &native).await;
        client.send(r#"{"type":"connect"}"#).await;
        client.expect(words).await;
        assert_eq!(client.close_code().await, code, "{user}");
    }
    let mut ann = RawClient::native(&gateway, "ann").await;
    for id in 0..3 {
        ann.send(&format!(r#"{{"type":"subscribe","to":"{A}.no","id":{id}}}"#)).await;
        let told = ann.expect(&format!("\"id\":{id}")).await;
        assert!(told.contains("forbidden") && told.contains("does not allow this"), "{told}");
    }
    // No failure, so no breaker is open.
    assert!(asked(&mut ann, "subscribe", json!({}), 3).await.contains("\"ok\""));
    for (id, status, code) in
        [(4, 403, "forbidden"), (5, 403, "forbidden"), (6, 404, "unavailable")]
    {
        let told = asked(&mut ann, "send", json!({ "data": status }), id).await;
        assert!(told.contains(&format!("\"code\":\"{code}\"")), "{status}: {told}");
        assert_eq!(told.contains("bad word"), status == 403, "{told}");
    }
    assert!(asked(&mut ann, "send", json!({ "data": "fine" }), 7).await.contains("\"ok\""));

    let (ann, mallory) = (bearer("ann").await, bearer("mallory").await);
    for (who, to, status) in [(&ann, "no", 403), (&mallory, "a", 401)] {
        let target = format!("/events?destination=/topic/open.guarded.{to}");
        let refused = get(gateway.public, &target, &[("Authorization", &**who)]).await;
        assert_eq!(refused.status, status, "{refused:?}");
    }
}
