//! RECEIPT: for every frame that asks, once what it acknowledges has happened.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn every_frame_but_connect_gets_the_receipt_it_asks_for() {
    check(expect![[r#"
        C> CONNECT accept-version:1.1 passcode:ann receipt:0
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.1
        C> SUBSCRIBE id:1 destination:/topic/a receipt:1
        S? join ns:topic
        S< RECEIPT receipt-id:1
        C> SEND destination:/topic/a receipt:2 | hi
        S? publish /topic/a from ann | hi
        S< RECEIPT receipt-id:2
        C> BEGIN transaction:t receipt:3
        S< RECEIPT receipt-id:3
        C> SEND destination:/topic/a transaction:t receipt:4 | hi
        S< RECEIPT receipt-id:4
        C> ACK subscription:1 message-id:m receipt:5
        S< RECEIPT receipt-id:5
        C> NACK subscription:1 message-id:m receipt:6
        S< RECEIPT receipt-id:6
        C> COMMIT transaction:t receipt:7
        S? publish /topic/a from ann | hi
        S< RECEIPT receipt-id:7
        C> BEGIN transaction:t receipt:8
        S< RECEIPT receipt-id:8
        C> ABORT transaction:t receipt:9
        S< RECEIPT receipt-id:9
        C> UNSUBSCRIBE id:1 receipt:10
        S! leave ns:topic
        S< RECEIPT receipt-id:10
        C> DISCONNECT receipt:11
        S< RECEIPT receipt-id:11
        S| close client_closed
    "#]]);
}

#[test]
fn a_send_is_acknowledged_only_once_the_broker_has_accepted_it() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        S? publish /topic/a from ann | hi
        T> 2s
        D> published
        S< RECEIPT receipt-id:1
    "#]]);
}

#[test]
fn a_send_that_fails_is_never_acknowledged() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        S? publish /topic/a from ann | hi
        D> published unavailable
        S< ERROR code:unavailable message:the broker can't be reached; nothing was published, try again later receipt-id:1 retry-after:1
        S| close unavailable
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a receipt:1 | hi
        S? publish /topic/a from ann | hi
        D> published unknown
        S< ERROR code:unknown message:the broker did not answer in time; the message may or may not have been published receipt-id:1
        S| close unavailable
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/a | hi
        S? publish /topic/a from ann | hi
        D> published overloaded
        S< ERROR code:overloaded message:the broker's queue is full; nothing was published, slow down and try again retry-after:1
        S| close unavailable
    "#]]);
}

#[test]
fn a_subscription_is_acknowledged_only_once_nothing_is_missed() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SUBSCRIBE id:1 destination:/topic/single/a receipt:1
        S? join /topic/single/a
        D> joined
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:2 destination:/topic/single/b receipt:2
        S? join /topic/single/b
        D> joined degraded
        S< RECEIPT degraded:true receipt-id:2
    "#]]);
}

#[test]
fn receipts_keep_the_order_of_their_frames() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> (text) SEND\ndestination:/topic/a\nreceipt:1\n\none\0SEND\ndestination:/topic/a\nreceipt:2\n\ntwo\0UNSUBSCRIBE\nid:x\nreceipt:3\n\n\0
        S? publish /topic/a from ann | one
        C> SEND destination:/topic/a receipt:4 | never
        D> published
        S< RECEIPT receipt-id:1
        S? publish /topic/a from ann | two
        D> published
        S< RECEIPT receipt-id:2
        S< ERROR code:not_subscribed message:there is no subscription of this name receipt-id:3
        S| close protocol_error
    "#]]);
}

#[test]
fn disconnect_is_acknowledged_before_the_close() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> (text) DISCONNECT\nreceipt:bye\n\n\0SEND\ndestination:/topic/a\n\nlate\0
        S< RECEIPT receipt-id:bye
        S! leave /topic/single/a
        S| close client_closed
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> DISCONNECT
        S| close client_closed
    "#]]);
}

#[test]
fn receipt_ids_are_escaped_per_version() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> (text) UNSUBSCRIBE\nid:1\nreceipt:a\cb\\\n\n\0
        S< ERROR code:not_subscribed message:there is no subscription of this name receipt-id:a:b\
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> (text) BEGIN\ntransaction:1\nreceipt:a:b\n\n\0
        S< RECEIPT receipt-id:a:b
    "#]]);
}

#[test]
fn a_receipt_id_is_bounded() {
    let mut driver = crate::driver::connected_stomp();
    let long = "r".repeat(256);
    driver.receive(true, format!("BEGIN\ntransaction:t\nreceipt:{long}\n\n\0").as_bytes());
    assert_eq!(driver.log.last().unwrap(), "S| close limit_exceeded");
}
