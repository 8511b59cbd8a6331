//! What each adapter writes and understands, as it is on the wire.

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;

/// The texts of a session, then what it takes from each of `incoming`.
fn check(adapter: &dyn Adapter, place: Place, incoming: &[&str], expected: &Expect) {
    let names = adapter.names(place);
    let position = Position { epoch: "5f".into(), offset: 41 };
    let session = Session {
        host: "127.0.0.1:8080",
        token: "TOKEN",
        destination: &names.subscribe,
        number: 7,
        since: None,
        cursor: None,
        presence: false,
    };
    let resumed = Session { since: Some(&position), presence: true, ..session };
    let body = stamp().body();
    let mut text = String::new();
    let mut show = |what: &str, said: Option<String>| {
        let said = said.map_or("(nothing)".into(), |said| said.replace(&body, "BODY"));
        let _ = writeln!(text, "{what}: {}", said.escape_debug());
    };
    let request = adapter.request(&session);
    let line = |line: &&str| {
        line.contains("GET")
            || line.contains("POST")
            || line.contains("TOKEN")
            || line.contains("Protocol")
    };
    show("request", Some(request.lines().filter(line).collect::<Vec<_>>().join(" ")));
    show("connect", adapter.connect(&session));
    show("subscribe", adapter.subscribe(&session));
    show("resume", adapter.subscribe(&resumed));
    show("publish", Some(adapter.publish(&names.publish, &body, 3)));
    for message in incoming {
        let _ = writeln!(text, "> {}", message.escape_debug());
        let message = message.replace("BODY", &body);
        adapter.read(&message, &mut |incoming| {
            let incoming = format!("{incoming:?}").replace(&format!("{:?}", stamp()), "STAMP");
            let _ = writeln!(text, "  {incoming}");
        });
    }
    expected.assert_eq(&text);
}

fn stamp() -> Stamp {
    Stamp { destination: 1, sequence: 2, intended_ns: 3, body_bytes: 64 }
}

