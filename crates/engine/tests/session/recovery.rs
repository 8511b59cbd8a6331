//! Positions, histories and idempotency keys: what clients say of them and what they are told.

use expect_test::expect;
use fanlight_proto::Position;

use crate::driver::connected_native;
use crate::transcript::check;

#[test]
fn a_native_subscription_is_answered_once_it_is_live_in_its_timeline() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/kept/a","id":1}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a from now
        D> recovered
        S< ok {"epoch":"e","id":1,"offset":7}
        C> {"type":"subscribe","to":"/topic/kept/b","since":{"epoch":"e","offset":3},"id":2}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/b after e:3
        C> {"type":"ping"}
        D> recovered 4
        S< ok {"count":4,"epoch":"e","id":2,"offset":7,"recovered":true}
        S< pong {}
        C> {"type":"subscribe","to":"/topic/kept/c","since":{"epoch":"e","offset":3},"id":3}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/c after e:3
        D> recovered too_old
        S< ok {"count":0,"epoch":"e","id":3,"offset":7,"reason":"position_too_old","recovered":false}
        C> {"type":"subscribe","to":"/topic/kept/d","history":5,"id":4}
        S? join ns:kept
        D> joined degraded
        S? recover /topic/kept/d with the newest 5, degraded
        D> recovered 5
        S< ok {"count":5,"degraded":true,"epoch":"e","id":4,"offset":7}
        C> {"type":"subscribe","to":"/topic/kept/e","history":5}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/e with the newest 5
        D> recovered 5
        C> {"type":"unsubscribe","to":"/topic/kept/e","id":6}
        S! leave ns:kept
        S< ok {"id":6}
    "##]]);
}

