//! `/app/...`: what backends are asked, in which order, and what their answers become.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect;
use fanlight_engine::app::{AppBody, AppError, AppFailure, AppMessage, AppReply};
use fanlight_engine::ids::Ids;
use fanlight_engine::policy::{AppKind, AppRoute, PolicyRule, Principal, RuleEffect, Subject};
use fanlight_engine::publication::{ContentType, PublicationId, SessionId};
use fanlight_engine::session::{Handshake, Rules, Sent};
use fanlight_engine::time::Now;

use crate::driver;
use crate::transcript::{check_rules, check_with};

#[test]
fn a_send_is_acknowledged_once_its_handler_has_answered_and_what_is_sent_behind_it_waits() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            D> hold
            C> SEND destination:/app/chat/7/send idempotency-key:k x-a:b receipt:1 | hi
            S? app message /app/chat/7/send room=7 from ann key k x-a:b | hi
            C> SEND destination:/topic/a receipt:2 | behind
            D> handled
            S< RECEIPT receipt-id:1
            S? publish /topic/a from ann | behind
            D> published
            S< RECEIPT receipt-id:2
        "#]],
    );
    check_rules(
        app_rules(),
        expect![[r##"
            # native ann
            D> hold
            C> {"type":"send","to":"/app/chat/7/send","data":{"a":1},"id":1}
            S? app message /app/chat/7/send room=7 from ann | {"a":1}
            D> handled
            S< ok {"id":1,"message_id":"<id>"}
            C> {"type":"send","to":"/app/chat/7/send","data":1,"exclude_self":true,"id":2}
            S< error {"code":"bad_exclusion","id":2,"message":"what a backend handles goes to no subscribers, so it can't exclude any; send it without exclude_self"}
        "##]],
    );
}

#[test]
fn a_subscription_gets_one_answer_before_its_receipt_and_does_not_stand() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            D> hold
            C> SUBSCRIBE id:s destination:/app/chat/7/send x-a:b ack:auto receipt:1
            S? app request /app/chat/7/send room=7 from ann x-a:b
            D> handled reply {"members":3}
            S< MESSAGE content-length:13 content-type:application/json destination:/app/chat/7/send message-id:<id> subscription:s x-from:backend | {"members":3}
            S< RECEIPT receipt-id:1
            C> SUBSCRIBE id:s destination:/app/chat/8/send receipt:2
            S? app request /app/chat/8/send room=8 from ann
            D> handled bytes raw
            S< MESSAGE content-length:3 content-type:application/x-thing destination:/app/chat/8/send message-id:<id> subscription:s | raw
            S< RECEIPT receipt-id:2
            C> SUBSCRIBE id:s destination:/app/chat/9/send receipt:3
            S? app request /app/chat/9/send room=9 from ann
            D> handled
            S< RECEIPT receipt-id:3
        "#]],
    );
    check_rules(
        app_rules(),
        expect![[r##"
            # native ann
            D> hold
            C> {"type":"subscribe","to":"/app/chat/7/send","id":1,"history":5}
            S? app request /app/chat/7/send room=7 from ann
            D> handled reply 1
            S< message {"at":1800000000000,"data":1,"headers":{"x-from":"backend"},"id":"<id>","to":"/app/chat/7/send"}
            S< ok {"count":0,"id":1,"reason":"no_history"}
        "##]],
    );
}

/// A client that was answered has a subscription as it sees it, and may end it; once for each.
#[test]
fn what_was_answered_may_be_unsubscribed_from_once() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:s destination:/app/open/x
            S? app request /app/open/x from ann
            C> UNSUBSCRIBE id:s receipt:1
            S< RECEIPT receipt-id:1
            C> UNSUBSCRIBE id:s receipt:2
            S< ERROR code:not_subscribed message:there is no subscription of this name receipt-id:2
            S| close protocol_error
        "#]],
    );
}

