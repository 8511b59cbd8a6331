//! Encodes publications once per encoding, for all subscribers of a worker (invariant 1).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanlight_proto::Position;
use fanlight_proto::cursor::Cursor;
use fanlight_proto::native::{self, MessageFields};
use fanlight_proto::stomp::{self, Version};
use fanlight_proto::ws::deflate::{self, Deflater};
use fanlight_proto::ws::{self, Opcode};
use fanlight_proto::{sockjs, sse};

use crate::history::Lost;
use crate::hub::{Hub, Member, SessionKey, WireKey};
use crate::outbox::Chunk;
use crate::publication::Publication;
use crate::session::{AskedWire, Telling, Told, events};

/// How frames go on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// WebSocket messages as they are.
    WebSocket,
    /// WebSocket messages, those worth it compressed (RFC 7692).
    WebSocketDeflate,
    /// The protocol's own frames, one behind the other: STOMP over TCP.
    Stream,
    /// The same as chunks of an HTTP/1.1 body (RFC 9112 §7.1): server-sent events.
    Chunked,
    /// SockJS frames of messages, each a WebSocket message.
    SockJs,
    /// Quoted messages for a later SockJS frame, each with a comma before it.
    Quoted,
    /// Native messages for a later JSON array, each with a comma before it.
    Items,
}

impl Framing {
    /// Whether it carries nothing but text.
    fn is_text_only(self) -> bool {
        matches!(self, Self::SockJs | Self::Quoted)
    }
}

/// The encodings of one run of publications, made when first asked for and kept for the run.
pub struct Encoder {
    deflater: Deflater,
    deflate_min_bytes: usize,
    chunks: HashMap<ChunkKey, Chunk, foldhash::fast::RandomState>,
    /// By version; without a word of a loss and with it.
    stomp: [[Vec<StompRest>; 3]; 2],
    /// Without and with the user's name in a user destination.
    native: [Vec<Bytes>; 2],
    /// Events without their ids, in the same two ways.
    events: [Vec<Bytes>; 2],
}

/// One run: publications of one destination that go out together, and their encodings.
pub struct Run<'r> {
    encoder: &'r mut Encoder,
    publications: &'r [Arc<Publication>],
    lost: Option<Lost>,
    last: Option<(ChunkKey, Chunk)>,
}

/// Equal keys mean equal bytes; the last part is whether they tell of the loss.
type ChunkKey = (WireKey, Framing, bool);

/// A MESSAGE frame without its per-subscriber head.
struct StompRest {
    bytes: Bytes,
    opcode: Opcode,
    /// The same, deflated; made when first asked for.
    deflated: Option<Bytes>,
}

/// Up to here a STOMP message is copied for each subscription id; above, its shared part is sent
/// from where it is.
const COPY_MAX_BYTES: usize = 2048;
/// So many subscription ids share their bytes in one run; it is clients that choose the ids, so
/// what is kept for them is bounded.
const CACHED_CHUNKS_MAX: usize = 1024;
/// The longest header of a server's frame (RFC 6455 §5.2).
const WS_HEADER_BYTES: usize = 10;
/// zlib's own default; a publication is compressed once, however many get it.
const DEFLATE_LEVEL: u32 = 6;

impl Encoder {
    /// Messages of at least `deflate_min_bytes` are worth compressing.
    pub fn new(deflate_min_bytes: usize) -> Self {
        Self {
            deflater: Deflater::new(DEFLATE_LEVEL),
            deflate_min_bytes,
            chunks: HashMap::default(),
            stomp: [const { [const { Vec::new() }; 3] }; 2],
            native: [const { Vec::new() }; 2],
            events: [const { Vec::new() }; 2],
        }
    }

    /// Begins a run of publications, all of one destination.
    pub fn run<'r>(&'r mut self, publications: &'r [Arc<Publication>]) -> Run<'r> {
        self.run_after(publications, None)
    }

