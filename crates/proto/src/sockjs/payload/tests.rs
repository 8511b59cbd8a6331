//! What is read from bodies and WebSocket messages, and what is refused.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { bytes: 4096, messages: 8 };
const FORM: &str = "application/x-www-form-urlencoded";

fn message(text: &str) -> Result<Vec<Cow<'_, str>>, PayloadError> {
    read_message(text, &LIMITS)
}

fn xhr(body: &str) -> Result<Vec<Cow<'_, str>>, PayloadError> {
    read_xhr_send(body.as_bytes(), &LIMITS)
}

fn jsonp<'a>(body: &'a str, content_type: &str) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    read_jsonp_send(body.as_bytes(), Some(content_type), &LIMITS)
}

fn strings(messages: &[&str]) -> Vec<Cow<'static, str>> {
    messages.iter().map(|message| Cow::Owned((*message).to_owned())).collect()
}

#[test]
fn an_array_of_strings_is_read_from_either() {
    for (text, expected) in [
        ("[]", &[][..]),
        (r#"["a"]"#, &["a"]),
        (r#"["a","b"]"#, &["a", "b"]),
        (" [ \"a\"\t,\r\n\"b\" ] ", &["a", "b"]),
        (r#"["","\u00e9\n\"\\","é"]"#, &["", "é\n\"\\", "é"]),
        ("[\"\u{2028}\u{ffff}\"]", &["\u{2028}\u{ffff}"]),
    ] {
        assert_eq!(message(text), Ok(strings(expected)), "{text}");
        assert_eq!(xhr(text), Ok(strings(expected)), "{text}");
    }
}

#[test]
fn a_websocket_also_takes_one_string_or_nothing() {
    assert_eq!(message(""), Ok(strings(&[])));
    assert_eq!(message(r#""a""#), Ok(strings(&["a"])));
    assert_eq!(message(r#" "\n" "#), Ok(strings(&["\n"])));
    for broken in ["[\"a", "a", "1", "null", "{}", "\"a", "[1]", "[\"a\"]x", "[[\"a\"]]", " ", "\0"]
    {
        assert_eq!(message(broken), Err(PayloadError::Broken), "{broken}");
    }
}

#[test]
fn a_body_that_is_no_array_says_why_in_the_words_of_the_protocol() {
    for (body, error) in [
        ("", PayloadError::Expected),
        ("\"a\"", PayloadError::Expected),
        ("{}", PayloadError::Expected),
        (" 1 ", PayloadError::Expected),
        ("null", PayloadError::Expected),
        ("[\"x", PayloadError::Broken),
        ("x", PayloadError::Broken),
        ("[\"a\",]", PayloadError::Broken),
        ("[\"a\"]]", PayloadError::Broken),
        ("[\"a\" \"b\"]", PayloadError::Broken),
        ("[\"a\n\"]", PayloadError::Broken),
        (r#"["\x"]"#, PayloadError::Broken),
        ("[1]", PayloadError::Broken),
        ("[null]", PayloadError::Broken),
        ("[{\"a\":\"b\"}]", PayloadError::Broken),
    ] {
        assert_eq!(xhr(body), Err(error), "{body}");
    }
    assert_eq!(read_xhr_send(b"[\"\xFF\"]", &LIMITS), Err(PayloadError::Broken));
    assert_eq!(PayloadError::Expected.to_string(), "Payload expected.");
    assert_eq!(PayloadError::Broken.to_string(), "Broken JSON encoding.");
    assert_eq!((PayloadError::Expected.status(), PayloadError::Broken.status()), (500, 500));
}

#[test]
fn a_form_has_its_messages_in_one_field() {
    for (body, expected) in [
        ("d=%5B%22x%22%5D", Ok(&["x"][..])),
        ("d=%5b%5d", Ok(&[][..])),
        ("d=[\"x\"]", Ok(&["x"][..])),
        ("d=[\"a+b%2B%zz%\"]", Ok(&["a b+%zz%"][..])),
        ("d=[\"a+b\"]", Ok(&["a b"][..])),
        ("a=b&d=[\"x\"]&c", Ok(&["x"][..])),
        ("d=[\"x\"]&d=[\"y\"]", Ok(&["x"][..])),
        ("d=[\"%E2%82%AC\"]", Ok(&["€"][..])),
        ("d=%5B%22x", Err(PayloadError::Broken)),
        ("d=[\"%FF\"]", Err(PayloadError::Broken)),
        ("", Err(PayloadError::Expected)),
        ("d=", Err(PayloadError::Expected)),
        ("d", Err(PayloadError::Expected)),
        ("p=p", Err(PayloadError::Expected)),
        ("dd=[\"x\"]", Err(PayloadError::Expected)),
        ("d=%7B%7D", Err(PayloadError::Expected)),
    ] {
        let expected = expected.map(strings);
        for content_type in [FORM, "application/X-WWW-form-urlencoded; charset=utf-8"] {
            assert_eq!(jsonp(body, content_type), expected, "{body}");
        }
    }
}

#[test]
fn a_body_of_another_type_is_read_as_it_is() {
    let limits = &LIMITS;
    for content_type in ["text/plain", "text/plain; charset=UTF-8", "", "T"] {
        assert_eq!(jsonp("[\"%61bc+\"]", content_type), Ok(strings(&["%61bc+"])));
        assert_eq!(jsonp("", content_type), Err(PayloadError::Expected));
        assert_eq!(jsonp("d=[]", content_type), Err(PayloadError::Broken));
    }
    assert_eq!(read_jsonp_send(b"[\"%61\"]", None, limits), Ok(strings(&["%61"])));
}

#[test]
fn a_message_without_escapes_is_not_copied() {
    let is_borrowed = |messages: Result<Vec<Cow<'_, str>>, _>| {
        messages.unwrap().iter().all(|message| matches!(message, Cow::Borrowed(_)))
    };
    assert!(is_borrowed(message("\"a\"")));
    assert!(is_borrowed(message("[\"a\",\"é\"]")));
    assert!(is_borrowed(xhr("[\"a\",\"\"]")));
    assert!(is_borrowed(jsonp("d=[\"a\"]", FORM)));
    assert!(!is_borrowed(xhr(r#"["\n"]"#)));
}

#[test]
fn limits_hold_at_their_bounds() {
    let at = Limits { bytes: 9, messages: 2 };
    let (fits, many) = ("[\"a\",\"b\"]", "[\"\",\"\",\"\"]");
    assert_eq!(fits.len(), at.bytes);
    let too_large = Err(PayloadError::TooLarge { limit: 8 });
    let too_many = Err(PayloadError::TooManyMessages { limit: 2 });
    for read in [
        |text: &'static str, limits: &Limits| read_message(text, limits),
        |text: &'static str, limits: &Limits| read_xhr_send(text.as_bytes(), limits),
        |text: &'static str, limits: &Limits| read_jsonp_send(text.as_bytes(), None, limits),
    ] {
        assert_eq!(read(fits, &at), Ok(strings(&["a", "b"])));
        assert_eq!(read(fits, &Limits { bytes: 8, ..at }), too_large);
        assert_eq!(read(many, &Limits { bytes: 99, ..at }), too_many);
    }
    let form = b"d=[\"a\"]";
    let limits = Limits { bytes: form.len() - 1, ..at };
    assert_eq!(
        read_jsonp_send(form, Some(FORM), &limits),
        Err(PayloadError::TooLarge { limit: 6 })
    );
    assert_eq!(PayloadError::TooLarge { limit: 8 }.status(), 413);
    assert_eq!(PayloadError::TooManyMessages { limit: 8 }.status(), 413);
}

#[test]
fn each_error_closes_a_websocket_for_its_own_reason() {
    for (error, reason) in [
        (PayloadError::Expected, CloseReason::ProtocolError),
        (PayloadError::Broken, CloseReason::ProtocolError),
        (PayloadError::TooLarge { limit: 1 }, CloseReason::TooLarge),
        (PayloadError::TooManyMessages { limit: 1 }, CloseReason::LimitExceeded),
    ] {
        assert_eq!(error.close_reason(), reason);
    }
}

#[test]
fn half_a_pair_is_replaced_as_a_browser_does() {
    for (json, expected) in [
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d", "\u{fffd}"),
        (r"a\uDE00b", "a\u{fffd}b"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83dx\ude00", "\u{fffd}x\u{fffd}"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\\ud83d\ud83d", "\\ud83d\u{fffd}"),
    ] {
        let text = format!("[\"{json}\"]");
        assert_eq!(xhr(&text), Ok(strings(&[expected])), "{json}");
        assert_eq!(message(&text), Ok(strings(&[expected])), "{json}");
    }
    for broken in [
        r#"["\ud83d"#,
        r#"["\ud83d\u"]"#,
        r#"["\ud83d\"]"#,
        r#"["\ud83d\u+d83"]"#,
        "[\"\\ud83d\\é\"]",
    ] {
        assert_eq!(xhr(broken), Err(PayloadError::Broken), "{broken}");
    }
    let limits = Limits { messages: 1, ..LIMITS };
    let many = read_message(r#"["\ud83d","\ud83d"]"#, &limits);
    assert_eq!(many, Err(PayloadError::TooManyMessages { limit: 1 }));
}

proptest! {
    #[test]
    fn what_json_holds_is_read_and_nothing_else(
        text in "[\\[\\]\",a\\\\n \u{1}\u{2028}]{0,12}|\\[(\"(a|\\\\n|\\\\\\\\|é|\\\\u00e9){0,3}\",?){0,4}\\]",
    ) {
        match serde_json::from_str::<Vec<String>>(&text) {
            Ok(expected) => prop_assert_eq!(xhr(&text).unwrap(), expected),
            Err(_) => prop_assert!(xhr(&text).is_err()),
        }
    }

    #[test]
    fn any_messages_come_through_every_transport(messages in vec(any::<String>(), 0..8)) {
        let json = serde_json::to_string(&messages).unwrap();
        prop_assert_eq!(message(&json).unwrap(), messages.clone());
        prop_assert_eq!(xhr(&json).unwrap(), messages.clone());
        let encoded = json.bytes().map(|byte| match byte {
            b' ' => "+".to_owned(),
            b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        });
        let form = format!("x=1&d={}", encoded.collect::<String>());
        let limits = Limits { bytes: usize::MAX, messages: 8 };
        let read = read_jsonp_send(form.as_bytes(), Some(FORM), &limits);
        prop_assert_eq!(read.unwrap(), messages);
    }

    #[test]
    fn any_escapes_are_read_as_utf_16(units in vec(prop_oneof![0xD7FE..0xE002_u16, any::<u16>()], 0..6)) {
        let escapes = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
        let expected = String::from_utf16_lossy(&units);
        let json = format!("[\"{escapes}\"]");
        prop_assert_eq!(xhr(&json).unwrap(), vec![expected]);
    }
}
