//! BEGIN, COMMIT, ABORT, and what may belong to a transaction.

use expect_test::expect;
use fanlight_engine::session::Handshake;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn sends_of_a_transaction_are_published_in_order_at_its_commit() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t receipt:1 | one
        S< RECEIPT receipt-id:1
        C> SEND destination:/topic/b | outside
        S? publish /topic/b from ann | outside
        C> SEND destination:/topic/a transaction:t | two
        C> COMMIT transaction:t receipt:2
        S? publish /topic/a from ann | one
        S? publish /topic/a from ann | two
        S< RECEIPT receipt-id:2
        C> COMMIT transaction:t receipt:3
        S< ERROR code:no_transaction message:there is no transaction of this id receipt-id:3
        S| close protocol_error
    "#]]);
}

#[test]
fn sends_of_an_aborted_transaction_are_never_published() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> ABORT transaction:t receipt:1
        S< RECEIPT receipt-id:1
        C> BEGIN transaction:t
        C> COMMIT transaction:t receipt:2
        S< RECEIPT receipt-id:2
    "#]]);
}

#[test]
fn a_commit_is_acknowledged_only_once_all_its_sends_are_published() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> SEND destination:/topic/a transaction:t | two
        D> hold
        C> COMMIT transaction:t receipt:1
        S? publish /topic/a from ann | one
        D> published
        S? publish /topic/a from ann | two
        D> published
        S< RECEIPT receipt-id:1
    "#]]);
}

#[test]
fn a_commit_that_fails_in_the_middle_says_how_much_was_published_and_publishes_no_more() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> SEND destination:/topic/a transaction:t | two
        C> SEND destination:/topic/a transaction:t | three
        D> hold
        C> COMMIT transaction:t receipt:1
        S? publish /topic/a from ann | one
        D> published
        S? publish /topic/a from ann | two
        D> published unavailable
        S< ERROR code:commit_incomplete message:the broker can't be reached; published before: the first 1 of the transaction's sends receipt-id:1
        S| close unavailable
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> SEND destination:/topic/a transaction:t | two
        C> SEND destination:/topic/a transaction:t | three
        D> hold
        C> COMMIT transaction:t receipt:1
        S? publish /topic/a from ann | one
        D> published
        S? publish /topic/a from ann | two
        D> published
        S? publish /topic/a from ann | three
        D> published unknown
        S< ERROR code:commit_incomplete message:the broker did not answer in time; published before: the first 2 of the transaction's sends, perhaps the next receipt-id:1
        S| close unavailable
    "#]]);
}

#[test]
fn a_commit_that_fails_at_its_first_send_has_done_nothing() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> SEND destination:/topic/a transaction:t | two
        D> hold
        C> COMMIT transaction:t receipt:1
        S? publish /topic/a from ann | one
        D> published unavailable
        S< ERROR code:unavailable message:the broker can't be reached; nothing was published, try again later receipt-id:1 retry-after:1
        S| close unavailable
    "#]]);
}

#[test]
fn two_transactions_do_not_mix() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> BEGIN transaction:u
        C> SEND destination:/topic/a transaction:t | t1
        C> SEND destination:/topic/a transaction:u | u1
        C> COMMIT transaction:u
        S? publish /topic/a from ann | u1
        C> COMMIT transaction:t
        S? publish /topic/a from ann | t1
    "#]]);
}

#[test]
fn a_transaction_is_begun_once_and_ended_once() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> BEGIN transaction:t receipt:1
        S< ERROR code:transaction_exists message:there is a transaction of this id already receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> COMMIT transaction:t receipt:1
        S< ERROR code:no_transaction message:there is no transaction of this id receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> ABORT transaction:t receipt:1
        S< ERROR code:no_transaction message:there is no transaction of this id receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN receipt:1
        S< ERROR code:missing_header message:BEGIN needs the header transaction receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn a_send_or_ack_of_an_unknown_transaction_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a transaction:t receipt:1 | hi
        S< ERROR code:no_transaction message:there is no transaction of this id receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> ACK id:1 transaction:t receipt:1
        S< ERROR code:no_transaction message:there is no transaction of this id receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn a_denied_send_is_denied_before_the_commit() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/secret/a transaction:t receipt:1 | hi
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
        S| close forbidden
    "#]]);
}

#[test]
fn disconnect_aborts_what_is_open() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> DISCONNECT receipt:1
        S< RECEIPT receipt-id:1
        S| close client_closed
    "#]]);
}

#[test]
fn transactions_are_bounded_in_number_frames_and_bytes() {
    let mut rules = driver::rules();
    rules.limits.transactions = 1;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> BEGIN transaction:t
            C> BEGIN transaction:u receipt:1
            S< ERROR code:limit_exceeded message:more than 1 transactions are open receipt-id:1
            S| close limit_exceeded
        "#]],
    );
    let mut rules = driver::rules();
    rules.limits.transaction_frames = 1;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> BEGIN transaction:t
            C> SEND destination:/topic/a transaction:t | one
            C> SEND destination:/topic/a transaction:t receipt:1 | two
            S< ERROR code:limit_exceeded message:what waits for COMMIT exceeds 1 frames receipt-id:1
            S| close limit_exceeded
        "#]],
    );
    let mut rules = driver::rules();
    rules.limits.transaction_bytes = 700;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> BEGIN transaction:t
            C> BEGIN transaction:u
            C> SEND destination:/topic/a transaction:t | one
            C> ABORT transaction:t
            C> SEND destination:/topic/a transaction:u | one
            C> SEND destination:/topic/a transaction:u | two
            C> SEND destination:/topic/a transaction:u receipt:1 | three
            S< ERROR code:limit_exceeded message:what waits for COMMIT exceeds 700 bytes receipt-id:1
            S| close limit_exceeded
        "#]],
    );
}

#[test]
fn whatever_a_send_keeps_counts_as_bytes_of_its_transaction() {
    let mut rules = driver::rules();
    rules.limits.transaction_bytes = 600;
    for header in ["x", "content-type"] {
        let mut driver = driver::Driver::new(rules.clone(), None, Handshake::default());
        driver.receive(true, b"CONNECT\naccept-version:1.2\npasscode:ann\n\n\0");
        driver.receive(true, b"BEGIN\ntransaction:t\n\n\0");
        driver.log.clear();
        let long = "x".repeat(500);
        let send = format!("SEND\ndestination:/topic/a\ntransaction:t\n{header}:{long}\n\n\0");
        driver.receive(true, send.as_bytes());
        assert!(driver.log[0].contains("code:limit_exceeded"), "{header}: {:?}", driver.log);
    }
}

#[test]
fn acks_need_what_their_version_says() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> ACK id:1 receipt:1
        S< RECEIPT receipt-id:1
        C> NACK id:1 receipt:2
        S< RECEIPT receipt-id:2
        C> ACK message-id:1 subscription:1 receipt:3
        S< ERROR code:missing_header message:ACK needs the header id receipt-id:3
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.1 ann
        C> ACK message-id:1 subscription:1 receipt:1
        S< RECEIPT receipt-id:1
        C> NACK message-id:1 receipt:2
        S< ERROR code:missing_header message:NACK needs the header subscription receipt-id:2
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> ACK message-id:1 receipt:1
        S< RECEIPT receipt-id:1
        C> NACK message-id:1 receipt:2
        S< ERROR code:bad_header message:STOMP 1.0 has no NACK receipt-id:2
        S| close protocol_error
    "#]]);
}
