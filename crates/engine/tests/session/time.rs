//! What a sweep finds: heartbeats, silent clients, late CONNECTs, expired tokens, refreshes.

use expect_test::expect;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn the_server_beats_as_agreed_and_not_when_it_has_just_sent_something() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:0,10000 passcode:ann
        T> 5s
        C> BEGIN transaction:t receipt:1
        T> 20s
    "#]]);
}

#[test]
fn a_client_may_not_ask_for_more_beats_than_are_offered() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:0,1 passcode:ann
        T> 10s
    "#]]);
}

#[test]
fn an_offer_of_nothing_is_kept_to() {
    let mut rules = driver::rules();
    rules.heartbeats.stomp_send_ms = 0;
    rules.heartbeats.stomp_receive_ms = 500;
    check_rules(
        rules,
        expect![[r#"
            C> CONNECT accept-version:1.2 heart-beat:1000,1000 passcode:ann
            T> 10s
        "#]],
    );
}

#[test]
fn a_stomp_client_that_breaks_its_promise_twice_over_is_closed() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:10000,0 passcode:ann
        T> 24s
        C> (eol)
        T> 25s
        T> 1s
    "#]]);
}

#[test]
fn a_stomp_client_without_heartbeats_is_pinged() {
    check(expect![[r#"
        # stomp 1.2 ann
        T> 30s
        C> (pong)
        T> 30s
        T> 30s
    "#]]);
}

#[test]
fn a_native_client_is_pinged_and_closed_when_it_stays_silent() {
    check(expect![[r#"
        # native ann
        T> 25s
        C> (pong)
        T> 55s
        T> 1s
    "#]]);
}

#[test]
fn a_native_client_that_only_listens_is_pinged_all_the_same() {
    check(expect![[r#"
        # native ann
        T> 20s
        C> {"type":"ping"}
        T> 23s
        T> 1s
        C> (pong)
        T> 23s
    "#]]);
}

#[test]
fn who_does_not_connect_in_time_is_closed() {
    check(expect![[r#"
        T> 9s
        T> 1s
    "#]]);
    check(expect![[r#"
        C> (text) CONNECT\n
        T> 10s
    "#]]);
    check(expect![[r#"
        D> hold
        C> {"type":"connect","token":"ann"}
        T> 10s
    "#]]);
}

#[test]
fn an_expired_token_closes_the_session_on_time() {
    check(expect![[r#"
        # stomp 1.2 ann@20
        C> SUBSCRIBE id:1 destination:/topic/single/a
        T> 19s
        T> 1s
    "#]]);
    check(expect![[r#"
        # native ann@20
        T> 20s
    "#]]);
}

#[test]
fn a_refreshed_token_extends_the_session() {
    check(expect![[r#"
        # native ann@20
        T> 15s
        C> {"type":"refresh","token":"ann@20","id":1}
        T> 19s
        T> 1s
    "#]]);
}

#[test]
fn a_refresh_needs_a_good_token_of_the_same_user() {
    check(expect![[r#"
        # native ann@20
        C> {"type":"refresh","token":"bob@99","id":1}
        C> {"type":"refresh","token":"expired","id":2}
        C> {"type":"refresh","token":"keyless","id":3}
        T> 20s
    "#]]);
    check(expect![[r#"
        # native
        C> {"type":"refresh","token":"ann","id":1}
    "#]]);
}

#[test]
fn what_a_refreshed_token_no_longer_allows_ends() {
    let mut rules = driver::rules();
    rules.policy = driver::role_policy();
    check_rules(
        rules,
        expect![[r#"
            # native ann+ops
            C> [{"type":"subscribe","to":"/topic/ops"},{"type":"subscribe","to":"/topic/all"}]
            C> {"type":"refresh","token":"ann","id":1}
            C> {"type":"subscribe","to":"/topic/ops","id":2}
            C> {"type":"unsubscribe","to":"/topic/all","id":3}
        "#]],
    );
}
