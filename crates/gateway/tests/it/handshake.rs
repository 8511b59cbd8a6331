//! The upgrade: what is refused, with which status, and where a token may come from.

use crate::support::{Gateway, RawClient, token};

async fn refused(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let response = match RawClient::try_connect(gateway, path, headers).await {
        Ok(client) => panic!("the handshake was accepted: {}", client.response_head),
        Err(response) => response,
    };
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    (status, response)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_handshake_is_refused_with_its_own_status_and_a_remedy() {
    let gateway = Gateway::start("").await;
    for (headers, status, part) in [
        (&[("Upgrade", "h2c")][..], 426, "not_websocket"),
        (&[("Sec-WebSocket-Version", "8")], 426, "sec-websocket-version: 13"),
        (&[("Sec-WebSocket-Key", "short")], 400, "websocket_key"),
        (&[("Sec-WebSocket-Protocol", "mqtt")], 400, "v12.stomp"),
        (&[("Authorization", "Bearer nonsense")], 401, "www-authenticate: bearer"),
        (&[("Origin", "https://evil.example.com")], 403, "foreign_origin"),
    ] {
        let (actual, response) = refused(&gateway, "/ws", headers).await;
        assert_eq!(actual, status, "{headers:?}: {response}");
        assert!(response.to_lowercase().contains(part), "{headers:?}: {response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_come_by_header_subprotocol_cookie_or_query() {
    let more = "[auth]\ncookie = \"session\"\n";
    let config = crate::support::CONFIG.replace("[[auth.keys]]", &format!("{more}[[auth.keys]]"));
    let gateway = Gateway::with_config(&config).await;
    let token = token("ann", &[]).await;
    let bearer = format!("Bearer {token}");
    let cookie = format!("theme=dark; session={token}");
    let protocols = format!("fanlight.v1.json, bearer.{token}");
    let same_origin = format!("http://{}", gateway.public);
    let with_query = format!("/ws?access_token={token}");
    for (path, headers) in [
        ("/ws", vec![("Authorization", &*bearer)]),
        ("/ws", vec![("Sec-WebSocket-Protocol", &*protocols)]),
        ("/ws", vec![("Cookie", &*cookie), ("Origin", &*same_origin)]),
        (&*with_query, vec![]),
    ] {
        let mut client = RawClient::connect(&gateway, path, &headers).await;
        client.send(r#"{"type":"connect"}"#).await;
        let connected = client.expect("\"connected\"").await;
        assert!(connected.contains("\"ann\""), "{headers:?}: {connected}");
        assert!(!client.response_head.contains(&token), "the answer repeats the token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_needs_a_good_origin_even_where_none_is_sent() {
    let config = crate::support::CONFIG
        .replace("[[auth.keys]]", "[auth]\ncookie = \"session\"\n[[auth.keys]]");
    let gateway = Gateway::with_config(&config).await;
    let cookie = format!("session={}", token("ann", &[]).await);
    let (status, _) = refused(&gateway, "/ws", &[("Cookie", &cookie)]).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_offered_subprotocol_that_is_spoken_here_wins() {
    let gateway = Gateway::start("").await;
    let offered = [("Sec-WebSocket-Protocol", "mqtt, v11.stomp, fanlight.v1.json")];
    let client = RawClient::connect(&gateway, "/ws", &offered).await;
    assert!(client.response_head.to_lowercase().contains("sec-websocket-protocol: v11.stomp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_subprotocol_the_first_message_decides() {
    let gateway = Gateway::start("").await;
    let bearer = format!("Bearer {}", token("ann", &[]).await);
    let headers = [("Authorization", &*bearer)];
    let mut native = RawClient::connect(&gateway, "/ws", &headers).await;
    native.send(r#"{"type":"connect"}"#).await;
    native.expect("\"connected\"").await;
    let mut stomp = RawClient::connect(&gateway, "/ws", &headers).await;
    stomp.send("CONNECT\naccept-version:1.1\n\n\0").await;
    stomp.expect("CONNECTED\nversion:1.1").await;
    let mut neither = RawClient::connect(&gateway, "/ws", &headers).await;
    neither.send("hello").await;
    assert_eq!(neither.close_code().await, 1003);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_only_so_many_connections() {
    let config = crate::support::CONFIG.replace("connections_per_ip = 0", "connections_per_ip = 2");
    let gateway = Gateway::with_config(&config).await;
    let first = RawClient::connect(&gateway, "/ws", &[]).await;
    let _second = RawClient::connect(&gateway, "/ws", &[]).await;
    let (status, response) = refused(&gateway, "/ws", &[]).await;
    assert_eq!(status, 429, "{response}");
    drop(first);
    crate::support::eventually("a place is free again", async || {
        RawClient::try_connect(&gateway, "/ws", &[]).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_forwarded_address_is_what_counts() {
    let config = crate::support::CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 1")
        .replace("[listen]", "[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let gateway = Gateway::with_config(&config).await;
    let from = |address: &'static str| [("X-Forwarded-For", address)];
    let _one = RawClient::connect(&gateway, "/ws", &from("198.51.100.1")).await;
    let _other = RawClient::connect(&gateway, "/ws", &from("198.51.100.2")).await;
    let (status, _) = refused(&gateway, "/ws", &from("198.51.100.1")).await;
    assert_eq!(status, 429);
}
