//! Drain: advice first, then the close; what was asked for is answered before.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn an_idle_session_is_told_to_reconnect_and_closed() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        D> drain
        S< ERROR code:draining message:this node is going away retry-after:2
        S! leave /topic/single/a
        S| close draining
    "#]]);
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a"}
        S? join /topic/single/a
        D> drain
        S< reconnect {"after_ms":1500,"reason":"draining"}
        S! leave /topic/single/a
        S| close draining
    "##]]);
}

#[test]
fn a_session_too_many_is_told_to_reconnect_as_in_a_drain_with_its_own_reason() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> rebalance
        S< ERROR code:rebalanced message:this node has more sessions than others retry-after:2
        S| close rebalanced
    "#]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> rebalance
        D> published unavailable
        S< error {"code":"unavailable","id":1,"message":"the broker can't be reached; nothing was published, try again later","retry_after_ms":1000}
        S< reconnect {"after_ms":1500,"reason":"rebalanced"}
        S| close rebalanced
    "##]]);
}

#[test]
fn a_session_that_is_not_connected_is_closed_at_once() {
    check(expect![[r#"
        D> drain
        S| close draining
    "#]]);
    check(expect![[r#"
        D> hold
        C> CONNECT accept-version:1.2 passcode:ann
        S? authenticate ann
        D> drain
        S< ERROR code:draining message:this node is going away retry-after:2
        S| close draining
    "#]]);
}

#[test]
fn a_publish_under_way_is_answered_before_the_close() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> (text) SEND\ndestination:/topic/a\nreceipt:1\n\none\0SEND\ndestination:/topic/a\nreceipt:2\n\ntwo\0
        S? publish /topic/a from ann | one
        D> drain
        T> 2s
        D> drain
        D> published
        S< RECEIPT receipt-id:1
        S< ERROR code:draining message:this node is going away retry-after:2
        S| close draining
    "#]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> drain
        D> published unavailable
        S< error {"code":"unavailable","id":1,"message":"the broker can't be reached; nothing was published, try again later","retry_after_ms":1000}
        S< reconnect {"after_ms":1500,"reason":"draining"}
        S| close draining
    "##]]);
}

#[test]
fn a_publish_that_takes_too_long_does_not_hold_up_the_drain() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> drain
        T> 5s
        @5s S< reconnect {"after_ms":1500,"reason":"draining"}
        @5s S| close draining
    "##]]);
}

#[test]
fn a_drain_that_is_hurried_waits_less_for_an_answer() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> drain
        D> drain within 1s
        D> drain
        T> 1s
        @1s S< reconnect {"after_ms":1500,"reason":"draining"}
        @1s S| close draining
    "##]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> drain
        D> drain over
        S< reconnect {"after_ms":1500,"reason":"draining"}
        S| close draining
    "##]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/a","data":1,"id":1}
        S? publish /topic/a from ann as known application/json | 1
        D> drain over
        S< reconnect {"after_ms":1500,"reason":"draining"}
        S| close draining
    "##]]);
}
