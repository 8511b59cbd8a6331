//! The native protocol's rules, one test each.

use bytes::Bytes;
use expect_test::expect;

use super::*;
use crate::{CloseReason, Position};

/// The only message in `text`.
pub(super) fn one(text: &str) -> Result<ClientMessage<'_>, NativeError> {
    let mut messages = parse(text);
    assert_eq!(messages.len(), 1);
    messages.next().unwrap()
}

fn id(json: &str) -> RequestId {
    json.parse().unwrap()
}

fn send<'a>(body: &'static [u8], content_type: Option<&'a str>) -> ClientMessage<'a> {
    ClientMessage::Send {
        to: "/topic/a".into(),
        body: Bytes::from_static(body),
        content_type: content_type.map(Into::into),
        headers: Vec::new(),
        key: None,
        session: None,
        exclude_self: false,
        token: None,
        id: None,
    }
}

pub(super) fn fields(body: &[u8]) -> MessageFields<'_> {
    MessageFields {
        to: "/topic/a",
        id: "m1",
        body,
        content_type: None,
        is_json: false,
        from: None,
        at_unix_ms: 1,
        position: None,
        headers: &[],
    }
}

pub(super) fn written(fields: &MessageFields<'_>) -> String {
    let mut out = Vec::new();
    write_message(&mut out, fields);
    String::from_utf8(out).unwrap()
}

pub(super) fn read(text: &str) -> Message {
    match serde_json::from_str(text).unwrap() {
        ServerMessage::Message(message) => message,
        other => panic!("not a message: {other:?}"),
    }
}

#[test]
fn every_way_to_subscribe_parses() {
    for (text, expected) in [
        (
            r#" {"type":"subscribe","to":"/topic/a","id":1} "#,
            ClientMessage::Subscribe {
                to: "/topic/a".into(),
                since: None,
                history: None,
                presence: false,
                ack: None,
                prefetch: None,
                token: None,
                id: Some(id("1")),
            },
        ),
        (
            r#"{"type":"subscribe","to":"/topic/a","since":{"epoch":"fF","offset":7}}"#,
            ClientMessage::Subscribe {
                to: "/topic/a".into(),
                since: Some(Position { epoch: 255, offset: 7 }),
                history: None,
                presence: false,
                ack: None,
                prefetch: None,
                token: None,
                id: None,
            },
        ),
        (
            r#"{"type":"subscribe","to":"/topic/a","history":128,"presence":true}"#,
            ClientMessage::Subscribe {
                to: "/topic/a".into(),
                since: None,
                history: Some(128),
                presence: true,
                ack: None,
                prefetch: None,
                token: None,
                id: None,
            },
        ),
        (
            r#"{"type":"subscribe","to":"/queue/a","ack":"client","prefetch":9}"#,
            ClientMessage::Subscribe {
                to: "/queue/a".into(),
                since: None,
                history: None,
                presence: false,
                ack: Some("client".into()),
                prefetch: Some(9),
                token: None,
                id: None,
            },
        ),
    ] {
        assert_eq!(one(text), Ok(expected), "{text}");
    }
}