#[test]
fn a_failure_is_told_on_the_sessions_own_errors_and_leaves_a_stomp_connection_open() {
    check_rules(
        app_rules(),
        expect![[r##"
            # stomp 1.2 ann
            C> SUBSCRIBE id:e destination:/user/queue/errors
            S? join /user/ann/queue/errors
            D> hold
            C> SEND destination:/app/chat/7/send receipt:1 | hi
            S? app message /app/chat/7/send room=7 from ann | hi
            D> handled refused room_full Room 7 is full
            S< MESSAGE content-length:94 content-type:application/json destination:/user/queue/errors message-id:<id> subscription:e | {"code":"room_full","message":"Room 7 is full","destination":"/app/chat/7/send","receipt":"1"}
            C> SUBSCRIBE id:s destination:/app/chat/7/send receipt:2
            S? app request /app/chat/7/send room=7 from ann
            D> handled timeout
            S< MESSAGE content-length:175 content-type:application/json destination:/user/queue/errors message-id:<id> subscription:e | {"code":"timeout","message":"the backend did not answer in time; it may or may not have done what was asked","destination":"/app/chat/7/send","receipt":"2","subscription":"s"}
            C> SEND destination:/app/chat/7/send idempotency-key:k-1 | hi
            S? app message /app/chat/7/send room=7 from ann key k-1 | hi
            D> handled timeout
            S< MESSAGE content-length:154 content-type:application/json destination:/user/queue/errors message-id:<id> subscription:e | {"code":"timeout","message":"the backend did not answer in time; it may or may not have done what was asked","destination":"/app/chat/7/send","key":"k-1"}
            C> SEND destination:/topic/a receipt:3 | goes on
            S? publish /topic/a from ann | goes on
        "##]],
    );
    check_rules(
        app_rules(),
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/user/queue/errors","id":1}
            S? join /user/ann/queue/errors
            S< ok {"id":1}
            C> {"type":"subscribe","to":"/user/ann/queue/errors","id":2}
            S? join /user/ann/queue/errors
            S< ok {"id":2}
            D> hold
            C> {"type":"send","to":"/app/chat/7/send","data":1,"id":3}
            S? app message /app/chat/7/send room=7 from ann | 1
            D> handled unavailable
            S< message {"at":1800000000000,"data":{"code":"unavailable","destination":"/app/chat/7/send","id":3,"message":"the backend can't be asked now; try again later","retry_after_ms":1000},"id":"<id>","to":"/user/queue/errors"}
            S< error {"code":"unavailable","id":3,"message":"the backend can't be asked now; try again later","retry_after_ms":1000}
            C> {"type":"send","to":"/app/chat/7/send","data":1,"key":"k","id":"seven"}
            S? app message /app/chat/7/send room=7 from ann key k | 1
            D> handled timeout
            S< message {"at":1800000000000,"data":{"code":"timeout","destination":"/app/chat/7/send","id":"seven","key":"k","message":"the backend did not answer in time; it may or may not have done what was asked"},"id":"<id>","to":"/user/queue/errors"}
            S< error {"code":"timeout","id":"seven","message":"the backend did not answer in time; it may or may not have done what was asked"}
        "##]],
    );
}

/// Nobody subscribed: a STOMP client hears of a failure by the receipt that does not come.
#[test]
fn without_a_subscription_to_errors_only_a_native_client_is_told() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2
            D> hold
            C> SEND destination:/app/open/x receipt:1 | hi
            S? app message /app/open/x | hi
            D> handled refused no why
            C> SEND destination:/app/open/y receipt:2 | hi
            S? app message /app/open/y | hi
            D> handled
            S< RECEIPT receipt-id:2
        "#]],
    );
}

#[test]
fn the_route_says_who_may_use_it() {
    for (who, destination, outcome) in [
        ("stomp 1.2 ann", "/app/chat/7/send", "S? app message /app/chat/7/send room=7 from ann"),
        ("stomp 1.2", "/app/chat/7/send", "S| close forbidden"),
        ("stomp 1.2", "/app/open/x", "S? app message /app/open/x"),
        ("stomp 1.2 ann", "/app/admin/x", "S| close forbidden"),
        ("stomp 1.2 root+admin", "/app/admin/x", "S? app message /app/admin/x from root"),
        // A rule denies it.
        ("stomp 1.2 root+admin", "/app/admin/closed", "S| close forbidden"),
        ("stomp 1.2 ann", "/app/elsewhere", "S| close forbidden"),
    ] {
        let mut driver = driver::Driver::new(app_rules(), None, Handshake::default());
        crate::transcript::run(&mut driver, &format!("# {who}"));
        crate::transcript::run(&mut driver, "D> hold");
        crate::transcript::run(&mut driver, &format!("C> SEND destination:{destination}"));
        assert_eq!(driver.log.last().unwrap(), outcome, "{who} to {destination}");
    }
}

#[test]
fn a_route_that_answers_nobody_takes_messages_only() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/app/stream/x receipt:1
            S? app message /app/stream/x from ann
            S< RECEIPT receipt-id:1
            C> SUBSCRIBE id:1 destination:/app/stream/x receipt:2
            S< ERROR code:no_handler message:nothing handles this destination receipt-id:2
            S| close forbidden
        "#]],
    );
}

