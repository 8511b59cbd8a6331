//! User destinations: private to their user or session, by whatever name they are asked for.

use expect_test::expect;

use crate::transcript::check;

#[test]
fn an_own_destination_is_resolved_to_the_sessions_user() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/user/queue/alerts receipt:1
        S? join /user/ann/queue/alerts
        S< RECEIPT receipt-id:1
        C> SEND destination:/user/queue/alerts receipt:2 | to myself
        S? publish /user/ann/queue/alerts from ann | to myself
        S< RECEIPT receipt-id:2
    "#]]);
    check(expect![[r##"
        # native a/b
        C> {"type":"subscribe","to":"/user/queue/alerts","id":1}
        S? join /user/a%2Fb/queue/alerts
        S< ok {"id":1}
    "##]]);
}

#[test]
fn an_anonymous_sessions_own_destination_is_private_to_the_session() {
    check(expect![[r#"
        # stomp 1.2
        C> SUBSCRIBE id:1 destination:/user/queue/alerts receipt:1
        S? join /user/~<session>/queue/alerts
        S< RECEIPT receipt-id:1
        C> SEND destination:/user/queue/alerts receipt:2 | to myself
        S? publish /user/~<session>/queue/alerts | to myself
        S< RECEIPT receipt-id:2
    "#]]);
}

#[test]
fn ones_own_name_may_be_spelled_out_in_any_encoding() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/user/ann/queue/alerts receipt:1
        S? join /user/ann/queue/alerts
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:2 destination:/user/%61nn/queue/alerts receipt:2
        S? join /user/ann/queue/alerts
        S< RECEIPT receipt-id:2
    "#]]);
}

#[test]
fn another_users_destination_needs_a_rule() {
    for destination in ["/user/bob/queue/alerts", "/user/%62ob/queue/alerts"] {
        for frame in ["SUBSCRIBE\nid:1", "SEND"] {
            let mut driver = crate::driver::connected_stomp();
            driver.receive(true, format!("{frame}\ndestination:{destination}\n\n\0").as_bytes());
            assert_eq!(driver.log.last().unwrap(), "S| close forbidden", "{frame} {destination}");
        }
    }
    check(expect![[r#"
        # stomp 1.2 root+admin
        C> SEND destination:/user/bob/queue/alerts receipt:1 | hi
        S? publish /user/bob/queue/alerts from root | hi
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:1 destination:/user/bob/queue/alerts receipt:2
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:2
        S| close forbidden
    "#]]);
}

#[test]
fn a_sessions_private_destination_can_not_be_named() {
    check(expect![[r#"
        # stomp 1.2 root+admin
        C> SEND destination:/user/~0198/queue/x receipt:1 | hi
        S< ERROR code:forbidden message:a session's private destination can't be named; use /user/queue/... receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2
        C> SUBSCRIBE id:1 destination:/user/~0198/queue/x receipt:1
        S< ERROR code:forbidden message:a session's private destination can't be named; use /user/queue/... receipt-id:1
        S| close forbidden
    "#]]);
}

#[test]
fn a_user_destination_takes_no_pattern_over_users() {
    for pattern in ["/user/*/queue/x", "/user/**", "/user/{a}/queue/x", "/user/b?b/queue/x"] {
        let mut driver = crate::driver::connected_stomp();
        driver.receive(true, format!("SUBSCRIBE\nid:1\ndestination:{pattern}\n\n\0").as_bytes());
        assert_eq!(driver.log.last().unwrap(), "S| close forbidden", "{pattern}");
    }
}

#[test]
fn a_send_may_name_one_session_of_a_user_and_is_then_not_kept() {
    check(expect![[r#"
        # stomp 1.2 root+admin
        C> SEND destination:/user/bob/queue/kept.a session:0198f5a2b3c47d5e8f900123456789ab receipt:1 | hi
        S? publish /user/bob/queue/kept.a from root only for 0198f5a2b3c47d5e8f900123456789ab | hi
        S< RECEIPT receipt-id:1
        C> SEND destination:/user/queue/kept.a session:0198f5a2-b3c4-7d5e-8f90-0123456789ab receipt:2 | hi
        S? publish /user/root/queue/kept.a from root only for 0198f5a2b3c47d5e8f900123456789ab | hi
        S< RECEIPT receipt-id:2
    "#]]);
    check(expect![[r##"
        # native root+admin
        C> {"type":"send","to":"/user/bob/queue/kept.a","session":"0198f5a2b3c47d5e8f900123456789ab","data":1,"key":"k","id":1}
        S? publish once U4:root22:/user/bob/queue/kept.a0198f5a2b3c47d5e8f900123456789abk /user/bob/queue/kept.a from root only for 0198f5a2b3c47d5e8f900123456789ab as known application/json | 1
        S< ok {"id":1,"message_id":"<id>"}
        C> {"type":"send","to":"/user/bob/queue/kept.a","session":null,"data":1,"id":2}
        S? publish /user/bob/queue/kept.a from root as known application/json | 1
        S< ok {"id":2,"message_id":"<id>"}
    "##]]);
}

#[test]
fn one_session_can_be_named_only_where_a_users_sessions_subscribe() {
    check(expect![[r##"
        # native root+admin
        C> {"type":"send","to":"/topic/a","session":"0198f5a2b3c47d5e8f900123456789ab","data":1,"id":1}
        S< error {"code":"bad_session","id":1,"message":"only what a user's sessions subscribe to can be sent to one of them; send to /user/{name}/..., outside of namespaces of queues"}
        C> {"type":"send","to":"/user/bob/queue/x","session":"bob","data":1,"id":2}
        S< error {"code":"bad_session","id":2,"message":"this is no session's id; give it as that session was told when it connected"}
    "##]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/topic/a session:0198f5a2b3c47d5e8f900123456789ab receipt:1 | hi
        S< ERROR code:bad_session message:only what a user's sessions subscribe to can be sent to one of them receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/user/bob/queue/x session:0198f5a2b3c47d5e8f900123456789ab receipt:1 | hi
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
        S| close forbidden
    "#]]);
}
