//! No bytes make the STOMP codec panic, and how they are split makes no difference.

use fanlight_proto::stomp::{
    Command, Decoder, Frame, Incoming, Limits, StompError, Version, Writer,
};

const SMOKE_ITERATIONS: usize = 1000;
const LIMITS: Limits = Limits { frame_bytes: 256, headers: 4, header_bytes: 40 };

/// A frame that a generator fills in: command, headers, body.
type Parts = (u8, [(String, String); 2], Vec<u8>);

#[test]
fn fuzz_stomp_decoder() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|input: &[u8]| {
        if let [settings, chunk_bytes, bytes @ ..] = input {
            splitting_changes_nothing(bytes, *settings, *chunk_bytes);
        }
    });
}

#[test]
fn fuzz_stomp_decoder_with_almost_valid_frames() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(u8, u8, [Parts; 2], Option<(u16, u8)>)>()
        .for_each(|(settings, chunk_bytes, frames, damage)| {
            let mut bytes = Vec::new();
            for (command, headers, body) in frames {
                let command = Command::ALL[usize::from(*command) % Command::ALL.len()];
                let headers =
                    headers.iter().map(|(name, value)| (beginning(name), beginning(value)));
                let body = if command.allows_body() { body } else { &Vec::new() };
                Writer::new(&mut bytes, command, version_of(*settings)).headers(headers).body(body);
            }
            if let Some((at, byte)) = damage
                && !bytes.is_empty()
            {
                let at = usize::from(*at) % bytes.len();
                bytes[at] = b"\n\r\0:\\c9"[usize::from(*byte) % 7];
            }
            splitting_changes_nothing(&bytes, *settings, *chunk_bytes);
        });
}

#[test]
fn fuzz_stomp_writer() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(u8, String, String, Vec<u8>)>()
        .for_each(|(settings, name, value, body)| {
            let version = version_of(*settings);
            let mut bytes = Vec::new();
            Writer::new(&mut bytes, Command::Send, version).header(name, value).body(body);
            let mut decoder = Decoder::new();
            decoder.set_version(version);
            let found = decoder.next(&mut bytes.as_slice(), &Limits::default());
            let Ok(Some(Incoming::Frame(frame))) = found else { panic!("{found:?}") };
            assert_eq!(frame.body, body);
            assert!(frame.headers.len() <= 2);
        });
}

fn splitting_changes_nothing(bytes: &[u8], settings: u8, chunk_bytes: u8) {
    let version = version_of(settings);
    let chunk_bytes = usize::from(chunk_bytes % 64).max(1);
    let whole = decode([bytes].into_iter(), version);
    let split = decode(bytes.chunks(chunk_bytes), version);
    assert_eq!(whole.1.is_some(), split.1.is_some());
    assert_eq!(whole.0, split.0);
    for incoming in whole.0 {
        if let Incoming::Frame(frame) = incoming {
            survives_rewriting(&frame);
        }
    }
}

fn beginning(text: &str) -> String {
    text.chars().take(4).collect()
}

fn version_of(settings: u8) -> Version {
    [Version::V10, Version::V11, Version::V12][usize::from(settings & 3) % 3]
}

fn decode<'c>(
    chunks: impl Iterator<Item = &'c [u8]>,
    version: Version,
) -> (Vec<Incoming>, Option<StompError>) {
    let mut decoder = Decoder::new();
    decoder.set_version(version);
    let mut found = Vec::new();
    for mut chunk in chunks {
        loop {
            match decoder.next(&mut chunk, &LIMITS) {
                Ok(Some(incoming)) => found.push(incoming),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// In 1.2, all but the frames that open a session can express any header.
fn survives_rewriting(frame: &Frame) {
    if matches!(frame.command, Command::Connect | Command::Stomp | Command::Connected) {
        return;
    }
    let mut bytes = Vec::new();
    frame.write(&mut bytes, Version::V12);
    let (found, error) = decode([bytes.as_slice()].into_iter(), Version::V12);
    // Escapes and `content-length` can make it longer than allowed.
    if error.is_some() {
        return;
    }
    let [Incoming::Frame(again)] = found.as_slice() else { panic!("{found:?}") };
    let own = |frame: &Frame| -> Vec<_> {
        let headers = frame.headers.iter().filter(|(name, _)| *name != "content-length");
        headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    assert_eq!((again.command, &again.body, own(again)), (frame.command, &frame.body, own(frame)));
}
