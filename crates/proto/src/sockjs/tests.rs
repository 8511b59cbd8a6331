//! The bytes that the protocol's test suite expects, and what holds for any text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn receivers() -> [Receiver; 6] {
    let callback: Callback = "callback".parse().unwrap();
    [
        Receiver::Xhr,
        Receiver::XhrStreaming,
        Receiver::EventSource,
        Receiver::HtmlFile(callback.clone()),
        Receiver::Jsonp(callback),
        Receiver::WebSocket,
    ]
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn quoted(text: &str) -> String {
    written(|out| quote(text, out))
}

fn message(text: &str) -> String {
    written(|out| frame::messages(out, [quoted(text)]))
}

fn sent(receiver: &Receiver, frame: &str) -> String {
    written(|out| receiver.frame(out, frame.as_bytes()))
}

/// What the client's side of a transport makes of a frame that was sent.
fn received(receiver: &Receiver, sent: &str) -> String {
    let between = |begin: &str, end: &str| {
        let frame = sent.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
        frame.unwrap_or_else(|| panic!("{sent:?}")).to_owned()
    };
    let script = |begin: &str, end: &str| -> String {
        let literal = between(begin, end);
        assert!(!literal.contains(['<', '\n', '\r', '\0', '\u{2028}', '\u{2029}']), "{sent:?}");
        serde_json::from_str(&literal).unwrap()
    };
    match receiver {
        Receiver::Xhr | Receiver::XhrStreaming => {
            let frame = between("", "\n");
            assert!(!frame.contains('\n'), "{sent:?}");
            frame
        }
        Receiver::EventSource => {
            let data = between("data: ", "\r\n\r\n");
            assert!(!data.contains(['\r', '\n', '\0']), "{sent:?}");
            decode_uri(&data)
        }
        Receiver::HtmlFile(_) => script("<script>\np(", ");\n</script>\r\n"),
        Receiver::Jsonp(_) => script("/**/callback(", ");\r\n"),
        Receiver::WebSocket => sent.to_owned(),
    }
}

fn decode_uri(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap().to_owned();
    for part in parts {
        decoded.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        decoded.push_str(&part[2..]);
    }
    decoded
}

#[test]
fn a_transport_is_named_as_in_its_path() {
    for transport in Transport::ALL {
        assert_eq!(Transport::from_name(transport.as_str()), Some(transport));
    }
    assert_eq!(Transport::from_name("xhr_polling"), None);
}

#[test]
fn a_transport_sends_or_receives() {
    for receiver in receivers() {
        let transport = receiver.transport();
        let mut prelude = Vec::new();
        receiver.prelude(&mut prelude);
        assert!(!transport.is_send(), "{transport:?}");
        assert_eq!(transport.is_streaming(), !prelude.is_empty(), "{transport:?}");
        let has_callback = matches!(receiver, Receiver::HtmlFile(_) | Receiver::Jsonp(_));
        assert_eq!(transport.needs_callback(), has_callback, "{transport:?}");
        assert!(prelude.len() <= Receiver::MAX_PRELUDE_BYTES);
    }
    for transport in [Transport::XhrSend, Transport::JsonpSend] {
        assert!(transport.is_send() && !transport.is_streaming() && !transport.needs_callback());
    }
}

#[test]
fn each_transport_wraps_a_frame_in_its_own_way() {
    let frame = r#"a["x"]"#;
    let expected = [
        "a[\"x\"]\n",
        "a[\"x\"]\n",
        "data: a[\"x\"]\r\n\r\n",
        "<script>\np(\"a[\\\"x\\\"]\");\n</script>\r\n",
        "/**/callback(\"a[\\\"x\\\"]\");\r\n",
        "a[\"x\"]",
    ];
    for (receiver, expected) in receivers().iter().zip(expected) {
        assert_eq!(sent(receiver, frame), expected);
    }
    let open = String::from_utf8_lossy(frame::OPEN);
    assert_eq!(sent(&receivers()[3], &open), "<script>\np(\"o\");\n</script>\r\n");
    assert_eq!(sent(&receivers()[0], &String::from_utf8_lossy(frame::HEARTBEAT)), "h\n");
}

