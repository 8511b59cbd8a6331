//! Compression: pieces concatenate, messages inflate, bombs and rubbish are refused.

use std::io::Read as _;

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

/// What any other implementation makes of a message: the tail put back, then raw inflate.
fn inflate_elsewhere(message: &[u8]) -> Vec<u8> {
    let mut stream = message.to_vec();
    stream.extend_from_slice(&[0x00, 0x00, 0xFF, 0xFF]);
    // Ends the stream, which a message never does by itself.
    stream.extend_from_slice(&[0x03, 0x00]);
    let mut data = Vec::new();
    flate2::read::DeflateDecoder::new(&stream[..]).read_to_end(&mut data).unwrap();
    data
}

fn message(write: impl FnOnce(&mut Deflater, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Deflater::new(6), &mut out);
    strip_tail(&mut out);
    out
}

fn inflate(payload: &[u8]) -> Result<Vec<u8>, WsError> {
    Inflater::new().inflate(payload, LIMIT)
}

#[test]
fn the_examples_of_rfc_7692_section_7_2_3_inflate() {
    for (payload, expected) in [
        // One block; the same split by a sync flush; stored; final; two blocks; empty.
        (&b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..], &b"Hello"[..]),
        (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
        (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
        (b"\x00", b""),
    ] {
        assert_eq!(inflate(payload).as_deref(), Ok(expected), "{payload:x?}");
    }
}

#[test]
fn another_stream_may_follow_a_final_block() {
    let twice = b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00";
    assert_eq!(inflate(twice).as_deref(), Ok(&b"HelloHello"[..]));
}

#[test]
fn a_message_that_is_cut_short_or_is_not_deflate_is_refused() {
    let long = message(|deflater, out| deflater.piece(&[b'a'; 1000], out));
    for payload in [
        &b""[..],                                    // a message is at least one block
        b"\xff",                                     // a block type that does not exist
        b"\xf2\x48\xcd\xc9",                         // cut inside a block
        b"\x00\x05\x00\xfa\xff\x48\x65",             // cut inside a stored block
        b"\x00\x64\x00\x9b\xff\x48\x65",             // the same, of more bytes than we append
        b"\x00\x05\x00\xfb\xff\x48\x65\x6c\x6c\x6f", // a length that its complement denies
        b"\xf3\x48\xcd\xc9\xc9\x07\x00",             // a final block and no empty one behind it
        &long[..long.len() / 2],
    ] {
        assert_eq!(inflate(payload), Err(WsError::BadDeflate), "{payload:x?}");
    }
    assert_eq!(inflate(b"\x00").as_deref(), Ok(&b""[..]));
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    let bomb = message(|deflater, out| deflater.piece(&vec![0; 64 << 20], out));
    assert!(bomb.len() < 70_000);
    let mut inflater = Inflater::new();
    for max_bytes in [0, 1, 511, 512, 100_000] {
        let error = WsError::TooLarge { limit: max_bytes };
        assert_eq!(inflater.inflate(&bomb, max_bytes), Err(error));
    }
}

#[test]
fn what_is_exactly_at_the_limit_passes() {
    let mut inflater = Inflater::new();
    for len in [1, 511, 512, 513, 1024, 70_000] {
        let payload = message(|deflater, out| deflater.piece(&vec![b'x'; len], out));
        assert_eq!(inflater.inflate(&payload, len), Ok(vec![b'x'; len]));
        let error = WsError::TooLarge { limit: len - 1 };
        assert_eq!(inflater.inflate(&payload, len - 1), Err(error));
    }
}

#[test]
fn memory_grows_with_what_is_inflated_and_not_with_the_limit() {
    let payload = message(|deflater, out| deflater.piece(b"short", out));
    let data = Inflater::new().inflate(&payload, usize::MAX).unwrap();
    assert_eq!(data, b"short");
    assert!(data.capacity() <= 2 * MIN_GROWTH);
}

#[test]
fn an_inflater_is_unharmed_by_what_it_refused() {
    let payload = message(|deflater, out| deflater.piece(b"Hello", out));
    let mut inflater = Inflater::new();
    assert!(inflater.inflate(b"\xff\xff", LIMIT).is_err());
    assert!(inflater.inflate(&payload, 2).is_err());
    assert_eq!(inflater.inflate(&payload, LIMIT).as_deref(), Ok(&b"Hello"[..]));
}

#[test]
fn long_prefixes_take_several_stored_blocks() {
    for len in [0, 1, 65_535, 65_536, 200_000] {
        let prefix = vec![b'p'; len];
        let payload = message(|deflater, out| {
            stored_piece(&prefix, out);
            deflater.piece(b"rest", out);
        });
        let expected = [&prefix[..], b"rest"].concat();
        assert_eq!(inflate_elsewhere(&payload), expected, "{len}");
        assert_eq!(inflate(&payload), Ok(expected), "{len}");
    }
}

/// Text with repetitions, so that there is something to refer back to.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        "[ab{}:\", ]{0,2000}".prop_map(String::into_bytes),
        (any::<u8>(), 0_usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_concatenate_whatever_was_deflated_before_them(
        before in data(),
        prefix in data(),
        first in data(),
        second in data(),
        level in 0_u32..=9,
    ) {
        let mut deflater = Deflater::new(level);
        deflater.piece(&before, &mut Vec::new());
        let mut payload = Vec::new();
        stored_piece(&prefix, &mut payload);
        deflater.piece(&first, &mut payload);
        deflater.piece(&second, &mut payload);
        strip_tail(&mut payload);
        let expected = [prefix, first, second].concat();
        prop_assert_eq!(&inflate_elsewhere(&payload), &expected);
        prop_assert_eq!(inflate(&payload), Ok(expected));
    }

    #[test]
    fn a_piece_deflated_once_serves_under_any_prefix(
        rest in data(),
        prefixes in proptest::collection::vec(data(), 1..4),
    ) {
        let mut piece = Vec::new();
        Deflater::new(1).piece(&rest, &mut piece);
        strip_tail(&mut piece);
        for prefix in prefixes {
            let mut payload = Vec::new();
            stored_piece(&prefix, &mut payload);
            payload.extend_from_slice(&piece);
            prop_assert_eq!(inflate_elsewhere(&payload), [prefix, rest.clone()].concat());
        }
    }

    #[test]
    fn no_payload_makes_the_inflater_panic_or_exceed_its_limit(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        max_bytes in 0_usize..2000,
    ) {
        if let Ok(data) = Inflater::new().inflate(&payload, max_bytes) {
            prop_assert!(data.len() <= max_bytes);
        }
    }
}
