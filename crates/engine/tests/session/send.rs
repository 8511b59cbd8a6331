//! SEND: where to, with which headers, how often.

use expect_test::expect;

use crate::transcript::{check, check_rules};

#[test]
fn a_send_is_published_with_its_body_and_content_type() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a content-type:application/json | {"a":1}
        C> SEND destination:/topic/a content-type:text/plain;charset=utf-8 | hi
        C> SEND destination:/topic/a
    "#]]);
}

#[test]
fn a_send_needs_a_destination() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND receipt:1 | hi
    "#]]);
}

#[test]
fn the_senders_own_headers_are_passed_on_and_reserved_ones_are_not() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a priority:9 x-trace:a b subscription:9 message-id:m session:s user-name:root epoch:1 offset:2 ack:z redelivered:true recovered:true degraded:true code:c receipt:1 | hi
        C> SEND destination:/topic/a login:ann passcode:secret Authorization:Bearer secret Message-Id:m heart-beat:1,1 accept-version:1.2 | hi
    "#]]);
}

#[test]
fn of_a_repeated_header_the_first_counts() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\ndestination:/topic/a\ndestination:/topic/b\nfoo:1\nfoo:2\n\nhi\0
    "#]]);
}

#[test]
fn header_escapes_are_those_of_the_version() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\ndestination:/topic/a\nfoo\cbar:1\c2\\3\n\nhi\0
        C> (text) SEND\ndestination:/topic/a\nfoo:\t\n\nhi\0
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> (text) SEND\ndestination:/topic/a\nfoo:\c\t\n\nhi\0
    "#]]);
}

#[test]
fn content_length_lets_a_body_contain_nul() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (bytes) SEND\ndestination:/topic/a\ncontent-length:3\n\na\0b\0
    "#]]);
}

#[test]
fn a_malformed_destination_is_an_error_that_says_why() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/exchange/a receipt:1 | hi
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/* receipt:1 | hi
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
            C> SEND destination:/topic/123456
        "#]],
    );
}

#[test]
fn app_destinations_have_no_handler_yet() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/app/chat receipt:1 | hi
    "#]]);
    check(expect![[r#"
        # native ann
        C> {"type":"send","to":"/app/chat","data":1,"id":1}
    "#]]);
}

#[test]
fn too_many_sends_at_once_are_refused_with_the_time_to_wait() {
    let mut rules = crate::driver::rules();
    rules.limits.messages.burst = 2;
    check_rules(
        rules.clone(),
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/topic/a
            C> SEND destination:/topic/a
            C> SEND destination:/topic/a receipt:1
        "#]],
    );
    check_rules(
        rules,
        expect![[r#"
            # native ann
            C> {"type":"send","to":"/topic/a","data":1}
            C> {"type":"send","to":"/topic/a","data":2}
            C> {"type":"send","to":"/topic/a","data":3,"id":3}
            T> 1s
            C> {"type":"send","to":"/topic/a","data":4,"id":4}
        "#]],
    );
}

#[test]
fn other_frames_have_a_rate_of_their_own() {
    let mut rules = crate::driver::rules();
    rules.limits.commands.burst = 2;
    check_rules(
        rules,
        expect![[r#"
            # native ann
            C> {"type":"ping","id":1}
            C> {"type":"nonsense","id":2}
            C> {"type":"nonsense","id":3}
            C> {"type":"send","to":"/topic/a","data":1,"id":4}
        "#]],
    );
}
