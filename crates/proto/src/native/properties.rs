//! What holds for any text and any body.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::tests::{fields, one, read, written};
use super::*;
use crate::Position;

proptest! {
    #[test]
    fn what_is_written_is_read_back_equal(
        texts in vec(any::<String>(), 3),
        body in vec(any::<u8>(), 0..60),
        content_type in option::of(prop_oneof![Just("application/json".to_owned()), any::<String>()]),
        position in option::of((any::<u64>(), any::<u64>())),
        at_unix_ms in any::<u64>(),
        headers in btree_map(any::<Box<str>>(), any::<Box<str>>(), 0..4),
    ) {
        let headers: Vec<_> = headers.into_iter().collect();
        let position = position.map(|(epoch, offset)| Position { epoch, offset });
        let text = written(&MessageFields {
            to: &texts[0],
            id: &texts[1],
            from: Some(&texts[2]),
            body: &body,
            content_type: content_type.as_deref(),
            is_json: false,
            at_unix_ms,
            position,
            headers: &headers,
        });
        let message = read(&text);
        prop_assert_eq!([&message.to, &message.id, message.from.as_ref().unwrap()], [&texts[0], &texts[1], &texts[2]]);
        prop_assert_eq!(message.at, at_unix_ms);
        prop_assert_eq!(message.position(), position);
        // JSON's own space around a value is not part of it.
        let read = message.body().unwrap();
        prop_assert_eq!(read.trim_ascii(), body.trim_ascii());
        let expected = headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        prop_assert_eq!(message.headers, expected.collect());
    }

    #[test]
    fn a_json_body_is_read_back_as_it_was_sent(words in vec(any::<String>(), 0..4), space in "[ \n\t]{0,3}") {
        let body = words.iter().map(|word| serde_json::to_string(word).unwrap()).collect::<Vec<_>>();
        let body = format!("[{space}{}{space}]", body.join(","));
        let request = format!(r#"{{"type":"send","to":"/topic/a","data":{body}}}"#);
        let Ok(ClientMessage::Send { body: sent, .. }) = one(&request) else { panic!("not a send") };
        prop_assert_eq!(&sent, body.as_bytes());
        prop_assert_eq!(read(&written(&fields(&sent))).body().unwrap(), sent);
    }

    #[test]
    fn no_text_gets_out_of_its_string(text in "[\"\\\\\u{0}-\u{1f}\u{2028}\u{2029}},:{a]{0,12}") {
        let message = read(&written(&MessageFields { to: &text, from: Some(&text), ..fields(b"1") }));
        prop_assert_eq!((message.to, message.from), (text.clone(), Some(text)));
    }

    #[test]
    fn parsing_never_panics(text in any::<String>(), inside in "[\\[\\]{}\":,a-z0-9 ]{0,40}") {
        for text in [text, format!(r#"{{"type":"send",{inside}}}"#), format!("[{inside}]")] {
            for error in parse(&text).filter_map(Result::err) {
                let _ = error.to_string();
            }
        }
    }
}
