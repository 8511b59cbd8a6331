//! The native protocol: answers per request id, errors that leave the session open.

use expect_test::expect;

use crate::transcript::{check, check_rules};

#[test]
fn connect_comes_first_and_once() {
    check(expect![[r#"
        C> {"type":"connect","token":"ann@60"}
        C> {"type":"connect"}
        C> {"type":"ping","id":1}
    "#]]);
    check(expect![[r#"
        C> {"type":"ping","id":1}
    "#]]);
    check(expect![[r#"
        C> {"type":"connect","token":"forged"}
    "#]]);
    check(expect![[r#"
        C> {"type":"conect"}
    "#]]);
}

#[test]
fn each_request_with_an_id_is_answered_and_one_without_gets_errors_only() {
    check(expect![[r#"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        C> {"type":"send","to":"/topic/single/a","data":{"n":1},"id":"two"}
        C> {"type":"unsubscribe","to":"/topic/single/a","id":3}
        C> {"type":"ping","id":4}
        C> {"type":"subscribe","to":"/topic/single/a"}
        C> {"type":"send","to":"/topic/single/a","data":null}
        C> {"type":"unsubscribe","to":"/topic/single/a"}
        C> {"type":"unsubscribe","to":"/topic/single/a"}
        C> {"type":"ping"}
    "#]]);
}

#[test]
fn a_bad_request_gets_an_error_and_the_session_goes_on() {
    check(expect![[r#"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a"}
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        C> {"type":"unsubscribe","to":"/topic/b","id":2}
        C> {"type":"subscribe","to":"/topic/secret/x","id":3}
        C> {"type":"send","to":"/queue/x","data":1,"id":4}
        C> {"type":"send","to":"nowhere","data":1,"id":5}
        C> {"type":"subscribe","id":6}
        C> {"type":"what","id":7}
        C> {nonsense
        C> {"type":"ping","id":8}
    "#]]);
}

#[test]
fn a_body_that_is_not_json_comes_as_base64() {
    check(expect![[r#"
        # native ann
        C> {"type":"send","to":"/topic/a","data":"aGk=","content_type":"text/plain","id":1}
        C> {"type":"send","to":"/topic/a","data":"hi!","content_type":"text/plain","id":2}
        C> {"type":"send","to":"/topic/a","data": [1, 2],"headers":{"x":"1"}}
    "#]]);
}

#[test]
fn a_reserved_or_oversized_header_is_refused() {
    let mut rules = crate::driver::rules();
    rules.limits.header_bytes = 10;
    check_rules(
        rules,
        expect![[r#"
            # native ann
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"user-name":"root"},"id":1}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"Epoch":"1"},"id":2}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"x":"0123456789"},"id":3}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"":"1"},"id":4}
        "#]],
    );
}

#[test]
fn messages_of_an_array_are_handled_in_order_one_at_a_time() {
    check(expect![[r#"
        # native ann
        D> hold
        C> [{"type":"send","to":"/topic/a","data":1,"id":1},{"type":"what","id":2},{"type":"send","to":"/topic/a","data":3,"content_type":"application/json","headers":{"a":"b"},"id":3},{"type":"ping","id":4}]
        C> {"type":"ping","id":5}
        D> published
        D> published unavailable
    "#]]);
}

#[test]
fn a_publish_that_fails_is_an_error_and_the_session_goes_on() {
    check(expect![[r#"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        D> published unknown
        C> {"type":"send","to":"/topic/a","data":2}
        D> published overloaded
    "#]]);
}

#[test]
fn a_join_that_is_degraded_says_so() {
    check(expect![[r#"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        D> joined degraded
    "#]]);
}

#[test]
fn a_pattern_is_subscribed_and_unsubscribed_as_it_is_written() {
    check(expect![[r#"
        # native
        C> {"type":"subscribe","to":"/topic/public/*","id":1}
        C> {"type":"unsubscribe","to":"/topic/public/{x}","id":2}
        C> {"type":"unsubscribe","to":"/topic/public/*","id":3}
    "#]]);
}

#[test]
fn what_is_not_utf_8_ends_the_session() {
    let mut driver = crate::driver::connected_native();
    driver.receive(false, b"{\"type\":\"ping\xff\"}");
    assert_eq!(driver.log.last().unwrap(), "S| close invalid_utf8");
}
