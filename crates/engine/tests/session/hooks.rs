//! Hooks: what waits for a backend's word, and what follows each of its answers.

use std::sync::Arc;

use expect_test::expect;
use fanlight_engine::auth::AuthError;
use fanlight_engine::history::History;
use fanlight_engine::hook::{HookError, SessionHooks, SubscribeQuestion};
use fanlight_engine::policy::{
    Action, Namespace, NamespaceOptions, Policy, PolicyRule, RuleEffect, Subject,
};
use fanlight_engine::session::{Done, Effect, Handshake, Rules};

use crate::driver::{self, Driver, Pending, shown_credentials};
use crate::transcript::{check_rules, check_with};

/// How it is asked who a client is, and which answer that waits for.
pub(crate) fn asked_who(effect: Effect) -> (String, Option<Pending>) {
    match effect {
        Effect::Authenticate(credentials) => {
            let (shown, token) = shown_credentials(credentials);
            (format!("S? authenticate {shown}"), Some(Pending::Authenticated(token)))
        }
        Effect::Introduce(claimant) => {
            let given = claimant.credentials.map(|given| shown_credentials(given).0);
            let known = claimant.principal.map(|known| format!(" as {}", known.user));
            let (given, known) = (given.unwrap_or_default(), known.unwrap_or_default());
            (format!("S? introduce {given}{known}"), Some(Pending::Introduced))
        }
        Effect::Renew(renewal) => {
            let token = renewal.token.as_ref().map_or("nothing", |token| token.as_str());
            let line = format!("S? renew {} by {token}", renewal.principal.user);
            (line, Some(Pending::Renewed))
        }
        effect => unreachable!("{effect:?} asks for nobody"),
    }
}

/// What a backend is asked, and which answer that waits for.
pub(crate) fn asked(question: &SubscribeQuestion) -> (String, Option<Pending>) {
    let what = question.actions.iter().map(|action| match action {
        Action::Subscribe => "to",
        Action::History => "history of",
        Action::Presence => "presence at",
        Action::Publish => unreachable!("it is asked with the publication"),
    });
    let what = what.collect::<Vec<_>>().join(", ");
    let line = format!("S? ask {} {what} {}", question.hook, question.destination);
    (line, Some(Pending::Decided))
}

/// The answer to that, or to a publication, as transcripts have it.
pub(crate) fn decide(driver: &mut Driver, what: &str, answer: &str) {
    let refused = || HookError::Refused { reason: Some("not yours".into()) };
    driver.done(match (what, answer) {
        ("introduced", "") => Done::Introduced(Ok(None)),
        ("introduced", "rejected") => {
            Done::Introduced(Err(AuthError::Rejected { reason: Some("not today".into()) }))
        }
        ("introduced", user) => {
            let user = driver::principal(user, driver.now).map(Arc::new);
            Done::Introduced(user.map(Some))
        }
        ("renewed", "unavailable") => Done::Authenticated(Err(AuthError::BackendUnavailable)),
        ("renewed", user) => Done::Authenticated(driver::principal(user, driver.now).map(Arc::new)),
        ("decided", "") => Done::Decided(Ok(())),
        ("decided", "no") => Done::Decided(Err(refused())),
        ("decided", "timeout") => Done::Decided(Err(HookError::Timeout)),
        ("decided", "unavailable") => {
            Done::Decided(Err(HookError::Unavailable { retry_after_ms: 5000 }))
        }
        ("published", "refused") => Done::Published(Err(refused().into())),
        other => panic!("how to {other:?}?"),
    });
}

/// Topics that a backend has a say in, and sessions too.
fn rules() -> Rules {
    rules_of(NamespaceOptions::default())
}

/// The same with these options.
fn rules_of(options: NamespaceOptions) -> Rules {
    let options = NamespaceOptions {
        subscribe_hook: Some("backend".into()),
        publish_hook: Some("backend".into()),
        ..options
    };
    let namespaces = [Namespace { options, ..Namespace::new("topic", "/topic/**") }];
    let policy = Policy::new(&namespaces, &[PolicyRule::new(RuleEffect::Allow, "/topic/*")]);
    let hooks = SessionHooks { connect: true, refresh: true };
    Rules { policy: policy.unwrap(), hooks, ..Rules::default() }
}

