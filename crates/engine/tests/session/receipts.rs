//! RECEIPT: for every frame that asks, once what it acknowledges has happened.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn every_frame_but_connect_gets_the_receipt_it_asks_for() {
    check(expect![[r#"
        C> CONNECT accept-version:1.1 passcode:ann receipt:0
        C> SUBSCRIBE id:1 destination:/topic/a receipt:1
        C> SEND destination:/topic/a receipt:2 | hi
        C> BEGIN transaction:t receipt:3
        C> SEND destination:/topic/a transaction:t receipt:4 | hi
        C> ACK subscription:1 message-id:m receipt:5
        C> NACK subscription:1 message-id:m receipt:6
        C> COMMIT transaction:t receipt:7
        C> BEGIN transaction:t receipt:8
        C> ABORT transaction:t receipt:9
        C> UNSUBSCRIBE id:1 receipt:10
        C> DISCONNECT receipt:11
    "#]]);
}

#[test]
fn a_send_is_acknowledged_only_once_the_broker_has_accepted_it() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        T> 2s
        D> published
    "#]]);
}

#[test]
fn a_send_that_fails_is_never_acknowledged() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        D> published unavailable
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        D> published unknown
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a | hi
        D> published overloaded
    "#]]);
}

#[test]
fn a_subscription_is_acknowledged_only_once_nothing_is_missed() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SUBSCRIBE id:1 destination:/topic/single/a receipt:1
        D> joined
        C> SUBSCRIBE id:2 destination:/topic/single/b receipt:2
        D> joined degraded
    "#]]);
}

#[test]
fn receipts_keep_the_order_of_their_frames() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> (text) SEND\ndestination:/topic/a\nreceipt:1\n\none\0SEND\ndestination:/topic/a\nreceipt:2\n\ntwo\0UNSUBSCRIBE\nid:x\nreceipt:3\n\n\0
        C> SEND destination:/topic/a receipt:4 | never
        D> published
        D> published
    "#]]);
}

#[test]
fn disconnect_is_acknowledged_before_the_close() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        C> (text) DISCONNECT\nreceipt:bye\n\n\0SEND\ndestination:/topic/a\n\nlate\0
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> DISCONNECT
    "#]]);
}

#[test]
fn receipt_ids_are_escaped_per_version() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) UNSUBSCRIBE\nid:1\nreceipt:a\cb\\\\n\n\0
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> (text) BEGIN\ntransaction:1\nreceipt:a:b\n\n\0
    "#]]);
}

#[test]
fn a_receipt_id_is_bounded() {
    let mut driver = crate::driver::connected_stomp();
    let long = "r".repeat(256);
    driver.receive(true, format!("BEGIN\ntransaction:t\nreceipt:{long}\n\n\0").as_bytes());
    assert_eq!(driver.log.last().unwrap(), "S| close limit_exceeded");
}
