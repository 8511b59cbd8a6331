//! What the public suite of the SockJS protocol (0.3.4) demands, asked of the services that
//! `--conformance` mounts for it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use fanlight_proto::ws::Opcode;
use serde_json::{Value, json};

use crate::http::{BARE, KeepAlive, Response, Stream, With, ask, get, headers};
use crate::support::{Gateway, Got, RawClient};

const NO_CACHE: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
const FORM: &str = "application/x-www-form-urlencoded";
const SCRIPT: &str = "application/javascript; charset=UTF-8";
const TEXT: &str = "text/plain; charset=UTF-8";
const OPEN: &str = "o\n";
const AWAY: &str = "c[3000,\"Go away!\"]\n";
const INTERRUPTED: &str = "c[1002,\"Connection interrupted\"]\n";
const ANOTHER: &str = "c[2010,\"Another connection still open\"]\n";

async fn gateway() -> Gateway {
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
    Gateway::with_args(&args, &[]).await
}

fn base(service: &str) -> String {
    format!("/conformance/sockjs/{service}")
}

/// A session of a service that nobody else has.
fn session(service: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}/000/session-{}", base(service), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn post(gateway: &Gateway, target: &str, lines: &[(&str, &str)], body: &str) -> Response {
    ask(gateway.public, "POST", target, With { headers: lines, body }).await
}

async fn xhr(gateway: &Gateway, path: &str) -> String {
    let response = post(gateway, &format!("{path}/xhr"), &[], "").await;
    assert_eq!(response.status, 200, "{response:?}");
    response.body
}

async fn send(gateway: &Gateway, path: &str, body: &str) {
    let response = post(gateway, &format!("{path}/xhr_send"), &[], body).await;
    assert_eq!((response.status, &*response.body), (204, ""), "{response:?}");
}

async fn jsonp(gateway: &Gateway, path: &str) -> String {
    get(gateway.public, &format!("{path}/jsonp?c=x"), &[]).await.body
}

async fn stream(gateway: &Gateway, method: &str, target: &str) -> Stream {
    let stream = Stream::open(gateway.public, method, target, BARE).await;
    assert_eq!(stream.status, 200, "{target}");
    stream
}

/// A streaming response behind its prelude.
async fn streaming(gateway: &Gateway, path: &str) -> Stream {
    let mut stream = stream(gateway, "POST", &format!("{path}/xhr_streaming")).await;
    assert_eq!(stream.until("\n").await, Some("h".repeat(2048)));
    stream
}

