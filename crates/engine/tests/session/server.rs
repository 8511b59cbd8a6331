//! What backends have done to sessions: each is told in its protocol, and keeps its own say.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn a_native_session_is_told_what_a_backend_has_subscribed_it_to_also_where_no_rule_allows_it() {
    check(expect![[r#"
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        D> order subscribe /topic/secret/a
        S? join ns:topic
        S< subscribed {"to":"/topic/secret/a"}
        D> order subscribe /topic/secret/a
        D> order subscribe /user/queue/kept.a
        S? join /user/ann/queue/kept.a
        S? recover /user/ann/queue/kept.a from now
        S< subscribed {"epoch":"e","offset":7,"to":"/user/queue/kept.a"}
        C> {"type":"unsubscribe","to":"/topic/secret/a","id":1}
        S! leave ns:topic
        S< ok {"id":1}
        D> order unsubscribe /user/queue/kept.a
        S! leave /user/ann/queue/kept.a
        S< unsubscribed {"to":"/user/queue/kept.a"}
        D> order unsubscribe /user/queue/kept.a
    "#]]);
}

#[test]
fn a_subscription_of_a_stomp_session_has_an_id_that_tells_whose_it_is() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:ann heart-beat:0,0
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        D> order subscribe /topic/a
        S? join ns:topic
        C> UNSUBSCRIBE id:server:/topic/a receipt:1
        S! leave ns:topic
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:mine destination:/topic/b receipt:2
        S? join ns:topic
        S< RECEIPT receipt-id:2
        D> order subscribe /topic/b
        D> order unsubscribe /topic/b
        S! leave ns:topic
        C> UNSUBSCRIBE id:mine receipt:3
        S< RECEIPT receipt-id:3
    "#]]);
}

#[test]
fn an_order_waits_for_the_request_under_way_and_comes_before_what_was_sent_behind_it() {
    check(expect![[r#"
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        D> hold
        C> [{"type":"subscribe","to":"/topic/a","id":1},{"type":"ping","id":2}]
        S? join ns:topic
        D> order subscribe /topic/b
        D> joined
        S< ok {"id":1}
        S? join ns:topic
        D> joined
        S< subscribed {"to":"/topic/b"}
        S< pong {"id":2}
    "#]]);
}

#[test]
fn a_client_takes_over_what_a_backend_has_subscribed_it_to_if_a_rule_allows_it() {
    check(expect![[r#"
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        D> order subscribe /topic/a
        S? join ns:topic
        S< subscribed {"to":"/topic/a"}
        D> order subscribe /topic/secret/a
        S? join ns:topic
        S< subscribed {"to":"/topic/secret/a"}
        C> {"type":"subscribe","to":"/topic/a","id":1}
        S! leave ns:topic
        S? join ns:topic
        S< ok {"id":1}
        C> {"type":"subscribe","to":"/topic/a","id":2}
        S< error {"code":"already_subscribed","id":2,"message":"there is a subscription of this name already; unsubscribe first; STOMP subscriptions are named by id, native ones by to"}
        C> {"type":"subscribe","to":"/topic/secret/a","id":3}
        S< error {"code":"forbidden","id":3,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"refresh","token":"ann","id":4}
        S? authenticate ann
        S< ok {"id":4}
        D> order unsubscribe /topic/secret/a
        S! leave ns:topic
        S< unsubscribed {"to":"/topic/secret/a"}
    "#]]);
}

#[test]
fn who_is_not_connected_is_not_subscribed() {
    check(expect![[r#"
        D> order subscribe /topic/a
        C> {"type":"connect","token":"ann"}
        S? authenticate ann
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
    "#]]);
}
