//! BEGIN, COMMIT, ABORT, and what may belong to a transaction.

use expect_test::expect;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn sends_of_a_transaction_are_published_in_order_at_its_commit() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t receipt:1 | one
        C> SEND destination:/topic/b | outside
        C> SEND destination:/topic/a transaction:t | two
        C> COMMIT transaction:t receipt:2
        C> COMMIT transaction:t receipt:3
    "#]]);
}

#[test]
fn sends_of_an_aborted_transaction_are_never_published() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> ABORT transaction:t receipt:1
        C> BEGIN transaction:t
        C> COMMIT transaction:t receipt:2
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
        D> published
        D> published
    "#]]);
}

#[test]
fn a_commit_that_fails_in_the_middle_is_an_error_and_publishes_no_more() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> SEND destination:/topic/a transaction:t | two
        C> SEND destination:/topic/a transaction:t | three
        D> hold
        C> COMMIT transaction:t receipt:1
        D> published
        D> published unavailable
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
        C> COMMIT transaction:t
    "#]]);
}

#[test]
fn a_transaction_is_begun_once_and_ended_once() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> BEGIN transaction:t receipt:1
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> COMMIT transaction:t receipt:1
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> ABORT transaction:t receipt:1
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN receipt:1
    "#]]);
}

#[test]
fn a_send_or_ack_of_an_unknown_transaction_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a transaction:t receipt:1 | hi
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> ACK id:1 transaction:t receipt:1
    "#]]);
}

#[test]
fn a_denied_send_is_denied_before_the_commit() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/secret/a transaction:t receipt:1 | hi
    "#]]);
}

#[test]
fn disconnect_aborts_what_is_open() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t | one
        C> DISCONNECT receipt:1
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
        "#]],
    );
    let mut rules = driver::rules();
    rules.limits.transaction_bytes = 600;
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
        "#]],
    );
}

#[test]
fn acks_need_what_their_version_says() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> ACK id:1 receipt:1
        C> NACK id:1 receipt:2
        C> ACK message-id:1 subscription:1 receipt:3
    "#]]);
    check(expect![[r#"
        # stomp 1.1 ann
        C> ACK message-id:1 subscription:1 receipt:1
        C> NACK message-id:1 receipt:2
    "#]]);
    check(expect![[r#"
        # stomp 1.0 ann
        C> ACK message-id:1 receipt:1
        C> NACK message-id:1 receipt:2
    "#]]);
}
