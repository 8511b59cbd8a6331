//! Capabilities, and the sender that does not get what it sends.

use std::sync::Arc;

use expect_test::expect;
use fanlight_engine::auth::{AuthError, Capability, Token};
use fanlight_engine::policy::Grants;
use fanlight_engine::session::Done;

use crate::driver::{Driver, Pending};
use crate::transcript::check;

/// That a capability is to be checked.
pub(crate) fn asked(token: &Token) -> (String, Option<Pending>) {
    ("S? authorize".to_owned(), Some(Pending::Authorized(token.as_str().to_owned())))
}

/// A capability is `cap:SECONDS:USER:JSON`: how long it lasts, whose it is if anybody's, and what
/// it grants.
pub(crate) fn answer(driver: &mut Driver) {
    let Some(Pending::Authorized(token)) = &driver.pending else { panic!("{:?}", driver.pending) };
    let capability = match token.splitn(4, ':').collect::<Vec<_>>()[..] {
        ["cap", seconds, user, grants] => {
            let claim = serde_json::from_str(grants).unwrap();
            Ok(Arc::new(Capability {
                token_id: None,
                issued_unix_s: None,
                user: (!user.is_empty()).then(|| user.into()),
                grants: Grants::read(&claim, 8).unwrap(),
                expires_unix_s: driver.now.unix_s() + seconds.parse::<u64>().unwrap(),
            }))
        }
        _ => Err(AuthError::NotACapability),
    };
    driver.done(Done::Authorized(capability));
}