#[test]
fn sends_to_a_backend_keep_their_place_in_a_transaction() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> BEGIN transaction:t
            C> SEND destination:/topic/a transaction:t | one
            C> SEND destination:/app/chat/7/send transaction:t | two
            C> SEND destination:/topic/a transaction:t | three
            D> hold
            C> COMMIT transaction:t receipt:1
            S? publish /topic/a from ann | one
            D> published
            S? app message /app/chat/7/send room=7 from ann | two
            D> handled
            S? publish /topic/a from ann | three
            D> published
            S< RECEIPT receipt-id:1
        "#]],
    );
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:e destination:/user/queue/errors
            S? join /user/ann/queue/errors
            C> BEGIN transaction:t
            C> SEND destination:/app/chat/7/send transaction:t | one
            C> SEND destination:/app/chat/8/send transaction:t | two
            C> SEND destination:/topic/a transaction:t | three
            D> hold
            C> COMMIT transaction:t receipt:1
            S? app message /app/chat/7/send room=7 from ann | one
            D> handled
            S? app message /app/chat/8/send room=8 from ann | two
            D> handled refused no not now
            S< ERROR code:commit_incomplete message:not now; done before: the first 1 of the transaction's sends receipt-id:1
            S! leave /user/ann/queue/errors
            S| close unavailable
        "#]],
    );
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> BEGIN transaction:t
            C> SEND destination:/app/chat/7/send transaction:t | one
            D> hold
            C> COMMIT transaction:t receipt:1
            S? app message /app/chat/7/send room=7 from ann | one
            D> handled refused no not now
            C> SEND destination:/topic/a receipt:2 | goes on
            S? publish /topic/a from ann | goes on
        "#]],
    );
}

#[test]
fn a_subscription_to_a_backend_counts_as_a_message() {
    let mut rules = app_rules();
    rules.limits.messages.burst = 1;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/app/open/x receipt:1
            S? app request /app/open/x from ann
            S< RECEIPT receipt-id:1
            C> SUBSCRIBE id:2 destination:/app/open/x receipt:2
            S< ERROR code:rate_limited message:too many messages receipt-id:2 retry-after:1
            S| close rate_limited
        "#]],
    );
}

