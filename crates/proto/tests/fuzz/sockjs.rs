//! No payload makes the SockJS codec panic, and no text gets out of its frame.

use fanlight_proto::sockjs::{
    Callback, Limits, Receiver, Route, escape_lossy, frame, quote, read_jsonp_send, read_message,
    read_xhr_send,
};

const SMOKE_ITERATIONS: usize = 1000;
const LIMITS: Limits = Limits { bytes: 1024, messages: 4 };
const FORM: &str = "application/x-www-form-urlencoded";

/// What payloads are made of, so that random input gets past the first bracket.
const PARTS: [&str; 14] = [
    "[", "]", "\"", ",", "a", "\\n", "\\ud83d", "\\ude00", "\\\\", "\u{2028}", "%22", "+", "d=",
    " ",
];

#[test]
fn fuzz_sockjs_payloads() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|input: &[u8]| read(input));
}

#[test]
fn fuzz_sockjs_payloads_with_almost_valid_arrays() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).with_type::<Vec<u8>>().for_each(|parts| {
        let parts = parts.iter().map(|part| PARTS[usize::from(*part) % PARTS.len()]);
        let text = format!("[\"{}\"]", parts.collect::<String>());
        read(text.as_bytes());
    });
}

#[test]
fn fuzz_sockjs_paths_and_callbacks() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Some(Route::Session { server, session, transport }) = Route::parse(&text) {
            assert_eq!(text, format!("/{server}/{session}/{}", transport.as_str()));
        }
        if let Ok(callback) = text.parse::<Callback>() {
            assert!(callback.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        }
    });
}

#[test]
fn fuzz_sockjs_frames() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).with_type::<(String, Vec<u8>)>().for_each(
        |(text, bytes)| {
            let (mut quoted, mut lossy, mut messages) = (Vec::new(), Vec::new(), Vec::new());
            quote(text, &mut quoted);
            escape_lossy(bytes, &mut lossy);
            frame::messages(&mut messages, [&quoted, &[b"\"", &lossy[..], b"\""].concat()]);
            let read: Vec<String> = serde_json::from_slice(&messages[1..]).expect("it is JSON");
            assert_eq!(read, [text.clone(), String::from_utf8_lossy(bytes).into_owned()]);
            let callback: Callback = "c".parse().expect("it is a plain name");
            for (receiver, lines) in [
                (Receiver::XhrStreaming, 1),
                (Receiver::EventSource, 2),
                (Receiver::HtmlFile(callback.clone()), 3),
                (Receiver::Jsonp(callback), 1),
                (Receiver::WebSocket, 0),
            ] {
                let mut out = Vec::new();
                receiver.frame(&mut out, &messages);
                assert_eq!(out.split(|byte| *byte == b'\n').count(), lines + 1);
            }
        },
    );
}

fn read(payload: &[u8]) {
    let text = String::from_utf8_lossy(payload);
    for read in [
        read_message(&text, &LIMITS),
        read_xhr_send(payload, &LIMITS),
        read_jsonp_send(payload, Some(FORM), &LIMITS),
        read_jsonp_send(payload, None, &LIMITS),
    ] {
        match read {
            Ok(messages) => {
                assert!(messages.len() <= LIMITS.messages);
                assert!(
                    messages.iter().map(|message| message.len()).sum::<usize>() <= LIMITS.bytes
                );
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
