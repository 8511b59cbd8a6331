//! Lifecycle events that are told to webhooks: in order per session, at least once, whatever dies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};

/// Events of all topics, for everything that comes about.
const EVENTS: &str = r#"
[[events.webhooks]]
webhook = "backend"
kinds = ["connected", "disconnected", "subscribed", "unsubscribed"]
"#;

fn config(backend: &Backend) -> String {
    let cluster = "[cluster]\nlease = \"1s\"\nlease_renew = \"200ms\"\n[events]\nenabled = true\n";
    let topics = "match = \"/topic/**\"\nevents = true\noccupancy = \"backend\"\n";
    let config = CONFIG
        .replace("match = \"/topic/**\"\n", topics)
        .replace("[drain]\n", &format!("{cluster}{EVENTS}[drain]\n"));
    format!("{config}\n{}", backend.config("breaker_pause = \"200ms\""))
}

async fn subscribed(gateway: &Gateway, user: &str, to: &str) -> RawClient {
    let mut client = RawClient::native(gateway, user).await;
    client.send(&format!(r#"{{"type":"subscribe","to":"{to}","id":1}}"#)).await;
    client.expect("\"ok\"").await;
    client
}

/// What was told of each user's session, each event once, in the order in which it was told first.
fn stories(events: &[Value]) -> HashMap<String, Vec<String>> {
    let mut told = Vec::new();
    let mut stories: HashMap<String, Vec<String>> = HashMap::new();
    for event in events {
        let Some(user) = event["user"].as_str() else { continue };
        if !told.contains(&event["id"]) {
            told.push(event["id"].clone());
            let kind = event["type"].as_str().unwrap().to_owned();
            stories.entry(user.to_owned()).or_default().push(kind);
        }
    }
    stories
}

const ALL: [&str; 6] =
    ["connected", "disconnected", "subscribed", "unsubscribed", "occupied", "vacated"];
const STORY: [&str; 4] = ["connected", "subscribed", "unsubscribed", "disconnected"];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_tells_a_backend_that_was_away_everything_in_order() {
    let backend = Backend::start().await;
    let gateway = Gateway::with_config(&config(&backend)).await;
    backend.fail(true);
    let mut ann = subscribed(&gateway, "ann", "/topic/open.a").await;
    let bob = subscribed(&gateway, "bob", "/topic/open.a").await;
    backend.until(&ALL, 3).await;
    drop(bob);
    ann.send(r#"{"type":"unsubscribe","to":"/topic/open.a","id":2}"#).await;
    ann.expect("\"ok\"").await;
    drop(ann);
    backend.fail(false);
    eventually("all is told", async || {
        let stories = stories(&backend.seen(&ALL));
        ["ann", "bob"].iter().all(|user| stories.get(*user).is_some_and(|story| story.len() == 4))
            && !backend.seen(&["vacated"]).is_empty()
    })
    .await;
    let seen = backend.seen(&ALL);
    for (user, story) in stories(&seen) {
        assert_eq!(story, STORY, "{user}: {seen:#?}");
    }
    let gone = seen.iter().rfind(|event| event["type"] == "disconnected").unwrap();
    assert_eq!(gone["reason"], "connection_lost");
    let of = |kind: &str| backend.seen(&[kind]).into_iter().next_back().unwrap();
    assert_eq!(of("occupied")["destination"], "/topic/open.a");
    assert_eq!(of("vacated")["destination"], "/topic/open.a");
    let delivered = r#"fanlight_webhook_events_total{webhook="backend",result="delivered"}"#;
    eventually("all is counted", async || gateway.metric_of(delivered).await == 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_backend_takes_slowly_keep_no_hook_from_being_asked() {
    let backend = Backend::start().await;
    let few = "concurrency = 2\nwaiting = 2\ntimeout = \"20s\"\n[hooks]\nconnect = \"backend\"";
    let config = config(&backend).replace("breaker_pause = \"200ms\"", few);
    let gateway = Gateway::with_config(&config).await;
    backend.hang_on(|kind| kind == "connected");
    let mut clients = Vec::new();
    for number in 0..8 {
        // It is let in though the events of all before it are not taken.
        clients.push(RawClient::native(&gateway, &format!("user{number}")).await);
    }
    assert_eq!(backend.seen(&["connect"]).len(), 8);
    backend.hang(false);
    eventually("all are told", async || backend.seen(&["connected"]).len() >= 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_may_be_told_many_events_at_once_and_only_what_it_refuses_is_dropped() {
    let backend = Backend::start().await;
    let config = config(&backend).replace("breaker_pause", "event_batch = 50\nbreaker_pause");
    let gateway = Gateway::with_config(&config).await;
    let is_bad =
        |event: &Value| event["type"] == "subscribed" && event["destination"] == "/topic/open.bad";
    backend.on("events", move |told| {
        let has_bad = told["events"].as_array().unwrap().iter().any(is_bad);
        (if has_bad { 422 } else { 200 }, Value::Null)
    });
    backend.fail(true);
    let mut ann = RawClient::native(&gateway, "ann").await;
    backend.until(&["events"], 1).await;
    for (id, name) in ["a", "bad", "b"].into_iter().enumerate() {
        let to = format!("/topic/open.{name}");
        ann.send(&json!({ "type": "subscribe", "to": to, "id": id }).to_string()).await;
        ann.expect("\"ok\"").await;
    }
    backend.fail(false);
    let count = async |result: &str| {
        let series = "fanlight_webhook_events_total{webhook=\"backend\",result=";
        gateway.metric_of(&format!("{series}\"{result}\"}}")).await
    };
    // That it connected, two of its subscriptions, and that three destinations are occupied.
    eventually("all but one are taken", async || count("delivered").await == 6).await;
    assert_eq!(count("refused").await, 1);
    let lists: Vec<_> = backend
        .seen(&["events"])
        .iter()
        .map(|told| {
            let of_ann = |event: &&Value| event["user"] == "ann";
            let events = told["events"].as_array().unwrap().iter().filter(of_ann);
            let name = |event: &Value| match event["destination"].as_str() {
                Some(to) => to.trim_start_matches("/topic/open.").to_owned(),
                None => event["type"].as_str().unwrap().to_owned(),
            };
            events.map(name).collect::<Vec<_>>().join(" ")
        })
        .filter(|list| !list.is_empty() && list != "connected")
        .collect();
    assert_eq!(lists, ["a bad b", "a", "bad", "b"]);
}

/// Has a backend fail at whatever has to do with one user, until it is told that it is well; with
/// what it has taken, each event by itself.
fn fails_at(
    backend: &Backend,
    user: &'static str,
) -> (Arc<AtomicBool>, impl Fn() -> Vec<Value> + use<>) {
    let (is_well, taken) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Value>>>::default());
    for kind in ALL.into_iter().chain(["events"]) {
        let (is_well, taken) = (Arc::clone(&is_well), Arc::clone(&taken));
        backend.on(kind, move |told| {
            let events = told["events"].as_array().cloned();
            let events = events.unwrap_or_else(|| vec![told.clone()]);
            if !is_well.load(Ordering::SeqCst) && events.iter().any(|event| event["user"] == user) {
                return (500, Value::Null);
            }
            taken.lock().unwrap().extend(events);
            (200, Value::Null)
        });
    }
    (is_well, move || taken.lock().unwrap().clone())
}

async fn what_is_never_taken_holds_up_its_own_session_only(more: &str) {
    let backend = Backend::start().await;
    let config = config(&backend).replace("breaker_pause", &format!("{more}breaker_pause"));
    let gateway = Gateway::with_config(&config).await;
    let (is_well, taken) = fails_at(&backend, "poison");
    let poison = subscribed(&gateway, "poison", "/topic/open.p").await;
    let mut others = Vec::new();
    for number in 0..40 {
        others.push(subscribed(&gateway, &format!("user{number}"), "/topic/open.a").await);
    }
    drop(others);
    eventually("all others are told of", async || {
        let stories = stories(&taken());
        stories.values().filter(|story| story.len() == STORY.len()).count() == 40
    })
    .await;
    drop(poison);
    let of_poison = |event: &Value| event["user"] == "poison";
    assert!(!taken().iter().any(of_poison));
    is_well.store(true, Ordering::SeqCst);
    eventually("it is told too", async || {
        stories(&taken()).get("poison").is_some_and(|story| story.len() == STORY.len())
    })
    .await;
    for (user, story) in stories(&taken()) {
        assert_eq!(story, STORY, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_never_taken_holds_up_its_own_session_only() {
    what_is_never_taken_holds_up_its_own_session_only("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_events_in_one_request_only_those_that_fail_and_what_is_behind_them_wait() {
    what_is_never_taken_holds_up_its_own_session_only("event_batch = 20\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_taken_outlives_the_node_that_had_it_and_still_holds_up_nobody_else() {
    let redis = RedisServer::start().unwrap();
    let backend = Backend::start().await;
    let config = with_redis(&config(&backend), &redis);
    let (is_well, taken) = fails_at(&backend, "poison");
    let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
    for node in [&a, &b] {
        eventually("it is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    let poison = RawClient::native(&a, "poison").await;
    let failed = backend.until(&["connected"], 1).await;
    // The id begins with the stream, of which there are 32.
    let stream_of = |event: &Value| {
        let id = event["id"].as_str().unwrap();
        id.rsplit_once('_').unwrap().0.to_owned()
    };
    let stream = stream_of(&failed[0]);
    let mut others = Vec::new();
    let neighbours = || taken().iter().filter(|event| stream_of(event) == stream).count();
    while neighbours() == 0 {
        assert!(others.len() < 400, "nobody of the same stream is told of");
        others.push(RawClient::native(&a, &format!("user{}", others.len())).await);
    }
    let all = others.len();
    a.signal("KILL").await;
    drop((poison, others));
    let is_over = |story: &Vec<String>| story.last().is_some_and(|last| last == "disconnected");
    eventually("the others' ends are told by the other node", async || {
        stories(&taken()).values().filter(|story| is_over(story)).count() == all
    })
    .await;
    is_well.store(true, Ordering::SeqCst);
    eventually("it is told too", async || stories(&taken()).get("poison").is_some_and(is_over))
        .await;
    for (user, story) in stories(&taken()) {
        assert_eq!(story, ["connected", "disconnected"], "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_events_wait_is_told_all_the_while_that_a_backend_is_away() {
    let redis = RedisServer::start().unwrap();
    let backend = Backend::start().await;
    let node = Gateway::with_config(&with_redis(&config(&backend), &redis)).await;
    eventually("it is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    backend.fail(true);
    let mut ann = RawClient::native(&node, "ann").await;
    backend.until(&["connected"], 1).await;
    // Its first event is under way from now on, and these come behind.
    let to = "/topic/open.a";
    for id in 0..5 {
        ann.send(&json!({ "type": "subscribe", "to": to, "id": id }).to_string()).await;
        ann.expect("\"ok\"").await;
        ann.send(&json!({ "type": "unsubscribe", "to": to, "id": id }).to_string()).await;
        ann.expect("\"ok\"").await;
    }
    let waiting = r#"fanlight_webhook_events_waiting{webhook="backend"}"#;
    eventually("they are counted", async || node.metric_of(waiting).await >= 10).await;
    backend.fail(false);
    eventually("none waits", async || node.metric_of(waiting).await == 0).await;
    eventually("all are told", async || {
        stories(&backend.seen(&ALL)).get("ann").is_some_and(|story| story.len() == 11)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_had_and_had_to_tell_is_told_by_another() {
    let redis = RedisServer::start().unwrap();
    let backend = Backend::start().await;
    let config = with_redis(&config(&backend), &redis);
    let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
    for node in [&a, &b] {
        eventually("it is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    // The first of the whole cluster occupies.
    let ann = subscribed(&a, "ann", "/topic/open.a").await;
    let bob = subscribed(&b, "bob", "/topic/open.a").await;
    let only = subscribed(&a, "cy", "/topic/open.only").await;
    backend.until(&["subscribed"], 3).await;
    let occupied = backend.until(&["occupied"], 2).await;
    assert_eq!(occupied.len(), 2, "{occupied:#?}");
    // What comes about while the backend is away waits, also when the node dies that had it.
    backend.fail(true);
    let dan = subscribed(&a, "dan", "/topic/open.a").await;
    a.signal("KILL").await;
    drop((ann, dan, only));
    eventually("some wait", async || {
        b.metric_of(r#"fanlight_webhook_breaker_open{webhook="backend"}"#).await == 1
    })
    .await;
    backend.fail(false);
    eventually("all is told", async || {
        let stories = stories(&backend.seen(&ALL));
        let is_over = |user| {
            stories
                .get(user)
                .is_some_and(|story: &Vec<String>| story.last().unwrap() == "disconnected")
        };
        ["ann", "cy", "dan"].into_iter().all(is_over) && !backend.seen(&["vacated"]).is_empty()
    })
    .await;
    let seen = backend.seen(&ALL);
    for (user, story) in stories(&seen) {
        // Nobody can tell of the end of a dead node's subscriptions, nor of one that it had no time
        // to write down.
        let expected: &[&[&str]] = match &*user {
            "bob" => &[&["connected", "subscribed"]],
            "dan" => {
                &[&["connected", "subscribed", "disconnected"], &["connected", "disconnected"]]
            }
            _ => &[&["connected", "subscribed", "disconnected"]],
        };
        assert!(expected.iter().any(|expected| story == *expected), "{user}: {story:?}, {seen:#?}");
    }
    let lost = seen.iter().rfind(|event| event["type"] == "disconnected").unwrap();
    assert_eq!(lost["reason"], "node_lost");
    let vacated = backend.seen(&["vacated"]);
    assert!(vacated.iter().all(|event| event["destination"] == "/topic/open.only"), "{vacated:#?}");
    drop(bob);
    eventually("the last one goes", async || {
        backend.seen(&["vacated"]).iter().any(|event| event["destination"] == "/topic/open.a")
    })
    .await;
}
