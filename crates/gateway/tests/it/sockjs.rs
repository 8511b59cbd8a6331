//! The SockJS protocol as it goes over the wire (sockjs-protocol 0.3.4), one node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{BARE, Response, Stream, With, ask, get, headers};
use crate::returning::bearer;
use crate::sockjs_session::{How, Session};
use crate::support::{CONFIG, Gateway, RawClient, eventually, token};

const NO_CACHE: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

/// A new session's path.
fn fresh(name: &str) -> String {
    format!("/sockjs/000/{name}-{:016x}", std::process::id())
}

async fn xhr(gateway: &Gateway, path: &str) -> Response {
    ask(gateway.public, "POST", &format!("{path}/xhr"), BARE).await
}

async fn send(gateway: &Gateway, target: &str, content_type: &str, body: &str) -> Response {
    let lines = [("Content-Type", content_type)];
    ask(gateway.public, "POST", target, With { headers: &lines, body }).await
}

/// Sends a native message to a session.
async fn say(gateway: &Gateway, path: &str, message: &Value) {
    let body = json!([message.to_string()]).to_string();
    let response = send(gateway, &format!("{path}/xhr_send"), "", &body).await;
    assert_eq!(response.status, 204, "{response:?}");
}

/// A gateway whose topics are open to those without a token.
async fn open_to_all(more: &str) -> Gateway {
    let open = "name = \"topic\"\nanonymous = true\n";
    Gateway::with_config(&format!("{}\n{more}", CONFIG.replace("name = \"topic\"\n", open))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_url_greets_info_tells_what_there_is_and_the_rest_is_not_found() {
    let gateway = Gateway::start("").await;
    for path in ["/sockjs", "/sockjs/"] {
        let greeting = get(gateway.public, path, &[]).await;
        assert_eq!((greeting.status, &*greeting.body), (200, "Welcome to SockJS!\n"));
        assert_eq!(greeting.header("content-type"), Some("text/plain; charset=UTF-8"));
    }
    let info = get(gateway.public, "/sockjs/info", &[("Origin", "https://page.example")]).await;
    assert_eq!(info.header("content-type"), Some("application/json; charset=UTF-8"));
    assert_eq!(info.header("cache-control"), Some(NO_CACHE));
    assert_eq!(info.header("access-control-allow-origin"), Some("https://page.example"));
    let info = info.json();
    assert_eq!((&info["websocket"], &info["cookie_needed"]), (&true.into(), &false.into()));
    let again = get(gateway.public, "/sockjs/info", &[]).await.json();
    assert_ne!(info["entropy"], again["entropy"]);
    for path in
        ["/a", "/a.html", "//", "/a/a", "/a/a/", "/a/", "/000/a.b/xhr", "/0/a/xhr/x", "/0//xhr"]
    {
        let response = get(gateway.public, &format!("/sockjs{path}"), &[]).await;
        assert_eq!((response.status, &*response.body), (404, ""), "{path}");
    }
    let page = get(gateway.public, "/sockjs/iframe-1.6.1.html", &[]).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=UTF-8"));
    assert!(page.body.contains("SockJS.bootstrap_iframe") && page.body.contains("/sockjs.min.js"));
    let etag = page.header("etag").unwrap().to_owned();
    let known = get(gateway.public, "/sockjs/iframe.html", &[("If-None-Match", &etag)]).await;
    assert_eq!((known.status, &*known.body), (304, ""));
    assert!(known.header("content-type").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_says_what_each_resource_allows() {
    let gateway = Gateway::start("").await;
    let path = fresh("preflight");
    for (resource, methods) in [
        ("/sockjs/info".to_owned(), "OPTIONS, GET"),
        (format!("{path}/xhr"), "OPTIONS, POST"),
        (format!("{path}/xhr_send"), "OPTIONS, POST"),
        (format!("{path}/xhr_streaming"), "OPTIONS, POST"),
        (format!("{path}/eventsource"), "OPTIONS, GET"),
    ] {
        let lines = [("Origin", "null"), ("Access-Control-Request-Headers", "a, b, c")];
        let response = ask(gateway.public, "OPTIONS", &resource, headers(&lines)).await;
        assert_eq!((response.status, &*response.body), (204, ""), "{resource}");
        for (name, value) in [
            ("access-control-allow-origin", "null"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "a, b, c"),
            ("access-control-allow-methods", methods),
            ("access-control-max-age", "31536000"),
            ("cache-control", "public, max-age=31536000"),
        ] {
            assert_eq!(response.header(name), Some(value), "{resource} {name}");
        }
    }
    for (method, resource) in
        [("GET", "xhr"), ("PUT", "xhr_send"), ("POST", "jsonp"), ("POST", "htmlfile")]
    {
        let response = ask(gateway.public, method, &format!("{path}/{resource}"), BARE).await;
        assert_eq!(response.status, 405, "{method} {resource}");
        assert!(response.header("allow").is_some());
    }
    assert_eq!(gateway.metric("fanlight_connections").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_session_opens_receives_repeats_its_end_and_leaves_nothing() {
    let gateway = open_to_all("[sockjs]\ndisconnect_delay = \"1s\"").await;
    let path = fresh("polling");
    let opened = xhr(&gateway, &path).await;
    assert_eq!((opened.status, &*opened.body), (200, "o\n"));
    for (name, value) in [
        ("content-type", "application/javascript; charset=UTF-8"),
        ("cache-control", NO_CACHE),
        ("access-control-allow-origin", "*"),
    ] {
        assert_eq!(opened.header(name), Some(value), "{name}");
    }
    assert_eq!(opened.header("access-control-allow-credentials"), None);
    assert_eq!(opened.header("set-cookie"), None);

    let target = format!("{path}/xhr_send");
    let sent = send(&gateway, &target, "text/plain", r#"["{\"type\":\"connect\"}"]"#).await;
    assert_eq!((sent.status, &*sent.body), (204, ""));
    assert_eq!(sent.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert_eq!(sent.header("cache-control"), Some(NO_CACHE));
    let frame = xhr(&gateway, &path).await.body;
    assert!(
        frame.starts_with("a[\"{\\\"type\\\":\\\"connected\\\"") && frame.ends_with("\"]\n"),
        "{frame}"
    );
    // Two in one body come in one frame, or two: in order, each once.
    let two = r#"["{\"type\":\"ping\",\"id\":1}","{\"type\":\"ping\",\"id\":2}"]"#;
    send(&gateway, &format!("{path}/xhr_send"), "", two).await;
    let mut pongs = Vec::new();
    while pongs.len() < 2 {
        let frame = xhr(&gateway, &path).await.body;
        pongs
            .extend(serde_json::from_str::<Vec<String>>(frame.strip_prefix('a').unwrap()).unwrap());
    }
    assert!(pongs[0].contains("\"id\":1") && pongs[1].contains("\"id\":2"), "{pongs:?}");
    // A session's end is told to everybody who asks, until it is forgotten.
    let path = fresh("ending");
    xhr(&gateway, &path).await;
    send(&gateway, &format!("{path}/xhr_send"), "", "[\"in no protocol\"]").await;
    for _ in 0..2 {
        assert_eq!(xhr(&gateway, &path).await.body, "c[1003,\"unknown_protocol\"]\n");
    }
    let late = send(&gateway, &format!("{path}/xhr_send"), "", "[\"x\"]").await;
    assert_eq!(late.status, 404);
    gateway.connections(0, 2).await;
    assert_eq!(xhr(&gateway, &path).await.body, "o\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_messages_are_refused_in_the_protocols_words() {
    let gateway = open_to_all("").await;
    let path = fresh("payload");
    for resource in ["xhr_send", "jsonp_send"] {
        let missing = send(&gateway, &format!("{path}/{resource}"), "", "[\"x\"]").await;
        assert_eq!(missing.status, 404, "no session is opened by sending");
    }
    xhr(&gateway, &path).await;
    let form = "application/x-www-form-urlencoded";
    for (resource, content_type, body, words) in [
        ("xhr_send", "text/plain", "", "Payload expected."),
        ("xhr_send", "text/plain", "\"x\"", "Payload expected."),
        ("xhr_send", "text/plain", "[\"x", "Broken JSON encoding."),
        ("xhr_send", "text/plain", "[1]", "Broken JSON encoding."),
        ("jsonp_send", form, "", "Payload expected."),
        ("jsonp_send", form, "d=", "Payload expected."),
        ("jsonp_send", form, "p=p", "Payload expected."),
        ("jsonp_send", form, "d=%5B%22x", "Broken JSON encoding."),
        ("jsonp_send", "text/plain", "x", "Broken JSON encoding."),
    ] {
        let target = format!("{path}/{resource}");
        let response = send(&gateway, &target, content_type, body).await;
        assert_eq!((response.status, &*response.body), (500, words), "{resource} {body:?}");
    }
    let large = format!("[\"{}\"]", "x".repeat(70_000));
    let response = send(&gateway, &format!("{path}/xhr_send"), "", &large).await;
    assert_eq!(response.problem(), (413, "too_large".into()));
    let larger = format!("[\"{}\"]", "x".repeat(200_000));
    let response = send(&gateway, &format!("{path}/xhr_send"), "", &larger).await;
    assert_eq!(response.status, 413);
    // It has survived all of this.
    let target = format!("{path}/jsonp_send");
    let connect = "d=%5B%22%7B%5C%22type%5C%22%3A%5C%22connect%5C%22%7D%22%5D";
    let ok = send(&gateway, &target, form, connect).await;
    assert_eq!((ok.status, &*ok.body), (200, "ok"));
    assert_eq!(ok.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert!(xhr(&gateway, &path).await.body.contains("connected"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_a_plain_name_and_wraps_each_frame() {
    let gateway = open_to_all("").await;
    let path = fresh("callback");
    for resource in ["jsonp", "htmlfile"] {
        for (query, words) in [
            ("", "\"callback\" parameter required"),
            ("?c=", "\"callback\" parameter required"),
            ("?c=a%20b", "invalid \"callback\" parameter"),
            ("?callback=a(b)", "invalid \"callback\" parameter"),
            ("?c=%3Cscript%3E", "invalid \"callback\" parameter"),
        ] {
            let response = get(gateway.public, &format!("{path}/{resource}{query}"), &[]).await;
            assert_eq!((response.status, &*response.body), (500, words), "{resource}{query}");
            assert_eq!(response.header("content-type"), Some("text/plain; charset=UTF-8"));
        }
    }
    let opened = get(gateway.public, &format!("{path}/jsonp?c=_jp.a1"), &[]).await;
    assert_eq!(opened.body, "/**/_jp.a1(\"o\");\r\n");
    assert_eq!(opened.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert_eq!(opened.header("x-content-type-options"), Some("nosniff"));
    send(&gateway, &format!("{path}/jsonp_send"), "", r#"["{\"type\":\"connect\"}"]"#).await;
    let frame = get(gateway.public, &format!("{path}/jsonp?callback=x"), &[]).await.body;
    assert!(frame.starts_with("/**/x(\"a[\\\"{"), "{frame}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_has_its_prelude_its_frames_and_a_limit() {
    let gateway = open_to_all("[sockjs]\nstream_bytes = \"4KiB\"").await;
    for (method, resource, begins, frame_begins) in [
        ("POST", "xhr_streaming", format!("{}\n", "h".repeat(2048)), "a[\""),
        ("GET", "eventsource", "\r\n".into(), "data: a[\""),
        ("GET", "htmlfile?c=cb", "<!doctype html>".into(), "<script>\np(\"a[\\\""),
    ] {
        let path = fresh(resource.split('?').next().unwrap());
        let mut stream =
            Stream::open(gateway.public, method, &format!("{path}/{resource}"), BARE).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.header("cache-control"), Some(NO_CACHE));
        assert_eq!(stream.header("x-accel-buffering"), Some("no"));
        let (open, end) = match resource {
            "xhr_streaming" => ("o\n", "\n"),
            "eventsource" => ("data: o\r\n\r\n", "\r\n\r\n"),
            _ => ("<script>\np(\"o\");\n</script>\r\n", "</script>\r\n"),
        };
        let prelude = stream.until(open).await.unwrap();
        assert!(prelude.starts_with(&begins), "{prelude}");
        if resource.starts_with("htmlfile") {
            assert!(prelude.len() >= 1024 && prelude.contains("var c = parent.cb;"));
        }
        let topic = format!("/topic/open.{}", &resource[..4]);
        say(&gateway, &path, &json!({ "type": "connect" })).await;
        assert!(stream.until(end).await.unwrap().contains("connected"));
        say(&gateway, &path, &json!({ "type": "subscribe", "to": topic, "id": 1 })).await;
        assert!(stream.until(end).await.unwrap().contains("ok"));
        let mut frames = 0;
        loop {
            say(&gateway, &path, &json!({ "type": "send", "to": topic, "data": "x".repeat(1000) }))
                .await;
            frames += 1;
            let frame = stream.until(end).await.unwrap();
            assert!(frame.starts_with(frame_begins) && frame.contains("xxx"), "{frame}");
            if frames == 4 {
                assert_eq!(stream.rest().await, "", "it ends behind its limit");
                break;
            }
        }
        // The session goes on with another response.
        let mut stream =
            Stream::open(gateway.public, method, &format!("{path}/{resource}"), BARE).await;
        say(&gateway, &path, &json!({ "type": "send", "to": topic, "data": "and on" })).await;
        assert!(stream.until("and on").await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_receiver_is_told_so_and_the_first_goes_on() {
    let gateway = open_to_all("").await;
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::open(&[&gateway], None, how).await;
        session.send("{\"type\":\"connect\"}").await;
        session.expect("connected").await;
        let mut twin = session.twin(None);
        let refused = "c[2010,\"Another connection still open\"]";
        let mut other = session.twin(None);
        // One of the two was first, and waits on.
        let (mut first, mut second) = (Box::pin(session.frame()), Box::pin(other.frame()));
        let (frame, waiting) = tokio::select! {
            frame = &mut first => (frame, second),
            frame = &mut second => (frame, first),
        };
        assert_eq!(frame, refused);
        twin.send("{\"type\":\"ping\"}").await;
        assert!(waiting.await.contains("pong"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_receiver_gets_heartbeats_and_keeps_its_session() {
    let gateway = open_to_all("[sockjs]\nheartbeat = \"1s\"\ndisconnect_delay = \"1s\"").await;
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::open(&[&gateway], None, how).await;
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(session.frame().await, "h");
        }
        // Each is up to a sweep early, never late enough for a proxy to cut it.
        assert!(began.elapsed() > Duration::from_millis(300));
    }
    gateway.connections(0, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_receiver_waits_for_the_disconnect_delay_and_is_forgotten() {
    let gateway = Gateway::start("[sockjs]\ndisconnect_delay = \"5s\"").await;
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut session = Session::stomp(&[&gateway], &ann, How::Polling).await;
    session.subscribe("/topic/open.a").await;
    // What comes between two of its polls has waited.
    publisher.send(r#"{"type":"send","to":"/topic/open.a","data":1,"id":1}"#).await;
    publisher.expect("\"ok\"").await;
    session.expect("\n\n1\0").await;
    // Its session is gone.
    gateway.connections(1, 2).await;
    eventually("with its subscription", async || {
        gateway.metric("fanlight_subscriptions").await == 0
    })
    .await;
    let late = session.post("xhr_send", "[\"x\"]").await;
    assert_eq!(late.status, 404);
    assert_eq!(session.frame().await, "o", "the name is free for another");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_receives_from_a_session_or_sends_to_it() {
    let gateway = Gateway::start("").await;
    let (ann, bob) = (token("ann", &[]).await, token("bob", &[]).await);
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut session = Session::stomp(&[&gateway], &ann, How::Polling).await;
    session.subscribe("/topic/open.a").await;
    publisher.send(r#"{"type":"send","to":"/topic/open.a","data":"for ann","id":1}"#).await;
    publisher.expect("\"ok\"").await;
    for token in [Some(&*bob), None] {
        let mut twin = session.twin(token);
        for resource in ["xhr", "xhr_streaming"] {
            let response = twin.post(resource, "").await;
            assert!(!response.body.contains("for ann"), "{response:?}");
            assert!(
                response.body.ends_with("c[1002,\"Connection interrupted\"]\n"),
                "{response:?}"
            );
        }
        let response =
            twin.post("xhr_send", "[\"SEND\\ndestination:/topic/open.a\\n\\nforged\\u0000\"]");
        assert_eq!(response.await.status, 404);
    }
    let mut bad = session.twin(Some("nonsense"));
    assert_eq!(bad.post("xhr", "").await.problem(), (401, "unauthorized".into()));
    session.expect("for ann").await;
    eventually("nothing else was opened", async || {
        gateway.metric("fanlight_connections_opened_total").await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_needs_a_good_origin_and_a_foreign_page_gets_nothing() {
    let cookie = "[origin]\nallow = [\"https://app.example\"]\n[auth]\ncookie = \"session\"\n";
    let config = CONFIG.replace("[[auth.keys]]", &format!("{cookie}[[auth.keys]]"));
    let gateway = Gateway::with_config(&config).await;
    let cookie = format!("session={}", token("ann", &[]).await);
    let path = fresh("cookie");
    let ask_from = async |origin: Option<&str>, more: &[(&str, &str)]| {
        let mut lines = vec![("Cookie", &*cookie)];
        lines.extend(origin.map(|origin| ("Origin", origin)));
        lines.extend(more);
        ask(gateway.public, "POST", &format!("{path}/xhr"), headers(&lines)).await
    };
    let foreign = ask_from(Some("https://evil.example"), &[]).await;
    assert_eq!(foreign.problem(), (403, "foreign_origin".into()));
    assert_eq!(ask_from(None, &[]).await.status, 403, "anybody's page could have sent it");
    let own = ask_from(Some("https://app.example"), &[]).await;
    assert_eq!((own.status, &*own.body), (200, "o\n"));
    assert_eq!(own.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(own.header("access-control-allow-credentials"), Some("true"));
    eventually("one was opened", async || {
        gateway.metric("fanlight_connections_opened_total").await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_gets_a_stream_that_ends_with_its_connection() {
    let gateway = open_to_all("[sockjs]\nstream_bytes = \"1KiB\"").await;
    let path = fresh("http10");
    let request = format!("POST {path}/xhr_streaming HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    let mut stream = Stream::raw(gateway.public, &request).await;
    assert_eq!(stream.header("transfer-encoding"), None);
    assert_eq!(stream.header("connection"), Some("close"));
    assert_eq!(stream.until("\n").await.unwrap().len(), 2048);
    assert_eq!(stream.until("\n").await.as_deref(), Some("o"));
    say(&gateway, &path, &json!({ "type": "connect" })).await;
    assert!(stream.until("\n").await.unwrap().contains("connected"));
    let topic = "/topic/open.a";
    say(&gateway, &path, &json!({ "type": "subscribe", "to": topic, "id": 1 })).await;
    say(&gateway, &path, &json!({ "type": "send", "to": topic, "data": "x".repeat(1000) })).await;
    assert!(stream.rest().await.contains("xxx"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_comes_before_the_end_whoever_waits_for_it() {
    let gateway = Gateway::start("").await;
    let ann = token("ann", &[]).await;
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::stomp(&[&gateway], &ann, how).await;
        let mut twin = session.twin(Some(&ann));
        let (error, ()) = tokio::join!(session.message(), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            twin.send("SEND\ndestination:/topic/secret\nreceipt:r\n\nx\0").await;
        });
        assert!(error.starts_with("ERROR\n") && error.contains("receipt-id:r"), "{error}");
        assert_eq!(session.close_frame().await, "c[4503,\"forbidden\"]");
    }
    let bearer = bearer("ann").await;
    let mut socket =
        RawClient::connect(&gateway, "/sockjs/0/a/websocket", &[("Authorization", &bearer)]).await;
    socket.expect("o").await;
    socket.send("[\"CONNECT\\naccept-version:1.2\\n\\n\\u0000\"]").await;
    socket.expect("a[\"CONNECTED").await;
    socket.send("[\"SEND\\ndestination:/topic/secret\\n\\nx\\u0000\"]").await;
    socket.expect("a[\"ERROR").await;
    socket.expect("c[4503,\"forbidden\"]").await;
    assert_eq!(socket.close_code().await, 4503);
}
