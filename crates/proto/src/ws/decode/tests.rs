//! The rules of RFC 6455, each as a line of a table.

use super::*;
use crate::ws::{deflate, frame, frame_header, frame_masked};

const LIMIT: usize = 100_000;

/// A client's frame with a key of zeros, so that the payload is readable as it stands.
fn plain(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame_header(Opcode::Binary, false, payload.len()).to_vec();
    out[0] = first_byte;
    out[1] |= 0x80;
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

fn text(text: &str) -> Message<'_> {
    Message::Text(text.into())
}

fn binary(data: &[u8]) -> Message<'_> {
    Message::Binary(data.into())
}

fn close(code: u16, reason: &str) -> Message<'static> {
    Message::Close(Some(CloseFrame { code, reason: reason.to_owned() }))
}

/// Everything that `input` holds, up to the error if there is one.
fn read_all(decoder: &mut Decoder, mut input: Vec<u8>) -> (Vec<Message<'static>>, Option<WsError>) {
    let mut inflater = Inflater::new();
    let mut input = &mut input[..];
    let mut messages = Vec::new();
    loop {
        match decoder.next(&mut input, LIMIT, &mut inflater) {
            Ok(Some(message)) => messages.push(message.into_owned()),
            end => {
                assert!(input.is_empty());
                return (messages, end.err());
            }
        }
    }
}