#[test]
fn a_connect_waits_for_the_backend_which_says_who_it_is() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> CONNECT accept-version:1.2 login:a passcode:b
            S? introduce a:b or b
            D> introduced ann
            S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        "#]],
    );
    check_with(
        rules(),
        driver::handshake("ann"),
        expect![[r#"
            D> hold
            C> {"type":"connect"}
            S? introduce  as ann
            D> introduced rejected
            S< error {"code":"unauthorized","message":"not today"}
            S| close unauthorized
        "#]],
    );
}

#[test]
fn whom_the_backend_lets_in_as_nobody_needs_a_namespace_for_that() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect"}
            S? introduce 
            D> introduced
            S< error {"code":"unauthorized","message":"a token is needed; connect with a token: STOMP takes it as `Authorization: Bearer` or `passcode`, the native protocol as `token`"}
            S| close unauthorized
        "#]],
    );
}

#[test]
fn nobody_is_asked_twice_about_who_was_let_in_already() {
    let handshake = driver::handshake("ann");
    let let_in = Driver::new(rules(), None, Handshake::default()).session.id();
    check_with(
        rules(),
        Handshake { let_in: Some(let_in), ..handshake },
        expect![[r#"
            C> {"type":"connect"}
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        "#]],
    );
}

#[test]
fn a_subscription_is_none_until_the_backend_agrees() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"subscribe","to":"/topic/a","id":1}
            S? ask backend to /topic/a
            C> {"type":"ping"}
            D> decided
            S? join /topic/a
            D> joined
            S< ok {"id":1}
            S< pong {}
            C> {"type":"subscribe","to":"/topic/b","id":2}
            S? ask backend to /topic/b
            D> decided no
            S< error {"code":"forbidden","id":2,"message":"not yours"}
            C> {"type":"subscribe","to":"/topic/c","id":3}
            S? ask backend to /topic/c
            D> decided unavailable
            S< error {"code":"unavailable","id":3,"message":"the backend that decides about this can't be asked; try again later","retry_after_ms":5000}
            C> {"type":"subscribe","to":"/topic/c","id":4}
            S? ask backend to /topic/c
            D> decided timeout
            S< error {"code":"timeout","id":4,"message":"the backend that decides about this did not answer in time; try again later","retry_after_ms":1000}
            C> {"type":"send","to":"/topic/a","data":1,"id":5}
            S? publish /topic/a from ann as known application/json | 1
            D> published refused
            S< error {"code":"forbidden","id":5,"message":"not yours"}
        "#]],
    );
}

#[test]
fn the_backend_is_asked_after_a_capability_allows_and_the_subscription_ends_with_that() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"subscribe","to":"/topic/granted/a","token":"cap:3::{\"subscribe\":[\"/topic/granted/*\"]}","id":1}
            S? authorize
            D> authorized
            S? ask backend to /topic/granted/a
            D> decided
            S? join /topic/granted/a
            D> joined
            S< ok {"id":1}
            C> {"type":"send","to":"/topic/granted/a","data":1,"token":"cap:3::{\"subscribe\":[\"/topic/granted/*\"]}","id":2}
            S? authorize
            D> authorized
            S< error {"code":"forbidden","id":2,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            T> 4s
            @3s S! leave /topic/granted/a
            @3s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/granted/a is over; it has ended; subscribe again with a new one","to":"/topic/granted/a"}
        "#]],
    );
}

#[test]
fn a_capability_that_is_over_when_the_backend_agrees_allows_nothing_any_more() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"subscribe","to":"/topic/granted/a","token":"cap:3::{\"subscribe\":[\"/topic/granted/*\"]}","id":1}
            S? authorize
            D> authorized
            S? ask backend to /topic/granted/a
            T> 4s
            D> decided
            S< error {"code":"capability_expired","id":1,"message":"the capability for the subscription to /topic/granted/a is over; it has ended; subscribe again with a new one"}
            C> {"type":"ping"}
            S< pong {}
        "#]],
    );
}

#[test]
fn a_session_whose_time_is_over_goes_on_if_the_backend_says_so() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann@3
            S< connected {"expires":1800000003000,"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            T> 4s
            @3s S? renew ann by nothing
            D> renewed ann@3
            T> 3s
            @3s S? renew ann by nothing
            D> renewed expired
            S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
            S| close token_expired
        "#]],
    );
}

/// Of [`driver::role_policy`], with a backend that decides about the time of sessions.
fn renewed_rules() -> Rules {
    let hooks = SessionHooks { connect: false, refresh: true };
    Rules { policy: driver::role_policy(), hooks, ..Rules::default() }
}

