//! STOMP's rules, one test each.

use super::*;
use crate::CloseReason;

pub(super) const ALL: [Version; 3] = [Version::V10, Version::V11, Version::V12];

/// Decodes everything in `pieces`, each fed by a call of its own.
pub(super) fn decode_pieces<'p>(
    pieces: impl IntoIterator<Item = &'p [u8]>,
    version: Version,
    limits: &Limits,
) -> Result<(Vec<Incoming>, Decoder), StompError> {
    let mut decoder = Decoder::new();
    decoder.set_version(version);
    let mut found = Vec::new();
    for mut input in pieces {
        while let Some(incoming) = decoder.next(&mut input, limits)? {
            found.push(incoming);
        }
        assert!(input.is_empty(), "the decoder left {input:?}");
    }
    Ok((found, decoder))
}

fn decode(text: &str, version: Version) -> Result<Vec<Incoming>, StompError> {
    let limits = Limits::default();
    decode_pieces([text.as_bytes()], version, &limits).map(|(found, _)| found)
}

fn frame(command: Command, headers: &[(&str, &str)], body: &'static [u8]) -> Incoming {
    let headers = headers.iter().copied().collect();
    Incoming::Frame(Frame { command, headers, body: Bytes::from_static(body) })
}

/// Checks that `text` is refused, whole and byte by byte, with an error that reads `message`.
#[track_caller]
fn refused(text: &[u8], version: Version, limits: &Limits, message: &str) -> StompError {
    let whole = decode_pieces([text], version, limits).unwrap_err();
    let bytewise = decode_pieces(text.chunks(1), version, limits).unwrap_err();
    assert_eq!(whole.to_string(), message);
    assert_eq!(whole, bytewise);
    whole
}

#[test]
fn the_highest_common_version_is_chosen() {
    for (accept_version, expected) in [
        (None, Some(Version::V10)),
        (Some("1.0"), Some(Version::V10)),
        (Some("1.1,1.0"), Some(Version::V11)),
        (Some("1.0, 1.2 ,2.0"), Some(Version::V12)),
        (Some("1.3,1.1"), Some(Version::V11)),
        (Some("2.0"), None),
        (Some(""), None),
    ] {
        assert_eq!(negotiate(accept_version), expected, "{accept_version:?}");
    }
}

#[test]
fn a_heart_beat_is_two_numbers() {
    for (value, expected) in [
        ("0,0", Some((0, 0))),
        ("10000,5000", Some((10000, 5000))),
        ("99999999999999999999,1", Some((u32::MAX, 1))),
        ("10000", None),
        ("1,2,3", None),
        ("+1,2", None),
        ("-1,2", None),
        ("1,", None),
        (",1", None),
        ("1, 2", None),
        ("a,b", None),
    ] {
        let expected = expected.ok_or(StompError::MalformedHeartBeat);
        assert_eq!(parse_heart_beat(value), expected, "{value}");
    }
}

#[test]
fn names_of_commands_and_versions_parse_back() {
    for command in Command::ALL {
        assert_eq!(Command::from_bytes(command.as_str().as_bytes()), Some(command));
    }
    for version in ALL {
        assert_eq!(version.as_str().parse(), Ok(version));
    }
    let listed: Vec<_> = ALL.iter().map(|version| version.as_str()).collect();
    assert_eq!(listed.join(","), Version::SUPPORTED);
}

#[test]
fn frames_and_heartbeats_are_taken_in_their_order() {
    let text = "\nCONNECT\r\naccept-version:1.2\r\n\r\n\0\r\n\nSEND\ndestination:/queue/a\n\nhi\0";
    assert_eq!(
        decode(text, Version::V12),
        Ok(vec![
            Incoming::Heartbeat,
            frame(Command::Connect, &[("accept-version", "1.2")], b""),
            Incoming::Heartbeat,
            Incoming::Heartbeat,
            frame(Command::Send, &[("destination", "/queue/a")], b"hi"),
        ])
    );
}

#[test]
fn a_client_decodes_what_servers_send() {
    let text = "CONNECTED\nversion:1.1\n\n\0MESSAGE\nsubscription:0\n\nhi\0\
                RECEIPT\nreceipt-id:7\n\n\0ERROR\nmessage:no\n\nwhy\0";
    assert_eq!(
        decode(text, Version::V11),
        Ok(vec![
            frame(Command::Connected, &[("version", "1.1")], b""),
            frame(Command::Message, &[("subscription", "0")], b"hi"),
            frame(Command::Receipt, &[("receipt-id", "7")], b""),
            frame(Command::Error, &[("message", "no")], b"why"),
        ])
    );
}

