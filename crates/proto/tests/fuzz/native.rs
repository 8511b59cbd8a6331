//! No text makes the native codec panic, and no body or name gets out of its place in a message.

use fanlight_proto::native::{MessageFields, ServerMessage, parse, write_message};

const SMOKE_ITERATIONS: usize = 1000;

/// What requests are made of, so that random input gets past the first brace.
const FIELDS: [&str; 14] = [
    r#""type":"send""#,
    r#""type":"subscribe""#,
    r#""type":"refresh""#,
    r#""type":"other""#,
    r#""to":"/topic/a""#,
    r#""to":"\u00e9""#,
    r#""data":{"a":[1,null]}"#,
    r#""data":"YQ==""#,
    r#""content_type":"text/plain""#,
    r#""content_type":"application/json""#,
    r#""headers":{"a":"b"}"#,
    r#""id":1"#,
    r#""token":"t""#,
    r#""x":1"#,
];

#[test]
fn fuzz_native_parser() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .for_each(|input: &[u8]| read_everything(&String::from_utf8_lossy(input)));
}

#[test]
fn fuzz_native_parser_with_almost_valid_requests() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(u8, [[u8; 4]; 3], Option<(u16, u8)>)>()
        .for_each(|(count, requests, damage)| {
            let requests = &requests[..usize::from(*count % 4)];
            let objects = requests.iter().map(|fields| {
                let fields = fields.map(|field| FIELDS[usize::from(field) % FIELDS.len()]);
                format!("{{{}}}", fields.join(","))
            });
            let mut text = objects.collect::<Vec<_>>().join(",");
            if requests.len() != 1 {
                text = format!("[{text}]");
            }
            if let Some((at, byte)) = damage {
                let at = usize::from(*at) % text.len();
                let byte = b"{}[],:\"\\ 1"[usize::from(*byte) % 10];
                text.replace_range(at..=at, &char::from(byte).to_string());
            }
            read_everything(&text);
        });
}

#[test]
fn fuzz_native_writer() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(String, Option<String>, Vec<u8>)>()
        .for_each(|(text, content_type, body)| {
            let mut out = Vec::new();
            let fields = MessageFields {
                to: text,
                id: text,
                body,
                content_type: content_type.as_deref(),
                is_json: false,
                from: Some(text),
                at_unix_ms: 1,
                position: None,
                headers: &[(text.as_str().into(), text.as_str().into())],
            };
            write_message(&mut out, &fields);
            let Ok(ServerMessage::Message(read)) = serde_json::from_slice(&out) else {
                panic!("{:?}", String::from_utf8_lossy(&out))
            };
            assert_eq!([&read.to, &read.id], [text, text]);
            assert_eq!(read.headers.get(text), Some(text));
            let read = read.body().expect("what was written can be read");
            assert_eq!(read.trim_ascii(), body.trim_ascii());
        });
}

fn read_everything(text: &str) {
    for message in parse(text) {
        match message {
            Ok(message) => assert!(!format!("{message:?}").is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _ = serde_json::from_str::<ServerMessage>(text);
}