/// Both in one piece and byte by byte.
#[track_caller]
fn check(frames: &[&[u8]], expected: &[Message<'_>], error: Option<WsError>) {
    check_as(Role::Server, false, frames, expected, error);
}

#[track_caller]
fn check_as(
    role: Role,
    compression: bool,
    frames: &[&[u8]],
    expected: &[Message<'_>],
    error: Option<WsError>,
) {
    let input = frames.concat();
    let mut decoder = Decoder::new(role, compression);
    let (messages, actual_error) = read_all(&mut decoder, input.clone());
    assert_eq!(messages, expected, "{frames:x?}");
    assert_eq!(actual_error, error, "{frames:x?}");

    let mut decoder = Decoder::new(role, compression);
    let (mut messages, mut actual_error) = (Vec::new(), None);
    for byte in input {
        let (more, error) = read_all(&mut decoder, vec![byte]);
        messages.extend(more);
        actual_error = actual_error.or(error);
    }
    assert_eq!(messages, expected, "{frames:x?} byte by byte");
    assert_eq!(actual_error, error, "{frames:x?} byte by byte");
}

#[test]
fn whole_messages_come_out_unmasked() {
    let mut hello = Vec::new();
    frame_masked(&mut hello, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
    check(&[&hello, &hello], &[text("Hello"), text("Hello")], None);
    check(
        &[&plain(0x82, &[0xFF; 300]), &plain(0x81, b"")],
        &[binary(&[0xFF; 300]), text("")],
        None,
    );
    check(&[&plain(0x82, &vec![7; 70_000])], &[binary(&vec![7; 70_000])], None);
}

#[test]
fn fragments_join_and_control_frames_pass_between_them() {
    check(
        &[
            &plain(0x01, b"Hel"),
            &plain(0x89, b"?"),
            &plain(0x00, b""),
            &plain(0x8A, b"!"),
            &plain(0x80, b"lo"),
            &plain(0x02, b""),
            &plain(0x80, b""),
        ],
        &[
            Message::Ping(b"?"[..].into()),
            Message::Pong(b"!"[..].into()),
            text("Hello"),
            binary(b""),
        ],
        None,
    );
}

#[test]
fn a_character_may_be_cut_by_a_fragment() {
    check(
        &[&plain(0x01, b"\xF0\x9F"), &plain(0x00, b"\x98"), &plain(0x80, b"\x80")],
        &[text("😀")],
        None,
    );
}

#[test]
fn a_mask_is_required_of_clients_and_forbidden_to_servers() {
    check(&[b"\x81\x05Hello"], &[], Some(WsError::NotMasked));
    let masked = plain(0x81, b"Hello");
    check_as(Role::Client, false, &[&masked], &[], Some(WsError::Masked));
    check_as(Role::Client, false, &[b"\x81\x05Hello"], &[text("Hello")], None);
}

#[test]
fn reserved_bits_are_refused_where_no_extension_gives_them_a_meaning() {
    for first_byte in [0xC1, 0xA1, 0x91, 0xC9, 0xC0] {
        check(&[&plain(first_byte, b"")], &[], Some(WsError::ReservedBit));
    }
    let reserved_bit = Some(WsError::ReservedBit);
    for first_byte in [0xA1, 0x91, 0xC8, 0xC9, 0xCA, 0xC0] {
        check_as(Role::Server, true, &[&plain(first_byte, b"")], &[], reserved_bit);
    }
    let fragments = [&plain(0x41, b"")[..], &plain(0xC0, b"")];
    check_as(Role::Server, true, &fragments, &[], reserved_bit);
}

#[test]
fn unknown_opcodes_are_refused() {
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        let error = WsError::UnknownOpcode { opcode };
        check(&[&plain(0x80 | opcode, b"")], &[], Some(error));
    }
}

#[test]
fn control_frames_are_short_and_whole() {
    check(&[&plain(0x89, &[1; 125])], &[Message::Ping([1; 125][..].into())], None);
    for opcode in [0x8, 0x9, 0xA] {
        let too_long = plain(0x80 | opcode, &[0; 126]);
        check(&[&too_long], &[], Some(WsError::ControlTooLong));
        check(&[&plain(opcode, b"")], &[], Some(WsError::ControlFragmented));
    }
}

#[test]
fn messages_do_not_start_inside_one_another() {
    check(&[&plain(0x80, b"a")], &[], Some(WsError::NothingToContinue));
    check(&[&plain(0x00, b"a")], &[], Some(WsError::NothingToContinue));
    for second in [0x01, 0x02, 0x81, 0x82] {
        check(&[&plain(0x01, b"a"), &plain(second, b"b")], &[], Some(WsError::Interleaved));
    }
}

#[test]
fn a_length_is_in_its_shortest_form() {
    for header in [
        &b"\x82\xFE\x00\x7D"[..],
        b"\x82\xFF\x00\x00\x00\x00\x00\x00\xFF\xFF",
        b"\x82\xFF\x80\x00\x00\x00\x00\x01\x00\x00",
    ] {
        check(&[header], &[], Some(WsError::BadLength));
    }
}

#[test]
fn a_close_payload_is_nothing_or_a_code_and_a_reason() {
    check(&[&plain(0x88, b"")], &[Message::Close(None)], None);
    check(&[&plain(0x88, b"\x03\xE8")], &[close(1000, "")], None);
    check(&[&plain(0x88, b"\x0F\xA0bye")], &[close(4000, "bye")], None);
    check(&[&plain(0x88, b"\x03")], &[], Some(WsError::ClosePayload));
    check(&[&plain(0x88, b"\x03\xE8\xFF")], &[], Some(WsError::InvalidUtf8));
}

#[test]
fn only_codes_that_may_be_on_the_wire_are_accepted() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX] {
        let frame = plain(0x88, &code.to_be_bytes());
        check(&[&frame], &[], Some(WsError::CloseCode { code }));
    }
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1010, 1011, 1014, 3000, 3999, 4000, 4999] {
        check(&[&plain(0x88, &code.to_be_bytes())], &[close(code, "")], None);
    }
}

#[test]
fn nothing_comes_after_a_close_or_an_error() {
    let hello = plain(0x81, b"Hello");
    check(&[&plain(0x88, b""), &hello], &[Message::Close(None)], None);
    check(&[&plain(0x83, b""), &hello], &[], Some(WsError::UnknownOpcode { opcode: 3 }));

    let mut decoder = Decoder::new(Role::Server, false);
    read_all(&mut decoder, plain(0x88, b""));
    decoder.hold(&hello);
    assert!(decoder.is_idle() && !decoder.has_held());
}

