//! Encodes publications once per encoding, for all subscribers of a worker (invariant 1).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fanlight_proto::native::{self, MessageFields};
use fanlight_proto::stomp::{self, Version};
use fanlight_proto::ws::deflate::{self, Deflater};
use fanlight_proto::ws::{self, Opcode};

use crate::history::Lost;
use crate::hub::{Hub, Member, WireKey};
use crate::outbox::Chunk;
use crate::publication::Publication;

/// How frames go on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// WebSocket messages as they are.
    WebSocket,
    /// WebSocket messages, those worth it compressed (RFC 7692).
    WebSocketDeflate,
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
        Run { encoder: self, publications, lost, last: None }
    }

    /// Frames one message of a session's own: an answer, not a publication.
    pub fn frame(&mut self, text: bool, payload: &[u8], framing: Framing) -> Chunk {
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        let mut out = Vec::with_capacity(payload.len() + WS_HEADER_BYTES);
        if framing == Framing::WebSocketDeflate && payload.len() >= self.deflate_min_bytes {
            let mut deflated = Vec::with_capacity(payload.len() / 2);
            self.deflater.piece(payload, &mut deflated);
            deflate::strip_tail(&mut deflated);
            out.extend_from_slice(&ws::frame_header(opcode, true, deflated.len()));
            out.extend_from_slice(&deflated);
        } else {
            ws::frame(&mut out, opcode, payload);
        }
        Chunk::new([Bytes::from(out)], 1)
    }
}

impl Run<'_> {
    /// The run's frames for a subscriber.
    pub fn chunk(&mut self, wire: WireKey, framing: Framing, hub: &Hub) -> &Chunk {
        self.chunk_of((wire, framing, false), hub)
    }

    /// The run's frames for a member of the hub, which tell it of the loss if that was its own.
    pub fn chunk_for(&mut self, member: &Member, framing: Framing, hub: &Hub) -> &Chunk {
        let is_stomp = matches!(member.wire, WireKey::Stomp { .. });
        let tells = self.lost.is_some() && member.missed && is_stomp;
        self.chunk_of((member.wire, framing, tells), hub)
    }

    fn chunk_of(&mut self, key: ChunkKey, hub: &Hub) -> &Chunk {
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

    fn encode_stomp(
        &mut self,
        version: Version,
        id: &str,
        ack: bool,
        framing: Framing,
        mut lost: Option<Lost>,
    ) -> Chunk {
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
                out.extend_from_slice(&ws::frame_header(opcode, false, length));
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

fn stomp_head(publication: &Publication, version: Version, id: &str, ack: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(32 + id.len());
    // An ack names one delivery: the subscription and the message (STOMP 1.2, "ACK").
    let ack = ack.then(|| format!("{id}:{}", publication.id));
    stomp::message_head(&mut head, version, Some(id), ack.as_deref());
    head
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

/// Appends a publication as a native `message`.
pub(crate) fn write_native(out: &mut Vec<u8>, publication: &Publication, named: bool) {
    native::write_message(
        out,
        &MessageFields {
            to: &shown_to(publication, named),
            id: &publication.id.to_string(),
            body: &publication.body,
            content_type: publication.content_type.as_str(),
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
