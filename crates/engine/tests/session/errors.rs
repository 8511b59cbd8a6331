//! ERROR: always before the close, with code, receipt-id and what to do; and size limits.

use expect_test::expect;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn what_is_no_stomp_is_an_error_before_the_close() {
    check(expect![[r##"
        # stomp 1.2 ann
        C> (text) SUBSCRIB\nid:1\n\n\0
        S< ERROR code:protocol_error message:unknown command "SUBSCRIB"
        S| close protocol_error
    "##]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) SEND\nno colon\n\n\0
        S< ERROR code:protocol_error message:header line 1 has no colon between name and value
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) UNSUBSCRIBE\nid:1\n\nbody\0
        S< ERROR code:protocol_error message:UNSUBSCRIBE must not have a body
        S| close protocol_error
    "#]]);
}

#[test]
fn frames_of_servers_are_not_taken_from_clients() {
    for command in ["MESSAGE", "RECEIPT", "ERROR", "CONNECTED"] {
        let mut driver = driver::connected_stomp();
        driver.receive(true, format!("{command}\nreceipt:1\n\n\0").as_bytes());
        assert_eq!(
            driver.log,
            [
                format!(
                    "S< ERROR code:protocol_error message:{command} is sent by servers only receipt-id:1"
                )
                .as_str(),
                "S| close protocol_error"
            ]
        );
    }
}

#[test]
fn nothing_is_taken_after_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> (text) SEND\n\n\0SEND\ndestination:/topic/a\n\nlate\0
        S< ERROR code:missing_header message:SEND needs the header destination
        S! leave /topic/single/a
        S| close protocol_error
        C> SEND destination:/topic/a | later
        T> 30s
        D> drain
        D> fault internal nothing
        D> gone
    "#]]);
}

#[test]
fn frames_are_bounded_before_connect_and_after() {
    let mut rules = driver::rules();
    rules.limits.pre_auth_frame_bytes = 60;
    rules.limits.message_bytes = 90;
    check_rules(
        rules.clone(),
        expect![[r#"
            C> CONNECT accept-version:1.2 passcode:0123456789012345678901234567890123456789
            S< ERROR code:too_large message:frame exceeds 60 bytes; send a smaller body or fewer headers
            S| close too_large
        "#]],
    );
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/topic/a | 0123456789012345678901234567890123456789
            S? publish /topic/a from ann | 0123456789012345678901234567890123456789
            C> (text) SEND\ndestination:/topic/a\n\n0123456789012345678901234567890
            C> (text) 123456789012345678901234567890123456789
            S< ERROR code:too_large message:frame exceeds 90 bytes; send a smaller body or fewer headers
            S| close too_large
        "#]],
    );
}

#[test]
fn headers_are_bounded_in_number_and_length() {
    let mut rules = driver::rules();
    rules.limits.headers = 4;
    rules.limits.header_bytes = 30;
    check_rules(
        rules.clone(),
        expect![[r#"
            # stomp 1.2 ann
            C> SEND a:1 b:2 c:3 destination:/topic/a
            S? publish /topic/a from ann a:1 b:2 c:3
            C> SEND a:1 b:2 c:3 d:4 destination:/topic/a
            S< ERROR code:limit_exceeded message:frame has more than 4 headers
            S| close limit_exceeded
        "#]],
    );
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SEND destination:/topic/a x:0123456789012345678901234567890
            S< ERROR code:too_large message:header line 2 exceeds 30 bytes
            S| close too_large
        "#]],
    );
}

#[test]
fn a_fault_that_the_driver_finds_is_told_in_the_clients_protocol() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> fault too_large the message exceeds 65536 bytes
        S< ERROR code:too_large message:the message exceeds 65536 bytes
        S| close too_large
    "#]]);
    check(expect![[r##"
        # native ann
        D> fault invalid_utf8 the message is not UTF-8
        S< error {"code":"invalid_utf8","message":"the message is not UTF-8"}
        S| close invalid_utf8
    "##]]);
    check(expect![[r#"
        D> fault protocol_error an unmasked frame
        S| close protocol_error
    "#]]);
}

#[test]
fn what_was_joined_is_left_when_the_session_ends_however_it_does() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> SUBSCRIBE id:2 destination:/topic/single/b
        S? join /topic/single/b
        D> gone
        S! leave /topic/single/a
        S! leave /topic/single/b
        D> gone
    "#]]);
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a"}
        S? join /topic/single/a
        D> fault slow_consumer too slow
        S< error {"code":"slow_consumer","message":"too slow"}
        S! leave /topic/single/a
        S| close slow_consumer
        D> gone
    "##]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/single/a"}
        S? join /topic/single/a
        D> gone
        S! leave /topic/single/a
    "##]]);
}