#[test]
fn what_a_renewed_session_may_not_do_any_more_ends() {
    check_rules(
        renewed_rules(),
        expect![[r##"
            # native ann+ops@3
            C> [{"type":"subscribe","to":"/topic/ops"},{"type":"subscribe","to":"/topic/all"}]
            S? join /topic/ops
            S? join /topic/all
            D> hold
            T> 3s
            @3s S? renew ann by nothing
            D> renewed ann@3
            S! leave /topic/ops
            S< error {"code":"forbidden","message":"the session may no longer have the subscription to /topic/ops; it has ended","to":"/topic/ops"}
            C> {"type":"subscribe","to":"/topic/ops","id":1}
            S< error {"code":"forbidden","id":1,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            T> 3s
            @3s S? renew ann by nothing
            D> renewed bob@3
            S< error {"code":"unauthorized","message":"the token is another user's; connect again to change the user"}
            S! leave /topic/all
            S| close unauthorized
        "##]],
    );
    check_rules(
        renewed_rules(),
        expect![[r#"
            # stomp 1.2 ann+ops@3
            C> SUBSCRIBE id:1 destination:/topic/ops
            S? join /topic/ops
            C> SUBSCRIBE id:2 destination:/topic/all
            S? join /topic/all
            D> hold
            T> 3s
            @3s S? renew ann by nothing
            D> renewed ann@3
            S< ERROR code:forbidden message:the session may no longer have the subscription to /topic/ops; it has ended
            S! leave /topic/ops
            S! leave /topic/all
            S| close forbidden
        "#]],
    );
}

#[test]
fn a_session_that_always_has_something_under_way_is_renewed_between_two_requests() {
    check_rules(
        renewed_rules(),
        expect![[r##"
            # native ann@2
            D> hold
            C> [{"type":"send","to":"/topic/all","data":1,"id":1},{"type":"send","to":"/topic/all","data":2,"id":2}]
            S? publish /topic/all from ann as known application/json | 1
            T> 2s
            D> published
            S< ok {"id":1,"message_id":"<id>"}
            S? renew ann by nothing
            D> renewed ann@60
            S? publish /topic/all from ann as known application/json | 2
            D> published
            S< ok {"id":2,"message_id":"<id>"}
        "##]],
    );
}

#[test]
fn a_backend_that_can_not_be_asked_about_a_renewal_is_asked_again_for_a_while() {
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann@1
            S< connected {"expires":1800000001000,"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            T> 1s
            @1s S? renew ann by nothing
            D> renewed unavailable
            T> 1s
            @1s S? renew ann by nothing
            D> renewed ann@1
            T> 1s
            @1s S? renew ann by nothing
            D> renewed unavailable
            T> 14s
            @1s S? renew ann by nothing
            T> 1s
            @1s S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
            @1s S| close token_expired
        "#]],
    );
}

#[test]
fn what_subscribers_get_is_read_with_the_same_consent() {
    let history = Some(History { size: 10, ttl_ms: 60_000 });
    check_rules(
        rules_of(NamespaceOptions { history, presence: true, ..NamespaceOptions::default() }),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"history","to":"/topic/a","limit":5,"id":1}
            S? ask backend history of /topic/a
            D> decided no
            S< error {"code":"forbidden","id":1,"message":"not yours"}
            C> {"type":"presence","to":"/topic/a","id":2}
            S? ask backend presence at /topic/a
            D> decided timeout
            S< error {"code":"timeout","id":2,"message":"the backend that decides about this did not answer in time; try again later","retry_after_ms":1000}
            C> {"type":"subscribe","to":"/topic/a","history":3,"presence":true,"id":3}
            S? ask backend to, presence at, history of /topic/a
            D> decided no
            S< error {"code":"forbidden","id":3,"message":"not yours"}
            C> {"type":"history","to":"/topic/a","limit":5,"id":4}
            S? ask backend history of /topic/a
            D> decided
            S? history /topic/a newest limit 5
            D> history unavailable
            S< error {"code":"unavailable","id":4,"message":"the history can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"presence","to":"/topic/a","limit":7,"id":5}
            S? ask backend presence at /topic/a
            D> decided
            S? members /topic/a 7
            D> members unavailable
            S< error {"code":"unavailable","id":5,"message":"the members can't be read now; try again later","retry_after_ms":1000}
        "#]],
    );
}

#[test]
fn who_is_subscribed_reads_what_the_backend_has_agreed_to_with_that_or_since() {
    let history = Some(History { size: 10, ttl_ms: 60_000 });
    check_rules(
        rules_of(NamespaceOptions { history, presence: true, ..NamespaceOptions::default() }),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"subscribe","to":"/topic/a","id":6}
            S? ask backend to /topic/a
            D> decided
            S? join /topic/a
            D> joined
            S? recover /topic/a from now
            D> recovered
            S! appear /topic/a as ann
            S< ok {"epoch":"e","id":6,"offset":7}
            C> {"type":"history","to":"/topic/a","limit":5,"id":7}
            S? ask backend history of /topic/a
            D> decided no
            S< error {"code":"forbidden","id":7,"message":"not yours"}
            C> {"type":"presence","to":"/topic/a","id":8}
            S? ask backend presence at /topic/a
            D> decided
            S? members /topic/a 100
            D> members unavailable
            S< error {"code":"unavailable","id":8,"message":"the members can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"presence","to":"/topic/a","id":9}
            S? members /topic/a 100
            D> members unavailable
            S< error {"code":"unavailable","id":9,"message":"the members can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"subscribe","to":"/topic/b","history":3,"id":10}
            S? ask backend to, history of /topic/b
            D> decided
            S? join /topic/b
            D> joined
            S? recover /topic/b with the newest 3
            D> recovered
            S! appear /topic/b as ann
            S< ok {"epoch":"e","id":10,"offset":7}
            C> {"type":"history","to":"/topic/b","limit":5,"id":11}
            S? history /topic/b newest limit 5
            D> history unavailable
            S< error {"code":"unavailable","id":11,"message":"the history can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"presence","to":"/topic/b","id":12}
            S? ask backend presence at /topic/b
        "#]],
    );
}

#[test]
fn a_subscription_that_shows_presence_needs_consent_to_that_too_and_one_by_a_backend_has_it_all() {
    let history = Some(History { size: 10, ttl_ms: 60_000 });
    let rules =
        || rules_of(NamespaceOptions { history, presence: true, ..NamespaceOptions::default() });
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> CONNECT accept-version:1.2 login:a passcode:b
            S? introduce a:b or b
            D> introduced ann
            S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
            C> SUBSCRIBE id:1 destination:/topic/a presence:true
            S? ask backend to, presence at /topic/a
            D> decided no
            S< ERROR code:forbidden message:not yours
            S| close forbidden
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            D> order subscribe /topic/a
            S? join /topic/a
            D> joined
            S? recover /topic/a from now
            D> recovered
            S! appear /topic/a as ann
            S< subscribed {"epoch":"e","offset":7,"to":"/topic/a"}
            C> {"type":"presence","to":"/topic/a","id":1}
            S? members /topic/a 100
            D> members unavailable
            S< error {"code":"unavailable","id":1,"message":"the members can't be read now; try again later","retry_after_ms":1000}
            C> {"type":"subscribe","to":"/topic/a","presence":true,"id":2}
            S? ask backend to, presence at /topic/a
        "#]],
    );
}

#[test]
fn a_new_token_is_the_backends_to_decide_about_where_it_has_decided_who_connects() {
    let hooks = SessionHooks { connect: true, refresh: false };
    check_rules(
        Rules { policy: driver::role_policy(), hooks, ..Rules::default() },
        expect![[r##"
            D> hold
            C> {"type":"connect","token":"x"}
            S? introduce x
            D> introduced ann@3
            S< connected {"expires":1800000003000,"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            C> {"type":"refresh","token":"ann+ops","id":1}
            S? renew ann by ann+ops
            D> renewed ann@3
            S< ok {"id":1}
            C> {"type":"subscribe","to":"/topic/ops","id":2}
            S< error {"code":"forbidden","id":2,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
            T> 3s
            @3s S< error {"code":"token_expired","message":"the token has expired; connect again with a new token"}
            @3s S| close token_expired
        "##]],
    );
}

#[test]
fn a_permit_comes_out_only_with_consent() {
    let rules = rules();
    let principal = fanlight_engine::auth::Principal::of_user("ann");
    let session = Driver::new(Rules::default(), None, Handshake::default()).session.id();
    let subject = Subject::new(Some(&principal), session);
    let to = "/topic/a".parse().unwrap();
    let right = rules.policy.publish(&subject, &to).unwrap();
    let right = right.permit().expect_err("a backend is to be asked");
    let refused = HookError::Refused { reason: None };
    assert_eq!(right.decided(Err(refused.clone())).err(), Some(refused));
    let right = rules.policy.publish(&subject, &to).unwrap();
    assert_eq!(right.decided(Ok(())).unwrap().destination(), &to);
}
