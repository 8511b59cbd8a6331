//! What a sweep finds: heartbeats, silent clients, late CONNECTs, expired tokens, refreshes.

use expect_test::expect;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn the_server_beats_as_agreed_and_not_when_it_has_just_sent_something() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:0,10000 passcode:ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        T> 5s
        C> BEGIN transaction:t receipt:1
        S< RECEIPT receipt-id:1
        T> 20s
        @9s S< (eol)
        @18s S< (eol)
    "#]]);
}

#[test]
fn a_client_may_not_ask_for_more_beats_than_are_offered() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:0,1 passcode:ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        T> 10s
        @9s S< (eol)
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
            S? authenticate ann
            S< CONNECTED heart-beat:0,2000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
            T> 10s
            @10s S< ERROR code:heartbeat_timeout message:nothing was heard for longer than the heartbeats allow
            @10s S| close heartbeat_timeout
        "#]],
    );
}

#[test]
fn a_stomp_client_that_breaks_its_promise_twice_over_is_closed() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:10000,0 passcode:ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        T> 24s
        C> (eol)
        T> 25s
        T> 1s
        @1s S< ERROR code:heartbeat_timeout message:nothing was heard for longer than the heartbeats allow
        @1s S| close heartbeat_timeout
    "#]]);
}

#[test]
fn a_stomp_client_without_heartbeats_is_pinged() {
    check(expect![[r#"
        # stomp 1.2 ann
        T> 30s
        @24s S< (ping)
        C> (pong)
        T> 30s
        @24s S< (ping)
        T> 30s
        @18s S< (ping)
        @26s S< ERROR code:heartbeat_timeout message:nothing was heard for longer than the heartbeats allow
        @26s S| close heartbeat_timeout
    "#]]);
}

#[test]
fn a_native_client_is_pinged_and_closed_when_it_stays_silent() {
    check(expect![[r##"
        # native ann
        T> 25s
        @24s S< (ping)
        C> (pong)
        T> 55s
        @24s S< (ping)
        @48s S< (ping)
        T> 1s
        @1s S< error {"code":"heartbeat_timeout","message":"nothing was heard for longer than the heartbeats allow; reconnect"}
        @1s S| close heartbeat_timeout
    "##]]);
}

#[test]
fn a_native_client_that_only_listens_is_pinged_all_the_same() {
    check(expect![[r##"
        # native ann
        T> 20s
        C> {"type":"ping"}
        S< pong {}
        T> 23s
        T> 1s
        @1s S< (ping)
        C> (pong)
        T> 23s
    "##]]);
}

#[test]
fn who_does_not_connect_in_time_is_closed() {
    check(expect![[r#"
        T> 9s
        T> 1s
        @1s S| close connect_timeout
    "#]]);
    check(expect![[r#"
        C> (text) CONNECT\n
        T> 10s
        @10s S< ERROR code:connect_timeout message:not connected in time
        @10s S| close connect_timeout
    "#]]);
    check(expect![[r#"
        D> hold
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        T> 10s
        @10s S< error {"code":"connect_timeout","message":"not connected in time; send CONNECT as soon as the connection is open"}
        @10s S| close connect_timeout
    "#]]);
}

#[test]
fn an_expired_token_closes_the_session_on_time() {
    check(expect![[r#"
        # stomp 1.2 ann@20
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        T> 19s
        T> 1s
        @1s S< ERROR code:token_expired message:the token has expired
        @1s S! leave /topic/single/a
        @1s S| close token_expired
    "#]]);
    check(expect![[r##"
        # native ann@20
        T> 20s
        @20s S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
        @20s S| close token_expired
    "##]]);
}

#[test]
fn a_refreshed_token_extends_the_session() {
    check(expect![[r##"
        # native ann@20
        T> 15s
        C> {"type":"refresh","token":"ann@20","id":1}
        S? authenticate ann@20
        S< ok {"id":1}
        T> 19s
        T> 1s
        @1s S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
        @1s S| close token_expired
    "##]]);
}

#[test]
fn a_refresh_needs_a_good_token_of_the_same_user() {
    check(expect![[r##"
        # native ann@20
        C> {"type":"refresh","token":"bob@99","id":1}
        S? authenticate bob@99
        S< error {"code":"unauthorized","id":1,"message":"the token is another user's; connect again to change the user"}
        C> {"type":"refresh","token":"expired","id":2}
        S? authenticate expired
        S< error {"code":"token_expired","id":2,"message":"the token has expired; fetch a new one"}
        C> {"type":"refresh","token":"keyless","id":3}
        S? authenticate keyless
        S< error {"code":"unavailable","id":3,"message":"the keys that check tokens can't be reached; try again later","retry_after_ms":1000}
        T> 20s
        @20s S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
        @20s S| close token_expired
    "##]]);
    check(expect![[r##"
        # native
        C> {"type":"refresh","token":"ann","id":1}
        S< error {"code":"unauthorized","id":1,"message":"a session without a user has no token to refresh; connect again with a token"}
    "##]]);
}

#[test]
fn what_a_refreshed_token_no_longer_allows_ends() {
    let mut rules = driver::rules();
    rules.policy = driver::role_policy();
    check_rules(
        rules,
        expect![[r##"
            # native ann+ops
            C> [{"type":"subscribe","to":"/topic/ops"},{"type":"subscribe","to":"/topic/all"}]
            S? join /topic/ops
            S? join /topic/all
            C> {"type":"refresh","token":"ann","id":1}
            S? authenticate ann
            S! leave /topic/ops
            S< error {"code":"forbidden","message":"the session may no longer have the subscription to /topic/ops; it has ended","to":"/topic/ops"}
            S< ok {"id":1}
            C> {"type":"subscribe","to":"/topic/ops","id":2}
            S< error {"code":"forbidden","id":2,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            C> {"type":"unsubscribe","to":"/topic/all","id":3}
            S! leave /topic/all
            S< ok {"id":3}
        "##]],
    );
}