#[test]
fn headers_are_never_trimmed_and_may_hold_colons() {
    for version in ALL {
        let text = "SEND\n name : a:b \nempty:\n\n\0";
        let expected = frame(Command::Send, &[(" name ", " a:b "), ("empty", "")], b"");
        assert_eq!(decode(text, version), Ok(vec![expected]), "{version}");
    }
}

#[test]
fn escapes_are_resolved_in_names_and_values_by_version() {
    let text = "SEND\na\\cb:x\\ny\n\n\0";
    for (version, name, value) in [
        (Version::V10, r"a\cb", r"x\ny"),
        (Version::V11, "a:b", "x\ny"),
        (Version::V12, "a:b", "x\ny"),
    ] {
        assert_eq!(decode(text, version), Ok(vec![frame(Command::Send, &[(name, value)], b"")]));
    }
}

#[test]
fn the_frames_that_open_a_session_are_never_unescaped() {
    for command in [Command::Connect, Command::Stomp, Command::Connected] {
        let text = format!("{command}\npasscode:a\\tb\\\n\n\0");
        let expected = frame(command, &[("passcode", r"a\tb\")], b"");
        assert_eq!(decode(&text, Version::V12), Ok(vec![expected]));
    }
}

#[test]
fn before_a_version_is_settled_nothing_is_unescaped() {
    let mut input = b"SEND\na:\\t\n\n\0".as_slice();
    let found = Decoder::new().next(&mut input, &Limits::default());
    assert_eq!(found, Ok(Some(frame(Command::Send, &[("a", r"\t")], b""))));
}

#[test]
fn the_first_of_a_repeated_header_wins_also_for_content_length() {
    let text = "SEND\ncontent-length:1\ncontent-length:2\na:1\na:2\n\nx\0";
    let expected = frame(Command::Send, &[("content-length", "1"), ("a", "1")], b"x");
    assert_eq!(decode(text, Version::V12), Ok(vec![expected]));
}

#[test]
fn content_length_lets_a_body_hold_nul_and_may_be_zero_anywhere() {
    let text = "SEND\ncontent-length:5\n\na\0b\0\n\0DISCONNECT\ncontent-length:0\n\n\0";
    assert_eq!(
        decode(text, Version::V12),
        Ok(vec![
            frame(Command::Send, &[("content-length", "5")], b"a\0b\0\n"),
            frame(Command::Disconnect, &[("content-length", "0")], b""),
        ])
    );
}

#[test]
fn without_content_length_the_first_nul_ends_the_body() {
    let text = "SEND\n\na\r\nb\n\0\0";
    let limits = Limits::default();
    let error = refused(
        b"SEND\n\na\0\0\n",
        Version::V12,
        &limits,
        "frame ends before the blank line after its headers",
    );
    assert_eq!(error.close_reason(), CloseReason::ProtocolError);
    assert_eq!(
        decode(&text[..text.len() - 1], Version::V12),
        Ok(vec![frame(Command::Send, &[], b"a\r\nb\n")])
    );
}

#[test]
fn each_broken_rule_has_its_own_error() {
    let limits = Limits::default();
    for (text, message) in [
        ("HELLO\n\n\0", r#"unknown command "HELLO""#),
        ("send\n\n\0", r#"unknown command "send"; commands are upper case, without spaces"#),
        ("SEND \n\n\0", r#"unknown command "SEND "; commands are upper case, without spaces"#),
        ("GET / HTTP/1.1\r\n", r#"unknown command "GET / HTTP/""#),
        ("\r\r\n", r#"unknown command "\r""#),
        ("SEND\nfirst:1\nsecond\n\n\0", "header line 2 has no colon between name and value"),
        ("SEND\n:x\n\n\0", "header line 1 has an empty name"),
        ("SEND\na:\\t\n\n\0", r"header line 1 has an undefined escape; write a backslash as \\"),
        ("SEND\na:b\0", "frame ends before the blank line after its headers"),
        ("SEND\0", "frame ends before the blank line after its headers"),
        ("SEND\na:b\0c\n\n\0", "frame ends before the blank line after its headers"),
        ("SEND\ncontent-length:x\n\n\0", "content-length is not a number of bytes"),
        ("SEND\ncontent-length:-1\n\n\0", "content-length is not a number of bytes"),
        ("SEND\ncontent-length:+1\n\na\0", "content-length is not a number of bytes"),
        ("SEND\ncontent-length:\n\n\0", "content-length is not a number of bytes"),
        (
            "SEND\ncontent-length:1\n\nab\0",
            "body is not followed by NUL; content-length says 1 bytes",
        ),
        ("SUBSCRIBE\nid:0\n\nx\0", "SUBSCRIBE must not have a body"),
        ("CONNECT\ncontent-length:1\n\n", "CONNECT must not have a body"),
    ] {
        let error = refused(text.as_bytes(), Version::V12, &limits, message);
        assert_eq!(error.close_reason(), CloseReason::ProtocolError);
    }
    let error = refused(b"SEND\na:\xff\n\n\0", Version::V12, &limits, "header line 1 is not UTF-8");
    assert_eq!(error.close_reason(), CloseReason::InvalidUtf8);
}

#[test]
fn each_limit_is_allowed_to_be_reached_and_not_exceeded() {
    let limits = Limits { frame_bytes: 40, headers: 2, header_bytes: 16 };
    for text in
        ["SEND\na:34567890123456\r\nb:2\n\n\0", "SEND\n\n789012345678901234567890123456789\0"]
    {
        let found = decode_pieces([text.as_bytes()], Version::V12, &limits);
        assert_eq!(found.map(|(found, _)| found.len()), Ok(1), "{text}");
        let found = decode_pieces(text.as_bytes().chunks(1), Version::V12, &limits);
        assert_eq!(found.map(|(found, _)| found.len()), Ok(1), "{text}");
    }
    for (text, message, reason) in [
        ("SEND\na:345678901234567\n\n\0", "header line 1 exceeds 16 bytes", CloseReason::TooLarge),
        ("SEND\na:34567890123456\r\r\n", "header line 1 exceeds 16 bytes", CloseReason::TooLarge),
        ("SEND\na:1\na:2\nc:3\n\n\0", "frame has more than 2 headers", CloseReason::LimitExceeded),
        (
            "SEND\n\n7890123456789012345678901234567890\0",
            "frame exceeds 40 bytes; send a smaller body or fewer headers",
            CloseReason::TooLarge,
        ),
    ] {
        let error = refused(text.as_bytes(), Version::V12, &limits, message);
        assert_eq!(error.close_reason(), reason);
    }
}

#[test]
fn a_huge_content_length_is_refused_before_its_body_comes() {
    let limits = Limits::default();
    // 27 bytes of head and a NUL: one byte less would be allowed.
    for length in ["65509", "4294967296", "65536", "99999999999999999999999999"] {
        let head = format!("SEND\ncontent-length:{length}\n\n");
        let message = "frame exceeds 65536 bytes; send a smaller body or fewer headers";
        refused(head.as_bytes(), Version::V12, &limits, message);
    }
    let largest = b"SEND\ncontent-length:65508\n\n".as_slice();
    assert_eq!(
        decode_pieces([largest], Version::V12, &limits).map(|(found, _)| found.len()),
        Ok(0)
    );
}

#[test]
fn an_endless_line_is_refused_as_soon_as_it_is_too_long() {
    let limits = Limits { header_bytes: 100, ..Limits::default() };
    let endless = [b"SEND\n".as_slice(), &[b'a'; 101]].concat();
    refused(&endless, Version::V12, &limits, "header line 1 exceeds 100 bytes");
    refused(b"aaaaaaaaaaaa", Version::V12, &limits, r#"unknown command "aaaaaaaaaaa""#);
}

#[test]
fn a_message_in_two_parts_decodes_as_one_frame() {
    for version in ALL {
        let (mut head, mut rest) = (Vec::new(), Vec::new());
        message_head(&mut head, version, Some("sub-0"), Some("ack-1"));
        Writer::continuing(&mut rest, version).header("message-id", "m").body(b"a\0b");
        let (found, decoder) =
            decode_pieces([head.as_slice(), &rest], version, &Limits::default()).unwrap();
        let headers = [
            ("subscription", "sub-0"),
            ("ack", "ack-1"),
            ("message-id", "m"),
            ("content-length", "3"),
        ];
        assert_eq!(found, [frame(Command::Message, &headers, b"a\0b")]);
        assert!(decoder.is_idle());
    }
}

#[test]
fn a_decoder_is_idle_only_between_frames() {
    let mut decoder = Decoder::new();
    let limits = Limits::default();
    for (mut input, idle) in
        [(b"\n".as_slice(), true), (b"\r", false), (b"\n", true), (b"SE", false)]
    {
        while let Ok(Some(_)) = decoder.next(&mut input, &limits) {}
        assert_eq!(decoder.is_idle(), idle);
    }
}
