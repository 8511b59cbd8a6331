//! The native protocol: answers per request id, errors that leave the session open.

use expect_test::expect;
use fanlight_engine::limits::Rate;

use crate::transcript::{check, check_rules};

#[test]
fn connect_comes_first_and_once() {
    check(expect![[r#"
        C> {"type":"connect","token":"ann@60"}
        S? authenticate ann@60
        S< connected {"expires":1800000060000,"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        C> {"type":"connect"}
        S< error {"code":"already_connected","message":"already connected; connect once per connection"}
        C> {"type":"ping","id":1}
        S< pong {"id":1}
    "#]]);
    check(expect![[r#"
        C> {"type":"ping","id":1}
        S< error {"code":"not_connected","id":1,"message":"not connected; connect first"}
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        C> {"type":"connect","token":"forged"}
        S? authenticate forged
        S< error {"code":"unauthorized","message":"the token's signature is wrong; was it issued for this gateway's key?"}
        S| close unauthorized
    "#]]);
    check(expect![[r#"
        C> {"type":"conect"}
        S< error {"code":"protocol_error","message":"unknown type \"conect\"; known are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"}
        S| close protocol_error
    "#]]);
}

#[test]
fn connecting_again_counts_against_the_rate_as_any_other_request() {
    let mut rules = crate::driver::rules();
    rules.limits.commands = Rate { per_s: 1, burst: 1 };
    check_rules(
        rules,
        expect![[r#"
            # native ann
            C> {"type":"connect"}
            S< error {"code":"already_connected","message":"already connected; connect once per connection"}
            C> {"type":"connect"}
            S< error {"code":"rate_limited","message":"too many messages; send fewer per second","retry_after_ms":1000}
        "#]],
    );
}

#[test]
fn a_header_is_reserved_whatever_stands_around_its_name() {
    check(expect![[r##"
        # native ann
        C> {"type":"send","to":"/topic/a","data":1,"headers":{"epoch ":"1"},"id":1}
        S< error {"code":"bad_header","id":1,"message":"the header \"epoch \" can't be set by clients; choose another name"}
        C> {"type":"send","to":"/topic/a","data":1,"headers":{"\ufeffContent-Length\u00a0":"1"},"id":2}
        S< error {"code":"bad_header","id":2,"message":"the header \"\\u{feff}Content-Length\\u{a0}\" can't be set by clients; choose another name"}
        C> {"type":"send","to":"/topic/a","data":1,"headers":{"ack:":"1"},"id":3}
        S< error {"code":"bad_header","id":3,"message":"the header \"ack:\" can't be set by clients; choose another name"}
        C> {"type":"send","to":"/topic/a","data":1,"headers":{" ":"1"},"id":4}
        S< error {"code":"bad_header","id":4,"message":"the header \" \" can't be set by clients; choose another name"}
    "##]]);
}

#[test]
fn each_request_with_an_id_is_answered_and_one_without_gets_errors_only() {
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        S? join /topic/single/a
        S< ok {"id":1}
        C> {"type":"send","to":"/topic/single/a","data":{"n":1},"id":"two"}
        S? publish /topic/single/a from ann as known application/json | {"n":1}
        S< ok {"id":"two","message_id":"<id>"}
        C> {"type":"unsubscribe","to":"/topic/single/a","id":3}
        S! leave /topic/single/a
        S< ok {"id":3}
        C> {"type":"ping","id":4}
        S< pong {"id":4}
        C> {"type":"subscribe","to":"/topic/single/a"}
        S? join /topic/single/a
        C> {"type":"send","to":"/topic/single/a","data":null}
        S? publish /topic/single/a from ann as known application/json | null
        C> {"type":"unsubscribe","to":"/topic/single/a"}
        S! leave /topic/single/a
        C> {"type":"unsubscribe","to":"/topic/single/a"}
        S< error {"code":"not_subscribed","message":"there is no subscription of this name; STOMP subscriptions are named by id, native ones by to"}
        C> {"type":"ping"}
        S< pong {}
    "##]]);
}

#[test]
fn a_bad_request_gets_an_error_and_the_session_goes_on() {
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a"}
        S? join /topic/single/a
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        S< error {"code":"already_subscribed","id":1,"message":"there is a subscription of this name already; unsubscribe first; STOMP subscriptions are named by id, native ones by to"}
        C> {"type":"unsubscribe","to":"/topic/b","id":2}
        S< error {"code":"not_subscribed","id":2,"message":"there is no subscription of this name; STOMP subscriptions are named by id, native ones by to"}
        C> {"type":"subscribe","to":"/topic/secret/x","id":3}
        S< error {"code":"forbidden","id":3,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"send","to":"/queue/x","data":1,"id":4}
        S< error {"code":"forbidden","id":4,"message":"no namespace has this destination; mind how it is spelt, or give one of [[namespaces]] a `match` that has it"}
        C> {"type":"send","to":"nowhere","data":1,"id":5}
        S< error {"code":"bad_destination","id":5,"message":"destination must begin with /topic/, /queue/, /user/ or /app/"}
        C> {"type":"subscribe","id":6}
        S< error {"code":"protocol_error","id":6,"message":"missing field `to` in subscribe, which needs to"}
        C> {"type":"what","id":7}
        S< error {"code":"protocol_error","id":7,"message":"unknown type \"what\"; known are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"}
        C> {nonsense
        S< error {"code":"protocol_error","message":"not JSON: key must be a string at line 1 column 2"}
        C> {"type":"ping","id":8}
        S< pong {"id":8}
    "##]]);
}

#[test]
fn a_body_that_is_not_json_comes_as_base64() {
    check(expect![[r##"
        # native ann
        C> {"type":"send","to":"/topic/a","data":"aGk=","content_type":"text/plain","id":1}
        S? publish /topic/a from ann as text/plain | hi
        S< ok {"id":1,"message_id":"<id>"}
        C> {"type":"send","to":"/topic/a","data":"hi!","content_type":"text/plain","id":2}
        S< error {"code":"protocol_error","id":2,"message":"`data` must be a base64 string (standard alphabet, padded), as `content_type` is not JSON; for a text give `encoding`"}
        C> {"type":"send","to":"/topic/a","data": [1, 2],"headers":{"x":"1"}}
        S? publish /topic/a from ann as known application/json x:1 | [1, 2]
    "##]]);
}

#[test]
fn a_reserved_or_oversized_header_is_refused() {
    let mut rules = crate::driver::rules();
    rules.limits.header_bytes = 10;
    check_rules(
        rules,
        expect![[r##"
            # native ann
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"user-name":"root"},"id":1}
            S< error {"code":"bad_header","id":1,"message":"the header \"user-name\" can't be set by clients; choose another name"}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"Epoch":"1"},"id":2}
            S< error {"code":"bad_header","id":2,"message":"the header \"Epoch\" can't be set by clients; choose another name"}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"x":"0123456789"},"id":3}
            S< error {"code":"too_large","id":3,"message":"a header may have at most 10 bytes; put large values into the body"}
            C> {"type":"send","to":"/topic/a","data":1,"headers":{"":"1"},"id":4}
            S< error {"code":"bad_header","id":4,"message":"the header \"\" can't be set by clients; choose another name"}
            C> {"type":"send","to":"/topic/a","data":"YQ==","content_type":"text/plain","id":5}
            S< error {"code":"too_large","id":5,"message":"a header may have at most 10 bytes; put large values into the body"}
        "##]],
    );
}

#[test]
fn messages_of_an_array_are_handled_in_order_one_at_a_time() {
    check(expect![[r##"
        # native ann
        D> hold
        C> [{"type":"send","to":"/topic/a","data":1,"id":1},{"type":"what","id":2},{"type":"send","to":"/topic/a","data":3,"content_type":"application/json","headers":{"a":"b"},"id":3},{"type":"ping","id":4}]
        S? publish /topic/a from ann as known application/json | 1
        C> {"type":"ping","id":5}
        D> published
        S< ok {"id":1,"message_id":"<id>"}
        S< error {"code":"protocol_error","id":2,"message":"unknown type \"what\"; known are connect, subscribe, unsubscribe, send, history, presence, refresh, ping, ack, nack"}
        S? publish /topic/a from ann as known application/json a:b | 3
        D> published unavailable
        S< error {"code":"unavailable","id":3,"message":"the broker can't be reached; nothing was published, try again later","retry_after_ms":1000}
        S< pong {"id":4}
        S< pong {"id":5}
    "##]]);
}

#[test]
fn a_publish_that_fails_is_an_error_and_the_session_goes_on() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> published unknown
        S< error {"code":"unknown","id":1,"message":"the broker did not answer in time; the message may or may not have been published"}
        C> {"type":"send","to":"/topic/a","data":2}
        S? publish /topic/a from ann as known application/json | 2
        D> published overloaded
        S< error {"code":"overloaded","message":"the broker's queue is full; nothing was published, slow down and try again","retry_after_ms":1000}
    "##]]);
}

#[test]
fn a_join_that_is_degraded_says_so() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/single/a","id":1}
        S? join /topic/single/a
        D> joined degraded
        S< ok {"degraded":true,"id":1}
    "##]]);
}

#[test]
fn a_pattern_is_subscribed_and_unsubscribed_as_it_is_written() {
    check(expect![[r##"
        # native
        C> {"type":"subscribe","to":"/topic/public/*","id":1}
        S? join ns:public
        S< ok {"id":1}
        C> {"type":"unsubscribe","to":"/topic/public/{x}","id":2}
        S< error {"code":"not_subscribed","id":2,"message":"there is no subscription of this name; STOMP subscriptions are named by id, native ones by to"}
        C> {"type":"unsubscribe","to":"/topic/public/*","id":3}
        S! leave ns:public
        S< ok {"id":3}
    "##]]);
}

#[test]
fn what_is_not_utf_8_ends_the_session() {
    let mut driver = crate::driver::connected_native();
    driver.receive(false, b"{\"type\":\"ping\xff\"}");
    assert_eq!(driver.log.last().unwrap(), "S| close invalid_utf8");
}
