//! RFC 6455 and RFC 7692 on a real socket: closes, pings, limits, compression, the echo.

use fanlight_proto::ws::Opcode;

use crate::support::{Gateway, Got, RawClient};

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_frame_closes_with_the_code_of_its_fault() {
    let gateway = Gateway::start("").await;
    for (frame, code) in [
        // Unmasked.
        (&[0x81, 0x01, b'x'][..], 1002),
        // A reserved bit.
        (&[0xC1, 0x80, 0, 0, 0, 0], 1002),
        // A fragmented ping.
        (&[0x09, 0x80, 0, 0, 0, 0], 1002),
        // Not UTF-8.
        (&[0x81, 0x81, 0, 0, 0, 0, 0xFF], 1007),
        // 1 MiB announced.
        (&[0x81, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0], 1009),
    ] {
        let mut client = RawClient::native(&gateway, "ann").await;
        client.send_raw(frame).await;
        assert_eq!(client.close_code().await, code, "{frame:x?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_connect_only_a_small_message_is_taken() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::connect(&gateway, "/ws", &[]).await;
    client.send(&format!(r#"{{"type":"connect","token":"{}"}}"#, "x".repeat(10_000))).await;
    assert_eq!(client.close_code().await, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_and_a_close_is_echoed() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    client.send_frame(Opcode::Ping, b"are you there").await;
    assert_eq!(client.next().await, Got::Pong(b"are you there".to_vec()));
    client.send_frame(Opcode::Close, &[0x03, 0xE9]).await;
    assert_eq!(client.next().await, Got::Close(1001));
    assert_eq!(client.next().await, Got::End);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_split_over_many_writes_and_frames_arrive_whole() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let text = br#"{"type":"ping","id":7}"#;
    // Three frames of one message, a byte at a time.
    let mut bytes = Vec::new();
    for (first, part) in [(0x01, &text[..5]), (0x00, &text[5..9]), (0x80, &text[9..])] {
        bytes.extend([first, 0x80 | part.len() as u8, 0, 0, 0, 0]);
        bytes.extend(part);
    }
    for byte in bytes {
        client.send_raw(&[byte]).await;
    }
    client.expect(r#""id":7"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_publication_unfolds_for_native_and_stomp_subscribers() {
    let config = crate::support::CONFIG
        .replace("[[auth.keys]]", "[websocket]\ncompression = true\n[[auth.keys]]");
    let gateway = Gateway::with_config(&config).await;
    let bearer = format!("Bearer {}", crate::support::token("ann", &[]).await);
    let body = "a word that repeats, ".repeat(400);
    let mut clients = Vec::new();
    for (protocol, connect, subscribe) in [
        (
            "fanlight.v1.json",
            r#"{"type":"connect"}"#,
            r#"{"type":"subscribe","to":"/topic/open.z","id":1}"#,
        ),
        (
            "v12.stomp",
            "CONNECT\naccept-version:1.2\n\n\0",
            "SUBSCRIBE\nid:first\nreceipt:1\ndestination:/topic/open.z\n\n\0",
        ),
        (
            "v12.stomp",
            "CONNECT\naccept-version:1.2\n\n\0",
            "SUBSCRIBE\nid:other\nreceipt:1\ndestination:/topic/open.z\n\n\0",
        ),
    ] {
        let headers = [
            ("Authorization", &*bearer),
            ("Sec-WebSocket-Protocol", protocol),
            ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ];
        let mut client = RawClient::connect(&gateway, "/ws", &headers).await;
        assert!(client.response_head.contains("server_no_context_takeover"));
        client.send(connect).await;
        client.expect("").await;
        client.send(subscribe).await;
        client.expect("").await;
        clients.push(client);
    }
    let send = format!(r#"{{"type":"send","to":"/topic/open.z","data":"{body}"}}"#);
    clients[0].send(&send).await;
    for client in &mut clients {
        let text = client.expect(&body).await;
        assert!(text.contains("/topic/open.z"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_echo_returns_messages_of_every_size() {
    let args = [
        "serve",
        "--dev",
        "--conformance",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
    ];
    let gateway = Gateway::with_args(&args, &[]).await;
    let mut client = RawClient::connect(&gateway, "/conformance/echo", &[]).await;
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 4 << 20] {
        let payload = vec![7; bytes];
        client.send_frame(Opcode::Binary, &payload).await;
        assert_eq!(client.next().await, Got::Binary(payload), "{bytes} bytes");
    }
    client.send("grüße").await;
    assert_eq!(client.next().await, Got::Text("grüße".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_message_is_taken_and_one_that_unfolds_to_too_much_is_1009() {
    let config = crate::support::CONFIG
        .replace("[[auth.keys]]", "[websocket]\ncompression = true\n[[auth.keys]]");
    let gateway = Gateway::with_config(&config).await;
    let bearer = format!("Bearer {}", crate::support::token("ann", &[]).await);
    let headers = [
        ("Authorization", &*bearer),
        ("Sec-WebSocket-Protocol", "fanlight.v1.json"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
    ];
    let mut client = RawClient::connect(&gateway, "/ws", &headers).await.begun_native().await;
    let long = format!(r#"{{"type":"ping","id":"{}"}}"#, "y".repeat(60));
    client.send_compressed(&long).await;
    client.expect("yyy").await;
    // A kilobyte or so that unfolds to a mebibyte.
    client.send_compressed(&" ".repeat(1 << 20)).await;
    assert_eq!(client.close_code().await, 1009);
    // Nobody agreed to compression here.
    let mut plain = RawClient::native(&gateway, "ann").await;
    plain.send_compressed(&long).await;
    assert_eq!(plain.close_code().await, 1002);
}
