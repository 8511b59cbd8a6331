//! What is encoded once is still right for every subscriber.

use fanlight_proto::Position;
use fanlight_proto::stomp::{Decoder, Frame, Incoming, Limits};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{Message, Role};
use uuid::Uuid;

use super::*;
use crate::broker::Channel;
use crate::hub::{Member, SessionKey, Target, Wire};
use crate::publication::{ContentType, PublicationId};

fn publication(number: u128, body: &[u8]) -> Arc<Publication> {
    Arc::new(Publication {
        id: PublicationId(Uuid::from_u128(number)),
        destination: "/topic/a".parse().unwrap(),
        body: Bytes::copy_from_slice(body),
        content_type: ContentType::Text,
        headers: Box::new([("a:b".into(), "1\n2".into())]),
        publisher: Some("ann".into()),
        at_unix_ms: 5,
        position: Some(Position { epoch: 0xab, offset: 7 }),
        only_for: None,
        except: None,
        is_json: false,
    })
}

/// A hub with these subscribers of one destination, in order.
fn hub<'w>(wires: impl IntoIterator<Item = Wire<'w>>) -> (Hub, Vec<Member>) {
    let mut hub = Hub::new();
    let destination: fanlight_proto::Destination = "/topic/a".parse().unwrap();
    let channel = Channel::of_destination(destination.to_shared());
    for (session, wire) in wires.into_iter().enumerate() {
        let target = Target::Destination(destination.clone());
        hub.subscribe(SessionKey(session as u32), target, channel.clone(), wire);
    }
    let members = hub.matching(&channel, &destination).flatten().copied().collect();
    (hub, members)
}

fn stomp(version: Version, id: &str) -> Wire<'_> {
    Wire::Stomp { version, id, ack: false }
}

/// What a client reads: each message's bytes, and whether it is text.
fn read(chunk: &Chunk, compressed: bool) -> Vec<(bool, Vec<u8>)> {
    let mut bytes = chunk.pieces().concat();
    assert_eq!(bytes.len(), chunk.len());
    let mut input = &mut bytes[..];
    let mut decoder = ws::Decoder::new(Role::Client, compressed);
    let mut inflater = Inflater::new();
    let mut messages = Vec::new();
    while let Some(message) = decoder.next(&mut input, 1 << 20, &mut inflater).unwrap() {
        messages.push(match message {
            Message::Text(text) => (true, text.as_bytes().to_vec()),
            Message::Binary(data) => (false, data.to_vec()),
            other => panic!("{other:?}"),
        });
    }
    assert!(decoder.is_idle());
    assert_eq!(messages.len() as u32, chunk.frames());
    messages
}