#[test]
fn where_there_is_no_history_a_position_is_answered_with_the_reason() {
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/single/a","since":{"epoch":"e","offset":3},"id":1}
        S? join /topic/single/a
        S< ok {"count":0,"id":1,"reason":"no_history","recovered":false}
        C> {"type":"subscribe","to":"/topic/kept/*","since":{"epoch":"e","offset":3},"id":2}
        S? join ns:kept
        S< ok {"count":0,"id":2,"reason":"no_history","recovered":false}
        C> {"type":"subscribe","to":"/topic/single/b","history":3,"id":3}
        S? join /topic/single/b
        S< ok {"count":0,"id":3,"reason":"no_history"}
        C> {"type":"subscribe","to":"/topic/kept/sealed","history":3,"id":4}
        S< error {"code":"forbidden","id":4,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"history","to":"/topic/single/a","limit":3,"id":5}
        S< error {"code":"forbidden","id":5,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"history","to":"/topic/kept/sealed","limit":3,"id":6}
        S< error {"code":"forbidden","id":6,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
    "##]]);
}

#[test]
fn who_may_subscribe_may_recover_all_that_is_kept_and_needs_a_rule_for_other_reading() {
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/topic/kept/sealed","since":{"epoch":"e","offset":0},"id":1}
        S? join ns:kept
        S? recover /topic/kept/sealed after e:0
        S< ok {"epoch":"e","id":1,"offset":7}
        C> {"type":"history","to":"/topic/kept/sealed","since":{"epoch":"e","offset":0},"limit":3,"id":2}
        S< error {"code":"forbidden","id":2,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
    "##]]);
}

#[test]
fn a_private_destination_of_an_anonymous_session_has_no_history() {
    check(expect![[r##"
        # native
        C> {"type":"subscribe","to":"/user/queue/kept.a","since":{"epoch":"e","offset":3},"id":1}
        S? join /user/~<session>/queue/kept.a
        S< ok {"count":0,"id":1,"reason":"no_history","recovered":false}
        C> {"type":"history","to":"/user/queue/kept.a","limit":3,"id":2}
        S< error {"code":"no_history","id":2,"message":"this namespace keeps no history; give its [[namespaces]] a `history`, or fetch the state from the backend"}
    "##]]);
    check(expect![[r##"
        # native ann
        C> {"type":"subscribe","to":"/user/queue/kept.a","since":{"epoch":"e","offset":3},"id":1}
        S? join /user/ann/queue/kept.a
        S? recover /user/ann/queue/kept.a after e:3
        S< ok {"epoch":"e","id":1,"offset":7}
    "##]]);
}

#[test]
fn what_exceeds_one_message_of_a_history_is_asked_for_again_and_one_alone_always_fits() {
    for (bytes, fit) in [(1000, 4), (400, 3), (330, 2), (150, 1), (80, 1)] {
        let mut driver = connected_native();
        driver.rules.limits.message_bytes = bytes;
        driver.hold = true;
        let ask = r#"{"type":"history","to":"/topic/kept/a","limit":4,"id":1}"#;
        driver.receive(true, ask.as_bytes());
        driver.log.clear();
        driver.answer_history(4, Position { epoch: 14, offset: 4 }, None);
        let answer = &driver.log[0];
        assert_eq!(answer.matches(r#""type":"message""#).count(), fit, "{bytes}: {answer}");
        let more = if fit < 4 { r#","more":true"# } else { "" };
        let end = format!(r#"]{more},"offset":{fit},"to":"/topic/kept/a"}}"#);
        assert!(answer.ends_with(&end), "{bytes}: {answer}");
    }
}

#[test]
fn a_history_is_answered_in_pages_or_with_the_reason_why_not() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"history","to":"/topic/kept/a","limit":2,"id":1}
        S? history /topic/kept/a newest limit 2
        D> history 2 at e:2
        S< history {"epoch":"e","id":1,"messages":[{"at":1,"data":1,"epoch":"e","id":"00000000000000000000000000000001","offset":1,"to":"/topic/kept/a","type":"message"},{"at":1,"data":2,"epoch":"e","id":"00000000000000000000000000000002","offset":2,"to":"/topic/kept/a","type":"message"}],"offset":2,"to":"/topic/kept/a"}
        C> {"type":"history","to":"/topic/kept/a","since":{"epoch":"e","offset":0},"limit":2,"id":2}
        S? history /topic/kept/a after e:0 limit 2
        D> history 2 at e:9
        S< history {"epoch":"e","id":2,"messages":[{"at":1,"data":1,"epoch":"e","id":"00000000000000000000000000000001","offset":1,"to":"/topic/kept/a","type":"message"},{"at":1,"data":2,"epoch":"e","id":"00000000000000000000000000000002","offset":2,"to":"/topic/kept/a","type":"message"}],"more":true,"offset":2,"to":"/topic/kept/a"}
        C> {"type":"history","to":"/topic/kept/a","since":{"epoch":"d","offset":1},"limit":2,"id":3}
        S? history /topic/kept/a after d:1 limit 2
        D> history too_old
        S< history {"epoch":"e","id":3,"messages":[],"offset":7,"reason":"position_too_old","to":"/topic/kept/a"}
        C> {"type":"history","to":"/topic/kept/a","limit":2,"id":4}
        S? history /topic/kept/a newest limit 2
        D> history unavailable
        S< error {"code":"unavailable","id":4,"message":"the history can't be read now; try again later","retry_after_ms":1000}
    "##]]);
}

#[test]
fn what_is_published_with_a_key_is_published_once_for_its_publisher_and_destination() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"send","to":"/topic/kept/a","data":1,"key":"k","id":1}
        S? publish once u3:ann13:/topic/kept/ak /topic/kept/a from ann as known application/json | 1
        D> published at e:5
        S< ok {"epoch":"e","id":1,"message_id":"<id>","offset":5}
        C> {"type":"send","to":"/topic/kept/a","data":1,"key":"k","id":2}
        S? publish once u3:ann13:/topic/kept/ak /topic/kept/a from ann as known application/json | 1
        D> published duplicate
        S< ok {"duplicate":true,"id":2,"message_id":"<id>"}
        C> {"type":"send","to":"/topic/kept/a","data":2,"key":"k","id":3}
        S? publish once u3:ann13:/topic/kept/ak /topic/kept/a from ann as known application/json | 2
        D> published key_reused
        S< error {"code":"key_reused","id":3,"message":"this idempotency key was used for another message within the last five minutes; nothing was published, give each message a key of its own"}
        C> {"type":"send","to":"/topic/kept/a","data":1,"key":"","id":4}
        S< error {"code":"bad_key","id":4,"message":"an idempotency key has 1 to 128 bytes; use a UUID"}
    "##]]);
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SEND destination:/topic/kept/a idempotency-key:k receipt:1 | 1
        S? publish once u3:ann13:/topic/kept/ak /topic/kept/a from ann | 1
        D> published at e:5
        S< RECEIPT epoch:e offset:5 receipt-id:1
        C> BEGIN transaction:t
        C> SEND destination:/topic/kept/a transaction:t idempotency-key:l | 1
        C> COMMIT transaction:t receipt:2
        S? publish once u3:ann13:/topic/kept/al /topic/kept/a from ann | 1
        D> published duplicate
        S< RECEIPT duplicate:true receipt-id:2
    "#]]);
}

#[test]
fn a_stomp_subscription_gives_its_position_back_by_headers() {
    check(expect![[r#"
        # stomp 1.2 ann
        D> hold
        C> SUBSCRIBE id:1 destination:/topic/kept/a epoch:e offset:3 receipt:1
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a after e:3
        D> recovered 4
        S< RECEIPT epoch:e offset:7 receipt-id:1 recovered:true
        C> SUBSCRIBE id:2 destination:/topic/kept/a last-event-id:e:3 receipt:2
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a after e:3
        D> recovered too_old
        S< RECEIPT epoch:e offset:7 reason:position_too_old receipt-id:2 recovered:false
        C> SUBSCRIBE id:3 destination:/topic/kept/a receipt:3
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a from now
        D> recovered
        S< RECEIPT epoch:e offset:7 receipt-id:3
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/kept/a epoch:e receipt:1
        S< ERROR code:bad_header message:epoch and offset go together receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/kept/a last-event-id:e5 receipt:1
        S< ERROR code:bad_position message:a position is `epoch:offset`: up to 16 hexadecimal digits, and a whole number receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn a_session_that_ends_while_it_recovers_leaves_nothing() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/kept/a","id":1}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a from now
        D> drain
        D> recovered
        S< ok {"epoch":"e","id":1,"offset":7}
        S< reconnect {"after_ms":1500,"reason":"draining"}
        S! leave ns:kept
        S| close draining
    "##]]);
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/kept/a","id":1}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a from now
        D> gone
        S! leave ns:kept
    "##]]);
}

#[test]
fn who_joins_where_the_history_cannot_be_asked_is_told_that_the_join_is_degraded() {
    check(expect![[r##"
        # native ann
        D> hold
        C> {"type":"subscribe","to":"/topic/kept/a","since":{"epoch":"e","offset":3},"id":1}
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a after e:3
        D> recovered unavailable
        S< ok {"count":0,"degraded":true,"id":1,"reason":"unavailable","recovered":false}
    "##]]);
    check(expect![[r##"
        # stomp 1.2 ann
        D> hold
        C> SUBSCRIBE id:1 destination:/topic/kept/a receipt:r
        S? join ns:kept
        D> joined
        S? recover /topic/kept/a from now
        D> recovered unavailable
        S< RECEIPT degraded:true reason:unavailable receipt-id:r
    "##]]);
}
