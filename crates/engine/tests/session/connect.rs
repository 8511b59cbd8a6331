//! CONNECT: which protocol, which version, whose session.

use expect_test::expect;
use fanlight_engine::session::{Handshake, Protocol};
use fanlight_proto::stomp::Version;

use crate::driver::{self, Driver};
use crate::transcript::{check, check_rules, check_with};

#[test]
fn connected_carries_version_heart_beat_session_server_and_user_name() {
    check(expect![[r#"
        C> CONNECT accept-version:1.0,1.1,1.2 host:h heart-beat:10000,10000 passcode:ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
}

#[test]
fn the_command_stomp_connects_as_connect_does() {
    check(expect![[r#"
        C> STOMP accept-version:1.2 host:h passcode:ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
}

#[test]
fn the_highest_common_version_is_taken_and_none_named_is_1_0() {
    check(expect![[r#"
        C> CONNECT accept-version:1.1,1.0,2.0
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> version:1.1
    "#]]);
    check(expect![[r#"
        C> CONNECT login:x
        S< CONNECTED server:fanlight/0.1.0 session:<session> version:1.0
    "#]]);
}

#[test]
fn no_common_version_is_an_error_that_lists_ours() {
    check(expect![[r#"
        C> CONNECT accept-version:2.0,3.1
        S< ERROR code:unsupported_version message:no STOMP version in common version:1.0,1.1,1.2
        S| close unsupported_version
        C> CONNECT accept-version:1.2
    "#]]);
}

#[test]
fn a_second_connect_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> CONNECT accept-version:1.2
        S< ERROR code:already_connected message:already connected
        S| close protocol_error
    "#]]);
}

#[test]
fn a_frame_before_connect_is_refused() {
    check(expect![[r#"
        C> SEND destination:/topic/a receipt:1
        S< ERROR code:not_connected message:not connected receipt-id:1
        S| close protocol_error
    "#]]);
    check(expect![[r#"
        C> DISCONNECT receipt:1
        S< ERROR code:not_connected message:not connected receipt-id:1
        S| close protocol_error
    "#]]);
}

#[test]
fn a_login_and_its_passcode_are_checked_together_with_the_token_beside_them() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 login:app passcode:ann
        S? authenticate app:ann or ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 login:app passcode:pass Authorization:Bearer bob
        S? authenticate app:pass or bob
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:bob version:1.2
    "#]]);
    // What a relay's own client proved itself by to the relay is nothing to us.
    check(expect![[r#"
        C> CONNECT accept-version:1.2 login:app passcode:ann Authorization:Basic abc
        S? authenticate app:ann or ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
}

#[test]
fn a_service_is_not_bound_by_what_one_user_may_use_and_not_told_its_name() {
    check(expect![[r#"
        D> registry
        C> CONNECT accept-version:1.2 login:app passcode:app+service
        S? authenticate app:app+service or app+service
        S? enter app without limit
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> version:1.2
    "#]]);
}

#[test]
fn the_token_comes_as_authorization_or_passcode() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 Authorization:Bearer ann
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 authorization:bearer ann passcode:bob
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
    "#]]);
}

#[test]
fn another_authorization_than_bearer_is_an_error() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 Authorization:Basic YW5uOng=
        S< ERROR code:unauthorized message:the authorization is not a bearer token
        S| close unauthorized
    "#]]);
}

#[test]
fn a_refused_token_is_an_error_with_its_own_reason() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:forged
        S? authenticate forged
        S< ERROR code:unauthorized message:the token's signature is wrong; was it issued for this gateway's key?
        S| close unauthorized
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:expired
        S? authenticate expired
        S< ERROR code:token_expired message:the token has expired; fetch a new one
        S| close token_expired
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:keyless
        S? authenticate keyless
        S< ERROR code:unavailable message:the keys that check tokens can't be reached; try again later retry-after:1
        S| close unavailable
    "#]]);
}

#[test]
fn the_handshakes_principal_is_used_when_connect_has_no_token() {
    check_with(
        driver::closed_rules(),
        driver::handshake("ann"),
        expect![[r#"
            C> CONNECT accept-version:1.2 login: passcode:
            S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        "#]],
    );
    check_with(
        driver::closed_rules(),
        driver::handshake("ann"),
        expect![[r#"
            C> {"type":"connect"}
            S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>","user":"ann"}
        "#]],
    );
}

#[test]
fn the_token_of_connect_goes_before_the_handshakes() {
    check_with(
        driver::closed_rules(),
        driver::handshake("ann"),
        expect![[r#"
            C> CONNECT accept-version:1.2 passcode:bob
            S? authenticate bob
            S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:bob version:1.2
        "#]],
    );
}

#[test]
fn a_handshakes_token_that_has_expired_since_is_refused() {
    check_with(
        driver::closed_rules(),
        driver::handshake("ann@5"),
        expect![[r#"
            T> 6s
            C> CONNECT accept-version:1.2
            S< ERROR code:token_expired message:the token has expired
            S| close token_expired
        "#]],
    );
}

#[test]
fn without_a_token_only_some_namespace_for_anonymous_sessions_lets_one_in() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> version:1.2
    "#]]);
    check_rules(
        driver::closed_rules(),
        expect![[r#"
            C> CONNECT accept-version:1.2
            S< ERROR code:unauthorized message:a token is needed
            S| close unauthorized
        "#]],
    );
    check_rules(
        driver::closed_rules(),
        expect![[r#"
            C> {"type":"connect"}
            S< error {"code":"unauthorized","message":"a token is needed; connect with a token: STOMP takes it as `Authorization: Bearer` or `passcode`, the native protocol as `token`"}
            S| close unauthorized
        "#]],
    );
}

#[test]
fn heart_beat_must_be_two_numbers() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:often
        S< ERROR code:protocol_error message:heart-beat must be two numbers of milliseconds, such as 10000,10000
        S| close protocol_error
    "#]]);
}

#[test]
fn a_1_0_connect_has_no_heartbeats() {
    check(expect![[r#"
        C> CONNECT accept-version:1.0 heart-beat:1000,1000
        S< CONNECTED server:fanlight/0.1.0 session:<session> version:1.0
        T> 12s
    "#]]);
}

#[test]
fn frames_behind_connect_wait_for_it() {
    check(expect![[r#"
        D> hold
        C> (text) CONNECT\naccept-version:1.2\npasscode:ann\n\n\0SUBSCRIBE\nid:a\cb\ndestination:/topic/a\nreceipt:1\n\n\0
        S? authenticate ann
        D> authenticated
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        S? join ns:topic
        D> joined
        S< RECEIPT receipt-id:1
    "#]]);
}

#[test]
fn a_frame_may_be_split_over_messages_and_several_packed_into_one() {
    check(expect![[r#"
        C> (text) CONNECT\naccept-ver
        C> (bytes) sion:1.2\npasscode:ann\n
        C> (text) \n\0\n\nSEND\ndestination:/topic/a\nreceipt:1\n\none\0\nSEND\ndestination:/topic/a\n\ntw
        S? authenticate ann
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> user-name:ann version:1.2
        S? publish /topic/a from ann | one
        S< RECEIPT receipt-id:1
        C> (text) o\0\n
        S? publish /topic/a from ann | two
    "#]]);
}

#[test]
fn the_first_message_tells_the_protocol() {
    check(expect![[r#"
        C> (bytes) \r\n\nCONNECT\naccept-version:1.2\n\n\0
        S< CONNECTED heart-beat:10000,10000 server:fanlight/0.1.0 session:<session> version:1.2
    "#]]);
    check(expect![[r#"
        C> (bytes)   {"type":"connect"}
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>"}
    "#]]);
    check(expect![[r#"
        C> (text)  [{"type":"connect"},{"type":"ping","id":1}]
        S< connected {"heartbeat_ms":25000,"limits":{"message_bytes":65536,"subscriptions":128},"session":"<session>"}
        S< pong {"id":1}
    "#]]);
    for strange in [
        "GET / HTTP/1.1",
        "connect\\n\\n\\0",
        "CONNECTS\\n\\n\\0",
        " CONNECT\\n\\n\\0",
        "\\n",
        "\"hi\"",
    ] {
        let mut driver = Driver::new(driver::rules(), None, Handshake::default());
        driver.receive(true, strange.replace("\\n", "\n").replace("\\0", "\0").as_bytes());
        assert_eq!(driver.log, ["S| close unknown_protocol"], "{strange}");
    }
}

#[test]
fn an_agreed_protocol_is_kept_to() {
    let stomp = Some(Protocol::Stomp(Version::V11));
    let mut driver = Driver::new(driver::rules(), stomp, Handshake::default());
    assert_eq!(driver.session.protocol(), stomp);
    driver.receive(true, br#"{"type":"connect"}"#);
    assert_eq!(driver.log.last().unwrap(), "S| close protocol_error");

    let native = Some(Protocol::Native);
    let mut driver = Driver::new(driver::rules(), native, Handshake::default());
    driver.receive(true, b"CONNECT\naccept-version:1.2\n\n\0");
    assert_eq!(driver.log.last().unwrap(), "S| close protocol_error");
}