    /// Begins a run of publications before which something was lost: STOMP has no message of its
    /// own for that, so the first frame says so to those who missed it.
    pub fn run_after<'r>(
        &'r mut self,
        publications: &'r [Arc<Publication>],
        lost: Option<Lost>,
    ) -> Run<'r> {
        self.chunks.clear();
        self.stomp.iter_mut().flatten().for_each(Vec::clear);
        self.native.iter_mut().for_each(Vec::clear);
        self.events.iter_mut().for_each(Vec::clear);
        Run { encoder: self, publications, lost, last: None }
    }

    /// What is told to one session of the hub, for each of its subscriptions by which it is.
    pub fn tell(
        &mut self,
        telling: &Telling,
        session: SessionKey,
        framing: Framing,
        hub: &Hub,
    ) -> Vec<Chunk> {
        let publications = std::slice::from_ref(&telling.publication);
        let mut run = self.run(publications);
        let channel = match &telling.to {
            Told::Asked(AskedWire::Native) => return vec![run.encode_native(false, framing)],
            Told::Asked(AskedWire::Events) => {
                let wire = WireKey::Events { index: None, named: false };
                return vec![run.encode((wire, framing, false), hub)];
            }
            Told::Asked(AskedWire::Stomp { version, id }) => {
                return vec![run.encode_stomp(*version, id, false, framing, None)];
            }
            Told::Subscribed(channel) => channel,
        };
        let destination = &telling.publication.destination;
        let own = hub.matching(channel, destination).flatten();
        let mut is_told = false;
        let mut chunks = Vec::new();
        for member in own.filter(|member| member.session == session) {
            // As with any publication, who is not told by which subscription gets it once.
            if member.wire.names_subscription() || !is_told {
                chunks.push(run.chunk(member.wire, framing, hub, None).clone());
                is_told = true;
            }
        }
        chunks
    }

    /// Frames one message of a session's own: an answer, not a publication.
    pub fn frame(&mut self, text: bool, payload: &[u8], framing: Framing) -> Chunk {
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        let mut out = Vec::with_capacity(payload.len() + WS_HEADER_BYTES);
        match framing {
            Framing::WebSocketDeflate if payload.len() >= self.deflate_min_bytes => {
                let mut deflated = Vec::with_capacity(payload.len() / 2);
                self.deflater.piece(payload, &mut deflated);
                deflate::strip_tail(&mut deflated);
                out.extend_from_slice(&ws::frame_header(opcode, true, deflated.len()));
                out.extend_from_slice(&deflated);
            }
            Framing::WebSocket | Framing::WebSocketDeflate => ws::frame(&mut out, opcode, payload),
            Framing::Stream => out.extend_from_slice(payload),
            Framing::Chunked => chunked(&mut out, payload),
            Framing::SockJs => {
                let mut frame = Vec::with_capacity(payload.len() + 16);
                frame.extend_from_slice(sockjs::frame::MESSAGES_BEGIN);
                sockjs::escape_lossy(payload, &mut frame);
                frame.extend_from_slice(sockjs::frame::MESSAGES_END);
                ws::frame(&mut out, Opcode::Text, &frame);
            }
            Framing::Items => {
                out.push(b',');
                out.extend_from_slice(payload);
            }
            Framing::Quoted => {
                out.extend_from_slice(b",\"");
                sockjs::escape_lossy(payload, &mut out);
                out.push(b'"');
            }
        }
        Chunk::new([Bytes::from(out)], 1)
    }
}

impl Encoder {
    /// Tells a listener what it has missed for good, by the native `lost` in `message`; it goes on
    /// from `position`.
    pub fn lost_event(
        &mut self,
        message: &[u8],
        position: Position,
        index: Option<u16>,
        cursor: &mut Cursor,
        framing: Framing,
    ) -> Chunk {
        if let Some(entry) = place_in(cursor, index) {
            *entry = Some(position);
        }
        if framing == Framing::Items {
            return self.frame(true, message, framing);
        }
        let mut event = Vec::with_capacity(message.len() + 64);
        sse::cursor_id(&mut event, cursor);
        sse::body(&mut event, Some(events::LOST), message);
        self.frame(true, &event, framing)
    }
}

