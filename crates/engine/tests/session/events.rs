//! Sessions that listen: what backends answer them and do to them, and what ends them.

use std::sync::Arc;

use expect_test::expect;
use fanlight_engine::auth::Capability;
use fanlight_engine::policy::Grants;
use fanlight_engine::session::{Form, Handshake, Listening};

use crate::app::app_rules;
use crate::driver::{self, Driver};
use crate::transcript::{check, check_rules, run};

#[test]
fn a_listener_is_answered_by_a_backend_once_and_goes_on_with_what_else_it_wants() {
    check_rules(
        app_rules(),
        expect![[r#"
            D> hold
            # events ann /app/chat/7/send /topic/kept/a
            S< event connected: connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
            S? app request /app/chat/7/send room=7 from ann
            D> handled reply {"members":3}
            S< event message: message {"at":1800000000000,"data":{"members":3},"headers":{"x-from":"backend"},"id":"<id>","to":"/app/chat/7/send"}
            S< event subscribed: ok {"id":0}
            S? join ns:kept
            D> joined
            S? recover /topic/kept/a from now
            D> recovered
            S< id -,e:7 event subscribed: ok {"epoch":"e","id":1,"offset":7}
        "#]],
    );
    check_rules(
        app_rules(),
        expect![[r#"
            D> hold
            # polls ann /app/chat/7/send /app/open/x
            S? app request /app/chat/7/send room=7 from ann
            D> handled reply {"members":3}
            S< message {"at":1800000000000,"data":{"members":3},"headers":{"x-from":"backend"},"id":"<id>","to":"/app/chat/7/send"}
            S< ok {"id":0}
            S? app request /app/open/x from ann
            D> handled
            S< ok {"id":1}
        "#]],
    );
}

#[test]
fn a_listener_whose_backend_refuses_or_fails_is_told_which_and_ends() {
    for outcome in ["refused no_room there is no such room", "unavailable"] {
        let mut driver = Driver::new(app_rules(), None, Handshake::default());
        for line in ["D> hold", "# events ann /topic/a /app/chat/7/send", "D> joined"] {
            run(&mut driver, line);
        }
        driver.log.clear();
        run(&mut driver, &format!("D> handled {outcome}"));
        let log = driver.log.join("\n");
        let [fault, leave, close] = &driver.log[..] else { panic!("{log}") };
        let code = outcome.split(' ').nth(1).unwrap_or(outcome);
        assert!(fault.starts_with("S< event fault: error"), "{log}");
        assert!(fault.contains(&format!("\"code\":\"{code}\",\"id\":1")), "{log}");
        assert_eq!(leave, "S! leave ns:topic");
        assert!(close.starts_with("S| close"), "{log}");
    }
}

#[test]
fn what_no_backend_answers_is_refused_before_a_stream_begins() {
    check_rules(
        app_rules(),
        expect![[r#"
            # events ann /topic/a /app/nothing
            S| no_handler: /app/nothing: nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user
            # events ann /app/stream/x
            S| no_handler: /app/stream/x: nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user
            # events ann /app/admin/x
            S| forbidden: /app/admin/x: the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it
            # events ann /app/*
            S| no_handler: /app/*: nothing handles this destination; use one of a route of [[app.routes]], or /topic, /queue or /user
        "#]],
    );
}

#[test]
fn a_listener_is_told_what_a_backend_has_subscribed_it_to_which_has_no_place_in_its_cursor() {
    check(expect![[r#"
        D> hold
        # events ann /topic/kept/a
        S< event connected: connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        S? join ns:kept
        D> order subscribe /topic/kept/b
        D> joined
        S? recover /topic/kept/a from now
        D> recovered
        S< id e:7 event subscribed: ok {"epoch":"e","id":0,"offset":7}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/b from now
        D> recovered
        S< event subscribed: subscribed {"epoch":"e","offset":7,"to":"/topic/kept/b"}
        D> order subscribe /topic/kept/b
        D> order unsubscribe /topic/kept/b
        S! leave ns:kept
        S< event unsubscribed: unsubscribed {"to":"/topic/kept/b"}
        D> order unsubscribe /topic/kept/a
        S! leave ns:kept
        S< event unsubscribed: unsubscribed {"to":"/topic/kept/a"}
        D> order unsubscribe /topic/kept/a
    "#]]);
    check(expect![[r##"
        # polls ann /topic/a
        S? join ns:topic
        S< ok {"id":0}
        D> order subscribe /user/queue/x
        S? join /user/ann/queue/x
        S< subscribed {"to":"/user/queue/x"}
        D> order unsubscribe /user/queue/x
        S! leave /user/ann/queue/x
        S< unsubscribed {"to":"/user/queue/x"}
    "##]]);
}

#[test]
fn a_capability_counts_while_a_listener_subscribes_by_it_and_not_beyond_its_end() {
    let mut driver = Driver::new(driver::rules(), None, Handshake::default());
    driver.hold = true;
    let claim = serde_json::json!({ "subscribe": ["/topic/told/*"] });
    let capability = Capability {
        user: None,
        grants: Grants::read(&claim, 8).unwrap(),
        expires_unix_s: driver.now.unix_s() + 3,
        token_id: Some("c".into()),
        issued_unix_s: None,
    };
    let wanted = ["/topic/public/a", "/topic/told/a"].map(Into::into).into();
    let listening = Listening::new(wanted, None, false, Form::Events).unwrap();
    let listening = listening.with_capability(Some(Arc::new(capability)));
    driver.listen(Handshake::default(), listening, Form::Events);
    let revocable = |driver: &Driver| driver.session.capabilities().count();
    assert_eq!(revocable(&driver), 1, "it may subscribe by it yet");
    driver.log.clear();
    run(&mut driver, "T> 4s");
    run(&mut driver, "D> joined");
    let log = driver.log.join("\n");
    assert!(log.contains("\"code\":\"capability_expired\",\"id\":1"), "{log}");
    assert!(log.contains("S| close token_expired") && !log.contains("join /topic/told"), "{log}");
}