#[test]
fn text_is_utf8_and_fails_at_the_byte_where_it_is_not() {
    let invalid = Some(WsError::InvalidUtf8);
    check(&[&plain(0x81, b"\xCE\xBA\xED\xA0\x80")], &[], invalid);
    check(&[&plain(0x81, b"a\xF0\x9F")], &[], invalid);
    check(&[&plain(0x01, b"a\xF0\x9F"), &plain(0x80, b"")], &[], invalid);
    check(&[&plain(0x01, b"a\xF0\x9F"), &plain(0x00, b"a")], &[], invalid);

    // Neither the message nor even the frame has ended.
    let mut decoder = Decoder::new(Role::Server, false);
    let started = [&b"\x01\xFE\x10\x00\0\0\0\0a\xFF"[..]].concat();
    assert_eq!(read_all(&mut decoder, started).1, invalid);
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_header() {
    let over = (LIMIT as u64 + 1).to_be_bytes();
    let header = [&b"\x82\xFF"[..], &over, &[0; 4]].concat();
    let too_large = Some(WsError::TooLarge { limit: LIMIT });
    check(&[&header], &[], too_large);
    check(&[&plain(0x82, &vec![0; LIMIT])], &[binary(&vec![0; LIMIT])], None);
    check(
        &[&plain(0x02, b"a"), b"\x80\xFF", &(LIMIT as u64).to_be_bytes(), &[0; 4]],
        &[],
        too_large,
    );
}

#[test]
fn a_declared_length_takes_no_memory() {
    let mut decoder = Decoder::new(Role::Server, false);
    let (messages, error) =
        read_all(&mut decoder, b"\x82\xFE\xEA\x60\0\0\0\x000123456789".to_vec());
    assert_eq!((messages, error), (vec![], None));
    let partial = decoder.partial.unwrap();
    let Some(Assembly::Binary(data)) = partial.message else {
        panic!("{partial:?}");
    };
    assert_eq!(data, b"0123456789");
    assert!(data.capacity() <= 32, "{}", data.capacity());
}

#[test]
fn a_whole_message_is_borrowed_and_leaves_nothing_behind() {
    let mut decoder = Decoder::new(Role::Server, false);
    let mut bytes = [plain(0x81, b"text"), plain(0x82, b"data"), plain(0x89, b"ping")].concat();
    let mut input = &mut bytes[..];
    let mut inflater = Inflater::new();
    for _ in 0..3 {
        let message = decoder.next(&mut input, LIMIT, &mut inflater).unwrap();
        assert!(
            matches!(
                message,
                Some(
                    Message::Text(Cow::Borrowed(_))
                        | Message::Binary(Cow::Borrowed(_))
                        | Message::Ping(Cow::Borrowed(_))
                )
            ),
            "{message:?}"
        );
        assert!(decoder.is_idle());
    }
    assert_eq!(decoder.next(&mut input, LIMIT, &mut inflater), Ok(None));
    assert!(size_of::<Decoder>() <= 16);
}

#[test]
fn what_an_unfinished_message_took_is_given_back_at_its_end() {
    let mut decoder = Decoder::new(Role::Server, false);
    for byte in [plain(0x01, b"a"), plain(0x89, b"b"), plain(0x80, b"c")].concat() {
        read_all(&mut decoder, vec![byte]);
    }
    assert!(decoder.is_idle());
}

#[test]
fn held_input_comes_first_and_in_order() {
    let mut decoder = Decoder::new(Role::Server, false);
    let frames: Vec<Vec<u8>> = (b'a'..=b'f').map(|name| plain(0x81, &[name])).collect();
    // Held in two parts that split a frame, and the last two frames not held at all.
    let held = frames[..4].concat();
    let (first, second) = held.split_at(10);
    decoder.hold(first);
    assert!(decoder.has_held() && !decoder.is_idle());
    decoder.hold(second);
    let mut inflater = Inflater::new();
    let mut nothing: &mut [u8] = &mut [];
    assert_eq!(decoder.next(&mut nothing, LIMIT, &mut inflater), Ok(Some(text("a"))));
    let mut bytes = frames[4].clone();
    let mut input = &mut bytes[..];
    assert_eq!(decoder.next(&mut input, LIMIT, &mut inflater), Ok(Some(text("b"))));
    assert_eq!(input.len(), frames[4].len(), "new input waits behind what is held");
    decoder.hold(input);
    let (messages, error) = read_all(&mut decoder, frames[5].clone());
    assert_eq!((messages, error), (vec![text("c"), text("d"), text("e"), text("f")], None));
    assert!(decoder.is_idle());
}

#[test]
fn an_unfinished_frame_in_held_input_goes_on_in_new_input() {
    let mut decoder = Decoder::new(Role::Server, false);
    let bytes = plain(0x81, b"Hello");
    decoder.hold(&bytes[..8]);
    assert_eq!(read_all(&mut decoder, vec![]), (vec![], None));
    assert!(!decoder.has_held() && !decoder.is_idle());
    assert_eq!(read_all(&mut decoder, bytes[8..].to_vec()), (vec![text("Hello")], None));
}

#[test]
fn compressed_messages_are_inflated_whole_or_in_fragments() {
    // RFC 7692 §7.2.3.1 and the same in two fragments.
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    check_as(
        Role::Server,
        true,
        &[
            &plain(0xC1, hello),
            &plain(0x41, &hello[..3]),
            &plain(0x89, b""),
            &plain(0x80, &hello[3..]),
            &plain(0xC2, hello),
            &plain(0x81, b"not compressed"),
        ],
        &[
            text("Hello"),
            Message::Ping(b""[..].into()),
            text("Hello"),
            binary(b"Hello"),
            text("not compressed"),
        ],
        None,
    );
}

#[test]
fn compressed_text_is_utf8_and_compressed_data_is_limited_after_inflating() {
    let compressed = |data: &[u8]| {
        let mut out = Vec::new();
        deflate::Deflater::new(6).piece(data, &mut out);
        deflate::strip_tail(&mut out);
        plain(0xC1, &out)
    };
    let whole = "é".repeat(LIMIT / 2);
    check_as(Role::Server, true, &[&compressed(whole.as_bytes())], &[text(&whole)], None);
    let invalid = Some(WsError::InvalidUtf8);
    check_as(Role::Server, true, &[&compressed(b"\xFF")], &[], invalid);
    let too_large = Some(WsError::TooLarge { limit: LIMIT });
    check_as(Role::Server, true, &[&compressed(&vec![b'a'; LIMIT + 1])], &[], too_large);
    let bad = Some(WsError::BadDeflate);
    check_as(Role::Server, true, &[&plain(0xC1, b"\xFF\xFF")], &[], bad);
}

#[test]
fn compressed_bytes_are_bounded_before_inflating() {
    let too_large = Some(WsError::TooLarge { limit: LIMIT });
    let len = deflate::max_compressed_bytes(LIMIT) as u64 + 1;
    let header = [&b"\xC2\xFF"[..], &len.to_be_bytes(), &[0; 4]].concat();
    check_as(Role::Server, true, &[&header], &[], too_large);
}

#[test]
fn our_own_frames_are_read_by_a_client() {
    let mut bytes = Vec::new();
    frame(&mut bytes, Opcode::Text, b"Hello");
    crate::ws::close_frame(&mut bytes, 4413, "slow consumer");
    let expected = [text("Hello"), close(4413, "slow consumer")];
    check_as(Role::Client, false, &[&bytes], &expected, None);
}
