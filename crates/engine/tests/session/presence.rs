//! Presence: when a session counts as a member, and who may see the others.

use expect_test::expect;
use fanlight_engine::history::History;
use fanlight_engine::policy::{
    Action, Namespace, NamespaceOptions, Policy, PolicyRule, RuleEffect,
};
use fanlight_engine::presence::{MembersPage, PresenceError, Present};
use fanlight_engine::session::{Done, Rules};

use crate::driver::{Driver, connected_native};
use crate::transcript::check_rules;

/// `/topic/rooms/**` has presence, which all may see but that of `/topic/rooms/dark`;
/// `/topic/kept/**` has a history too.
fn rules() -> Rules {
    let namespace = |name: &str, pattern: &str, presence, patterns| Namespace {
        patterns,
        anonymous: true,
        options: NamespaceOptions { presence, ..NamespaceOptions::default() },
        ..Namespace::new(name, pattern)
    };
    let kept = Namespace {
        options: NamespaceOptions {
            presence: true,
            history: Some(History { size: 10, ttl_ms: 1000 }),
            ..NamespaceOptions::default()
        },
        ..namespace("kept", "/topic/kept/**", true, false)
    };
    let namespaces = [
        kept,
        namespace("rooms", "/topic/rooms/**", true, false),
        namespace("halls", "/topic/halls/**", true, true),
        namespace("plain", "/topic/**", false, false),
    ];
    let dark = PolicyRule {
        actions: vec![Action::Presence],
        ..PolicyRule::new(RuleEffect::Deny, "/topic/rooms/dark")
    };
    let rules = [dark, PolicyRule::new(RuleEffect::Allow, "/topic/**")];
    Rules { policy: Policy::new(&namespaces, &rules).unwrap(), ..Rules::default() }
}

#[test]
fn a_subscription_makes_a_member_where_the_namespace_has_presence() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            C> {"type":"subscribe","to":"/topic/rooms/a","id":1}
            S? join /topic/rooms/a
            S! appear /topic/rooms/a as ann
            S< ok {"id":1}
            C> {"type":"subscribe","to":"/topic/other"}
            S? join /topic/other
            C> {"type":"unsubscribe","to":"/topic/rooms/a"}
            S! leave /topic/rooms/a
            S! vanish /topic/rooms/a as ann
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # native
            C> {"type":"subscribe","to":"/topic/rooms/a"}
            S? join /topic/rooms/a
            S! appear /topic/rooms/a as <anonymous>
            D> gone
            S! leave /topic/rooms/a
            S! vanish /topic/rooms/a as <anonymous>
        "#]],
    );
}

#[test]
fn a_session_counts_once_however_many_subscriptions_it_has_there() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/rooms/a
            S? join /topic/rooms/a
            S! appear /topic/rooms/a as ann
            C> SUBSCRIBE id:2 destination:/topic/rooms/a
            S? join /topic/rooms/a
            C> UNSUBSCRIBE id:1
            S! leave /topic/rooms/a
            C> UNSUBSCRIBE id:2
            S! leave /topic/rooms/a
            S! vanish /topic/rooms/a as ann
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/rooms/a
            S? join /topic/rooms/a
            S! appear /topic/rooms/a as ann
            C> SUBSCRIBE id:2 destination:/topic/rooms/a
            S? join /topic/rooms/a
            D> gone
            S! leave /topic/rooms/a
            S! leave /topic/rooms/a
            S! vanish /topic/rooms/a as ann
        "#]],
    );
}

#[test]
fn with_a_history_a_session_is_a_member_once_its_subscription_is_live_in_the_timeline() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            D> hold
            C> {"type":"subscribe","to":"/topic/kept/a","since":{"epoch":"e","offset":3},"presence":true,"id":1}
            S? join /topic/kept/a
            D> joined
            S? recover /topic/kept/a after e:3
            D> recovered 4
            S! appear /topic/kept/a as ann
            S< ok {"count":4,"epoch":"e","id":1,"offset":7,"recovered":true}
            C> {"type":"subscribe","to":"/topic/kept/b","since":{"epoch":"e","offset":3},"id":2}
            S? join /topic/kept/b
            D> joined
            S? recover /topic/kept/b after e:3
            D> recovered too_old
            S! appear /topic/kept/b as ann
            S< ok {"count":0,"epoch":"e","id":2,"offset":7,"reason":"position_too_old","recovered":false}
            C> {"type":"unsubscribe","to":"/topic/kept/a"}
            S! leave /topic/kept/a
            S! vanish /topic/kept/a as ann
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            D> hold
            C> SUBSCRIBE id:1 destination:/topic/kept/a presence:true receipt:1
            S? join /topic/kept/a
            D> joined degraded
            S? recover /topic/kept/a from now, degraded
            D> recovered
            S! appear /topic/kept/a as ann
            S< RECEIPT degraded:true epoch:e offset:7 receipt-id:1
            D> gone
            S! leave /topic/kept/a
            S! vanish /topic/kept/a as ann
        "#]],
    );
}

#[test]
fn a_session_that_ends_before_its_subscription_is_live_leaves_no_member() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            D> hold
            C> {"type":"subscribe","to":"/topic/rooms/a"}
            S? join /topic/rooms/a
            D> gone
            S! leave /topic/rooms/a
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            D> hold
            C> {"type":"subscribe","to":"/topic/kept/a"}
            S? join /topic/kept/a
            D> joined
            S? recover /topic/kept/a from now
            D> gone
            S! leave /topic/kept/a
        "#]],
    );
}

