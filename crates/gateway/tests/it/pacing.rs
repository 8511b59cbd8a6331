//! Handshakes at a rate: who is one too many comes back when it was told to, by every way in.

use std::time::{Duration, Instant};

use fanlight_testkit::RedisServer;
use futures_util::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{Stream, ask, get, headers, post};
use crate::http2::Http2;
use crate::returning::{bearer, config, event, named, nodes_with, publish};
use crate::support::{CONFIG, Gateway, Got, PATIENCE, RawClient, eventually};

const EVENTS: &str = "/events?destination=/topic/open.a";

/// `config`, with these options in its section `limits`.
fn limited(config: &str, limits: &str) -> String {
    config.replace("sessions_per_user = 0\n", &format!("sessions_per_user = 0\n{limits}\n"))
}

fn retry_after(response: &str) -> Duration {
    let lines = response.lines().map(str::to_lowercase);
    let mut seconds = lines.filter_map(|line| line.strip_prefix("retry-after: ")?.parse().ok());
    Duration::from_secs(seconds.next().unwrap_or_else(|| panic!("when? {response}")))
}

/// Connects as soon as it may; how often it was refused.
async fn get_in(gateway: &Gateway) -> (RawClient, u64) {
    let mut refused = 0;
    loop {
        match RawClient::try_connect(gateway, "/ws", &[]).await {
            Ok(client) => return (client, refused),
            Err(response) => {
                assert!(response.starts_with("HTTP/1.1 503"), "{response}");
                assert!(response.contains("\"code\":\"paced\""), "{response}");
                refused += 1;
                tokio::time::sleep(retry_after(&response)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_let_in_at_the_rate_and_everybody_gets_in_who_comes_back_when_told() {
    let limits = "handshakes_per_second = 20\nhandshakes_burst = 40";
    let gateway = Gateway::with_config(&limited(CONFIG, limits)).await;
    let begun = Instant::now();
    let clients = join_all((0..100).map(|_| get_in(&gateway))).await;
    let took = begun.elapsed();
    // The burst is free; the other sixty need three seconds, whatever else goes on here.
    assert!(took >= Duration::from_secs(3), "{took:?}");
    let refused: u64 = clients.iter().map(|(_, refused)| refused).sum();
    // Each of them once, if it comes in time. What a client that is late leaves unused beyond the
    // burst makes another one come again.
    assert!((1..=180).contains(&refused), "{refused}");
    let (_, metrics) = gateway.admin_get("/metrics").await;
    for (result, count) in [("accepted", 100), ("paced", refused)] {
        let line = format!("fanlight_handshakes_total{{result=\"{result}\",http=\"1\"}} {count}");
        assert!(metrics.lines().any(|own| own == line), "{line} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_comes_back_when_its_stream_says_and_misses_nothing() {
    let redis = RedisServer::start().unwrap();
    let limits = "handshakes_per_second = 1\nhandshakes_burst = 2";
    let [gateway] = nodes_with(&limited(&config(&redis, ""), limits)).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let ann = bearer("ann").await;
    let (mut last_id, mut sent) = (String::new(), 0);
    let (mut heard, mut told_to_wait) = (Vec::new(), 0);
    // As a browser's: it knows no status but 200, and returns when the last `retry` says.
    while told_to_wait == 0 || heard.len() < 10 {
        let lines = [
            ("Authorization", &*ann),
            ("Accept", "text/event-stream"),
            ("Last-Event-ID", &*last_id),
        ];
        let mut stream = Stream::open(gateway.public, "GET", EVENTS, headers(&lines)).await;
        let content_type = stream.header("content-type");
        assert_eq!((stream.status, content_type), (200, Some("text/event-stream")));
        let first = event(&mut stream).await.unwrap();
        if first.data.is_empty() {
            assert_eq!(event(&mut stream).await, None, "an empty stream ends");
            let wait_ms: u64 = first.retry.unwrap().parse().unwrap();
            assert!((1..5000).contains(&wait_ms), "{wait_ms}");
            told_to_wait += 1;
            publish(&mut publisher, "/topic/open.a", sent..sent + 1).await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            continue;
        }
        assert_eq!(first.name, "connected");
        if last_id.is_empty() {
            named(&mut stream, "subscribed").await;
        }
        publish(&mut publisher, "/topic/open.a", sent..sent + 2).await;
        sent += 2;
        while (heard.len() as u64) < sent {
            let next = event(&mut stream).await.unwrap();
            last_id = next.id.unwrap_or(last_id);
            if next.name == "message" {
                let data: serde_json::Value = serde_json::from_str(&next.data).unwrap();
                heard.push(data["data"].as_u64().unwrap());
            }
        }
    }
    assert_eq!(heard, (0..heard.len() as u64).collect::<Vec<_>>());
    // Whoever is no EventSource gets a status.
    eventually("a turn is refused", async || {
        let lines = [("Authorization", &*ann)];
        let stream = Stream::open(gateway.public, "GET", EVENTS, headers(&lines)).await;
        stream.status == 503 && stream.whole().await.problem().1 == "paced"
    })
    .await;
}

/// Takes every turn there is.
async fn crowd(gateway: &Gateway) {
    loop {
        let _ = RawClient::try_connect(gateway, "/ws", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_says_so_in_its_own_words_and_sessions_that_are_there_go_on() {
    let config = limited(CONFIG, "handshakes_per_second = 1\nhandshakes_burst = 3")
        .replace("[drain]", "[sockjs]\ndisconnect_delay = \"1m\"\n[drain]")
        .replace("[listen]\n", "[listen]\nstomp = \"127.0.0.1:0\"\n");
    let gateway = Gateway::with_config(&config).await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let poll = "/poll?destination=/topic/open.a&wait=0";
    let mut cursor = get(gateway.public, poll, &lines).await.json()["cursor"].clone();
    let session = "/sockjs/000/there";
    let opened = ask(gateway.public, "POST", &format!("{session}/xhr"), headers(&lines)).await;
    assert_eq!(opened.body, "o\n");
    let send = format!("{session}/xhr_send");
    let frame = r#"["{\"type\":\"connect\"}"]"#;
    assert_eq!(post(gateway.public, &send, &lines, frame).await.status, 204);

    let check = async {
        every_way_in_is_paced(&gateway, &ann).await;
        for n in 0..20 {
            let target = format!("{poll}&cursor={}", cursor.as_str().unwrap());
            let page = get(gateway.public, &target, &lines).await;
            assert_eq!(page.status, 200, "{page:?}");
            cursor = page.json()["cursor"].clone();
            let frame = format!(r#"["{{\"type\":\"ping\",\"id\":{n}}}"]"#);
            assert_eq!(post(gateway.public, &send, &lines, &frame).await.status, 204);
        }
        let frame = ask(gateway.public, "POST", &format!("{session}/xhr"), headers(&lines)).await;
        assert!(frame.body.starts_with("a["), "{frame:?}");
    };
    tokio::select! {
        _ = join_all((0..4).map(|_| crowd(&gateway))) => unreachable!("it never ends"),
        () = check => {}
    }
}

async fn every_way_in_is_paced(gateway: &Gateway, ann: &str) {
    let lines = [("Authorization", ann)];
    let poll = "/poll?destination=/topic/open.a&wait=0";
    eventually("a new poll is refused", async || {
        let answer = get(gateway.public, poll, &lines).await;
        answer.status == 503
            && answer.problem().1 == "paced"
            && answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok())
    })
    .await;
    eventually("SockJS' info is refused", async || {
        let info = get(gateway.public, "/sockjs/info", &[]).await;
        info.status == 503 && info.problem().1 == "paced"
    })
    .await;
    for transport in ["xhr", "xhr_streaming"] {
        eventually("a SockJS session is closed before it opens", async || {
            let target = format!("/sockjs/000/{}/{transport}", rand::random::<u32>());
            let answer = Stream::open(gateway.public, "POST", &target, headers(&lines)).await;
            let mut answer = answer;
            assert_eq!(answer.status, 200);
            if transport == "xhr_streaming" {
                answer.until("\n").await.unwrap();
            }
            answer.until("\n").await.unwrap() == "c[1013,\"paced\"]"
        })
        .await;
    }
    eventually("a SockJS WebSocket is closed before it opens", async || {
        let target = format!("/sockjs/000/{}/websocket", rand::random::<u32>());
        let mut socket = RawClient::connect(gateway, &target, &lines).await;
        match socket.next().await {
            Got::Text(text) if text == "c[1013,\"paced\"]" => socket.close_code().await == 1013,
            other => {
                assert_eq!(other, Got::Text("o".into()));
                false
            }
        }
    })
    .await;
    eventually("a connection of STOMP over TCP is refused", async || {
        let mut socket = TcpStream::connect(gateway.stomp.unwrap()).await.unwrap();
        let mut said = String::new();
        // One that is let in waits for its CONNECT.
        let read = timeout(Duration::from_secs(1), socket.read_to_string(&mut said)).await;
        read.is_ok()
            && said.starts_with("ERROR\n")
            && said.contains("\ncode:paced\n")
            && said.contains("\nretry-after:")
    })
    .await;
    let socket = TcpStream::connect(gateway.public).await.unwrap();
    let authority = gateway.public.to_string();
    let http2 = timeout(PATIENCE, Http2::over(socket, "http", &authority)).await.unwrap();
    eventually("a WebSocket over HTTP/2 is refused", async || {
        let mut http2 = http2.clone();
        let refused = http2.websocket("/ws", &[]).await;
        refused.is_err_and(|response| response.status == 503 && response.problem().1 == "paced")
    })
    .await;
}
