//! Handshakes of one address, or of one user, at a rate: who comes too often is told when to come
//! back, by every way in, and others are let in meanwhile.

use http::StatusCode;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{Stream, get, headers};
use crate::returning::{bearer, event};
use crate::support::{CONFIG, Gateway, Got, PATIENCE, RawClient, token};

const TOO_MANY: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "fanlight.v1.json");

/// [`CONFIG`] with a rate so low that what is used up stays so.
fn limited(what: &str, burst: u32) -> String {
    let unlimited = format!("handshakes_per_second_per_{what} = 0\n");
    let rate =
        format!("handshakes_per_second_per_{what} = 1\nhandshakes_burst_per_{what} = {burst}\n");
    assert!(CONFIG.contains(&unlimited));
    CONFIG.replace(&unlimited, &rate)
}

/// Whether a WebSocket was let in; a refusal must be this one.
async fn is_let_in(gateway: &Gateway, lines: &[(&str, &str)], code: &str) -> bool {
    let Err(refused) = RawClient::try_connect(gateway, "/ws", lines).await else { return true };
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains(&format!("\"code\":\"{code}\"")), "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: "), "{refused}");
    false
}

/// Comes until it is refused; a rate of one a second lets in the burst, and who is slow some more.
async fn use_up(gateway: &Gateway, lines: &[(&str, &str)], code: &str, burst: u32) {
    let mut let_in = 0;
    while is_let_in(gateway, lines, code).await {
        let_in += 1;
        assert!(let_in < 200, "nobody is ever refused");
    }
    assert!(let_in >= burst, "{let_in}");
}