#[test]
fn every_client_message_parses() {
    for (text, expected) in [
        (r#"{"type":"connect"}"#, ClientMessage::Connect { token: None }),
        (r#"{"type":"connect","token":null}"#, ClientMessage::Connect { token: None }),
        (r#"{"token":"t","type":"connect"}"#, ClientMessage::Connect { token: Some("t".into()) }),
        (
            r#"{"type":"history","to":"/topic/a","limit":1,"id":3}"#,
            ClientMessage::History { to: "/topic/a".into(), since: None, limit: 1, id: id("3") },
        ),
        (
            r#"{"type":"presence","to":"/topic/a","cursor":"c","limit":0,"id":1}"#,
            ClientMessage::Presence {
                to: "/topic/a".into(),
                cursor: Some("c".into()),
                limit: Some(0),
                id: id("1"),
            },
        ),
        (
            r#"{"type":"ack","ids":["a","\u0062"],"id":1}"#,
            ClientMessage::Ack { ids: vec!["a".into(), "b".into()], id: Some(id("1")) },
        ),
        (r#"{"type":"nack","ids":[]}"#, ClientMessage::Nack { ids: Vec::new(), id: None }),
        (
            r#"{"type":"unsubscribe","to":"\/topic\/\u00e9","id":"\u0041"}"#,
            ClientMessage::Unsubscribe { to: "/topic/é".into(), id: Some(id(r#""\u0041""#)) },
        ),
        (
            r#"{"type":"refresh","token":"t","id":-1.5e3}"#,
            ClientMessage::Refresh { token: "t".into(), id: Some(id("-1.5e3")) },
        ),
        (r#"{"type":"ping"}"#, ClientMessage::Ping { id: None }),
        (r#"{"\u0074ype":"ping","id":null}"#, ClientMessage::Ping { id: None }),
    ] {
        assert_eq!(one(text), Ok(expected), "{text}");
    }
}

#[test]
fn text_without_escapes_is_borrowed() {
    let Ok(ClientMessage::Subscribe { to, .. }) = one(r#"{"type":"subscribe","to":"/topic/a"}"#)
    else {
        panic!("not a subscribe")
    };
    assert!(matches!(to, std::borrow::Cow::Borrowed(_)));
}

#[test]
fn the_data_of_a_send_is_json_as_sent_or_base64_or_what_its_encoding_says() {
    for (fields, expected) in [
        (r#""data": {"b" : 1.0, "a":[1e2]} "#, send(br#"{"b" : 1.0, "a":[1e2]}"#, None)),
        (r#""data":null"#, send(b"null", None)),
        (r#""data":"\u00e9""#, send(br#""\u00e9""#, None)),
        (
            r#""content_type":"Application/JSON; charset=utf-8","data":7"#,
            send(b"7", Some("Application/JSON; charset=utf-8")),
        ),
        (
            r#""content_type":"application/geo+json","data":7"#,
            send(b"7", Some("application/geo+json")),
        ),
        (r#""content_type":"text/plain","data":"aGk=""#, send(b"hi", Some("text/plain"))),
        (r#""content_type":"text/plain","data":"""#, send(b"", Some("text/plain"))),
        (r#""content_type":"x/y","data":"\/\/8=""#, send(b"\xff\xff", Some("x/y"))),
        (r#""encoding":"text","data":"h\u00ed""#, send("hí".as_bytes(), Some("text/plain"))),
        (r#""encoding":"text","content_type":"x/y","data":"aGk=""#, send(b"aGk=", Some("x/y"))),
        (r#""encoding":"base64","data":"aGk=""#, send(b"hi", Some("application/octet-stream"))),
        (r#""encoding":"json","content_type":"x/y","data":[1]"#, send(b"[1]", Some("x/y"))),
    ] {
        let text = format!(r#"{{"type":"send","to":"/topic/a",{fields}}}"#);
        assert_eq!(one(&text), Ok(expected), "{text}");
    }
}

#[test]
fn the_headers_of_a_send_keep_their_order() {
    let text = r#"{"type":"send","to":"/topic/a","data":1,"headers":{"b":"1","a":"\n"},"id":2}"#;
    let Ok(ClientMessage::Send { headers, .. }) = one(text) else { panic!("not a send") };
    assert_eq!(headers, [("b".into(), "1".into()), ("a".into(), "\n".into())]);
}

#[expect(clippy::needless_pass_by_value, reason = "`check_error(.., expect![..])` reads best")]
fn check_error(text: &str, expected: expect_test::Expect) {
    let error = one(text).unwrap_err();
    let id = error.request_id().map_or("-", RequestId::as_json);
    expected.assert_eq(&format!("{id}: {error}"));
    assert_eq!(error.close_reason(), CloseReason::ProtocolError);
}

#[test]
fn what_is_wrong_with_a_position_or_a_number_of_messages_is_told() {
    let since = |since: &str| format!(r#"{{"type":"subscribe","to":"/topic/a","since":{since}}}"#);
    for bad in [
        "7",
        "{}",
        r#"{"epoch":7,"offset":1}"#,
        r#"{"epoch":"x","offset":1}"#,
        r#"{"epoch":"1","offset":-1}"#,
        r#"{"epoch":"1","offset":1,"x":1}"#,
    ] {
        check_error(
            &since(bad),
            expect![
                "-: `since` must be an object of `epoch`, a string, and `offset`, a whole number"
            ],
        );
    }
    for bad in ["0", "129", "1.5", "\"1\""] {
        check_error(
            &format!(r#"{{"type":"history","to":"/topic/a","limit":{bad},"id":1}}"#),
            expect!["1: `limit` must be a whole number from 1 to 128"],
        );
    }
    check_error(
        r#"{"type":"subscribe","to":"/topic/a","since":{"epoch":"1","offset":1},"history":3}"#,
        expect!["-: `since` and `history` exclude each other; give one of them"],
    );
    check_error(
        r#"{"type":"history","to":"/topic/a","limit":1}"#,
        expect!["-: missing field `id` in history, which needs to, limit, id"],
    );
}

#[test]
fn an_error_says_what_is_wrong_and_which_request_it_answers() {
    let check = check_error;
    check("", expect!["-: a message is a JSON object with a `type`, or an array of such objects"]);
    check("7", expect!["-: a message is a JSON object with a `type`, or an array of such objects"]);
    check("{", expect!["-: not JSON: EOF while parsing an object at line 1 column 1"]);
    check("[{}", expect!["-: not JSON: EOF while parsing a list at line 1 column 3"]);
    check(r#"{"type":"ping"}x"#, expect!["-: not JSON: trailing characters at line 1 column 16"]);
    check(
        "{}",
        expect![
            "-: missing field `type`; known types are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"
        ],
    );
    check(r#"{"id":1,"type":7}"#, expect!["1: `type` must be a string"]);
    check(
        r#"{"type":"publish","id":1}"#,
        expect![[
            r#"1: unknown type "publish"; known are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"#
        ]],
    );
    check(
        r#"{"type":"subscribe","id":1}"#,
        expect!["1: missing field `to` in subscribe, which needs to"],
    );
    check(
        r#"{"type":"send","to":"/topic/a","id":1}"#,
        expect!["1: missing field `data` in send, which needs to, data"],
    );
    check(
        r#"{"type":"refresh","token":null}"#,
        expect!["-: missing field `token` in refresh, which needs token"],
    );
    check(r#"{"type":"subscribe","to":5,"id":"a"}"#, expect![[r#""a": `to` must be a string"#]]);
    check(r#"{"type":"subscribe","to":"\ud800"}"#, expect!["-: `to` must be a string"]);
    check(
        r#"{"type":"subscribe","dest":"/topic/a","id":1}"#,
        expect![[
            r#"1: unknown field "dest" in subscribe; known are type, to, since, history, presence, ack, prefetch, token, id"#
        ]],
    );
    check(
        r#"{"type":"ping","to":"/topic/a"}"#,
        expect![[r#"-: unknown field "to" in ping; known are type, id"#]],
    );
    check(r#"{"type":"ping","id":1,"id":2}"#, expect![[r#"2: "id" occurs twice"#]]);
    check(
        r#"{"type":"ping","id":[1]}"#,
        expect!["-: `id` must be a number or a string of at most 64 bytes"],
    );
    check(
        r#"{"type":"send","to":"/topic/a","data":"a","content_type":"text/plain","id":1}"#,
        expect![
            "1: `data` must be a base64 string (standard alphabet, padded), as `content_type` is not JSON; for a text give `encoding`"
        ],
    );
    check(
        r#"{"type":"send","to":"/topic/a","data":1,"headers":{"a":1}}"#,
        expect!["-: `headers` must be an object of strings"],
    );
    check(
        r#"{"type":"send","to":"/topic/a","data":1,"headers":{"a":"1","a":"2"}}"#,
        expect![[r#"-: "a" occurs twice"#]],
    );
}

#[test]
fn data_that_its_encoding_or_content_type_does_not_allow_is_refused() {
    for (fields, expected) in [
        (r#""encoding":"text","data":1"#, "`data` must be a string, as `encoding` is text"),
        (r#""encoding":"hex","data":"00""#, "`encoding` must be json, text or base64"),
        (
            r#""encoding":"text","content_type":"application/json","data":"{""#,
            "`encoding` must be json or left out, as `content_type` is JSON",
        ),
    ] {
        let refused = one(&format!(r#"{{"type":"send","to":"/topic/a",{fields}}}"#)).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
}

#[test]
fn a_bad_message_in_an_array_does_not_lose_the_others() {
    let text = r#"[{"type":"ping","id":1},{"type":"pong","id":2},3,{"type":"ping","id":4}]"#;
    let ids: Vec<_> = parse(text)
        .map(|message| match message {
            Ok(ClientMessage::Ping { id }) => (true, id),
            Ok(_) => panic!("not a ping"),
            Err(error) => (false, error.request_id().cloned()),
        })
        .collect();
    assert_eq!(
        ids,
        [(true, Some(id("1"))), (false, Some(id("2"))), (false, None), (true, Some(id("4")))]
    );
    assert_eq!(parse("[]").len(), 0);
}

#[test]
fn each_limit_is_allowed_to_be_reached_and_not_exceeded() {
    let pings = |count| format!("[{}]", vec![r#"{"type":"ping"}"#; count].join(","));
    assert_eq!(parse(&pings(MAX_BATCH)).flatten().count(), MAX_BATCH);
    let text = pings(MAX_BATCH + 1);
    let refused: Vec<_> = parse(&text).map(|message| message.unwrap_err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].problem(), &Problem::BatchTooLarge);
    assert_eq!(refused[0].close_reason(), CloseReason::LimitExceeded);

    let with_headers = |count| {
        let headers: Vec<_> = (0..count).map(|at| format!(r#""h{at}":"""#)).collect();
        format!(r#"{{"type":"send","to":"/topic/a","data":1,"headers":{{{}}}}}"#, headers.join(","))
    };
    assert!(one(&with_headers(MAX_HEADERS)).is_ok());
    let text = with_headers(MAX_HEADERS + 1);
    assert_eq!(one(&text).unwrap_err().problem(), &Problem::TooManyHeaders);

    let longest = format!("\"{}\"", "a".repeat(RequestId::MAX_BYTES - 2));
    assert!(longest.parse::<RequestId>().is_ok());
    assert_eq!(format!("{longest}a").parse::<RequestId>(), Err(Problem::BadId));
    assert_eq!("1".repeat(65).parse::<RequestId>(), Err(Problem::BadId));
}

#[test]
fn server_messages_have_their_form_and_are_read_back() {
    let check = |message: ServerMessage, expected: expect_test::Expect| {
        let mut out = Vec::new();
        message.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        expected.assert_eq(&text);
        let read: ServerMessage = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{message:?}"));
    };
    check(
        ServerMessage::Connected {
            session: "s".into(),
            user: Some("ann".into()),
            expires: None,
            heartbeat_ms: 10_000,
            limits: SessionLimits { message_bytes: 65536, subscriptions: 128 },
        },
        expect![[
            r#"{"type":"connected","session":"s","user":"ann","heartbeat_ms":10000,"limits":{"message_bytes":65536,"subscriptions":128}}"#
        ]],
    );
    check(ServerMessage::Ok(Confirmed::new(7.into())), expect![[r#"{"type":"ok","id":7}"#]]);
    check(
        ServerMessage::Ok(Confirmed {
            message_id: Some("m".into()),
            degraded: true,
            ..Confirmed::new(r#""\u0041""#.parse().unwrap())
        }),
        expect![[r#"{"type":"ok","id":"\u0041","message_id":"m","degraded":true}"#]],
    );
    check(
        ServerMessage::Error {
            id: None,
            code: CloseReason::RateLimited.code().into(),
            message: "slow down".into(),
            retry_after_ms: Some(500),
            to: None,
        },
        expect![[
            r#"{"type":"error","code":"rate_limited","message":"slow down","retry_after_ms":500}"#
        ]],
    );
    check(
        ServerMessage::Error {
            id: None,
            code: "capability_expired".into(),
            message: "it has ended".into(),
            retry_after_ms: None,
            to: Some("/topic/a".into()),
        },
        expect![[
            r#"{"type":"error","code":"capability_expired","message":"it has ended","to":"/topic/a"}"#
        ]],
    );
    check(
        ServerMessage::Reconnect { after_ms: 100, reason: CloseReason::Draining.code().into() },
        expect![[r#"{"type":"reconnect","after_ms":100,"reason":"draining"}"#]],
    );
    check(ServerMessage::Pong { id: None }, expect![[r#"{"type":"pong"}"#]]);
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let mut out = Vec::new();
    let mut writer = HistoryWriter::begin(&mut out, &id("\"h\""), "/topic/\"a");
    for n in ["1", "2"] {
        writer.message(&mut out, written(&fields(n.as_bytes())).as_bytes());
    }
    writer.end(&mut out, Position { epoch: 255, offset: 9 }, true, Some("no_history"));
    let ServerMessage::History(history) = serde_json::from_slice(&out).unwrap() else { panic!() };
    assert_eq!((history.id.as_json(), &*history.to), ("\"h\"", "/topic/\"a"));
    assert_eq!(history.position(), Some(Position { epoch: 255, offset: 9 }));
    assert_eq!((history.more, history.reason.as_deref()), (true, Some("no_history")));
    let bodies: Vec<_> = history.messages.iter().map(|message| message.data.get()).collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[test]
fn what_a_server_message_lacks_is_named_and_what_it_adds_is_ignored() {
    let error = serde_json::from_str::<ServerMessage>(r#"{"type":"ok"}"#).unwrap_err();
    assert_eq!(error.to_string(), "missing field `id`");
    let later = r#"{"type":"pong","later":[1]}"#;
    assert!(matches!(serde_json::from_str(later).unwrap(), ServerMessage::Pong { id: None }));
}

#[test]
fn the_schema_names_every_server_message_by_its_type() {
    let schema = serde_json::to_string(&schemars::schema_for!(ServerMessage)).unwrap();
    for kind in ["connected", "ok", "error", "message", "reconnect", "pong"] {
        assert!(schema.contains(&format!(r#""const":"{kind}""#)), "{kind} is not in {schema}");
    }
}

#[test]
fn a_message_has_what_is_known_of_its_publication() {
    let headers = [("trace".into(), "a\"b".into()), ("x".into(), "1".into())];
    let full = MessageFields {
        content_type: Some("text/plain"),
        from: Some("ann"),
        position: Some(Position { epoch: u64::MAX, offset: 3 }),
        headers: &headers,
        ..fields(b"hi")
    };
    expect![[r#"{"type":"message","to":"/topic/a","id":"m1","data":"aGk=","content_type":"text/plain","from":"ann","at":1,"epoch":"ffffffffffffffff","offset":3,"headers":{"trace":"a\"b","x":"1"}}"#]]
        .assert_eq(&written(&full));
    expect![[r#"{"type":"message","to":"/topic/a","id":"m1","data":{"a":1},"at":1}"#]]
        .assert_eq(&written(&fields(br#"{"a":1}"#)));
}

#[test]
fn a_body_travels_as_json_only_if_it_is_json() {
    for (body, content_type, data, shown) in [
        (b"[1]".as_slice(), Some("application/json"), "[1]", None),
        (b"[1]", Some("a/b+json"), "[1]", Some("a/b+json")),
        (b" {\n\"a\": 1}\n", None, "{\n\"a\": 1}", None),
        (b"{\"a\":", Some("application/json"), "\"eyJhIjo=\"", Some("application/octet-stream")),
        (b"1,\"at\":2", None, "\"MSwiYXQiOjI=\"", Some("application/octet-stream")),
        (b"\"\xff\"", None, "\"Iv8i\"", Some("application/octet-stream")),
        (b"", None, "\"\"", Some("application/octet-stream")),
        (b"[1]", Some("text/plain"), "\"WzFd\"", Some("text/plain")),
    ] {
        let message = read(&written(&MessageFields { content_type, ..fields(body) }));
        assert_eq!((message.data.get(), message.content_type.as_deref()), (data, shown));
    }
}

#[test]
fn a_body_that_is_known_to_be_json_goes_on_as_it_is_where_its_type_is_json() {
    for (content_type, data) in [(None, "[1]"), (Some("text/plain"), "\"WzFd\"")] {
        let known = MessageFields { is_json: true, content_type, ..fields(b"[1]") };
        let looked_at = MessageFields { is_json: false, ..known };
        assert_eq!(written(&known), written(&looked_at));
        assert_eq!(read(&written(&known)).data.get(), data);
    }
}

#[test]
fn what_acks_and_prefetch_hold_is_checked_and_bounded() {
    let many = |count| format!(r#"{{"type":"ack","ids":[{}]}}"#, vec![r#""a""#; count].join(","));
    assert!(one(&many(MAX_ACK_IDS)).is_ok());
    for text in [
        &*many(MAX_ACK_IDS + 1),
        r#"{"type":"ack"}"#,
        r#"{"type":"nack","ids":"a"}"#,
        r#"{"type":"nack","ids":[1]}"#,
        r#"{"type":"ack","ids":["a"],"to":"/queue/a"}"#,
        r#"{"type":"subscribe","to":"/queue/a","prefetch":0}"#,
        r#"{"type":"subscribe","to":"/queue/a","prefetch":65536}"#,
        r#"{"type":"subscribe","to":"/queue/a","prefetch":"1"}"#,
        r#"{"type":"subscribe","to":"/queue/a","ack":true}"#,
    ] {
        assert!(one(text).is_err(), "{text}");
    }
}

#[test]
fn a_message_of_a_queue_says_whether_it_was_delivered_before_and_needs_an_ack() {
    for (needs_ack, delivery_count) in [(false, 1), (true, 1), (false, 2), (true, 7)] {
        let fields = MessageFields {
            to: "/queue/a",
            id: "1",
            body: b"{}",
            content_type: None,
            is_json: false,
            from: None,
            at_unix_ms: 1,
            position: None,
            headers: &[],
        };
        let mut out = Vec::new();
        write_queue_message(&mut out, &fields, QueueMark { needs_ack, delivery_count });
        let message = read(std::str::from_utf8(&out).unwrap());
        assert_eq!(message.ack, needs_ack);
        assert_eq!(message.redelivered, delivery_count > 1);
        assert_eq!(message.delivery_count, (delivery_count > 1).then_some(delivery_count));
    }
}

#[test]
fn what_is_no_send_is_told_that_only_send_is_for_here() {
    assert!(parse_send(r#"{"to":"/topic/a","data":1}"#).is_ok());
    assert!(parse_send(r#"{"type":"send","to":"/topic/a","data":1}"#).is_ok());
    for found in ["ping", "subscribe", "nonsense"] {
        let error = parse_send(&format!(r#"{{"type":"{found}"}}"#)).unwrap_err();
        let expected =
            format!("the type \"{found}\" is not for here; only \"send\" is, and may be left out");
        assert_eq!(error.to_string(), expected);
    }
}