#[test]
fn nobody_is_a_member_by_a_pattern_and_a_pattern_has_no_presence() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            C> {"type":"subscribe","to":"/topic/halls/*","id":1}
            S? join ns:halls
            S< ok {"id":1}
            C> {"type":"subscribe","to":"/topic/halls/?","presence":true,"id":2}
            S< error {"code":"forbidden","id":2,"message":"a pattern has no presence; subscribe to each destination"}
        "#]],
    );
}

#[test]
fn presence_needs_a_namespace_that_has_it_and_a_rule_that_allows_it() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            C> {"type":"subscribe","to":"/topic/other","presence":true,"id":1}
            S< error {"code":"forbidden","id":1,"message":"this namespace has no presence; give its [[namespaces]] `presence = true`"}
            C> {"type":"subscribe","to":"/topic/rooms/dark","presence":true,"id":2}
            S< error {"code":"forbidden","id":2,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            C> {"type":"presence","to":"/topic/rooms/dark","id":3}
            S< error {"code":"forbidden","id":3,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            C> {"type":"subscribe","to":"/topic/rooms/dark","id":4}
            S? join /topic/rooms/dark
            S! appear /topic/rooms/dark as ann
            S< ok {"id":4}
            C> {"type":"subscribe","to":"/topic/rooms/a","presence":true,"id":5}
            S? join /topic/rooms/a
            S! appear /topic/rooms/a as ann
            S< ok {"id":5}
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/rooms/dark presence:true receipt:1
            S< ERROR code:forbidden message:the policy does not allow this receipt-id:1
            S| close forbidden
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:1 destination:/topic/rooms/a presence:yes receipt:1
            S< ERROR code:bad_header message:the header presence has an unknown value receipt-id:1
            S| close protocol_error
        "#]],
    );
}

#[test]
fn what_is_asked_about_members_is_bounded() {
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            D> hold
            C> {"type":"presence","to":"/topic/rooms/a","limit":100000,"id":1}
            S< error {"code":"protocol_error","id":1,"message":"`limit` must be a whole number from 0 to 1000"}
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # native ann
            C> {"type":"presence","to":"/topic/rooms/a"}
            S< error {"code":"protocol_error","message":"missing field `id` in presence, which needs to, id"}
            C> {"type":"presence","to":"/topic/rooms/a","limit":-1,"id":1}
            S< error {"code":"protocol_error","id":1,"message":"`limit` must be a whole number from 0 to 1000"}
            C> {"type":"presence","to":"/topic/rooms/a","id":2}
            S? members /topic/rooms/a 100
            S< error {"code":"unavailable","id":2,"message":"the members can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"presence","to":"/topic/rooms/a","cursor":"0123456789012345678901234567890123456789012345678901234567890123456789","id":3}
            S< error {"code":"bad_cursor","id":3,"message":"the cursor is not good any more; begin again without one"}
        "#]],
    );
}

#[test]
fn the_members_are_shown_with_their_sessions() {
    let mut driver: Driver = connected_native();
    driver.rules = rules();
    driver.hold = true;
    driver.receive(
        true,
        br#"{"type":"presence","to":"/topic/rooms/a","cursor":"c","limit":2,"id":1}"#,
    );
    let members = vec![
        Present { user: Some("ann".into()), sessions: 2 },
        Present { user: None, sessions: 1 },
    ];
    let page = MembersPage { members, count: 7, cursor: Some("d".to_owned()) };
    driver.done(Done::Members(Ok(page)));
    driver.receive(true, br#"{"type":"presence","to":"/topic/rooms/a","limit":0,"id":2}"#);
    driver.done(Done::Members(Err(PresenceError::BadCursor)));
    expect![[r#"
        S? members /topic/rooms/a 2 after c
        S< members {"count":7,"cursor":"d","id":1,"to":"/topic/rooms/a","users":[{"sessions":2,"user":"ann"},{"sessions":1}]}
        S? members /topic/rooms/a 0
        S< error {"code":"bad_cursor","id":2,"message":"the cursor is not good any more; begin again without one"}"#]]
    .assert_eq(&driver.log.join("\n"));
}

#[test]
fn a_refreshed_token_that_does_not_allow_presence_ends_what_shows_it() {
    let mut rules = rules();
    let namespaces = [Namespace {
        options: NamespaceOptions { presence: true, ..NamespaceOptions::default() },
        ..Namespace::new("rooms", "/topic/**")
    }];
    let seeing = PolicyRule {
        actions: vec![Action::Presence],
        roles: vec!["host".to_owned()],
        ..PolicyRule::new(RuleEffect::Allow, "/topic/**")
    };
    let subscribing = PolicyRule {
        actions: vec![Action::Subscribe],
        ..PolicyRule::new(RuleEffect::Allow, "/topic/**")
    };
    rules.policy = Policy::new(&namespaces, &[seeing, subscribing]).unwrap();
    check_rules(
        rules,
        expect![[r#"
            # native ann+host
            C> {"type":"subscribe","to":"/topic/a","presence":true}
            S? join /topic/a
            S! appear /topic/a as ann
            C> {"type":"subscribe","to":"/topic/b"}
            S? join /topic/b
            S! appear /topic/b as ann
            C> {"type":"refresh","token":"ann","id":1}
            S? authenticate ann
            S! leave /topic/a
            S! vanish /topic/a as ann
            S< error {"code":"forbidden","message":"the session may no longer have the subscription to /topic/a; it has ended","to":"/topic/a"}
            S< ok {"id":1}
        "#]],
    );
}
