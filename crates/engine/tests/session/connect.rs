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
    "#]]);
}

#[test]
fn the_command_stomp_connects_as_connect_does() {
    check(expect![[r#"
        C> STOMP accept-version:1.2 host:h passcode:ann
    "#]]);
}

#[test]
fn the_highest_common_version_is_taken_and_none_named_is_1_0() {
    check(expect![[r#"
        C> CONNECT accept-version:1.1,1.0,2.0
    "#]]);
    check(expect![[r#"
        C> CONNECT login:x
    "#]]);
}

#[test]
fn no_common_version_is_an_error_that_lists_ours() {
    check(expect![[r#"
        C> CONNECT accept-version:2.0,3.1
        C> CONNECT accept-version:1.2
    "#]]);
}

#[test]
fn a_second_connect_is_an_error() {
    check(expect![[r#"
        # stomp 1.2 ann
        C> CONNECT accept-version:1.2
    "#]]);
}

#[test]
fn a_frame_before_connect_is_refused() {
    check(expect![[r#"
        C> SEND destination:/topic/a receipt:1
    "#]]);
    check(expect![[r#"
        C> DISCONNECT receipt:1
    "#]]);
}

#[test]
fn the_token_comes_as_authorization_or_passcode() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 Authorization:Bearer ann
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 authorization:bearer ann passcode:bob
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 login:ignored passcode:bob
    "#]]);
}

#[test]
fn another_authorization_than_bearer_is_an_error() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 Authorization:Basic YW5uOng=
    "#]]);
}

#[test]
fn a_refused_token_is_an_error_with_its_own_reason() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:forged
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:expired
    "#]]);
    check(expect![[r#"
        C> CONNECT accept-version:1.2 passcode:keyless
    "#]]);
}

#[test]
fn the_handshakes_principal_is_used_when_connect_has_no_token() {
    check_with(
        driver::closed_rules(),
        driver::handshake("ann"),
        expect![[r#"
            C> CONNECT accept-version:1.2 login: passcode:
        "#]],
    );
    check_with(
        driver::closed_rules(),
        driver::handshake("ann"),
        expect![[r#"
            C> {"type":"connect"}
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
        "#]],
    );
}

#[test]
fn without_a_token_only_some_namespace_for_anonymous_sessions_lets_one_in() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2
    "#]]);
    check_rules(
        driver::closed_rules(),
        expect![[r#"
            C> CONNECT accept-version:1.2
        "#]],
    );
    check_rules(
        driver::closed_rules(),
        expect![[r#"
            C> {"type":"connect"}
        "#]],
    );
}

#[test]
fn heart_beat_must_be_two_numbers() {
    check(expect![[r#"
        C> CONNECT accept-version:1.2 heart-beat:often
    "#]]);
}

#[test]
fn a_1_0_connect_has_no_heartbeats() {
    check(expect![[r#"
        C> CONNECT accept-version:1.0 heart-beat:1000,1000
        T> 12s
    "#]]);
}

#[test]
fn frames_behind_connect_wait_for_it() {
    check(expect![[r#"
        D> hold
        C> (text) CONNECT\naccept-version:1.2\npasscode:ann\n\n\0SUBSCRIBE\nid:a\\cb\ndestination:/topic/a\nreceipt:1\n\n\0
        D> authenticated
        D> joined
    "#]]);
}

#[test]
fn a_frame_may_be_split_over_messages_and_several_packed_into_one() {
    check(expect![[r#"
        C> (text) CONNECT\naccept-ver
        C> (bytes) sion:1.2\npasscode:ann\n
        C> (text) \n\0\n\nSEND\ndestination:/topic/a\nreceipt:1\n\none\0\nSEND\ndestination:/topic/a\n\ntw
        C> (text) o\0\n
    "#]]);
}

#[test]
fn the_first_message_tells_the_protocol() {
    check(expect![[r#"
        C> (bytes) \r\n CONNECT\naccept-version:1.2\n\n\0
    "#]]);
    check(expect![[r#"
        C> (bytes)   {"type":"connect"}
    "#]]);
    check(expect![[r#"
        C> (text)  [{"type":"connect"},{"type":"ping","id":1}]
    "#]]);
    for strange in ["GET / HTTP/1.1", "connect\\n\\n\\0", "CONNECTS\\n\\n\\0", "\\n", "\"hi\""] {
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
