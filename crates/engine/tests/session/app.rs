//! `/app/...`: what backends are asked, in which order, and what their answers become.

use expect_test::expect;
use fanlight_engine::policy::{AppRoute, PolicyRule, RuleEffect};
use fanlight_engine::session::{Handshake, Rules};

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
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:e destination:/user/queue/errors
            S? join /user/ann/queue/errors
            D> hold
            C> SEND destination:/app/chat/7/send receipt:1 | hi
            S? app message /app/chat/7/send room=7 from ann | hi
            D> handled refused room_full Room 7 is full
            S< MESSAGE content-length:78 content-type:application/json destination:/user/queue/errors message-id:<id> subscription:e | {"code":"room_full","destination":"/app/chat/7/send","message":"Room 7 is full"}
            C> SUBSCRIBE id:s destination:/app/chat/7/send receipt:2
            S? app request /app/chat/7/send room=7 from ann
            D> handled timeout
            S< MESSAGE content-length:1 content-type:application/json destination:/user/queue/errors message-id:<id> subscription:e | x
            C> SEND destination:/topic/a receipt:3 | goes on
            S? publish /topic/a from ann | goes on
        "#]],
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
            S< x
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
            S< x
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
            S< x
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
            S< x
            C> {"type":"subscribe","to":"/app/open/x","presence":true,"id":2}
            S< x
            C> {"type":"send","to":"/app/open/x","data":1,"session":"0198f5a2b3c47d5e8f900123456789ab","id":3}
            S< x
            C> {"type":"send","to":"/app/open/x","data":1,"key":"","id":4}
            S< x
            C> {"type":"history","to":"/app/open/x","limit":1,"id":5}
            S< x
            C> {"type":"subscribe","to":"/app/*","id":6}
            S< x
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