#[test]
fn a_capability_allows_its_request_and_no_other_and_is_not_shown() {
    check(expect![[r##"
        # native
        C> {"type":"subscribe","to":"/topic/told/a","id":1}
        S< error {"code":"forbidden","id":1,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"subscribe","to":"/topic/told/a","token":"cap:60::{\"subscribe\":[\"/topic/told/*\"]}","id":2}
        S? authorize
        S! subscribed nobody /topic/told/a
        S? join /topic/told/a
        S< ok {"id":2}
        C> {"type":"subscribe","to":"/topic/told/b","id":3}
        S< error {"code":"forbidden","id":3,"message":"the policy does not allow this; have [[policy.rules]], the `roles` of a route or the grants of the token allow it"}
        C> {"type":"send","to":"/topic/public/a","data":1,"token":"cap:60::{\"publish\":[\"/topic/public/a\"]}","id":4}
        S? authorize
        S? publish /topic/public/a as known application/json | 1
        S< ok {"id":4,"message_id":"<id>"}
        C> {"type":"subscribe","to":"/topic/secret/a","token":"cap:60::{\"subscribe\":[\"/topic/secret/a\"]}","id":5}
        S? authorize
        S< error {"code":"forbidden","id":5,"message":"this needs a user; connect with a token"}
        C> {"type":"subscribe","to":"/topic/told/c","token":"cap:60:bob:{\"subscribe\":[\"/topic/told/c\"]}","id":6}
        S? authorize
        S< error {"code":"bad_capability","id":6,"message":"the capability is another user's (`sub`)"}
        C> {"type":"subscribe","to":"/topic/told/c","token":"nonsense","id":7}
        S? authorize
        S< error {"code":"bad_capability","id":7,"message":"the token is no capability (`typ`); connect with it, or refresh by it"}
        C> {"type":"ping"}
        S< pong {}
    "##]]);
}

#[test]
fn what_comes_behind_a_request_with_a_capability_waits_for_it() {
    check(expect![[r##"
        # native bob
        D> hold
        C> [{"type":"send","to":"/user/eve/queue/a","data":1,"token":"cap:60:bob:{\"publish\":[\"/user/eve/queue/a\"]}"},{"type":"send","to":"/topic/a","data":2}]
        S? authorize
        D> authorized
        S? publish /user/eve/queue/a from bob as known application/json | 1
        D> published
        S? publish /topic/a from bob as known application/json | 2
        D> published
    "##]]);
}

#[test]
fn a_subscription_ends_with_its_capability_unless_the_policy_allows_it() {
    check(expect![[r##"
        # native
        C> {"type":"subscribe","to":"/topic/told/a","token":"cap:3::{\"subscribe\":[\"/topic/told/*\"]}","id":1}
        S? authorize
        S! subscribed nobody /topic/told/a
        S? join /topic/told/a
        S< ok {"id":1}
        C> {"type":"subscribe","to":"/topic/told/b","token":"cap:5::{\"subscribe\":[\"/topic/told/*\"]}","id":2}
        S? authorize
        S! subscribed nobody /topic/told/b
        S? join /topic/told/b
        S< ok {"id":2}
        C> {"type":"subscribe","to":"/topic/public/a","token":"cap:3::{\"subscribe\":[\"/topic/**\"]}","id":3}
        S? join ns:public
        S< ok {"id":3}
        T> 4s
        @3s S! unsubscribed nobody /topic/told/a
        @3s S! leave /topic/told/a
        @3s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/told/a is over; it has ended; subscribe again with a new one","to":"/topic/told/a"}
        T> 2s
        @1s S! unsubscribed nobody /topic/told/b
        @1s S! leave /topic/told/b
        @1s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/told/b is over; it has ended; subscribe again with a new one","to":"/topic/told/b"}
    "##]]);
}

/// Else who always joins something, or reads its history slowly, would keep all of them.
#[test]
fn while_one_subscription_is_joined_others_end_with_their_capabilities_and_it_soon_after() {
    check(expect![[r##"
        # native
        C> {"type":"subscribe","to":"/topic/told/a","token":"cap:2::{\"subscribe\":[\"/topic/told/*\"]}"}
        S? authorize
        S! subscribed nobody /topic/told/a
        S? join /topic/told/a
        D> hold
        C> {"type":"subscribe","to":"/topic/told/b","token":"cap:4::{\"subscribe\":[\"/topic/told/*\"]}","id":1}
        S? authorize
        D> authorized
        S! subscribed nobody /topic/told/b
        S? join /topic/told/b
        T> 6s
        @2s S! unsubscribed nobody /topic/told/a
        @2s S! leave /topic/told/a
        @2s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/told/a is over; it has ended; subscribe again with a new one","to":"/topic/told/a"}
        D> joined
        S< ok {"id":1}
        T> 1s
        @1s S! unsubscribed nobody /topic/told/b
        @1s S! leave /topic/told/b
        @1s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/told/b is over; it has ended; subscribe again with a new one","to":"/topic/told/b"}
        C> {"type":"subscribe","to":"/topic/told/c","token":"cap:2::{\"subscribe\":[\"/topic/told/*\"]}","id":2}
        S? authorize
        D> authorized
        S! subscribed nobody /topic/told/c
        S? join /topic/told/c
        T> 16s
        T> 2s
        @1s S< error {"code":"capability_expired","message":"the capability for the subscription to /topic/told/c is over; it has ended; subscribe again with a new one"}
        @1s S! unsubscribed nobody /topic/told/c
        @1s S! leave /topic/told/c
        @1s S| close token_expired
    "##]]);
}

#[test]
fn in_stomp_a_capability_comes_as_a_header_and_its_end_is_the_session_s() {
    check(expect![[r##"
        # stomp 1.2
        C> SUBSCRIBE id:1 destination:/topic/told/a receipt:1 token:cap:2::{"subscribe":["/topic/told/a"]}
        S? authorize
        S! subscribed nobody /topic/told/a
        S? join /topic/told/a
        S< RECEIPT receipt-id:1
        C> SEND destination:/topic/public/a receipt:2 x:y token:cap:60::{"publish":["/topic/public/*"]} | hi
        S? authorize
        S? publish /topic/public/a x:y | hi
        S< RECEIPT receipt-id:2
        T> 3s
        @2s S< ERROR code:capability_expired message:the capability for the subscription to 1 is over; it has ended
        @2s S! unsubscribed nobody /topic/told/a
        @2s S! leave /topic/told/a
        @2s S| close token_expired
    "##]]);
}

#[test]
fn a_capability_is_looked_at_where_it_is_needed_and_one_that_is_none_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> SUBSCRIBE id:1 destination:/topic/single/a receipt:1 token:x
        S? join /topic/single/a
        S< RECEIPT receipt-id:1
        C> SEND destination:/user/eve/queue/a receipt:2 token:x | hi
        S? authorize
        S< ERROR code:bad_capability message:the token is no capability (`typ`); connect with it, or refresh by it receipt-id:2
        S! leave /topic/single/a
        S| close forbidden
    "#]]);
}

#[test]
fn who_excludes_itself_says_so_and_it_does_not_go_to_others() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> BEGIN transaction:t
        C> SEND destination:/topic/a transaction:t exclude-self:true | one
        C> SEND destination:/topic/a transaction:t exclude-self:false | two
        C> COMMIT transaction:t receipt:1
        S? publish /topic/a from ann without its session | one
        S? publish /topic/a from ann | two
        S< RECEIPT receipt-id:1
        C> SEND destination:/topic/a exclude-self:1 | three
        S< ERROR code:bad_header message:the header exclude-self has an unknown value
        S| close protocol_error
    "#]]);
}