impl Run<'_> {
    /// The run's frames for a subscriber; a listener's `cursor` moves on with them.
    pub fn chunk(
        &mut self,
        wire: WireKey,
        framing: Framing,
        hub: &Hub,
        cursor: Option<&mut Cursor>,
    ) -> &Chunk {
        self.chunk_of((wire, framing, false), hub, cursor)
    }

    /// The run's frames for a member of the hub, which tell it of the loss if that was its own.
    pub fn chunk_for(
        &mut self,
        member: &Member,
        framing: Framing,
        hub: &Hub,
        cursor: Option<&mut Cursor>,
    ) -> &Chunk {
        let is_stomp = matches!(member.wire, WireKey::Stomp { .. });
        let tells = self.lost.is_some() && member.missed && is_stomp;
        self.chunk_of((member.wire, framing, tells), hub, cursor)
    }

    fn chunk_of(&mut self, key: ChunkKey, hub: &Hub, cursor: Option<&mut Cursor>) -> &Chunk {
        if let ((WireKey::Events { index, named }, framing, _), Some(cursor)) = (key, cursor) {
            let chunk = self.events_chunk(index, named, framing, cursor);
            return &self.last.insert((key, chunk)).1;
        }
        if !matches!(&self.last, Some((last, _)) if *last == key) {
            let known = self.encoder.chunks.get(&key).cloned();
            let chunk = known.unwrap_or_else(|| {
                let chunk = self.encode(key, hub);
                if self.encoder.chunks.len() < CACHED_CHUNKS_MAX {
                    self.encoder.chunks.insert(key, chunk.clone());
                }
                chunk
            });
            self.last = Some((key, chunk));
        }
        &self.last.as_ref().expect("it was set above").1
    }

    fn encode(&mut self, (wire, framing, tells): ChunkKey, hub: &Hub) -> Chunk {
        match wire {
            WireKey::Native { named } => self.encode_native(named, framing),
            WireKey::Events { named, .. } if framing == Framing::Items => {
                self.encode_native(named, framing)
            }
            WireKey::Events { named, .. } => self.encode_events(named, framing, |_, _| {}),
            WireKey::Stomp { version, id, ack } => {
                let lost = self.lost.filter(|_| tells);
                self.encode_stomp(version, hub.subscription_id(id), ack, framing, lost)
            }
        }
    }

    fn encode_native(&mut self, named: bool, framing: Framing) -> Chunk {
        let at = usize::from(named);
        if self.encoder.native[at].is_empty() {
            let messages = self.publications.iter().map(|one| native_message(one, named));
            self.encoder.native[at] = messages.collect();
        }
        let mut out = Vec::new();
        for message in self.encoder.native[at].clone() {
            let chunk = self.encoder.frame(true, &message, framing);
            for piece in chunk.pieces() {
                out.extend_from_slice(piece);
            }
        }
        Chunk::new([Bytes::from(out)], self.publications.len() as u32)
    }

    /// Events with the ids of the listener that `cursor` belongs to. Whoever listens to nothing
    /// else shares them, and so does everybody where there are no positions.
    fn events_chunk(
        &mut self,
        index: Option<u16>,
        named: bool,
        framing: Framing,
        cursor: &mut Cursor,
    ) -> Chunk {
        let newest = self.publications.last().and_then(|newest| newest.position);
        let is_alone = cursor.positions().len() == 1;
        let place = place_in(cursor, index);
        let has_place = place.is_some();
        if newest.is_some() && has_place && !is_alone && framing != Framing::Items {
            return self.encode_events(named, framing, |publication, out| {
                if let Some(position) = place_in(cursor, index) {
                    *position = publication.position.or(*position);
                }
                sse::cursor_id(out, cursor);
            });
        }
        if let Some(position) = place {
            *position = newest.or(*position);
        }
        if framing == Framing::Items {
            // Where the listener stands is told once, behind all of them.
            return self.encode_native(named, framing);
        }
        let key = (WireKey::Events { index: has_place.then_some(0), named }, framing, false);
        if let Some(known) = self.encoder.chunks.get(&key) {
            return known.clone();
        }
        let chunk = self.encode_events(named, framing, |publication, out| {
            if let Some(position) = publication.position.filter(|_| has_place) {
                sse::position_id(out, position);
            }
        });
        self.encoder.chunks.insert(key, chunk.clone());
        chunk
    }

    fn encode_events(
        &mut self,
        named: bool,
        framing: Framing,
        mut id: impl FnMut(&Publication, &mut Vec<u8>),
    ) -> Chunk {
        let at = usize::from(named);
        if self.encoder.events[at].is_empty() {
            let events = self.publications.iter().map(|publication| {
                let mut out = Vec::new();
                let event = publication.is_presence().then_some(events::PRESENCE);
                sse::body(&mut out, event, &native_message(publication, named));
                Bytes::from(out)
            });
            self.encoder.events[at] = events.collect();
        }
        let mut out = Vec::new();
        for (publication, event) in self.publications.iter().zip(&self.encoder.events[at]) {
            id(publication, &mut out);
            out.extend_from_slice(event);
        }
        let frames = self.publications.len() as u32;
        match framing {
            Framing::Stream => Chunk::new([out.into()], frames),
            _ => self.encoder.frame(true, &out, framing).of_frames(frames),
        }
    }

    /// STOMP frames as the messages of a transport that carries text only: a body that is not text
    /// goes as base64, and says so.
    fn encode_stomp_text(
        &mut self,
        version: Version,
        id: &str,
        ack: bool,
        framing: Framing,
        mut lost: Option<Lost>,
    ) -> Chunk {
        let mut out = Vec::new();
        for publication in self.publications {
            let mut message = stomp_head(publication, version, id, ack);
            if std::str::from_utf8(&publication.body).is_ok() {
                let rest = StompRest::new(publication, version, lost.take());
                message.extend_from_slice(&rest.bytes);
            } else {
                let rest = StompRest::new(&in_base64(publication), version, lost.take());
                message.extend_from_slice(&rest.bytes);
            }
            for piece in self.encoder.frame(true, &message, framing).pieces() {
                out.extend_from_slice(piece);
            }
        }
        Chunk::new([Bytes::from(out)], self.publications.len() as u32)
    }

    fn encode_stomp(
        &mut self,
        version: Version,
        id: &str,
        ack: bool,
        framing: Framing,
        mut lost: Option<Lost>,
    ) -> Chunk {
        if framing.is_text_only() {
            return self.encode_stomp_text(version, id, ack, framing, lost);
        }
        let Encoder { deflater, deflate_min_bytes, stomp, .. } = &mut *self.encoder;
        let rests = &mut stomp[usize::from(lost.is_some())][version as usize];
        if rests.is_empty() {
            let rest =
                |publication: &Arc<Publication>| StompRest::new(publication, version, lost.take());
            *rests = self.publications.iter().map(rest).collect();
        }
        let copied = rests.iter().all(|rest| rest.bytes.len() <= COPY_MAX_BYTES);
        let mut pieces = Vec::new();
        let mut out = Vec::new();
        for (publication, rest) in self.publications.iter().zip(rests) {
            let head = stomp_head(publication, version, id, ack);
            let deflated = framing == Framing::WebSocketDeflate
                && head.len() + rest.bytes.len() >= *deflate_min_bytes;
            let opcode = rest.opcode;
            let body = if deflated {
                let mut stored = Vec::with_capacity(head.len() + 5);
                deflate::stored_piece(&head, &mut stored);
                let body = rest.deflated(deflater);
                let length = stored.len() + body.len();
                out.extend_from_slice(&ws::frame_header(opcode, true, length));
                out.extend_from_slice(&stored);
                body
            } else {
                let length = head.len() + rest.bytes.len();
                match framing {
                    Framing::WebSocket | Framing::WebSocketDeflate => {
                        out.extend_from_slice(&ws::frame_header(opcode, false, length));
                    }
                    _ => {}
                }
                out.extend_from_slice(&head);
                rest.bytes.clone()
            };
            if copied {
                out.extend_from_slice(&body);
            } else {
                pieces.push(Bytes::from(std::mem::take(&mut out)));
                pieces.push(body);
            }
        }
        if copied {
            pieces.push(Bytes::from(out));
        }
        Chunk::new(pieces, self.publications.len() as u32)
    }
}

