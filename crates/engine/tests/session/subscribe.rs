//! SUBSCRIBE and UNSUBSCRIBE: ids, patterns, acknowledgement modes, limits, the policy.

use expect_test::expect;
use fanlight_engine::session::OnForbidden;

use crate::driver;
use crate::transcript::{check, check_rules};

#[test]
fn a_subscription_needs_an_id_from_1_1_on() {
    check(expect![[r#"
        # stomp 1.1 ann
        C> SUBSCRIBE destination:/topic/single/a receipt:1
        S< ERROR code:missing_header message:SUBSCRIBE needs the header id receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn in_1_0_a_subscription_without_an_id_is_named_by_its_destination() {
    check(expect![[r#"
        # stomp 1.0 ann
        C> SUBSCRIBE destination:/topic/single/a receipt:1
        S? join /topic/single/a
        S< RECEIPT receipt-id:1
        C> UNSUBSCRIBE destination:/topic/single/a receipt:2
        S! leave /topic/single/a
        S< RECEIPT receipt-id:2
        C> SUBSCRIBE destination:/topic/single/a id:x receipt:3
        S? join /topic/single/a
        S< RECEIPT receipt-id:3
        C> UNSUBSCRIBE id:x receipt:4
        S! leave /topic/single/a
        S< RECEIPT receipt-id:4
    "#]]);
}

#[test]
fn a_subscription_needs_a_destination() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1
        S< ERROR code:missing_header message:SUBSCRIBE needs the header destination
        S| close protocol_error
    "#]]);
}

#[test]
fn a_duplicate_subscription_id_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> SUBSCRIBE id:1 destination:/topic/single/b receipt:1
        S< ERROR code:already_subscribed message:there is a subscription of this name already receipt-id:1
        S! leave /topic/single/a
        S| close protocol_error
    "#]]);
}

#[test]
fn an_id_is_free_again_after_unsubscribe() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> UNSUBSCRIBE id:1
        S! leave /topic/single/a
        C> SUBSCRIBE id:1 destination:/topic/single/b receipt:1
        S? join /topic/single/b
        S< RECEIPT receipt-id:1
    "#]]);
}

#[test]
fn one_destination_may_have_several_subscriptions() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a
        S? join /topic/single/a
        C> SUBSCRIBE id:2 destination:/topic/single/a
        S? join /topic/single/a
        C> UNSUBSCRIBE id:1
        S! leave /topic/single/a
    "#]]);
}

#[test]
fn unsubscribing_what_is_not_subscribed_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> UNSUBSCRIBE id:1 receipt:1
        S< ERROR code:not_subscribed message:there is no subscription of this name receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> UNSUBSCRIBE destination:/topic/a receipt:1
        S< ERROR code:missing_header message:UNSUBSCRIBE needs the header id receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn ack_is_auto_client_or_client_individual() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/a ack:auto receipt:1
        S? join ns:topic
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:2 destination:/topic/a ack:client receipt:2
        S? join ns:topic
        S< RECEIPT receipt-id:2
        C> SUBSCRIBE id:3 destination:/topic/a ack:client-individual receipt:3
        S? join ns:topic
        S< RECEIPT receipt-id:3
        C> SUBSCRIBE id:4 destination:/topic/a ack:never receipt:4
        S< ERROR code:bad_header message:the header ack has an unknown value receipt-id:4
        S! leave ns:topic
        S! leave ns:topic
        S! leave ns:topic
        S| close protocol_error
    "#]]);
}

#[test]
fn a_selector_is_refused() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/a selector:a = 1 receipt:1
        S< ERROR code:selector_unsupported message:selectors are not supported receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn who_asks_for_what_was_missed_is_told_that_it_is_not_recovered() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/a epoch:1 offset:5 receipt:1
        S? join ns:topic
        S< RECEIPT reason:no_history receipt-id:1 recovered:false
        C> SUBSCRIBE id:2 destination:/topic/a last-event-id:1:5 receipt:2
        S? join ns:topic
        S< RECEIPT reason:no_history receipt-id:2 recovered:false
    "#]]);
}

#[test]
fn a_pattern_is_subscribed_on_its_namespaces_channel() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/public/{room}.* receipt:1
        S? join ns:public
        S< RECEIPT receipt-id:1
        C> SUBSCRIBE id:2 destination:/topic/public/a receipt:2
        S? join ns:public
        S< RECEIPT receipt-id:2
        C> UNSUBSCRIBE id:1 receipt:3
        S! leave ns:public
        S< RECEIPT receipt-id:3
    "#]]);
}

