//! The upgrade: what is refused, with which status, and where a token may come from.

use fanlight_proto::ws::Opcode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Gateway, PATIENCE, RawClient, token};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_refused_in_plain_words() {
    let gateway = Gateway::start("").await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status, part) in [
        (format!("GET /ws HTTP/1.1\r\n{upgrade}\r\n"), 400, "Host"),
        (format!("GET /ws HTTP/1.1\r\nHost: a\r\nHost: b\r\n{upgrade}\r\n"), 400, "Host"),
        (
            format!("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{upgrade}\r\nab"),
            400,
            "body",
        ),
        ("GET /ws/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404, "connect to /ws"),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404, "not_found"),
        (format!("POST /ws HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"), 426, "not_websocket"),
        ("HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n".into(), 200, ""),
        ("POST /livez HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405, "method_not_allowed"),
        ("GET /poll?destination=/topic/open.a HTTP/1.1\r\n\r\n".into(), 400, "\"host\""),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, "\"host\""),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
            431,
            "head_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64)),
            431,
            "head_too_large",
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000)), 431, ""),
        ("nonsense\r\n\r\n".into(), 400, ""),
    ] {
        let request = request.replacen("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n", 1);
        let response = gateway.raw_http(&request).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {response}");
        assert!(response.contains(part), "{request}: {response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_only_speak_http_are_bounded_and_end() {
    let config = crate::support::CONFIG.replace(
        "connections_per_ip = 0",
        "connections_per_ip = 0\nhttp_connections = 2\nrequest_head_time = \"1s\"",
    );
    let gateway = Gateway::with_config(&config).await;
    let mut silent = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
    let mut slow = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHo").await.unwrap();
    let mut third = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
    // It may be accepted first: whichever is one too many is dropped, the others time out.
    for socket in [&mut silent, &mut slow, &mut third] {
        let mut all = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut all)).await;
        assert!(ended.is_ok(), "a connection that sends no request stayed");
    }
    assert_eq!(gateway.metric("fanlight_http_connections_refused_total").await, 1);
    // A connection that is kept alive and idle ends too.
    let mut idle = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut all = String::new();
    let ended = tokio::time::timeout(PATIENCE, idle.read_to_string(&mut all)).await;
    assert!(ended.is_ok() && all.starts_with("HTTP/1.1 200"), "{all}");
    // Upgraded ones take no place.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(RawClient::connect(&gateway, "/ws", &[]).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_comes_back_however_a_connection_ends() {
    let config = crate::support::CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nconnections = 1");
    let gateway = Gateway::with_config(&config).await;
    for ending in ["close", "fin", "malformed", "drop", "refused"] {
        let mut client = None;
        for _ in 0..500 {
            client = RawClient::try_connect(&gateway, "/ws", &[]).await.ok();
            if client.is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let mut client = client.unwrap_or_else(|| panic!("no place before {ending:?}"));
        match ending {
            "close" => client.send_frame(Opcode::Close, &[]).await,
            "fin" => client.end_sending().await,
            "malformed" => client.send_raw(&[0xFF; 20]).await,
            "refused" => {
                let full = refused(&gateway, "/ws", &[]).await;
                assert!(full.0 == 503 && full.1.contains("node_full"), "{full:?}");
            }
            _ => {}
        }
        if ending == "fin" {
            assert_eq!(client.next().await, crate::support::Got::End);
        }
    }
    crate::support::eventually("the last place is free", async || {
        RawClient::try_connect(&gateway, "/ws", &[]).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_token_is_not_made_for_a_name_that_a_foreign_page_may_own() {
    let args = [
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
    ];
    let gateway = Gateway::with_args(&args, &[]).await;
    for (host, status) in [
        ("localhost:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example.com:8080", 403),
        ("localhost.evil.example.com", 403),
    ] {
        let request = format!(
            "GET /dev/token?user=ann HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let response = gateway.raw_http(&request).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {response}");
    }
}
