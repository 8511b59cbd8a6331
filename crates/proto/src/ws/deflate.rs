//! permessage-deflate without context takeover (RFC 7692): each message stands alone.

mod offer;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::WsError;

pub use offer::{Accepted, negotiate};

/// Compresses messages, or pieces that concatenate to messages. One serves any number of
/// connections.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
}

impl Deflater {
    /// `level` as in zlib: 1 is fastest, 9 smallest.
    pub fn new(level: u32) -> Self {
        Self { stream: Compress::new(Compression::new(level), false) }
    }

    /// Appends deflate blocks for `input`, ending in `00 00 FF FF` at a byte boundary.
    ///
    /// They refer to nothing before them, so that pieces, and [stored](stored_piece) ones, can be put
    /// one behind the other. [`strip_tail`] makes the last one the end of a message.
    pub fn piece(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.stream.reset();
        // Room for the worst case, so that one call does it: a second one could flush twice.
        out.reserve(input.len() + input.len() / 8 + 64);
        let mut rest = input;
        loop {
            let consumed_before = self.stream.total_in();
            self.stream
                .compress_vec(rest, out, FlushCompress::Sync)
                .expect("a compressor between calls is always in a valid state");
            rest = &rest[(self.stream.total_in() - consumed_before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                debug_assert!(out.ends_with(&TAIL));
                return;
            }
            out.reserve(rest.len() + 64);
        }
    }
}

/// Appends `input` as stored deflate blocks (RFC 1951 §3.2.4), to be followed by a
/// [piece](Deflater::piece).
pub fn stored_piece(input: &[u8], out: &mut Vec<u8>) {
    for block in input.chunks(usize::from(u16::MAX)) {
        let len = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Removes the `00 00 FF FF` that the last piece of a message ends in (RFC 7692 §7.2.1).
pub fn strip_tail(message: &mut Vec<u8>) {
    debug_assert!(message.ends_with(&TAIL));
    message.truncate(message.len().saturating_sub(TAIL.len()));
}

/// Inflates messages. One serves any number of connections; it allocates with the first message.
#[derive(Debug, Default)]
pub struct Inflater {
    stream: Option<Decompress>,
}

impl Inflater {
    /// An inflater that has allocated nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inflates the whole payload of one message (RFC 7692 §7.2.2).
    ///
    /// Stops as soon as there are more than `max_bytes`.
    pub fn inflate(&mut self, payload: &[u8], max_bytes: usize) -> Result<Vec<u8>, WsError> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        stream.reset(false);
        let mut out = Vec::new();
        inflate_part(stream, payload, &mut out, max_bytes)?;
        let end = inflate_part(stream, &TAIL_AND_END, &mut out, max_bytes)?;
        if end == Status::StreamEnd { Ok(out) } else { Err(WsError::BadDeflate) }
    }
}

/// The longest payload that is worth inflating to `max_message_bytes`: an encoder that never
/// looks for matches spends up to nine bits on a byte.
pub(super) fn max_compressed_bytes(max_message_bytes: usize) -> usize {
    max_message_bytes.saturating_add(max_message_bytes / 8).saturating_add(64)
}

/// Inflates all of `part`; tells whether that ended with a final block.
fn inflate_part(
    stream: &mut Decompress,
    mut part: &[u8],
    out: &mut Vec<u8>,
    max_bytes: usize,
) -> Result<Status, WsError> {
    loop {
        if out.len() == out.capacity() {
            // One byte more than is allowed, to see that there is more.
            let wanted = out.len().max(MIN_GROWTH).min(max_bytes.saturating_add(1) - out.len());
            out.reserve_exact(wanted);
        }
        let consumed_before = stream.total_in();
        let status = stream
            .decompress_vec(part, out, FlushDecompress::None)
            .map_err(|_| WsError::BadDeflate)?;
        part = &part[(stream.total_in() - consumed_before) as usize..];
        if out.len() > max_bytes {
            return Err(WsError::TooLarge { limit: max_bytes });
        }
        if status == Status::StreamEnd {
            if part.is_empty() {
                return Ok(status);
            }
            // RFC 7692 §7.2.3.4: a final block inside a message; another stream follows it.
            stream.reset(false);
        } else if out.len() < out.capacity() {
            return if part.is_empty() { Ok(status) } else { Err(WsError::BadDeflate) };
        }
    }
}

/// What a sync flush ends in (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// Behind the tail that senders leave out (RFC 7692 §7.2.2), an empty final block: the stream ends
/// with it if, and only if, the payload ended where a tail belongs.
const TAIL_AND_END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];
const MIN_GROWTH: usize = 512;

#[cfg(test)]
mod tests;