#[test]
fn a_pattern_is_refused_where_the_namespace_does_not_allow_patterns() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/* receipt:1
        S< ERROR code:forbidden message:patterns are not allowed in this namespace; subscribe to each destination receipt-id:1
        S| close forbidden
    "#]]);
}

#[test]
fn a_pattern_that_reaches_what_is_denied_or_beyond_its_namespace_is_refused() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/** receipt:1
        S< ERROR code:forbidden message:the pattern reaches beyond its namespace; make it narrower receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/secre?/a receipt:1
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
        S| close forbidden
    "#]]);
}

#[test]
fn a_malformed_pattern_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/public/{a receipt:1
        S< ERROR code:bad_destination message:pattern has a malformed {variable} receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn what_no_rule_allows_is_denied_and_stomp_closes_after_its_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/secret/a receipt:1
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SEND destination:/queue/a receipt:1
        S< ERROR code:forbidden message:no namespace has this destination receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2
        C> SEND destination:/topic/public/a receipt:1
        S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2
        C> SUBSCRIBE id:1 destination:/topic/a receipt:1
        S< ERROR code:forbidden message:this needs a user; connect with a token receipt-id:1
        S| close forbidden
    "#]]);
}

#[test]
fn what_follows_a_denial_is_configurable() {
    let keep_open = || {
        let on_forbidden = OnForbidden::KeepOpen;
        fanlight_engine::session::Rules { on_forbidden, ..driver::rules() }
    };
    check_rules(
        keep_open(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/secret/a receipt:1
            S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
            C> SEND destination:/topic/a receipt:2
            S? publish /topic/a from ann
            S< RECEIPT receipt-id:2
            C> SEND receipt:3
            S< ERROR code:missing_header message:SEND needs the header destination receipt-id:3
            S| close protocol_error
        "#]],
    );
    let close =
        fanlight_engine::session::Rules { on_forbidden: OnForbidden::Close, ..driver::rules() };
    check_rules(
        close,
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/topic/secret/a","id":1}
            S< error {"code":"forbidden","id":1,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            S| close forbidden
        "##]],
    );
}

#[test]
fn subscriptions_are_bounded() {
    let mut rules = driver::rules();
    rules.limits.subscriptions = 2;
    check_rules(
        rules.clone(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/a
            S? join ns:topic
            C> SUBSCRIBE id:2 destination:/topic/a
            S? join ns:topic
            C> UNSUBSCRIBE id:1
            S! leave ns:topic
            C> SUBSCRIBE id:3 destination:/topic/a receipt:3
            S? join ns:topic
            S< RECEIPT receipt-id:3
            C> SUBSCRIBE id:4 destination:/topic/a receipt:4
            S< ERROR code:limit_exceeded message:a session may have at most 2 subscriptions receipt-id:4
            S! leave ns:topic
            S! leave ns:topic
            S| close limit_exceeded
        "#]],
    );
    check_rules(
        rules,
        expect![[r##"
            # native ann
            C> [{"type":"subscribe","to":"/topic/a"},{"type":"subscribe","to":"/topic/b"}]
            S? join ns:topic
            S? join ns:topic
            C> {"type":"subscribe","to":"/topic/c","id":3}
            S< error {"code":"limit_exceeded","id":3,"message":"a session may have at most 2 subscriptions; unsubscribe from some first, or use a pattern"}
        "##]],
    );
}

#[test]
fn a_subscription_id_is_bounded() {
    let mut driver = driver::connected_stomp();
    let long = "i".repeat(256);
    driver.receive(true, format!("SUBSCRIBE\nid:{long}\ndestination:/topic/a\n\n\0").as_bytes());
    assert_eq!(driver.log.last().unwrap(), "S| close limit_exceeded");
    assert!(driver.hub.is_empty());
}

#[test]
fn app_destinations_without_a_route_can_not_be_subscribed_to() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/app/init receipt:1
        S< ERROR code:no_handler message:nothing handles this destination receipt-id:1
        S| close forbidden
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/app/* receipt:1
        S< ERROR code:no_handler message:nothing handles this destination receipt-id:1
        S| close forbidden
    "#]]);
}