#[test]
fn an_event_keeps_its_line_as_the_suite_asks() {
    let sent = sent(&Receiver::EventSource, &message("  \0\n\r "));
    assert_eq!(sent, "data: a[\"  \\u0000\\n\\r \"]\r\n\r\n");
}

#[test]
fn what_the_client_would_decode_is_encoded() {
    assert_eq!(sent(&Receiver::EventSource, "%41%"), "data: %2541%25\r\n\r\n");
    assert_eq!(sent(&Receiver::EventSource, "\r\n\0\t"), "data: %0D%0A%00\t\r\n\r\n");
}

#[test]
fn no_message_ends_the_script_that_carries_it() {
    for receiver in &receivers()[3..5] {
        let sent = sent(receiver, &message("</script><!--\u{2028}"));
        let escaped = "a[\\\"\\u003c/script>\\u003c!--\\\\u2028\\\"]";
        assert!(sent.contains(escaped), "{sent}");
    }
    let callback = "c".parse().unwrap();
    assert_eq!(sent(&Receiver::Jsonp(callback), "\r\n\0\t"), "/**/c(\"\\r\\n\\u0000\t\");\r\n");
}

#[test]
fn a_script_is_called_by_any_callback() {
    let callback: Callback = "_jp.a-7".parse().unwrap();
    assert_eq!(sent(&Receiver::Jsonp(callback), "o"), "/**/_jp.a-7(\"o\");\r\n");
}

#[test]
fn a_stream_begins_with_a_prelude_and_other_responses_with_the_frame() {
    let prelude = |receiver: &Receiver| written(|out| receiver.prelude(out));
    for receiver in [&Receiver::Xhr, &receivers()[4], &Receiver::WebSocket] {
        assert_eq!(prelude(receiver), "");
    }
    assert_eq!(prelude(&Receiver::XhrStreaming), format!("{}\n", "h".repeat(2048)));
    assert_eq!(prelude(&Receiver::EventSource), "\r\n");
}

#[test]
fn the_page_of_htmlfile_is_that_of_the_suite_and_over_one_kib() {
    for callback in ["callback", "x", &"c".repeat(Callback::MAX_BYTES)] {
        let receiver = Receiver::HtmlFile(callback.parse().unwrap());
        let page = written(|out| receiver.prelude(out));
        let head = r#"
<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
"#;
        assert_eq!(page.trim(), head.trim().replace("CALLBACK", callback));
        assert_eq!(page.len(), 1024 + 4);
        assert!(page.ends_with(" \r\n\r\n"));
    }
}

#[test]
fn a_prelude_is_appended_to_what_is_there() {
    for receiver in receivers() {
        let alone = written(|out| receiver.prelude(out));
        let after = written(|out| {
            out.extend_from_slice(b"before");
            receiver.prelude(out);
        });
        assert_eq!(after, format!("before{alone}"));
    }
}