#[test]
fn a_session_that_leaves_waits_for_its_backend_and_then_goes() {
    check_rules(
        app_rules(),
        expect![[r#"
            # stomp 1.2 ann
            D> hold
            C> SEND destination:/app/chat/7/send receipt:1 | hi
            S? app message /app/chat/7/send room=7 from ann | hi
            D> drain
            D> handled
            S< RECEIPT receipt-id:1
            S< ERROR code:draining message:this node is going away retry-after:2
            S| close draining
        "#]],
    );
}

#[test]
fn what_only_queues_and_topics_have_is_refused() {
    check_with(
        app_rules(),
        Handshake::default(),
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/app/open/x","ack":"client","id":1}
            S< error {"code":"not_a_queue","id":1,"message":"only what queues deliver is acknowledged, and this is none; subscribe without ack and prefetch"}
            C> {"type":"subscribe","to":"/app/open/x","presence":true,"id":2}
            S< error {"code":"forbidden","id":2,"message":"/app has no presence; ask without presence"}
            C> {"type":"send","to":"/app/open/x","data":1,"session":"0198f5a2b3c47d5e8f900123456789ab","id":3}
            S< error {"code":"bad_session","id":3,"message":"only what a user's sessions subscribe to can be sent to one of them; send to /user/{name}/..., outside of namespaces of queues"}
            C> {"type":"send","to":"/app/open/x","data":1,"key":"","id":4}
            S< error {"code":"bad_key","id":4,"message":"an idempotency key has 1 to 128 bytes; use a UUID"}
            C> {"type":"history","to":"/app/open/x","limit":1,"id":5}
            S< error {"code":"no_handler","id":5,"message":"nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user"}
            C> {"type":"subscribe","to":"/app/*","id":6}
            S< error {"code":"no_handler","id":6,"message":"nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user"}
        "##]],
    );
}

pub(crate) fn app_rules() -> Rules {
    let route = |destination: &str| AppRoute {
        destination: destination.to_owned(),
        roles: Vec::new(),
        anonymous: false,
        requests: true,
        send_to: None,
        broadcast: true,
    };
    let routes = [
        route("/app/chat/{room}/send"),
        AppRoute { anonymous: true, ..route("/app/open/*") },
        AppRoute { roles: vec!["admin".to_owned()], ..route("/app/admin/**") },
        AppRoute { requests: false, ..route("/app/stream/x") },
    ];
    let rules = driver::rules_with(&[PolicyRule::new(RuleEffect::Deny, "/app/admin/closed")]);
    let policy = rules.policy.with_app_routes(&routes).unwrap();
    Rules { policy, ..rules }
}

/// Publications of an answer, then what is for the caller.
fn outcome(message: &AppMessage, rules: &Rules, reply: AppReply) -> Result<Vec<String>, String> {
    let now = Now { mono_ms: 1, unix_ms: 1 };
    let outcome = message.outcome(rules, &mut Ids::new(1), now, reply).map_err(|failure| {
        let AppFailure::BadAnswer(fault) = failure else { panic!("{failure:?}") };
        fault
    })?;
    let mut lines: Vec<_> = outcome
        .publish
        .iter()
        .map(|(permit, publication)| {
            assert_eq!(publication.destination, *permit.destination());
            let only = publication.only_for.map(|_| " only one").unwrap_or_default();
            let kept = permit.history().map(|_| " kept").unwrap_or_default();
            let body = String::from_utf8_lossy(&publication.body);
            format!("{}{only}{kept} {body}", publication.destination)
        })
        .collect();
    lines.extend(outcome.for_caller.iter().map(|own| format!("caller {}", own.destination)));
    lines.extend(
        outcome.reply.map(|reply| format!("reply {}", String::from_utf8_lossy(&reply.body))),
    );
    let session = message.session.map_or("none".to_owned(), |session| session.to_string());
    Ok(lines.into_iter().map(|line| line.replace(&session, "<session>")).collect())
}

/// A message of this user's, or nobody's, with or without a session to answer.
fn message(rules: &Rules, kind: AppKind, to: &str, user: Option<&str>, known: bool) -> AppMessage {
    let session = SessionId(uuid::Uuid::from_u128(7));
    let principal = user.map(|user| Arc::new(Principal::of_user(user)));
    let subject = Subject::new(principal.as_deref(), session);
    AppMessage {
        permit: rules.policy.app(&subject, kind, &to.parse().unwrap()).unwrap(),
        id: PublicationId(uuid::Uuid::from_u128(8)),
        session: known.then_some(session),
        answer_session: known.then_some(session),
        principal,
        body: Bytes::new(),
        content_type: ContentType::Unspecified,
        is_json: false,
        headers: Box::default(),
        key: None,
        at_unix_ms: 1,
    }
}

#[test]
fn what_a_handler_sends_goes_to_the_sender_the_session_or_whom_it_names() {
    let rules = app_rules();
    let reply = || {
        AppReply::nothing()
            .send("/topic/kept/a", AppBody::of_json("1"))
            .send("/user/queue/kept.x", AppBody::of_json("2"))
            .send_to_session("/user/queue/kept.x", AppBody::of_json("3"))
            .send("/user/bob/queue/x", AppBody::of_json("4"))
    };
    let of = |user, known| {
        let message = message(&rules, AppKind::Message, "/app/open/x", user, known);
        outcome(&message, &rules, reply()).unwrap()
    };
    assert_eq!(
        of(Some("ann"), true),
        [
            "/topic/kept/a kept 1",
            "/user/ann/queue/kept.x kept 2",
            "/user/ann/queue/kept.x only one 3",
            "/user/bob/queue/x 4"
        ]
    );
    assert_eq!(
        of(None, true),
        [
            "/topic/kept/a kept 1",
            "/user/~<session>/queue/kept.x 2",
            "/user/~<session>/queue/kept.x 3",
            "/user/bob/queue/x 4"
        ]
    );
    assert_eq!(
        of(Some("ann"), false)[1..],
        ["/user/ann/queue/kept.x kept 2", "/user/bob/queue/x 4", "caller /user/queue/kept.x"]
    );
    assert_eq!(of(None, false)[2..], ["caller /user/queue/kept.x", "caller /user/queue/kept.x"]);
}

/// Who is answered is what the client wants, and never who it says that it is.
#[test]
fn a_request_over_http_comes_from_no_session_whichever_it_names() {
    let rules = app_rules();
    let named = SessionId(uuid::Uuid::from_u128(9));
    let read = |user: Option<&str>, text: &str| {
        let principal = user.map(|user| Arc::new(Principal::of_user(user)));
        let now = Now { mono_ms: 1, unix_ms: 1 };
        let sent = Sent::read(&rules, &mut Ids::new(1), now, principal.as_ref(), None, text);
        sent.map(|sent| match sent {
            Sent::App(message) => *message,
            Sent::Publication(_) => panic!("{text}"),
        })
    };
    let plain = read(Some("ann"), r#"{"to":"/app/open/x","data":1}"#).unwrap();
    assert_eq!((plain.session, plain.answer_session, plain.named_session()), (None, None, None));
    let text = format!(r#"{{"to":"/app/open/x","data":1,"session":"{named}"}}"#);
    let message = read(Some("ann"), &text).unwrap();
    assert_eq!((message.session, message.named_session()), (None, Some(named)));
    // Also where it is another user's, only what is ann's is sent.
    let reply = AppReply::nothing().send_to_session("/user/queue/x", AppBody::of_json("1"));
    assert_eq!(outcome(&message, &rules, reply).unwrap(), ["/user/ann/queue/x only one 1"]);
    assert_eq!(read(None, &text).unwrap_err().code, "bad_session");
}

#[test]
fn a_code_that_can_not_be_told_becomes_refused_and_is_not_forgotten() {
    let long = "c".repeat(64);
    for code in ["room_full", "room-full", "room.full", "E42", &long] {
        let error = AppError::new(code, "");
        assert_eq!((error.replaced(), AppFailure::from(error.clone()).code()), (None, code));
    }
    for code in ["", "room full", "room\nfull", "voll/raum", "r\u{e4}ume", &format!("{long}c")] {
        let error = AppError::new(code, "");
        let start = code.get(..64).unwrap_or(code);
        assert_eq!(error.replaced(), Some(start));
        assert_eq!(AppFailure::from(error).code(), "refused");
    }
}

#[test]
fn a_reply_answers_a_subscription_and_of_a_message_goes_where_its_route_says() {
    let mut rules = app_rules();
    let reply = || AppReply::reply(AppBody::of_json("1"));
    let of = |rules: &Rules, kind, to: &str| {
        outcome(&message(rules, kind, to, Some("ann"), true), rules, reply())
    };
    assert_eq!(of(&rules, AppKind::Request, "/app/open/x").unwrap(), ["reply 1"]);
    let nowhere = of(&rules, AppKind::Message, "/app/open/x").unwrap_err();
    assert!(nowhere.contains("no send_to"), "{nowhere}");

    let route = |send_to: &str, broadcast| AppRoute {
        destination: format!("/app/{}/{{room}}.{{part}}", if broadcast { "all" } else { "one" }),
        roles: Vec::new(),
        anonymous: false,
        requests: true,
        send_to: Some(send_to.to_owned()),
        broadcast,
    };
    let routes = [route("/topic/{part}.of.{room}", true), route("/user/queue/{room}", false)];
    rules.policy = rules.policy.with_app_routes(&routes).unwrap();
    let all = of(&rules, AppKind::Message, "/app/all/7.b").unwrap();
    assert_eq!(all, ["/topic/b.of.7 1"]);
    let one = of(&rules, AppKind::Message, "/app/one/7.b").unwrap();
    assert_eq!(one, ["/user/ann/queue/7 only one 1"]);
}

#[test]
fn an_answer_that_can_not_be_sent_says_what_is_wrong() {
    let mut rules = app_rules();
    rules.limits.message_bytes = 10;
    let asked = message(&rules, AppKind::Message, "/app/open/x", Some("ann"), true);
    let one = || AppBody::of_json("1");
    let nothing = AppReply::nothing;
    for (reply, fault) in [
        (nothing().send("/app/open/x", one()), "nothing handles this"),
        (nothing().send("/queue/x", one()), "no namespace has this"),
        (nothing().send("/topic/*", one()), "contains '*'"),
        (nothing().send("/topic/a", one().with_header("message-id", "1")), "\"message-id\""),
        (nothing().send("/topic/a", AppBody::text("01234567890")), "exceeds limits.message"),
        (nothing().send_to_session("/topic/a", one()), "only an own destination"),
        (nothing().send("/topic/a", one()).send("/user/~7/x", one()), "send[1]"),
    ] {
        let told = outcome(&asked, &rules, reply).unwrap_err();
        assert!(told.contains(fault), "{told}");
    }
    let many = (0..101).fold(nothing(), |reply, _| reply.send("/topic/a", one()));
    assert!(outcome(&asked, &rules, many).unwrap_err().contains("101 messages"));
}