impl StompRest {
    fn new(publication: &Publication, version: Version, lost: Option<Lost>) -> Self {
        let mut out = Vec::with_capacity(publication.body.len() + 160);
        let mut writer = stomp::Writer::continuing(&mut out, version)
            .header("message-id", &publication.id.to_string())
            .header("destination", &publication.destination.shown());
        if let Some(content_type) = publication.content_type.as_str() {
            writer = writer.header("content-type", content_type);
        }
        if let Some(position) = publication.position {
            writer = writer
                .header("epoch", &format!("{:x}", position.epoch))
                .header("offset", &position.offset.to_string());
        }
        if let Some(lost) = lost {
            writer = writer.header("lost", lost.code());
        }
        if publication.is_presence() {
            writer = writer.header("event", "presence");
        }
        for (name, value) in &publication.headers {
            writer = writer.header(name, value);
        }
        writer.body(&publication.body);
        let opcode = match std::str::from_utf8(&publication.body) {
            Ok(_) => Opcode::Text,
            Err(_) => Opcode::Binary,
        };
        Self { bytes: out.into(), opcode, deflated: None }
    }

    fn deflated(&mut self, deflater: &mut Deflater) -> Bytes {
        let made = self.deflated.get_or_insert_with(|| {
            let mut out = Vec::with_capacity(self.bytes.len() / 2);
            deflater.piece(&self.bytes, &mut out);
            deflate::strip_tail(&mut out);
            out.into()
        });
        made.clone()
    }
}