/// Tries until there is a refusal: each try that is let in takes a turn, of which there is one a
/// second.
async fn until_refused<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(refusal) = attempt().await {
            return refusal;
        }
    }
    panic!("nobody is ever refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_connects_too_often_is_told_when_to_come_back_by_every_way_in() {
    let config =
        limited("ip", 40).replace("[broker]", "trusted_proxies = [\"127.0.0.1/32\"]\n[broker]");
    let gateway = Gateway::with_config(&config).await;
    let ann = bearer("ann").await;
    let from = |address| [("X-Forwarded-For", address), ("Authorization", &*ann)];
    // Of a /64 each is the same customer; another one's is another, and the proxy is nobody's.
    use_up(&gateway, &from("2001:db8::1"), "address_rate", 40).await;
    assert!(is_let_in(&gateway, &from("2001:db8:0:1::1"), "address_rate").await);
    for _ in 0..60 {
        assert!(is_let_in(&gateway, &[("Authorization", &*ann)], "address_rate").await);
    }

    let lines = from("2001:db8::3");
    let poll = "/poll?destination=/topic/open.a&wait=0";
    let refused = until_refused(async || {
        let answer = get(gateway.public, poll, &lines).await;
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.await;
    assert_eq!(refused.problem(), (TOO_MANY, "address_rate".into()));
    assert!(refused.header("retry-after").is_some());

    let mut source = lines.to_vec();
    source.push(("Accept", "text/event-stream"));
    let events = "/events?destination=/topic/open.a";
    until_refused(async || {
        let mut stream = Stream::open(gateway.public, "GET", events, headers(&source)).await;
        assert_eq!(stream.status, 200, "an EventSource knows no other status");
        // One that is let in is told so first.
        event(&mut stream).await.unwrap().data.is_empty().then_some(())
    })
    .await;

    let info = until_refused(async || {
        // It takes no turn itself.
        use_up(&gateway, &lines, "address_rate", 0).await;
        let info = get(gateway.public, "/sockjs/info", &lines).await;
        (info.status != 200).then_some(info)
    });
    let info = info.await;
    assert!(info.status == 503 && info.header("retry-after").is_some(), "{info:?}");
    let refused = "c[1013,\"address_rate\"]";
    until_refused(async || {
        let session = format!("/sockjs/000/{}/xhr", rand::random::<u32>());
        let mut answer = Stream::open(gateway.public, "POST", &session, headers(&lines)).await;
        let said = answer.until("\n").await.unwrap();
        assert!(said == "o" || said == refused, "{said}");
        (said == refused).then_some(())
    })
    .await;
    until_refused(async || {
        let session = format!("/sockjs/000/{}/websocket", rand::random::<u32>());
        let mut socket = RawClient::connect(&gateway, &session, &lines).await;
        match socket.next().await {
            Got::Text(said) => (said == refused).then_some(()),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let series = "fanlight_handshakes_total{result=\"address_rate\",http=\"1\"}";
    assert!(gateway.metric_of(series).await >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_stomp_over_tcp_counts_for_its_address_unless_it_is_a_services() {
    let account = "[[auth.accounts]]\nlogin = \"shop\"\npasscode = \"a passcode of the account, long enough\"\n";
    let config = limited("ip", 5).replace("[listen]\n", "[listen]\nstomp = \"127.0.0.1:0\"\n");
    let gateway = Gateway::with_config(&format!("{config}\n{account}")).await;
    let stomp = gateway.stomp.unwrap();
    let connect = "CONNECT\naccept-version:1.2\nlogin:shop\n\
                   passcode:a passcode of the account, long enough\n\n\0";
    // A service comes for each of its own clients.
    for _ in 0..30 {
        let mut socket = TcpStream::connect(stomp).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, connect.as_bytes()).await.unwrap();
        let mut said = [0; 10];
        timeout(PATIENCE, socket.read_exact(&mut said)).await.unwrap().unwrap();
        assert_eq!(&said, b"CONNECTED\n");
    }
    // Others don't say who they are, and fewer of them may come.
    let mut waiting = Vec::new();
    let refused = loop {
        let mut socket = TcpStream::connect(stomp).await.unwrap();
        let mut said = String::new();
        let read = socket.read_to_string(&mut said);
        if timeout(std::time::Duration::from_millis(100), read).await.is_ok() {
            break said;
        }
        waiting.push(socket);
        assert!(waiting.len() < 100, "nobody is ever refused");
    };
    assert!(
        refused.starts_with("ERROR\n") && refused.contains("\ncode:address_rate\n"),
        "{refused}"
    );
    assert!(refused.contains("\nretry-after:"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_connects_too_often_is_told_so_by_the_handshake_or_by_the_answer_to_connect() {
    let gateway = Gateway::with_config(&limited("user", 40)).await;
    let (ann, authorization) = (token("ann", &[]).await, bearer("ann").await);
    let told = [("Authorization", &*authorization), NATIVE];
    let begin = format!(r#"{{"type":"connect","token":"{ann}"}}"#);
    // Who says in both places who it is counts once.
    for _ in 0..20 {
        let mut client = RawClient::connect(&gateway, "/ws", &told).await;
        client.send(&begin).await;
        client.expect("\"connected\"").await;
    }
    use_up(&gateway, &told, "user_rate", 20).await;
    RawClient::native(&gateway, "bob").await;

    let (refused, code) = until_refused(async || {
        let mut native = RawClient::connect(&gateway, "/ws", &[NATIVE]).await;
        native.send(&begin).await;
        let Got::Text(said) = native.next().await else { panic!("no text came") };
        if said.contains("\"connected\"") {
            return None;
        }
        Some((said, native.close_code().await))
    })
    .await;
    assert!(
        refused.contains("\"user_rate\"") && refused.contains("\"retry_after_ms\":"),
        "{refused}"
    );
    assert_eq!(code, 4429);

    let lines = [("Sec-WebSocket-Protocol", "v12.stomp")];
    let connect = format!("CONNECT\naccept-version:1.2\npasscode:{ann}\n\n\0");
    let (refused, code) = until_refused(async || {
        let mut stomp = RawClient::connect(&gateway, "/ws", &lines).await;
        stomp.send(&connect).await;
        let Got::Text(said) = stomp.next().await else { panic!("no text came") };
        if said.starts_with("CONNECTED\n") {
            return None;
        }
        Some((said, stomp.close_code().await))
    })
    .await;
    assert!(refused.starts_with("ERROR\n") && refused.contains("\ncode:user_rate\n"), "{refused}");
    assert!(refused.contains("\nretry-after:1\n"), "{refused}");
    assert_eq!(code, 4429);
    let by_connect = gateway.metric_of("fanlight_handshakes_total{result=\"user_rate\"}").await;
    assert_eq!(by_connect, 2);
}