fn frame(message: &[u8], version: Version) -> Frame {
    let mut decoder = Decoder::new();
    decoder.set_version(version);
    let limits = Limits { frame_bytes: 1 << 20, ..Limits::default() };
    match decoder.next(&mut &*message, &limits) {
        Ok(Some(Incoming::Frame(frame))) => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_subscriber_reads_its_own_subscription_and_the_same_message() {
    let bodies = [&b"hi"[..], &[b'x'; 5000], b"", b"\xff\0"];
    let publications: Vec<_> = (0..).zip(bodies).map(|(n, body)| publication(n, body)).collect();
    let ids = ["sub-0", "a:b", "sub-0", "\u{e9}"];
    for version in [Version::V10, Version::V11, Version::V12] {
        let (hub, members) = hub(ids.map(|id| stomp(version, id)));
        for framing in [Framing::WebSocket, Framing::WebSocketDeflate] {
            for of_run in
                [&publications[..1], &publications[1..2], &publications[2..], &publications]
            {
                let mut encoder = Encoder::new(64);
                let mut run = encoder.run(of_run);
                for (member, id) in members.iter().zip(ids) {
                    let messages = read(run.chunk(member.wire, framing, &hub, None), true);
                    for ((text, bytes), publication) in messages.iter().zip(of_run) {
                        let frame = frame(bytes, version);
                        let expected_id = publication.id.to_string();
                        assert_eq!(frame.header("subscription"), Some(id));
                        assert_eq!(frame.header("message-id"), Some(&*expected_id));
                        assert_eq!(frame.header("destination"), Some("/topic/a"));
                        assert_eq!(frame.header("epoch"), Some("ab"));
                        assert_eq!(frame.header("offset"), Some("7"));
                        assert_eq!(frame.header("ack"), None);
                        assert_eq!(frame.body, publication.body);
                        assert_eq!(*text, std::str::from_utf8(&publication.body).is_ok());
                    }
                }
            }
        }
    }
}

#[test]
fn an_ack_header_names_the_subscription_and_the_message() {
    let (hub, members) = hub([Wire::Stomp { version: Version::V12, id: "s", ack: true }]);
    let publications = [publication(1, b"hi")];
    let mut encoder = Encoder::new(64);
    let mut run = encoder.run(&publications);
    let messages = read(run.chunk(members[0].wire, Framing::WebSocket, &hub, None), false);
    let expected = format!("s:{}", publications[0].id);
    assert_eq!(frame(&messages[0].1, Version::V12).header("ack"), Some(&*expected));
}

#[test]
fn native_subscribers_share_one_encoding_and_a_new_run_makes_a_new_one() {
    let (hub, members) = hub([Wire::Native { named: false }, Wire::Native { named: false }]);
    let mut encoder = Encoder::new(64);
    for body in [&b"one"[..], b"two"] {
        let publications = [publication(1, body)];
        let mut run = encoder.run(&publications);
        let [first, second] = [0, 1]
            .map(|at: usize| run.chunk(members[at].wire, Framing::WebSocket, &hub, None).clone());
        assert!(std::ptr::eq(first.pieces(), second.pieces()), "encoded twice");
        let messages = read(&first, false);
        let message: serde_json::Value = serde_json::from_slice(&messages[0].1).unwrap();
        let native::ServerMessage::Message(message) = serde_json::from_value(message).unwrap()
        else {
            panic!("no message")
        };
        assert_eq!(message.body().unwrap(), body);
    }
}

#[test]
fn what_is_kept_for_the_ids_that_clients_choose_is_bounded() {
    let ids: Vec<String> = (0..CACHED_CHUNKS_MAX + 100).map(|n| format!("s{n}")).collect();
    let (hub, members) = hub(ids.iter().map(|id| stomp(Version::V12, id)));
    let publications = [publication(1, b"hi")];
    let mut encoder = Encoder::new(64);
    let mut run = encoder.run(&publications);
    for (member, id) in members.iter().zip(&ids) {
        let messages = read(run.chunk(member.wire, Framing::WebSocket, &hub, None), false);
        assert_eq!(frame(&messages[0].1, Version::V12).header("subscription"), Some(&**id));
    }
    assert!(encoder.chunks.len() <= CACHED_CHUNKS_MAX);
}

#[test]
fn a_change_of_presence_is_a_presence_in_native_and_an_event_in_stomp() {
    let change = br#"{"joined":[{"user":"bob"}],"left":[],"count":2}"#;
    let publication = Arc::new(Publication {
        content_type: ContentType::Presence,
        headers: Box::default(),
        publisher: None,
        position: None,
        ..(*publication(1, change)).clone()
    });
    let (hub, members) = hub([Wire::Native { named: false }, stomp(Version::V12, "s")]);
    let mut encoder = Encoder::new(64);
    let of_run = [publication];
    let mut run = encoder.run(&of_run);
    let native = read(run.chunk(members[0].wire, Framing::WebSocket, &hub, None), false);
    let expected =
        br#"{"type":"presence","to":"/topic/a","joined":[{"user":"bob"}],"left":[],"count":2}"#;
    assert_eq!(native, [(true, expected.to_vec())]);
    let stomp = read(run.chunk(members[1].wire, Framing::WebSocket, &hub, None), false);
    let frame = frame(&stomp[0].1, Version::V12);
    assert_eq!(frame.header("event"), Some("presence"));
    assert_eq!(frame.header("content-type"), Some("application/json"));
    assert_eq!(&frame.body[..], change);
}

#[test]
fn a_loss_is_told_to_those_who_missed_something_by_the_first_stomp_frame_of_the_run_only() {
    let wires = [stomp(Version::V12, "s"), Wire::Native { named: false }];
    let (mut hub, _) = hub([wires[0], wires[1], stomp(Version::V11, "s")]);
    let publications = [publication(1, b"1"), publication(2, b"2")];
    let destination = &publications[0].destination;
    let channel = Channel::of_destination(destination.to_shared());
    hub.note_loss(&channel, destination);
    // One like the first comes later.
    hub.subscribe(
        SessionKey(3),
        Target::Destination(destination.clone()),
        channel.clone(),
        wires[0],
    );
    let mut encoder = Encoder::new(usize::MAX);
    let mut run = encoder.run_after(&publications, Some(Lost::TooOld));
    let mut told = |member: &Member| -> Vec<_> {
        let messages = read(run.chunk_for(member, Framing::WebSocket, &hub, None), false);
        let texts = messages.iter().map(|(_, message)| String::from_utf8_lossy(message));
        texts.map(|text| text.contains("lost:position_too_old\n")).collect()
    };
    for member in hub.matching(&channel, destination).flatten() {
        let is_told = [0, 2].contains(&member.session.0);
        assert_eq!(told(member), [is_told, false], "{member:?}");
    }
}

#[test]
fn a_listener_is_told_in_its_form_and_moves_on_only_where_a_destination_has_a_place() {
    let position = |offset| Some(Position { epoch: 0xab, offset });
    let wires = [Some(1), None].map(|index| Wire::Events { index, named: false });
    let (hub, members) = hub(wires);
    let publications = [publication(1, b"hi")];
    let mut encoder = Encoder::new(64);
    for (member, moved) in members.iter().zip([position(7), position(3)]) {
        for framing in [Framing::Stream, Framing::Items] {
            let mut cursor = Cursor::new(vec![None, position(3)]).unwrap();
            let mut run = encoder.run(&publications);
            let chunk = run.chunk(member.wire, framing, &hub, Some(&mut cursor)).clone();
            let text = String::from_utf8(chunk.pieces().concat()).unwrap();
            let (begins, has_id) = match framing {
                Framing::Items => (",{\"type\":\"message\"", false),
                _ if moved == position(7) => ("id: -,ab:7\ndata: {", true),
                _ => ("data: {", false),
            };
            assert!(text.starts_with(begins), "{text}");
            assert_eq!((cursor.positions()[1], text.contains("id: -")), (moved, has_id));
        }
    }
    let channel = Channel::of_destination("/topic/a".into());
    for to in [Told::Asked(AskedWire::Events), Told::Subscribed(channel)] {
        let telling = Telling { publication: Arc::clone(&publications[0]), to };
        for (framing, begins) in [(Framing::Stream, "data: {"), (Framing::Items, ",{\"type\"")] {
            let chunks = encoder.tell(&telling, SessionKey(1), framing, &hub);
            let [chunk] = &chunks[..] else { panic!("{chunks:?}") };
            assert!(chunk.pieces().concat().starts_with(begins.as_bytes()), "{chunk:?}");
        }
    }
}