#[test]
fn native_is_the_gateways_own_json() {
    let incoming = [
        r#"{"type":"connected","session":"1","heartbeat_ms":25000}"#,
        r#"{"type":"ok","id":"s"}"#,
        r#"{"type":"ok","id":"s","epoch":"5f","offset":43,"recovered":true,"count":2}"#,
        r#"{"type":"ok","id":3,"message_id":"01"}"#,
        r#"{"type":"message","to":"/topic/room.1","id":"01","data":"BODY","at":1}"#,
        r#"{"type":"message","to":"/t","id":"1","data":"BODY","at":1,"epoch":"5f","offset":9}"#,
        r#"{"type":"presence","to":"/topic/room.1","joined":[],"left":[],"count":1}"#,
        r#"{"type":"reconnect","after_ms":5,"reason":"drain"}"#,
        r#"{"type":"error","code":"forbidden","message":"no"}"#,
        "what?",
    ];
    check(
        Protocol::Native.adapter(),
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /ws HTTP/1.1 Sec-WebSocket-Protocol: fanlight.v1.json Authorization: Bearer TOKEN
        connect: {\"type\":\"connect\"}
        subscribe: {\"type\":\"subscribe\",\"to\":\"/topic/room.1\",\"id\":\"s\"}
        resume: {\"type\":\"subscribe\",\"to\":\"/topic/room.1\",\"id\":\"s\",\"since\":{\"epoch\":\"5f\",\"offset\":41},\"presence\":true}
        publish: {\"type\":\"send\",\"to\":\"/topic/room.1\",\"data\":\"BODY\",\"id\":3}
        > {\"type\":\"connected\",\"session\":\"1\",\"heartbeat_ms\":25000}
          Connected
        > {\"type\":\"ok\",\"id\":\"s\"}
          Subscribed { position: None, recovered: None }
        > {\"type\":\"ok\",\"id\":\"s\",\"epoch\":\"5f\",\"offset\":43,\"recovered\":true,\"count\":2}
          Subscribed { position: Some(Position { epoch: "5f", offset: 43 }), recovered: Some(true) }
        > {\"type\":\"ok\",\"id\":3,\"message_id\":\"01\"}
          Published
        > {\"type\":\"message\",\"to\":\"/topic/room.1\",\"id\":\"01\",\"data\":\"BODY\",\"at\":1}
          Delivery { stamp: STAMP, offset: None }
        > {\"type\":\"message\",\"to\":\"/t\",\"id\":\"1\",\"data\":\"BODY\",\"at\":1,\"epoch\":\"5f\",\"offset\":9}
          Delivery { stamp: STAMP, offset: Some(9) }
        > {\"type\":\"presence\",\"to\":\"/topic/room.1\",\"joined\":[],\"left\":[],\"count\":1}
          Presence
        > {\"type\":\"reconnect\",\"after_ms\":5,\"reason\":\"drain\"}
          Leaving { after_ms: Some(5) }
        > {\"type\":\"error\",\"code\":\"forbidden\",\"message\":\"no\"}
          Fault("{\"type\":\"error\",\"code\":\"forbidden\",\"message\":\"no\"}")
        > what?
          Fault("not understood: what?")
    "#]],
    );
}

#[test]
fn stomp_has_receipts_and_heartbeats() {
    let incoming = [
        "CONNECTED\nversion:1.2\n\n\0",
        "RECEIPT\nreceipt-id:s\nepoch:5f\noffset:43\nrecovered:true\n\n\0",
        "RECEIPT\nreceipt-id:3\n\n\0",
        "MESSAGE\nsubscription:0\ndestination:/topic/room.1\noffset:9\n\nBODY\0",
        "MESSAGE\nsubscription:0\nevent:presence\n\n{}\0",
        "\n",
        "ERROR\nmessage:drain\nretry-after:3\n\n\0",
        "ERROR\nmessage:forbidden\n\n\0",
    ];
    check(
        Protocol::Stomp.adapter(),
        Place::User(4),
        &incoming,
        &expect![[r#"
        request: GET /ws HTTP/1.1 Sec-WebSocket-Protocol: v12.stomp
        connect: CONNECT\naccept-version:1.2\nhost:127.0.0.1\nheart-beat:20000,20000\nAuthorization:Bearer TOKEN\n\n\0
        subscribe: SUBSCRIBE\nid:0\ndestination:/user/queue/load\nreceipt:s\n\n\0
        resume: SUBSCRIBE\nid:0\ndestination:/user/queue/load\nreceipt:s\nepoch:5f\noffset:41\npresence:true\n\n\0
        publish: SEND\ndestination:/user/user-4/queue/load\nreceipt:3\ncontent-type:text/plain\n\nBODY\0
        > CONNECTED\nversion:1.2\n\n\0
          Connected
        > RECEIPT\nreceipt-id:s\nepoch:5f\noffset:43\nrecovered:true\n\n\0
          Subscribed { position: Some(Position { epoch: "5f", offset: 43 }), recovered: Some(true) }
        > RECEIPT\nreceipt-id:3\n\n\0
          Published
        > MESSAGE\nsubscription:0\ndestination:/topic/room.1\noffset:9\n\nBODY\0
          Delivery { stamp: STAMP, offset: Some(9) }
        > MESSAGE\nsubscription:0\nevent:presence\n\n{}\0
          Presence
        > \n
        > ERROR\nmessage:drain\nretry-after:3\n\n\0
          Leaving { after_ms: Some(3000) }
        > ERROR\nmessage:forbidden\n\n\0
          Fault("ERROR\nmessage:forbidden\n\n\0")
    "#]],
    );
    assert_eq!(Protocol::Stomp.adapter().heartbeat(), Some("\n"));
}

#[test]
fn springs_stomp_is_not_answered() {
    check(
        Protocol::SpringStomp.adapter(),
        Place::Room(1),
        &[],
        &expect![[r"
        request: GET /ws HTTP/1.1 Sec-WebSocket-Protocol: v12.stomp
        connect: CONNECT\naccept-version:1.2\nhost:127.0.0.1\nheart-beat:20000,20000\nAuthorization:Bearer TOKEN\n\n\0
        subscribe: SUBSCRIBE\nid:0\ndestination:/topic/room.1\n\n\0
        resume: SUBSCRIBE\nid:0\ndestination:/topic/room.1\nepoch:5f\noffset:41\npresence:true\n\n\0
        publish: SEND\ndestination:/topic/room.1\ncontent-type:text/plain\n\nBODY\0
    "]],
    );
    assert!(!Protocol::SpringStomp.adapter().is_answered());
}

#[test]
fn sockjs_quotes_stomp_frames() {
    let incoming = [
        "o",
        "h",
        r#"a["CONNECTED\nversion:1.2\n\n\u0000","RECEIPT\nreceipt-id:s\n\n\u0000"]"#,
        r#"c[3000,"Go away!"]"#,
    ];
    check(
        Protocol::SockJs.adapter(),
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /sockjs/000/load-7/websocket HTTP/1.1
        connect: [\"CONNECT\\naccept-version:1.2\\nhost:127.0.0.1\\nheart-beat:20000,20000\\nAuthorization:Bearer TOKEN\\n\\n\\u0000\"]
        subscribe: [\"SUBSCRIBE\\nid:0\\ndestination:/topic/room.1\\nreceipt:s\\n\\n\\u0000\"]
        resume: [\"SUBSCRIBE\\nid:0\\ndestination:/topic/room.1\\nreceipt:s\\nepoch:5f\\noffset:41\\npresence:true\\n\\n\\u0000\"]
        publish: [\"SEND\\ndestination:/topic/room.1\\nreceipt:3\\ncontent-type:text/plain\\n\\nBODY\\u0000\"]
        > o
          Greeting
        > h
        > a[\"CONNECTED\\nversion:1.2\\n\\n\\u0000\",\"RECEIPT\\nreceipt-id:s\\n\\n\\u0000\"]
          Connected
          Subscribed { position: None, recovered: None }
        > c[3000,\"Go away!\"]
          Leaving { after_ms: None }
    "#]],
    );
}

#[test]
fn events_come_to_those_who_listen_and_are_published_by_requests() {
    let incoming = [
        "event: connected\ndata: {\"type\":\"connected\"}",
        "event: subscribed\ndata: {\"type\":\"ok\",\"id\":0,\"epoch\":\"5f\",\"offset\":43}",
        ": heartbeat",
        "id: 5f:9\ndata: {\"type\":\"message\",\"data\":\"BODY\",\"offset\":9}",
        "retry: 700\nevent: reconnect\ndata: {}",
        "event: fault\ndata: {}",
    ];
    let adapter = Protocol::Events.adapter();
    check(
        adapter,
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /events?destination=/topic/room.1 HTTP/1.1 Authorization: Bearer TOKEN
        connect: (nothing)
        subscribe: (nothing)
        resume: (nothing)
        publish: 
        > event: connected\ndata: {\"type\":\"connected\"}
          Connected
        > event: subscribed\ndata: {\"type\":\"ok\",\"id\":0,\"epoch\":\"5f\",\"offset\":43}
          Subscribed { position: Some(Position { epoch: "5f", offset: 43 }), recovered: None }
        > : heartbeat
        > id: 5f:9\ndata: {\"type\":\"message\",\"data\":\"BODY\",\"offset\":9}
          Delivery { stamp: STAMP, offset: Some(9) }
        > retry: 700\nevent: reconnect\ndata: {}
          Leaving { after_ms: Some(700) }
        > event: fault\ndata: {}
          Fault("event: fault\ndata: {}")
    "#]],
    );
    let answers = ["HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.1 503 No\r\n\r\n{}"];
    check(
        adapter.publisher().unwrap(),
        Place::Room(1),
        &answers,
        &expect![[r#"
        request: POST /publish HTTP/1.1 Authorization: Bearer TOKEN
        connect: (nothing)
        subscribe: (nothing)
        resume: (nothing)
        publish: Content-Length: 96\r\n\r\n{\"to\":\"/topic/room.1\",\"data\":\"BODY\"}
        > HTTP/1.1 200 OK\r\n\r\n{}
          Published
        > HTTP/1.1 503 No\r\n\r\n{}
          Fault("HTTP/1.1 503 No\r\n\r\n{}")
    "#]],
    );
}

#[test]
fn centrifugo_packs_replies_by_lines_and_is_ponged() {
    let incoming = [
        "{\"id\":1,\"connect\":{\"client\":\"c\",\"ping\":25,\"pong\":true}}",
        "{\"id\":2,\"subscribe\":{}}\n{\"push\":{\"channel\":\"room.1\",\"pub\":{\"data\":\"BODY\"}}}",
        "{\"id\":6,\"publish\":{}}",
        "{}",
        "{\"id\":6,\"error\":{\"code\":103,\"message\":\"permission denied\"}}",
        "{\"push\":{\"disconnect\":{\"code\":3001}}}",
    ];
    check(
        Protocol::Centrifugo.adapter(),
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /connection/websocket HTTP/1.1
        connect: {\"id\":1,\"connect\":{\"token\":\"TOKEN\"}}
        subscribe: {\"id\":2,\"subscribe\":{\"channel\":\"room.1\"}}
        resume: {\"id\":2,\"subscribe\":{\"channel\":\"room.1\"}}
        publish: {\"id\":6,\"publish\":{\"channel\":\"room.1\",\"data\":\"BODY\"}}
        > {\"id\":1,\"connect\":{\"client\":\"c\",\"ping\":25,\"pong\":true}}
          Connected
        > {\"id\":2,\"subscribe\":{}}\n{\"push\":{\"channel\":\"room.1\",\"pub\":{\"data\":\"BODY\"}}}
          Subscribed { position: None, recovered: None }
          Delivery { stamp: STAMP, offset: None }
        > {\"id\":6,\"publish\":{}}
          Published
        > {}
          Reply("{}")
        > {\"id\":6,\"error\":{\"code\":103,\"message\":\"permission denied\"}}
          Fault("{\"id\":6,\"error\":{\"code\":103,\"message\":\"permission denied\"}}")
        > {\"push\":{\"disconnect\":{\"code\":3001}}}
          Leaving { after_ms: None }
    "#]],
    );
}

#[test]
fn socketio_is_greeted_and_acknowledged() {
    let incoming = [
        r#"0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000}"#,
        r#"40{"sid":"y"}"#,
        "430[]",
        "434[]",
        r#"42["message","BODY"]"#,
        "2",
        "41",
        r#"44{"message":"unauthorized"}"#,
    ];
    check(
        Protocol::SocketIo.adapter(),
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /socket.io/?EIO=4&transport=websocket HTTP/1.1
        connect: 40{\"token\":\"TOKEN\"}
        subscribe: 420[\"subscribe\",\"room.1\"]
        resume: 420[\"subscribe\",\"room.1\"]
        publish: 424[\"publish\",\"room.1\",\"BODY\"]
        > 0{\"sid\":\"x\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}
          Greeting
        > 40{\"sid\":\"y\"}
          Connected
        > 430[]
          Subscribed { position: None, recovered: None }
        > 434[]
          Published
        > 42[\"message\",\"BODY\"]
          Delivery { stamp: STAMP, offset: None }
        > 2
          Reply("3")
        > 41
          Leaving { after_ms: None }
        > 44{\"message\":\"unauthorized\"}
          Fault("44{\"message\":\"unauthorized\"}")
    "#]],
    );
}

#[test]
fn polls_go_on_from_the_cursor_of_the_answer_before() {
    let ok = r#"{"type":"ok","id":0,"epoch":"5f","offset":3}"#;
    let message = r#"{"type":"message","to":"/t","data":"BODY","epoch":"5f","offset":4}"#;
    let reconnect = r#"{"type":"reconnect","after_ms":5,"reason":"draining"}"#;
    let page = |message: &str| {
        format!("HTTP/1.1 200 OK\r\n\r\n{{\"messages\":[{message}],\"cursor\":\"5f:4~a\"}}")
    };
    let refusal = "HTTP/1.1 503 No\r\nRetry-After: 1\r\n\r\n{}";
    let incoming = [&*page(ok), &page(message), &page(reconnect), refusal];
    let adapter = Protocol::Poll.adapter();
    check(
        adapter,
        Place::Room(1),
        &incoming,
        &expect![[r#"
        request: GET /poll?destination=/topic/room.1&wait=25s HTTP/1.1 Authorization: Bearer TOKEN
        connect: (nothing)
        subscribe: (nothing)
        resume: (nothing)
        publish: 
        > HTTP/1.1 200 OK\r\n\r\n{\"messages\":[{\"type\":\"ok\",\"id\":0,\"epoch\":\"5f\",\"offset\":3}],\"cursor\":\"5f:4~a\"}
          Connected
          Subscribed { position: Some(Position { epoch: "5f", offset: 3 }), recovered: None }
          Answered { cursor: "5f:4~a" }
        > HTTP/1.1 200 OK\r\n\r\n{\"messages\":[{\"type\":\"message\",\"to\":\"/t\",\"data\":\"BODY\",\"epoch\":\"5f\",\"offset\":4}],\"cursor\":\"5f:4~a\"}
          Connected
          Delivery { stamp: STAMP, offset: Some(4) }
          Answered { cursor: "5f:4~a" }
        > HTTP/1.1 200 OK\r\n\r\n{\"messages\":[{\"type\":\"reconnect\",\"after_ms\":5,\"reason\":\"draining\"}],\"cursor\":\"5f:4~a\"}
          Connected
          Leaving { after_ms: Some(5) }
          Answered { cursor: "5f:4~a" }
        > HTTP/1.1 503 No\r\nRetry-After: 1\r\n\r\n{}
          Refused { after_ms: Some(1000), answer: "HTTP/1.1 503 No\r\nRetry-After: 1\r\n\r\n{}" }
    "#]],
    );
    let session = Session {
        host: "h",
        token: "TOKEN",
        destination: "/topic/room.1",
        number: 7,
        since: None,
        cursor: Some("5f:4~a"),
        presence: false,
    };
    let request = adapter.request(&session);
    assert!(request.starts_with("GET /poll?destination=/topic/room.1&cursor=5f:4~a&"), "{request}");
}