/// Where a listener stands in one of its destinations, if that has a place in its cursor.
fn place_in(cursor: &mut Cursor, index: Option<u16>) -> Option<&mut Option<Position>> {
    cursor.positions_mut().get_mut(usize::from(index?))
}

/// The same publication, its body in base64.
fn in_base64(publication: &Publication) -> Publication {
    let mut headers = publication.headers.to_vec();
    headers.push(("content-transfer-encoding".into(), "base64".into()));
    Publication {
        body: STANDARD.encode(&publication.body).into(),
        headers: headers.into(),
        is_json: false,
        ..publication.clone()
    }
}

fn stomp_head(publication: &Publication, version: Version, id: &str, ack: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(32 + id.len());
    // An ack names one delivery: the subscription and the message (STOMP 1.2, "ACK").
    let ack = ack.then(|| format!("{id}:{}", publication.id));
    stomp::message_head(&mut head, version, Some(id), ack.as_deref());
    head
}

/// Appends a chunk of a body (RFC 9112 §7.1). No chunk is empty: that would end the body.
fn chunked(out: &mut Vec<u8>, payload: &[u8]) {
    if !payload.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }
}

fn native_message(publication: &Publication, named: bool) -> Bytes {
    let mut out = Vec::with_capacity(publication.body.len() + 192);
    if publication.is_presence() {
        native::write_presence(&mut out, &shown_to(publication, named), &publication.body);
    } else {
        write_native(&mut out, publication, named);
    }
    out.into()
}

/// A publication as a native `message`, with the user's name in a user destination.
pub fn message_of(publication: &Publication) -> String {
    let mut out = Vec::with_capacity(publication.encoded_bytes());
    write_native(&mut out, publication, true);
    String::from_utf8(out).expect("a native message is JSON, which is UTF-8")
}

/// Appends a publication as a native `message`.
pub(crate) fn write_native(out: &mut Vec<u8>, publication: &Publication, named: bool) {
    native::write_message(
        out,
        &MessageFields {
            to: &shown_to(publication, named),
            id: &publication.id.to_string(),
            body: &publication.body,
            content_type: publication.content_type.as_str(),
            is_json: publication.is_json,
            from: publication.publisher.as_deref(),
            at_unix_ms: publication.at_unix_ms,
            position: publication.position,
            headers: &publication.headers,
        },
    );
}

/// The destination, as its subscriber asked for it.
fn shown_to(publication: &Publication, named: bool) -> Cow<'_, str> {
    let destination = &publication.destination;
    if named { destination.as_str().into() } else { destination.shown() }
}

#[cfg(test)]
mod tests;
