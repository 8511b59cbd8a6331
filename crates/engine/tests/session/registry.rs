//! The registry: entered before CONNECTED, left with the session's reason, told of subscriptions.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn a_session_is_entered_before_it_is_told_that_it_is_connected() {
    check(expect![[r#"
        D> registry
        D> hold
        C> CONNECT accept-version:1.2 passcode:ann heart-beat:0,0
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        C> DISCONNECT receipt:1
        S< RECEIPT receipt-id:1
        S! exit ann client_closed
        S| close client_closed
    "#]]);
    check(expect![[r#"
        D> registry
        D> hold
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered later
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        D> gone
        S! exit ann connection_lost
    "#]]);
}

#[test]
fn a_user_with_too_many_sessions_is_refused_in_the_sessions_protocol() {
    check(expect![[r#"
        D> registry
        D> hold
        C> CONNECT accept-version:1.2 passcode:ann heart-beat:0,0
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered full
        S< ERROR code:session_limit message:this user has as many sessions as are allowed
        S| close session_limit
    "#]]);
    check(expect![[r#"
        D> registry
        D> hold
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered full
        S< error {"code":"session_limit","message":"this user has as many sessions as are allowed; close one of them first"}
        S| close session_limit
    "#]]);
}

#[test]
fn a_user_that_connects_too_often_is_told_when_to_come_back() {
    check(expect![[r#"
        D> registry
        D> hold
        C> CONNECT accept-version:1.2 passcode:ann heart-beat:0,0
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered too often
        S< ERROR code:user_rate message:this user connects too often retry-after:2
        S| close rate_limited
    "#]]);
    check(expect![[r#"
        D> registry
        D> hold
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered too often
        S< error {"code":"user_rate","message":"this user connects too often; wait","retry_after_ms":1500}
        S| close rate_limited
    "#]]);
}

#[test]
fn a_session_that_ends_while_it_is_entered_leaves() {
    for end in ["D> gone", "D> drain"] {
        let mut driver = crate::driver::connecting("ann");
        crate::transcript::run(&mut driver, end);
        let log = driver.log.join("\n");
        assert!(log.contains("S? enter ann") && log.contains("S! exit ann"), "{log}");
        assert!(!log.contains("CONNECTED"), "{log}");
    }
}

#[test]
fn what_comes_behind_connect_waits_for_the_registry() {
    check(expect![[r#"
        D> registry
        D> hold
        C> [{"type":"connect","token":"ann"},{"type":"ping","id":1}]
        S? authenticate ann
        D> authenticated
        S? enter ann
        D> entered
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        S< pong {"id":1}
    "#]]);
}

#[test]
fn subscriptions_are_recorded_where_the_namespace_says_so() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> registry
        C> SUBSCRIBE id:1 destination:/topic/told/a
        S! subscribed ann /topic/told/a
        S? join /topic/told/a
        C> SUBSCRIBE id:2 destination:/topic/told/b
        S! subscribed ann /topic/told/b
        S? join /topic/told/b
        C> SUBSCRIBE id:3 destination:/topic/untold
        S? join ns:topic
        C> UNSUBSCRIBE id:1
        S! unsubscribed ann /topic/told/a
        S! leave /topic/told/a
        D> fault too_large too large
        S< ERROR code:too_large message:too large
        S! leave ns:topic
        S! unsubscribed ann /topic/told/b
        S! leave /topic/told/b
        S! exit ann too_large
        S| close too_large
    "#]]);
    check(expect![[r#"
        # native
        D> registry
        D> gone
        S! exit nobody connection_lost
    "#]]);
}