fn assert_not_cached(response: &Response) {
    assert_eq!(response.header("cache-control"), Some(NO_CACHE), "{response:?}");
    for name in ["expires", "last-modified"] {
        assert_eq!(response.header(name), None, "{response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_url_greets_and_what_is_no_resource_is_not_found() {
    let gateway = gateway().await;
    for service in ["echo", "close", "disabled_websocket_echo", "cookie_needed_echo", "amplify"] {
        for slash in ["", "/"] {
            let target = format!("{}{slash}", base(service));
            let greeting = get(gateway.public, &target, &[]).await;
            assert_eq!((greeting.status, &*greeting.body), (200, "Welcome to SockJS!\n"));
            assert_eq!(greeting.header("content-type"), Some(TEXT));
            assert_eq!(greeting.header("set-cookie"), None);
        }
    }
    for rest in [
        "/a",
        "/a.html",
        "//",
        "///",
        "/a/a",
        "/a/a/",
        "/a/",
        "/iframe.htm",
        "/iframe",
        "/IFRAME.HTML",
        "/IFRAME",
        "/iframe.HTML",
        "/iframe.xml",
        "/iframe-/.html",
    ] {
        let response = get(gateway.public, &format!("{}{rest}", base("echo")), &[]).await;
        assert_eq!(response.status, 404, "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_iframe_page_is_the_same_under_every_version_and_is_kept_by_its_tag() {
    let gateway = gateway().await;
    let mut tags = Vec::new();
    for name in [
        "iframe.html",
        "iframe-a.html",
        "iframe-.html",
        "iframe-0.1.2.html",
        "iframe-0.1.2abc-dirty.2144.html",
        "iframe-a.html?t=1234",
        "iframe-0.1.2.html?t=1",
    ] {
        let page = get(gateway.public, &format!("{}/{name}", base("echo")), &[]).await;
        assert_eq!(page.status, 200, "{name}");
        assert_eq!(page.header("content-type"), Some("text/html; charset=UTF-8"));
        assert_eq!(page.header("cache-control"), Some("public, max-age=31536000"));
        assert!(page.header("expires").is_some() && page.header("last-modified").is_none());
        assert_eq!(page.header("set-cookie"), None);
        assert!(page.body.starts_with("<!DOCTYPE html>\n<html>\n<head>\n"), "{}", page.body);
        assert!(page.body.trim().ends_with("</body>\n</html>"), "{}", page.body);
        tags.push(page.header("etag").unwrap().to_owned());
    }
    tags.dedup();
    let [tag] = &tags[..] else { panic!("{tags:?}") };
    let target = format!("{}/iframe.html", base("echo"));
    let known = get(gateway.public, &target, &[("If-None-Match", tag)]).await;
    assert_eq!((known.status, &*known.body), (304, ""));
    assert_eq!(known.header("content-type"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_of_each_service_what_it_has() {
    let gateway = gateway().await;
    let info = async |service: &str, lines: &[(&str, &str)]| {
        let response = get(gateway.public, &format!("{}/info", base(service)), lines).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("application/json; charset=UTF-8"));
        assert_eq!(response.header("set-cookie"), None);
        assert_not_cached(&response);
        response
    };
    let from_page = info("echo", &[("Origin", "test")]).await;
    assert_eq!(from_page.header("access-control-allow-origin"), Some("test"));
    assert_eq!(from_page.header("access-control-allow-credentials"), Some("true"));
    let (first, second) = (from_page.json(), info("echo", &[]).await.json());
    assert_eq!(first["origins"], json!(["*:*"]));
    for info in [&first, &second] {
        assert!(info["entropy"].as_u64().is_some_and(|entropy| entropy < 1 << 32), "{info}");
    }
    assert_ne!(first["entropy"], second["entropy"]);
    for (service, websocket, cookie_needed) in [
        ("echo", true, false),
        ("disabled_websocket_echo", false, false),
        ("cookie_needed_echo", true, true),
    ] {
        let info = info(service, &[]).await.json();
        let told = (&info["websocket"], &info["cookie_needed"]);
        assert_eq!(told, (&Value::Bool(websocket), &Value::Bool(cookie_needed)), "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_for_every_origin_and_repeats_the_headers_asked_for() {
    let gateway = gateway().await;
    let path = format!("{}/abc/abc", base("echo"));
    for (target, methods) in [
        (format!("{}/info", base("echo")), "OPTIONS, GET"),
        (format!("{path}/xhr"), "OPTIONS, POST"),
        (format!("{path}/xhr_send"), "OPTIONS, POST"),
        (format!("{path}/xhr_streaming"), "OPTIONS, POST"),
    ] {
        for (origin, asked) in
            [("test", Some("a, b, c")), ("null", Some("")), ("http://a.example", None)]
        {
            let mut lines = vec![("Origin", origin), ("Access-Control-Request-Method", "POST")];
            lines.extend(asked.map(|asked| ("Access-Control-Request-Headers", asked)));
            let response = ask(gateway.public, "OPTIONS", &target, headers(&lines)).await;
            assert_eq!((response.status, &*response.body), (204, ""), "{target}");
            let asked = asked.filter(|asked| !asked.is_empty());
            for (name, value) in [
                ("access-control-allow-origin", Some(origin)),
                ("access-control-allow-credentials", Some("true")),
                ("access-control-allow-headers", asked),
                ("access-control-allow-methods", Some(methods)),
                ("access-control-max-age", Some("31536000")),
                ("cache-control", Some("public, max-age=31536000")),
            ] {
                assert_eq!(response.header(name), value, "{target} {name}");
            }
            assert!(response.header("expires").is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_any_name_without_dots_whatever_server_it_names() {
    let gateway = gateway().await;
    for name in ["/a/a", "/_/_", "/1/1", "/abcdefgh_i-j%20/abcdefg_i-j%20"] {
        assert_eq!(xhr(&gateway, &format!("{}{name}", base("echo"))).await, OPEN, "{name}");
    }
    for name in ["//", "/a./a", "/a/a.", "/./.", "/", "///", "/a", "/a/b/c"] {
        for method in ["GET", "POST"] {
            let target = format!("{}{name}/xhr", base("echo"));
            let response = ask(gateway.public, method, &target, BARE).await;
            assert_eq!(response.status, 404, "{method} {name}");
        }
    }
    let path = session("echo");
    assert_eq!(xhr(&gateway, &path).await, OPEN);
    send(&gateway, &path, "[\"a\"]").await;
    assert_eq!(xhr(&gateway, &path.replace("/000/", "/999/")).await, "a[\"a\"]\n");
    let nobody = format!("{}/xhr_send", session("echo"));
    assert_eq!(post(&gateway, &nobody, &[], "[\"x\"]").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_have_their_headers_and_take_any_content_type() {
    let gateway = gateway().await;
    let path = session("echo");
    let from_page = [("Origin", "test")];
    for (resource, body, status, answer, content_type) in
        [("xhr", "", 200, OPEN, SCRIPT), ("xhr_send", "[\"x\"]", 204, "", TEXT)]
    {
        let response = post(&gateway, &format!("{path}/{resource}"), &from_page, body).await;
        assert_eq!((response.status, &*response.body), (status, answer));
        assert_eq!(response.header("content-type"), Some(content_type));
        assert_eq!(response.header("access-control-allow-origin"), Some("test"));
        assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
        assert_not_cached(&response);
    }
    assert_eq!(xhr(&gateway, &path).await, "a[\"x\"]\n");
    let types = [
        "text/plain",
        "T",
        "application/json",
        "application/xml",
        "",
        "application/json; charset=utf-8",
        "text/xml; charset=utf-8",
        "text/xml",
    ];
    for content_type in types {
        let lines = [("Content-Type", content_type)];
        let response = post(&gateway, &format!("{path}/xhr_send"), &lines, "[\"a\"]").await;
        assert_eq!((response.status, &*response.body), (204, ""), "{content_type}");
    }
    let all = vec!["\"a\""; types.len()].join(",");
    assert_eq!(xhr(&gateway, &path).await, format!("a[{all}]\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_array_of_texts_is_refused_and_an_empty_one_is_nothing() {
    let gateway = gateway().await;
    let path = session("echo");
    assert_eq!(xhr(&gateway, &path).await, OPEN);
    for (resource, content_type, body, words) in [
        ("xhr_send", "text/plain", "[\"x", "Broken JSON encoding."),
        ("xhr_send", "text/plain", "", "Payload expected."),
        ("jsonp_send", FORM, "d=%5B%22x", "Broken JSON encoding."),
        ("jsonp_send", FORM, "", "Payload expected."),
        ("jsonp_send", FORM, "d=", "Payload expected."),
        ("jsonp_send", FORM, "p=p", "Payload expected."),
    ] {
        let lines = [("Content-Type", content_type)];
        let response = post(&gateway, &format!("{path}/{resource}"), &lines, body).await;
        assert_eq!((response.status, &*response.body), (500, words), "{resource} {body:?}");
    }
    send(&gateway, &path, "[]").await;
    let form = [("Content-Type", FORM)];
    let target = format!("{path}/jsonp_send");
    for body in ["d=%5B%5D", "d=%5B%22a%22%5D"] {
        let response = post(&gateway, &target, &form, body).await;
        assert_eq!((response.status, &*response.body), (200, "ok"), "{body}");
    }
    send(&gateway, &path, "[\"b\"]").await;
    assert_eq!(xhr(&gateway, &path).await, "a[\"a\",\"b\"]\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_closed_says_so_to_everybody_and_on_every_transport() {
    let gateway = gateway().await;
    let path = session("close");
    for expected in [OPEN, AWAY, AWAY] {
        assert_eq!(xhr(&gateway, &path).await, expected);
    }
    let late = post(&gateway, &format!("{path}/xhr_send"), &[], "[\"x\"]").await;
    assert_eq!(late.status, 404);
    let path = session("close");
    let away = "/**/x(\"c[3000,\\\"Go away!\\\"]\");\r\n";
    for expected in ["/**/x(\"o\");\r\n", away, away] {
        assert_eq!(jsonp(&gateway, &path).await, expected);
    }
    let path = session("close");
    let mut first = streaming(&gateway, &path).await;
    assert_eq!(first.rest().await, format!("{OPEN}{AWAY}"));
    let mut second = streaming(&gateway, &path).await;
    assert_eq!(second.rest().await, AWAY);
    for (target, open) in [
        (format!("{}/websocket", session("close")), true),
        (format!("{}/websocket", base("close")), false),
    ] {
        let mut socket = RawClient::connect(&gateway, &target, &[]).await;
        if open {
            socket.expect("o").await;
            socket.expect("c[3000,\"Go away!\"]").await;
        }
        assert_eq!(socket.close_frame().await, (3000, "Go away!".into()), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_begin_a_websocket_is_told_what_would() {
    let gateway = gateway().await;
    let target = format!("{}/websocket", session("echo"));
    let upgrade = [("Upgrade", "WebSocket"), ("Connection", "Upgrade")];
    for lines in [&[][..], &[("Upgrade", "WebSocket")]] {
        let response = get(gateway.public, &target, lines).await;
        assert_eq!(response.problem(), (400, "not_websocket".into()));
    }
    for lines in [&[][..], &upgrade] {
        let response = post(&gateway, &target, lines, "").await;
        assert_eq!((response.status, &*response.body), (405, ""), "{response:?}");
        assert_eq!(response.header("content-type"), None);
        assert_eq!(response.header("allow"), Some("GET"));
    }
    // As drafts before RFC 6455 did it.
    let draft = [
        ("Sec-WebSocket-Version", ""),
        ("Sec-WebSocket-Key", ""),
        ("Sec-WebSocket-Key1", "4 @1  46546xW%0l 1 5"),
        ("Sec-WebSocket-Key2", "12998 5 Y3 1  .P00"),
    ];
    let refused = RawClient::try_connect(&gateway, &target, &draft).await.err().unwrap();
    assert!(refused.starts_with("HTTP/1.1 426"), "{refused}");
    for path in [session("disabled_websocket_echo"), base("disabled_websocket_echo")] {
        let target = format!("{path}/websocket");
        let refused = RawClient::try_connect(&gateway, &target, &[]).await.err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_carries_frames_or_is_raw_and_its_session_is_its_own() {
    let gateway = gateway().await;
    let target = format!("{}/websocket", session("echo"));
    let key = [("Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw==")];
    let mut first = RawClient::connect(&gateway, &target, &key).await;
    let head = first.response_head.to_lowercase();
    assert!(first.response_head.contains("HSmrc0sMlYUkAGmm5OPpG2HaGWk="), "{head}");
    assert!(
        head.contains("\nconnection: upgrade\r\n") && head.contains("\nupgrade: websocket\r\n")
    );
    assert!(!head.contains("content-length"), "{head}");
    // The same name at the same time.
    let mut second = RawClient::connect(&gateway, &target, &[]).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.next().await, Got::Text("o".into()));
    }
    for (client, text) in [(&mut first, "a"), (&mut second, "b")] {
        client.send("").await;
        client.send("[]").await;
        client.send(&format!("[\"{text}\",\"{text}{text}\"]")).await;
        client.send(&format!("\"{text}\"")).await;
        for expected in [text, &text.repeat(2), text] {
            assert_eq!(client.next().await, Got::Text(format!("a[\"{expected}\"]")));
        }
    }
    first.send_frame(Opcode::Close, &[0x03, 0xE8]).await;
    assert_eq!(first.close_code().await, 1000);
    let mut third = RawClient::connect(&gateway, &target, &[]).await;
    assert_eq!(third.next().await, Got::Text("o".into()));
    third.send("[\"a").await;
    assert!(!matches!(third.close_code().await, 1000 | 1005), "its data is broken");
    let mut raw = RawClient::connect(&gateway, &format!("{}/websocket", base("echo")), &[]).await;
    for text in ["Hello world!\u{ffff}", "[\"a", ""] {
        raw.send(text).await;
        assert_eq!(raw.next().await, Got::Text(text.into()));
    }
    let mut amplified =
        RawClient::connect(&gateway, &format!("{}/websocket", session("amplify")), &[]).await;
    assert_eq!(amplified.next().await, Got::Text("o".into()));
    amplified.send("[\"4\"]").await;
    assert_eq!(amplified.next().await, Got::Text(format!("a[\"{}\"]", "x".repeat(16))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_behind_4096_bytes_of_frames_and_the_next_one_goes_on() {
    let gateway = gateway().await;
    let path = session("echo");
    let mut first = streaming(&gateway, &path).await;
    assert_eq!(first.header("content-type"), Some(SCRIPT));
    assert_eq!(first.header("cache-control"), Some(NO_CACHE));
    assert_eq!(first.until("\n").await.as_deref(), Some("o"));
    let body = format!("[\"{}\"]", "x".repeat(128));
    for number in 1..=31 {
        send(&gateway, &path, &body).await;
        let frame = first.until("\n").await;
        assert_eq!(frame, Some(format!("a{body}")), "frame {number}");
    }
    assert_eq!(first.rest().await, "", "31 frames of 134 bytes are more than 4096");
    send(&gateway, &path, "[\"on\"]").await;
    let mut second = streaming(&gateway, &path).await;
    assert_eq!(second.until("\n").await.as_deref(), Some("a[\"on\"]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_html_carry_frames_in_their_own_way_and_end_behind_the_same_limit() {
    let gateway = gateway().await;
    let large = format!("[\"{}\"]", "x".repeat(4096));
    let path = session("echo");
    let mut events = stream(&gateway, "GET", &format!("{path}/eventsource")).await;
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.header("cache-control"), Some(NO_CACHE));
    assert_eq!(events.until("\r\n").await.as_deref(), Some(""));
    assert_eq!(events.until("\r\n\r\n").await.as_deref(), Some("data: o"));
    for (body, expected) in [
        ("[\"x\"]", "data: a[\"x\"]"),
        ("[\"  \\u0000\\n\\r \"]", "data: a[\"  \\u0000\\n\\r \"]"),
        (&*large, &*format!("data: a{large}")),
    ] {
        send(&gateway, &path, body).await;
        assert_eq!(events.until("\r\n\r\n").await.as_deref(), Some(expected));
    }
    assert_eq!(events.rest().await, "");

    let path = session("echo");
    let mut html = stream(&gateway, "GET", &format!("{path}/htmlfile?c=%63allback")).await;
    assert_eq!(html.header("content-type"), Some("text/html; charset=UTF-8"));
    assert_eq!(html.header("cache-control"), Some(NO_CACHE));
    let end = "\");\n</script>\r\n";
    let open = html.until(end).await.unwrap();
    let prelude = open.strip_suffix("<script>\np(\"o").unwrap_or_else(|| panic!("{open}"));
    assert!(prelude.len() > 1024 && prelude.starts_with("<!doctype html>\n<html>"), "{prelude}");
    assert!(prelude.contains("var c = parent.callback;\n"), "{prelude}");
    for text in ["x", &"x".repeat(4096)] {
        send(&gateway, &path, &format!("[\"{text}\"]")).await;
        let expected = format!("<script>\np(\"a[\\\"{text}\\\"]");
        assert_eq!(html.until(end).await, Some(expected));
    }
    assert_eq!(html.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_must_be_there_and_be_a_name() {
    let gateway = gateway().await;
    for resource in ["htmlfile", "jsonp"] {
        let path = session("echo");
        let missing = get(gateway.public, &format!("{path}/{resource}"), &[]).await;
        assert_eq!((missing.status, &*missing.body), (500, "\"callback\" parameter required"));
        for callback in ["%20", "*", "abc(", "abc%28"] {
            let target = format!("{path}/{resource}?c={callback}");
            let bad = get(gateway.public, &target, &[]).await;
            assert_eq!((bad.status, &*bad.body), (500, "invalid \"callback\" parameter"));
        }
        // Nothing was opened by that.
        assert_eq!(post(&gateway, &format!("{path}/xhr_send"), &[], "[\"x\"]").await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jsonp_wraps_its_frames_and_reads_forms_and_plain_bodies() {
    let gateway = gateway().await;
    let path = session("echo");
    let opened = get(gateway.public, &format!("{path}/jsonp?c=%63allback"), &[]).await;
    assert_eq!((opened.status, &*opened.body), (200, "/**/callback(\"o\");\r\n"));
    assert_eq!(opened.header("content-type"), Some(SCRIPT));
    assert_not_cached(&opened);
    for (content_type, body) in [
        (FORM, "d=%5B%22abc%22%5D"),
        ("text/plain", "[\"%61bc\"]"),
        (FORM, "d=%5B%22a+b%2Bc%C3%A4%22%5D"),
    ] {
        let lines = [("Content-Type", content_type)];
        let sent = post(&gateway, &format!("{path}/jsonp_send"), &lines, body).await;
        assert_eq!((sent.status, &*sent.body), (200, "ok"), "{body}");
        assert_eq!(sent.header("content-type"), Some(TEXT));
        assert_not_cached(&sent);
    }
    let expected = "/**/x(\"a[\\\"abc\\\",\\\"%61bc\\\",\\\"a b+cä\\\"]\");\r\n";
    assert_eq!(jsonp(&gateway, &path).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_sticky_sessions_is_set_or_repeated_by_every_transport_that_needs_it() {
    let gateway = gateway().await;
    let service = "cookie_needed_echo";
    let dummy = Some("JSESSIONID=dummy; Path=/");
    let path = session(service);
    let target = format!("{path}/xhr");
    assert_eq!(post(&gateway, &target, &[], "").await.header("set-cookie"), dummy);
    let own = [("Cookie", "a=b; JSESSIONID=abcdef")];
    let response = post(&gateway, &format!("{}/xhr", session(service)), &own, "").await;
    assert_eq!(response.body, OPEN);
    assert_eq!(response.header("set-cookie"), Some("JSESSIONID=abcdef; Path=/"));
    for (method, resource) in
        [("POST", "xhr_streaming"), ("GET", "eventsource"), ("GET", "htmlfile?c=callback")]
    {
        let target = format!("{}/{resource}", session(service));
        let streaming = stream(&gateway, method, &target).await;
        assert_eq!(streaming.header("set-cookie"), dummy, "{resource}");
    }
    let path = session(service);
    let opened = get(gateway.public, &format!("{path}/jsonp?c=x"), &[]).await;
    let lines = [("Content-Type", FORM)];
    let sent = post(&gateway, &format!("{path}/jsonp_send"), &lines, "d=%5B%22x%22%5D").await;
    for response in [&opened, &sent] {
        assert_eq!((response.status, response.header("set-cookie")), (200, dummy));
    }
    let without = post(&gateway, &format!("{}/xhr", session("echo")), &own, "").await;
    assert_eq!(without.header("set-cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_cut_ends_its_session_and_a_second_one_does_not() {
    let gateway = gateway().await;
    for resource in ["xhr_streaming", "xhr"] {
        let path = session("echo");
        assert_eq!(xhr(&gateway, &path).await, OPEN);
        let receive = || {
            let (public, target) = (gateway.public, format!("{path}/{resource}"));
            tokio::spawn(async move { ask(public, "POST", &target, BARE).await.body })
        };
        let (mut one, mut other) = (receive(), receive());
        // Whoever was first waits on.
        let (told, waiting) = tokio::select! {
            told = &mut one => (told, other),
            told = &mut other => (told, one),
        };
        let told = told.unwrap();
        assert!(told.ends_with(ANOTHER), "{told}");
        waiting.abort();
        assert!(waiting.await.is_err(), "nothing came for it");
        let again = async || receive().await.unwrap().trim_start_matches(['h', '\n']).to_owned();
        for _ in 0..2 {
            assert_eq!(again().await, INTERRUPTED, "{resource}");
        }
        assert_eq!(post(&gateway, &format!("{path}/xhr_send"), &[], "[\"x\"]").await.status, 404);
    }
}

/// Units of UTF-16 as JSON escapes them.
fn escaped(units: impl IntoIterator<Item = u32>) -> String {
    let mut text = String::new();
    for unit in units {
        write!(text, "\\u{unit:04x}").unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_character_comes_back_and_those_that_browsers_mangle_come_escaped() {
    let gateway = gateway().await;
    let path = session("echo");
    assert_eq!(xhr(&gateway, &path).await, OPEN);
    let mangled = [0x200c..=0x200f, 0x2028..=0x202f, 0x2060..=0x206f, 0xfff0..=0xffff];
    let mangled: Vec<u32> = mangled.into_iter().flatten().collect();
    let raw: String = mangled.iter().filter_map(|code| char::from_u32(*code)).collect();
    let mangled = escaped(mangled);
    send(&gateway, &path, &format!("[\"{raw}\"]")).await;
    assert_eq!(xhr(&gateway, &path).await, format!("a[\"{mangled}\"]\n"));
    let controls = escaped(0..0x20);
    send(&gateway, &path, &format!("[\"{controls}\"]")).await;
    let frame = xhr(&gateway, &path).await;
    assert!(!frame.trim_end().contains(char::is_control), "{frame:?}");
    // What Unicode has no character for.
    send(&gateway, &path, "[\"<\\ud800><\\udc00\\ud800>\"]").await;
    assert_eq!(xhr(&gateway, &path).await, "a[\"<\\ufffd><\\ufffd\\ufffd>\"]\n");

    let all: Vec<char> = ('\0'..=char::MAX).collect();
    for some in all.chunks(8192) {
        let text: String = some.iter().collect();
        let units = escaped(text.encode_utf16().map(u32::from));
        for body in [format!("[\"{units}\"]"), json!([text]).to_string()] {
            send(&gateway, &path, &body).await;
            let frame = xhr(&gateway, &path).await;
            let heard: Vec<String> = serde_json::from_str(&frame[1..]).unwrap();
            assert!(heard == [&*text], "from {:?} on", some[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_and_1_1_get_bodies_that_they_can_tell_the_end_of() {
    let gateway = gateway().await;
    for version in ["1.0", "1.1"] {
        let mut connection = KeepAlive::open(gateway.public).await;
        for _ in 0..2 {
            let target = base("echo");
            let head = format!("GET {target} HTTP/{version}\r\nHost: a\r\nConnection: Keep-Alive");
            let (answered, body) = connection.ask(&head).await;
            assert_eq!(body, "Welcome to SockJS!\n");
            assert!(answered.starts_with("HTTP/1.") && !answered.contains("transfer-encoding"));
            assert!(answered.contains("content-length: 19\r\n"), "{answered}");
        }
        let target = format!("{}/xhr_streaming", session("close"));
        let request = format!(
            "POST {target} HTTP/{version}\r\nHost: a\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n"
        );
        let response = gateway.raw_http(&request).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("content-length"), "{head}");
        let prelude = format!("{}\n", "h".repeat(2048));
        if version == "1.0" {
            assert!(!head.contains("transfer-encoding"), "{head}");
            assert_eq!(body, format!("{prelude}{OPEN}{AWAY}"));
        } else {
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
            let chunks = [&*prelude, OPEN, AWAY, ""].map(chunk).concat();
            assert_eq!(body, chunks);
        }
    }
}
