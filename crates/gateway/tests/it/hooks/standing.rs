//! What a backend has made of a session stands, whatever token its client sends later; and who was
//! let in under another name is revoked by either.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::{keyless, lets_in_ann, unix_s, with_api};
use crate::api::{self, KEY};
use crate::backend::Backend;
use crate::http::post;
use crate::support::{CONFIG, Gateway, RawClient, token};

const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "fanlight.v1.json");

/// Tokens of ours, these hooks of the backend, and the server API.
async fn hooked(backend: &Backend, hooks: &[&str]) -> Gateway {
    with_api(CONFIG, &format!("{}{}", backend.config(""), table(hooks))).await
}

fn table(hooks: &[&str]) -> String {
    let hooks = hooks.iter().map(|hook| format!("{hook} = \"backend\"\n"));
    format!("[hooks]\n{}", hooks.collect::<String>())
}

/// A client that has connected by this token, and what it was told.
async fn connected(gateway: &Gateway, token: &str) -> (RawClient, Value) {
    let mut client = RawClient::connect(gateway, "/ws", &[NATIVE]).await;
    client.send(&json!({ "type": "connect", "token": token }).to_string()).await;
    let connected = serde_json::from_str(&client.expect("\"connected\"").await).unwrap();
    (client, connected)
}

/// The answer to a request.
async fn asked(client: &mut RawClient, mut request: Value) -> Value {
    request["id"] = json!("asked");
    client.send(&request.to_string()).await;
    serde_json::from_str(&client.expect("\"id\":\"asked\"").await).unwrap()
}

async fn refreshed(client: &mut RawClient, token: &str) -> Value {
    asked(client, json!({ "type": "refresh", "token": token })).await
}

/// Whether a client may do what only admins may.
async fn is_admin(client: &mut RawClient) -> bool {
    let send = json!({ "type": "send", "to": "/user/zoe/queue/a", "data": 1 });
    asked(client, send).await["type"] == "ok"
}

/// A gateway with these hooks, an admin by her token whom the backend lets in without that role
/// and for some seconds, what she was told, and when her time is over.
async fn demoted(
    backend: &Backend,
    hooks: &[&str],
    admin: &str,
) -> (Gateway, RawClient, Value, u64) {
    let until = Arc::new(OnceLock::new());
    let end = Arc::clone(&until);
    backend.on("connect", move |_| {
        let until = end.get_or_init(|| unix_s() + 5);
        (200, json!({ "allow": true, "roles": [], "expires_at": until }))
    });
    let gateway = hooked(backend, hooks).await;
    let (mut ann, told) = connected(&gateway, admin).await;
    let until = *until.get().unwrap();
    assert!(!is_admin(&mut ann).await);
    assert_eq!(refreshed(&mut ann, admin).await["type"], "ok", "{hooks:?}");
    assert!(!is_admin(&mut ann).await, "{hooks:?}");
    (gateway, ann, told, until)
}

