//! SEND: where to, with which headers, how often.

use expect_test::expect;

use crate::transcript::{check, check_rules};

#[test]
fn a_send_is_published_with_its_body_and_content_type() {
    check(expect![[r##"
        # stomp 1.2 ann
        C> SEND destination:/topic/a content-type:application/json | {"a":1}
        S? publish /topic/a from ann as application/json | {"a":1}
        C> SEND destination:/topic/a content-type:text/plain;charset=utf-8 | hi
        S? publish /topic/a from ann as text/plain;charset=utf-8 | hi
        C> SEND destination:/topic/a
        S? publish /topic/a from ann
    "##]]);
}

#[test]
fn a_send_needs_a_destination() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND receipt:1 | hi
        S< ERROR code:missing_header message:SEND needs the header destination receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn the_senders_own_headers_are_passed_on_and_reserved_ones_are_not() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a priority:9 x-trace:a b subscription:9 message-id:m user-name:root epoch:1 offset:2 ack:z redelivered:true recovered:true degraded:true code:c receipt:1 | hi
        S? publish /topic/a from ann priority:9 x-trace:a b | hi
        S< RECEIPT receipt-id:1
        C> SEND destination:/topic/a login:ann passcode:secret Authorization:Bearer secret Message-Id:m heart-beat:1,1 accept-version:1.2 | hi
        S? publish /topic/a from ann | hi
    "#]]);
}

/// `@stomp/stompjs` trims the names of headers, so these would be `ack`, `epoch` and nothing there.
#[test]
fn a_header_is_reserved_whatever_stands_around_its_name() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\ndestination:/topic/a\n ack:1\nepoch :1\nOFFSET\c:1\n :1\nx-offset:1\n\nhi\0
        S? publish /topic/a from ann x-offset:1 | hi
    "#]]);
}

#[test]
fn of_a_repeated_header_the_first_counts() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\ndestination:/topic/a\ndestination:/topic/b\nfoo:1\nfoo:2\n\nhi\0
        S? publish /topic/a from ann foo:1 | hi
    "#]]);
}

#[test]
fn header_escapes_are_those_of_the_version() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\ndestination:/topic/a\nfoo\cbar:1\c2\\3\n\nhi\0
        S? publish /topic/a from ann foo:bar:1:2\3 | hi
        C> (text) SEND\ndestination:/topic/a\nfoo:\t\n\nhi\0
        S< ERROR code:protocol_error message:header line 2 has an undefined escape; write a backslash as \\
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> (text) SEND\ndestination:/topic/a\nfoo:\c\t\n\nhi\0
        S? publish /topic/a from ann foo:\c\t | hi
    "#]]);
}

#[test]
fn content_length_lets_a_body_contain_nul() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (bytes) SEND\ndestination:/topic/a\ncontent-length:3\n\na\0b\0
        S? publish /topic/a from ann | a\0b
    "#]]);
}

#[test]
fn a_malformed_destination_is_an_error_that_says_why() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/exchange/a receipt:1 | hi
        S< ERROR code:bad_destination message:destination must begin with /topic/, /queue/, /user/ or /app/ receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/* receipt:1 | hi
        S< ERROR code:bad_destination message:destination contains '*', which is not allowed in one receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn a_destination_is_bounded() {
    let mut rules = crate::driver::rules();
    rules.limits.destination_bytes = 12;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/topic/12345
            S? publish /topic/12345 from ann
            C> SEND destination:/topic/123456
            S< ERROR code:bad_destination message:a destination may have at most 12 bytes
            S| close protocol_error
        "#]],
    );
}

#[test]
fn app_destinations_without_a_route_have_no_handler() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/app/chat receipt:1 | hi
        S< ERROR code:no_handler message:nothing handles this destination receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r##"
        # native ann
        C> {"type":"send","to":"/app/chat","data":1,"id":1}
        S< error {"code":"no_handler","id":1,"message":"nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user"}
    "##]]);
}

#[test]
fn too_many_sends_at_once_are_refused_with_the_time_to_wait_except_from_a_service() {
    let mut rules = crate::driver::rules();
    rules.limits.messages.burst = 2;
    check_rules(
        rules.clone(),
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/topic/a
            S? publish /topic/a from ann
            C> SEND destination:/topic/a
            S? publish /topic/a from ann
            C> SEND destination:/topic/a receipt:1
            S< ERROR code:rate_limited message:too many messages receipt-id:1 retry-after:1
            S| close rate_limited
        "#]],
    );
    check_rules(
        rules.clone(),
        expect![[r#"
            # stomp 1.2 app+service
            C> SEND destination:/topic/a
            S? publish /topic/a from app
            C> SEND destination:/topic/a
            S? publish /topic/a from app
            C> SEND destination:/topic/a
            S? publish /topic/a from app
        "#]],
    );
    check_rules(
        rules,
        expect![[r##"
            # native ann
            C> {"type":"send","to":"/topic/a","data":1}
            S? publish /topic/a from ann as known application/json | 1
            C> {"type":"send","to":"/topic/a","data":2}
            S? publish /topic/a from ann as known application/json | 2
            C> {"type":"send","to":"/topic/a","data":3,"id":3}
            S< error {"code":"rate_limited","id":3,"message":"too many messages; send fewer per second","retry_after_ms":20}
            T> 1s
            C> {"type":"send","to":"/topic/a","data":4,"id":4}
            S? publish /topic/a from ann as known application/json | 4
            S< ok {"id":4,"message_id":"<id>"}
        "##]],
    );
}

#[test]
fn other_frames_have_a_rate_of_their_own() {
    let mut rules = crate::driver::rules();
    rules.limits.commands.burst = 2;
    check_rules(
        rules,
        expect![[r##"
            # native ann
            C> {"type":"ping","id":1}
            S< pong {"id":1}
            C> {"type":"nonsense","id":2}
            S< error {"code":"protocol_error","id":2,"message":"unknown type \"nonsense\"; known are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"}
            C> {"type":"nonsense","id":3}
            S< error {"code":"rate_limited","id":3,"message":"too many messages; send fewer per second","retry_after_ms":10}
            C> {"type":"send","to":"/topic/a","data":1,"id":4}
            S? publish /topic/a from ann as known application/json | 1
            S< ok {"id":4,"message_id":"<id>"}
        "##]],
    );
}