#[test]
fn frames_have_the_bytes_of_the_protocol() {
    let frame = |items: &[&str]| written(|out| frame::messages(out, items));
    assert_eq!(frame(&[]), "a[]");
    assert_eq!(frame(&[r#""a""#]), r#"a["a"]"#);
    assert_eq!(frame(&[r#""a""#, r#""b""#]), r#"a["a","b"]"#);
    for (close, expected) in [
        (Close::GO_AWAY, r#"c[3000,"Go away!"]"#),
        (Close::ANOTHER_CONNECTION, r#"c[2010,"Another connection still open"]"#),
        (Close::INTERRUPTED, r#"c[1002,"Connection interrupted"]"#),
        (Close { code: 4000, reason: "a\"\n<\u{2028}" }, r#"c[4000,"a\"\n<\u2028"]"#),
    ] {
        assert_eq!(written(|out| frame::close(out, &close)), expected);
    }
}

#[test]
fn every_character_of_the_suite_is_escaped_and_no_other() {
    let escaped = [0..=0x1F, 0x200C..=0x200F, 0x2028..=0x202F, 0x2060..=0x206F, 0xFFF0..=0xFFFF];
    for character in ('\0'..='\u{2FFFF}').chain(['\u{10FFF0}', char::MAX]) {
        let code = u32::from(character);
        let expected = match character {
            '"' => r#""\"""#.to_owned(),
            '\\' => r#""\\""#.to_owned(),
            '\n' => r#""\n""#.to_owned(),
            '\r' => r#""\r""#.to_owned(),
            '\t' => r#""\t""#.to_owned(),
            '\u{8}' => r#""\b""#.to_owned(),
            '\u{C}' => r#""\f""#.to_owned(),
            _ if escaped.iter().any(|range| range.contains(&code)) => format!("\"\\u{code:04x}\""),
            _ => format!("\"{character}\""),
        };
        assert_eq!(quoted(&character.to_string()), expected, "{code:x}");
    }
}

#[test]
fn a_character_is_escaped_wherever_it_stands() {
    for special in ["\"", "\0", "\u{2028}", "\u{2027}", "\u{ffff}", "\u{ffef}", "\"\"\n"] {
        for before in 0..70 {
            for after in [0, 1, 31, 32, 40] {
                let text = format!("{}{special}{}", "a".repeat(before), "b".repeat(after));
                let expected = quoted(special);
                let expected = expected.trim_start_matches('"').strip_suffix('"').unwrap();
                let inner = format!("\"{}{expected}{}\"", "a".repeat(before), "b".repeat(after));
                assert_eq!(quoted(&text), inner);
            }
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let lossy = |bytes: &[u8]| written(|out| escape_lossy(bytes, out));
    assert_eq!(lossy(b"a\xFFb\n\xE2\x80"), r"a\ufffdb\n\ufffd");
    assert_eq!(lossy("é\"".as_bytes()), "é\\\"");
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a\"\\\\\u{0}-\u{1f}%<>/\u{7f}-\u{9f}\u{2000}-\u{2070}\u{ffe0}-\u{ffff}\u{10000}]{0,80}",
        "[a-z]{20,50}[\u{2028}\n\"]?[a-z]{0,70}",
    ]
}

proptest! {
    #[test]
    fn what_is_quoted_is_read_back_equal(text in texts()) {
        let quoted = quoted(&text);
        prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
    }

    #[test]
    fn texts_may_be_escaped_apart_and_joined(text in texts(), cuts in vec(any::<Index>(), 0..4)) {
        let mut ends: Vec<_> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.get(&ends)).collect();
        cuts.sort_unstable();
        ends = [&[0], &cuts[..], &[text.len()]].concat();
        let apart = written(|out| {
            for pair in ends.windows(2) {
                escape(&text[pair[0]..pair[1]], out);
            }
        });
        prop_assert_eq!(format!("\"{apart}\""), quoted(&text));
    }

    #[test]
    fn escaping_bytes_is_escaping_what_is_left_of_them(bytes in vec(any::<u8>(), 0..60)) {
        let escaped = written(|out| escape_lossy(&bytes, out));
        let expected = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(format!("\"{escaped}\""), quoted(&expected));
    }

    #[test]
    fn every_client_receives_the_messages_that_were_sent(texts in vec(texts(), 0..4)) {
        let frame = written(|out| frame::messages(out, texts.iter().map(|text| quoted(text))));
        for receiver in receivers() {
            let received = received(&receiver, &sent(&receiver, &frame));
            prop_assert_eq!(&received, &frame);
            let messages: Vec<String> = serde_json::from_str(received.strip_prefix('a').unwrap())?;
            prop_assert_eq!(&messages, &texts);
        }
    }

    #[test]
    fn a_frame_in_pieces_is_the_same_frame(texts in vec(texts(), 1..4), cut in any::<Index>()) {
        let whole = written(|out| frame::messages(out, texts.iter().map(|text| quoted(text))));
        let apart = written(|out| {
            for (at, text) in texts.iter().enumerate() {
                let begin = if at == 0 { frame::MESSAGES_BEGIN } else { frame::MESSAGES_BETWEEN };
                out.extend_from_slice(begin);
                escape(text, out);
            }
            out.extend_from_slice(frame::MESSAGES_END);
        });
        prop_assert_eq!(&apart, &whole);
        let (first, second) = whole.as_bytes().split_at(cut.index(whole.len()));
        for receiver in receivers() {
            let in_pieces = written(|out| {
                receiver.begin(out);
                receiver.content(out, first);
                receiver.content(out, second);
                receiver.end(out);
            });
            prop_assert_eq!(in_pieces, sent(&receiver, &whole));
        }
    }
}