async fn ends_in_time(mut client: RawClient, until: u64) {
    client.expect("token_expired").await;
    assert!((until..until + 60).contains(&unix_s()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_asked_about_as_at_connect_where_no_other_hook_decides() {
    let (backend, admin) = (Backend::start().await, token("ann", &["admin"]).await);
    let (_gateway, mut ann, told, until) = demoted(&backend, &["connect"], &admin).await;
    let again = backend.seen(&["connect"]).remove(1);
    assert_eq!(again["session"], told["session"]);
    assert_eq!(again["claims"]["roles"], json!(["admin"]));
    let rest = [&again["user"], &again["transport"], &again["address"], &again["headers"]];
    assert_eq!(rest, [&json!("ann"), &json!("websocket"), &json!(null), &json!({})]);
    // A refusal changes nothing, and another user is refused.
    for (answer, words) in [
        (json!({ "allow": false, "reason": "banned" }), "banned"),
        (json!({ "allow": true, "user": "bob" }), "another user's"),
    ] {
        backend.on("connect", move |_| (200, answer.clone()));
        let refused = refreshed(&mut ann, &admin).await;
        assert!(refused["message"].as_str().unwrap().contains(words), "{refused}");
    }
    backend.on("connect", move |_| {
        (200, json!({ "allow": true, "roles": ["admin"], "expires_at": until }))
    });
    assert_eq!(refreshed(&mut ann, &admin).await["type"], "ok");
    assert!(is_admin(&mut ann).await);
    ends_in_time(ann, until).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_says_beyond_the_backends_word_comes_by_no_refresh() {
    let (backend, admin) = (Backend::start().await, token("ann", &["admin"]).await);
    let (_gateway, ann, _, until) = demoted(&backend, &["connect", "refresh"], &admin).await;
    assert_eq!(backend.seen(&["connect"]).len(), 1);
    ends_in_time(ann, until).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refresh_leaves_out_stays_and_a_renamed_user_is_revoked_by_either_name() {
    let backend = Backend::start().await;
    backend.on("connect", |event| {
        let user = format!("internal-{}", event["user"].as_str().unwrap());
        (200, json!({ "allow": true, "user": user, "roles": ["admin"] }))
    });
    let gateway = hooked(&backend, &["connect", "refresh"]).await;
    let [ann_token, bob_token] = [token("ann", &[]).await, token("bob", &[]).await];
    let (mut ann, told) = connected(&gateway, &ann_token).await;
    assert_eq!(told["user"], "internal-ann");
    assert_eq!(refreshed(&mut ann, &ann_token).await["type"], "ok");
    assert!(is_admin(&mut ann).await);
    // Another's token is another's, unless the backend says that it is this user's.
    let refused = refreshed(&mut ann, &bob_token).await;
    assert_eq!(refused["code"], "unauthorized", "{refused}");
    backend.on("refresh", |event| (200, json!({ "allow": true, "user": event["user"] })));
    assert_eq!(refreshed(&mut ann, &bob_token).await["type"], "ok");
    backend.on("refresh", |_| (200, json!({ "allow": true, "user": "internal-bob" })));
    assert_eq!(refreshed(&mut ann, &ann_token).await["code"], "unauthorized");
    backend
        .on("refresh", |event| (200, json!({ "allow": true, "user": event["user"], "roles": [] })));
    assert_eq!(refreshed(&mut ann, &ann_token).await["type"], "ok");
    assert!(!is_admin(&mut ann).await);

    let (mut bob, _) = connected(&gateway, &bob_token).await;
    let orders = api::Backend(&gateway, KEY);
    for (client, user) in [(&mut ann, "ann"), (&mut bob, "internal-bob")] {
        let order = json!({ "user": user, "ttl_s": 60 });
        assert_eq!(orders.post("/revoke", &order).await.status, 200);
        client.expect("\"revoked\"").await;
        assert_eq!(client.close_code().await, 4513);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_only_the_backend_can_check_is_revoked_with_its_session_and_a_passcode_is_not()
{
    let backend = Backend::start().await;
    lets_in_ann(&backend);
    let gateway = with_api(&keyless(&backend, ""), &table(&["connect"])).await;
    let orders = api::Backend(&gateway, KEY);
    let revoke = async |session: &Value| {
        let order = json!({ "session": session, "ttl_s": 60 });
        assert_eq!(orders.post("/revoke", &order).await.status, 200);
    };
    let (mut one, told) = connected(&gateway, "t-ann").await;
    let (mut other, _) = connected(&gateway, "t-ann").await;
    let (mut bob, _) = connected(&gateway, "t-bob").await;
    revoke(&told["session"]).await;
    for client in [&mut one, &mut other] {
        client.expect("\"revoked\"").await;
        assert_eq!(client.close_code().await, 4513);
    }
    let mut again = RawClient::connect(&gateway, "/ws", &[NATIVE]).await;
    again.send(r#"{"type":"connect","token":"t-ann"}"#).await;
    again.expect("\"revoked\"").await;
    let body = r#"{"to":"/topic/open.a","data":1}"#;
    for (token, status) in [("Bearer t-ann", 401), ("Bearer t-bob", 200)] {
        let answer = post(gateway.public, "/publish", &[("Authorization", token)], body).await;
        assert_eq!(answer.status, status, "{token}: {answer:?}");
    }
    // Nor is it taken for a refresh.
    assert_eq!(refreshed(&mut bob, "t-ann").await["type"], "error");

    let stomp = [("Sec-WebSocket-Protocol", "v12.stomp")];
    let connect = "CONNECT\naccept-version:1.2\nheart-beat:0,0\nlogin:cy\npasscode:s3cret\n\n\0";
    let mut cy = RawClient::connect(&gateway, "/ws", &stomp).await;
    cy.send(connect).await;
    let told = cy.expect("CONNECTED").await;
    let session = told.lines().find_map(|line| line.strip_prefix("session:")).unwrap();
    revoke(&json!(session)).await;
    cy.expect("code:revoked").await;
    let mut cy = RawClient::connect(&gateway, "/ws", &stomp).await;
    cy.send(connect).await;
    cy.expect("CONNECTED").await;
}
