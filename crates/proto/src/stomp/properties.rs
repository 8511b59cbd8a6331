//! What holds for any frames, in every version.

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{ALL, decode_pieces};
use super::*;

/// A frame as a peer may write it, in a form that survives `version`.
fn any_frame(version: Version) -> impl Strategy<Value = Frame> {
    let text = || "[a-zA-Z:\\\\\n\r éß€𝄞]{0,12}";
    let pairs = vec((text(), text()), 0..6);
    let command = proptest::sample::select(Command::ALL.as_slice());
    (command, pairs, vec(any::<u8>(), 0..80)).prop_map(move |(command, pairs, body)| {
        let lossy = |text: &str, specials: &[char]| text.replace(specials, " ");
        let (in_name, in_value): (&[char], &[char]) = match version.escapes_of(command) {
            Version::V10 => (&['\n', '\r', ':'], &['\n', '\r']),
            Version::V11 => (&['\r'], &['\r']),
            Version::V12 => (&[], &[]),
        };
        let mut headers: Headers = pairs
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| (lossy(name, in_name), lossy(value, in_value)))
            .collect();
        let body = if command.allows_body() { Bytes::from(body) } else { Bytes::new() };
        if !body.is_empty() {
            headers.push("content-length", &body.len().to_string());
        }
        Frame { command, headers, body }
    })
}

fn any_frames() -> impl Strategy<Value = (Version, Vec<Frame>)> {
    proptest::sample::select(ALL.as_slice())
        .prop_flat_map(|version| (Just(version), vec(any_frame(version), 1..5)))
}

fn written(frames: &[Frame], version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.write(&mut bytes, version);
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_written_decodes_to_the_same_frames((version, frames) in any_frames()) {
        let bytes = written(&frames, version);
        let (found, decoder) = decode_pieces([&*bytes], version, &Limits::default()).unwrap();
        let expected: Vec<_> = frames.into_iter().map(Incoming::Frame).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(decoder.is_idle());
    }

    #[test]
    fn splitting_anywhere_changes_nothing(
        (version, frames) in any_frames(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = written(&frames, version);
        let limits = Limits::default();
        let (whole, _) = decode_pieces([&*bytes], version, &limits).unwrap();
        for at in 0..bytes.len() {
            let (a, b) = bytes.split_at(at);
            prop_assert_eq!(&decode_pieces([a, b], version, &limits).unwrap().0, &whole);
        }
        prop_assert_eq!(&decode_pieces(bytes.chunks(1), version, &limits).unwrap().0, &whole);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(&decode_pieces(pieces, version, &limits).unwrap().0, &whole);
    }

    #[test]
    fn any_bytes_give_the_same_frames_and_refusal_whole_or_split(
        bytes in vec(prop_oneof![
            proptest::sample::select(b"\n\r\0:\\ncr".as_slice()).prop_map(|byte| vec![byte]),
            Just(b"SEND\n".to_vec()),
            Just(b"ACK\n".to_vec()),
            Just(b"content-length:2\n".to_vec()),
            vec(any::<u8>(), 0..4),
        ], 0..20),
        version in proptest::sample::select(ALL.as_slice()),
    ) {
        let bytes = bytes.concat();
        let limits = Limits { frame_bytes: 60, headers: 3, header_bytes: 20 };
        let whole = decode_pieces([&*bytes], version, &limits).map(|(found, _)| found);
        let split = decode_pieces(bytes.chunks(1), version, &limits).map(|(found, _)| found);
        prop_assert_eq!(whole.is_ok(), split.is_ok());
        if let (Ok(whole), Ok(split)) = (whole, split) {
            prop_assert_eq!(whole, split);
        }
    }

    #[test]
    fn no_header_adds_a_header_or_a_frame(
        name in any::<String>(),
        value in any::<String>(),
        version in proptest::sample::select(ALL.as_slice()),
        command in proptest::sample::select(Command::ALL.as_slice()),
    ) {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, command, version).header(&name, &value).header("z", "1").end();
        let (found, _) = decode_pieces([&*bytes], version, &Limits::default()).unwrap();
        prop_assert_eq!(found.len(), 1);
        let Incoming::Frame(frame) = &found[0] else { panic!("a heartbeat") };
        let own = ["", "z", "content-length"].contains(&name.as_str());
        prop_assert_eq!(frame.headers.len(), if own { 1 } else { 2 });
    }
}
