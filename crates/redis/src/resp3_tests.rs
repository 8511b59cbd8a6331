//! Tests of the RESP3 reader.

use super::*;
use proptest::prelude::*;

/// Everything that is read when `input` arrives in the given pieces.
fn read<'i>(pieces: impl IntoIterator<Item = &'i [u8]>) -> Result<Vec<Event>, RespError> {
    let mut reader = Reader::new();
    let mut events = Vec::new();
    for piece in pieces {
        reader.space().extend_from_slice(piece);
        while let Some(event) = reader.pop()? {
            events.push(event);
        }
    }
    Ok(events)
}

fn value(input: &[u8]) -> Value {
    match read([input]).unwrap().as_slice() {
        [Event::Value(value)] => value.clone(),
        other => panic!("one value expected, got {other:?}"),
    }
}

fn bulk(text: &'static str) -> Value {
    Value::Bulk(Bytes::from_static(text.as_bytes()))
}

#[test]
fn elements_are_bounded_in_number_all_nesting_counted() {
    for (outer, inner) in [(1, 16_000), (100, 170)] {
        let nested = format!("*{inner}\r\n{}", "_\r\n".repeat(inner));
        let mut reader = Reader::new();
        let text = format!("*{outer}\r\n{}", nested.repeat(outer));
        reader.space().extend_from_slice(text.as_bytes());
        match reader.pop() {
            Ok(Some(Event::Value(Value::Array(all)))) => assert_eq!((all.len(), outer), (1, 1)),
            other => assert_eq!(
                (other, outer),
                (Err(RespError::TooManyElements { max: MAX_ELEMENTS }), 100)
            ),
        }
    }
}

#[test]
fn every_type_is_read() {
    for (input, expected) in [
        ("+OK\r\n", Value::Simple(Bytes::from_static(b"OK"))),
        ("-ERR no\r\n", Value::Error(Bytes::from_static(b"ERR no"))),
        ("!6\r\nERR no\r\n", Value::Error(Bytes::from_static(b"ERR no"))),
        (":-42\r\n", Value::Integer(-42)),
        (",1.5\r\n", Value::Double(1.5)),
        (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        ("#t\r\n", Value::Boolean(true)),
        ("_\r\n", Value::Null),
        ("$-1\r\n", Value::Null),
        ("*-1\r\n", Value::Null),
        (
            "(123456789012345678901\r\n",
            Value::BigNumber(Bytes::from_static(b"123456789012345678901")),
        ),
        ("$5\r\nhe\r\no\r\n", bulk("he\r\no")),
        ("=6\r\ntxt:hi\r\n", bulk("hi")),
        ("*2\r\n:1\r\n*0\r\n", Value::Array(vec![Value::Integer(1), Value::Array(vec![])])),
        ("~1\r\n#f\r\n", Value::Set(vec![Value::Boolean(false)])),
        (
            "%1\r\n+a\r\n:1\r\n",
            Value::Map(vec![(Value::Simple(Bytes::from_static(b"a")), Value::Integer(1))]),
        ),
        (">2\r\n$1\r\na\r\n:1\r\n", Value::Push(vec![bulk("a"), Value::Integer(1)])),
        ("|1\r\n+ttl\r\n:3600\r\n:7\r\n", Value::Integer(7)),
        ("*1\r\n|1\r\n+a\r\n+b\r\n:7\r\n", Value::Array(vec![Value::Integer(7)])),
    ] {
        assert_eq!(value(input.as_bytes()), expected, "{input:?}");
    }
}

#[test]
fn a_message_of_sharded_pubsub_is_read_in_the_same_way() {
    let message = b">3\r\n$8\r\nsmessage\r\n$2\r\nch\r\n$3\r\na\r\n\r\n";
    let events = read([&message[..]]).unwrap();
    assert_eq!(events, read([&b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$3\r\na\r\n\r\n"[..]]).unwrap());
    assert!(matches!(&events[..], [Event::Message { channel, .. }] if channel == "ch"));
}

#[test]
fn a_message_is_read_by_its_own_path() {
    let events = read([&b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$3\r\na\r\n\r\n"[..]]).unwrap();
    let expected = Event::Message {
        channel: Bytes::from_static(b"ch"),
        payload: Bytes::from_static(b"a\r\n"),
    };
    assert_eq!(events, [expected]);
}

#[test]
fn what_is_not_resp3_says_why() {
    use RespError as E;
    let deep = "*1\r\n".repeat(40);
    for (input, error) in [
        ("HTTP/1.1 400\r\n", E::UnknownType { byte: b'H' }),
        ("$?\r\n", E::Malformed { what: "length" }),
        ("$-2\r\n", E::Malformed { what: "length" }),
        ("$99999999999\r\n", E::Malformed { what: "length" }),
        ("$999999999\r\n", E::TooLarge),
        ("$1\r\nabc", E::Malformed { what: "bulk" }),
        ("+a\rb\n", E::Malformed { what: "line" }),
        (":x\r\n", E::Malformed { what: "integer" }),
        ("#x\r\n", E::Malformed { what: "boolean" }),
        ("=2\r\nab\r\n", E::Malformed { what: "verbatim" }),
        (">3\r\n$7\r\nmessage\r\n$1\r\na\r\n:1\r\n", E::Malformed { what: "message" }),
        (deep.as_str(), E::TooDeep),
    ] {
        assert_eq!(read([input.as_bytes()]), Err(error), "{input:?}");
    }
    let endless = vec![b'+'; MAX_LINE_BYTES + 1];
    assert_eq!(read([endless.as_slice()]), Err(E::LineTooLong));
}

#[test]
fn an_announced_length_allocates_nothing_ahead_of_its_data() {
    let mut reader = Reader::new();
    reader.space().extend_from_slice(b"*536870912\r\n");
    assert_eq!(reader.pop(), Ok(None));
    reader.space().extend_from_slice(b"$536870912\r\n");
    assert_eq!(reader.pop(), Ok(None));
    assert!(reader.space().capacity() <= 2 * READ_BYTES);
}

fn encoded(value: &Value, out: &mut Vec<u8>) {
    use std::io::Write;
    let many = |sigil: char, values: &[Value], out: &mut Vec<u8>| {
        write!(out, "{sigil}{}\r\n", values.len()).unwrap();
        for value in values {
            encoded(value, out);
        }
    };
    match value {
        Value::Null => out.extend_from_slice(b"_\r\n"),
        Value::Boolean(yes) => write!(out, "#{}\r\n", if *yes { 't' } else { 'f' }).unwrap(),
        Value::Integer(number) => write!(out, ":{number}\r\n").unwrap(),
        Value::Double(number) => write!(out, ",{number}\r\n").unwrap(),
        Value::BigNumber(text) => out.extend([b"(", &text[..], b"\r\n"].concat()),
        Value::Simple(text) => out.extend([b"+", &text[..], b"\r\n"].concat()),
        Value::Error(text) => out.extend([b"-", &text[..], b"\r\n"].concat()),
        Value::Bulk(bytes) => {
            write!(out, "${}\r\n", bytes.len()).unwrap();
            out.extend([&bytes[..], b"\r\n"].concat());
        }
        Value::Array(values) => many('*', values, out),
        Value::Set(values) => many('~', values, out),
        Value::Push(values) => many('>', values, out),
        Value::Map(pairs) => {
            write!(out, "%{}\r\n", pairs.len()).unwrap();
            for (key, value) in pairs {
                encoded(key, out);
                encoded(value, out);
            }
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(Value::Integer),
        (-1e9..1e9).prop_map(Value::Double),
        "[0-9]{1,30}".prop_map(|text| Value::BigNumber(text.into())),
        "[A-Za-z ]{0,30}".prop_map(|text| Value::Simple(text.into())),
        "[A-Za-z ]{0,30}".prop_map(|text| Value::Error(text.into())),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| Value::Bulk(bytes.into())),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let many = || proptest::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            many().prop_map(Value::Array),
            many().prop_map(Value::Set),
            many().prop_map(Value::Push),
            proptest::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(Value::Map),
        ]
    })
}

fn events() -> impl Strategy<Value = Event> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        values().prop_map(Event::Value),
        (bytes(), bytes()).prop_map(|(channel, payload)| Event::Message { channel, payload }),
    ]
}

fn encoded_events(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        match event {
            Event::Value(value) => encoded(value, &mut out),
            Event::Message { channel, payload } => {
                let parts = [&b"message"[..], channel, payload];
                let parts = parts.map(|part| Value::Bulk(Bytes::copy_from_slice(part)));
                encoded(&Value::Push(parts.into()), &mut out);
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn splitting_at_every_byte_changes_nothing(events in proptest::collection::vec(events(), 1..4)) {
        let input = encoded_events(&events);
        prop_assert_eq!(&read([input.as_slice()]).unwrap(), &events);
        prop_assert_eq!(&read(input.chunks(1)).unwrap(), &events);
        for at in 0..input.len() {
            prop_assert_eq!(&read([&input[..at], &input[at..]]).unwrap(), &events);
        }
    }
}

#[test]
fn hostile_bytes_are_refused_or_read_and_pieces_never_matter() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let in_pieces = read(bytes.chunks(3));
        match read([bytes]) {
            // NaN is not equal to itself.
            Ok(whole) => {
                assert_eq!(format!("{:?}", Ok::<_, RespError>(whole)), format!("{in_pieces:?}"));
            }
            Err(error) => assert_eq!(in_pieces, Err(error)),
        }
        let mut message = MESSAGE.to_vec();
        message.extend_from_slice(bytes);
        let _ = read([message.as_slice()]);
    });
}

#[test]
fn a_slot_map_of_16384_ranges_is_read_whole() {
    let node = "*4\r\n$9\r\n127.0.0.1\r\n:7000\r\n$2\r\nid\r\n*0\r\n";
    let mut reader = Reader::of_slots();
    reader.space().extend_from_slice(b"*16384\r\n");
    for slot in 0..16_384 {
        let range = format!("*5\r\n:{slot}\r\n:{slot}\r\n{node}{node}{node}");
        reader.space().extend_from_slice(range.as_bytes());
    }
    let Ok(Some(Event::Value(Value::Array(ranges)))) = reader.pop() else { panic!("no ranges") };
    assert_eq!(ranges.len(), 16_384);
}
