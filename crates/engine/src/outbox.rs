//! A session's bounded queue of encoded frames, unallocated while its socket keeps up.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::Bytes;

/// Encoded frames that are written together; a clone is a reference count within the worker.
#[derive(Debug, Clone)]
pub struct Chunk {
    pieces: Rc<[Bytes]>,
    bytes: usize,
    frames: u32,
}

impl Chunk {
    /// `frames` whole frames, whose bytes are `pieces` one after the other.
    pub fn new(pieces: impl Into<Rc<[Bytes]>>, frames: u32) -> Self {
        let pieces = pieces.into();
        let bytes = pieces.iter().map(Bytes::len).sum();
        Self { pieces, bytes, frames }
    }

    /// The same bytes, as that many frames.
    #[must_use]
    pub fn of_frames(self, frames: u32) -> Self {
        Self { frames, ..self }
    }

    /// The bytes, in pieces.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How many bytes it has in all.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How many frames it holds.
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

/// What a session could not be sent yet.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// How much of the first chunk is written.
    written: usize,
    bytes: usize,
    frames: u32,
    /// When it last began to wait or got on, in monotonic milliseconds.
    waits_since_ms: u64,
}

/// The bounds of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// The most bytes that may wait.
    pub bytes: usize,
    /// The most frames that may wait.
    pub frames: u32,
}

/// The outbox is full: the session is a slow consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct OutboxFull;

impl Outbox {
    /// Queues `chunk`, whose first `written` bytes are written already.
    ///
    /// A chunk is taken whole or not at all. One that is partly written is always taken, since the
    /// stream would be broken without its rest.
    pub fn push(
        &mut self,
        chunk: Chunk,
        written: usize,
        limits: OutboxLimits,
    ) -> Result<(), OutboxFull> {
        debug_assert!(written == 0 || self.is_empty(), "only the first chunk is partly written");
        let waiting = chunk.len() - written;
        let fits = self.bytes + waiting <= limits.bytes
            && self.frames.saturating_add(chunk.frames) <= limits.frames;
        if !fits && written == 0 {
            return Err(OutboxFull);
        }
        if self.chunks.is_empty() {
            self.written = written;
        }
        self.bytes += waiting;
        self.frames += chunk.frames;
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// Drops all that is not begun, so that a last word fits; the number of dropped frames.
    pub fn abandon(&mut self) -> u32 {
        let keep = usize::from(self.written > 0);
        let dropped = self.chunks.drain(keep.min(self.chunks.len())..);
        let mut frames = 0;
        for chunk in dropped {
            self.bytes -= chunk.len();
            self.frames -= chunk.frames;
            frames += chunk.frames;
        }
        frames
    }

    /// Takes the oldest chunks, at least one and no more than `max_bytes` of them.
    pub fn take(&mut self, max_bytes: usize) -> Vec<Chunk> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.chunks.front() {
            bytes += first.len();
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            self.bytes -= first.len();
            self.frames -= first.frames;
            taken.extend(self.chunks.pop_front());
        }
        taken
    }

    /// Fills `slices` with what comes next; the number of slices filled.
    pub fn slices<'o>(&'o self, slices: &mut [IoSlice<'o>]) -> usize {
        fill_slices(&self.chunks, self.written, slices)
    }

    /// Removes `bytes` that were written.
    pub fn advance(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.written += bytes;
        while let Some(first) = self.chunks.front() {
            if self.written < first.len() {
                break;
            }
            self.written -= first.len();
            self.frames -= first.frames;
            self.chunks.pop_front();
        }
    }

    /// Notes that it begins to wait, or gets on.
    pub fn waits_from(&mut self, now_ms: u64) {
        self.waits_since_ms = now_ms;
    }

    /// How long it has waited without getting on, in milliseconds.
    pub fn waits_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.waits_since_ms)
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// Fills `slices` with what comes behind the first `written` bytes of `chunks`, as far as they go;
/// the number of slices filled.
pub fn fill_slices<'c>(
    chunks: impl IntoIterator<Item = &'c Chunk>,
    written: usize,
    slices: &mut [IoSlice<'c>],
) -> usize {
    let mut skip = written;
    let mut filled = 0;
    for piece in chunks.into_iter().flat_map(Chunk::pieces) {
        if filled == slices.len() {
            break;
        }
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        slices[filled] = IoSlice::new(&piece[skip..]);
        skip = 0;
        filled += 1;
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: OutboxLimits = OutboxLimits { bytes: 10, frames: 3 };

    fn chunk(text: &'static str) -> Chunk {
        Chunk::new([Bytes::from_static(text.as_bytes())], 1)
    }

    #[test]
    fn an_outbox_refuses_what_exceeds_its_bytes_or_frames() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(chunk("12345678901"), 0, LIMITS), Err(OutboxFull));
        for _ in 0..3 {
            outbox.push(chunk("1"), 0, LIMITS).unwrap();
        }
        assert_eq!(outbox.push(chunk("1"), 0, LIMITS), Err(OutboxFull));
    }

    #[test]
    fn abandoning_keeps_only_a_chunk_that_is_begun() {
        let mut outbox = Outbox::default();
        outbox.push(chunk("abc"), 1, LIMITS).unwrap();
        outbox.push(chunk("def"), 0, LIMITS).unwrap();
        assert_eq!(outbox.abandon(), 1);
        assert_eq!(outbox.bytes(), 2);
        outbox.advance(2);
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out_in_order_however_it_is_written(
            chunks in proptest::collection::vec(proptest::collection::vec("[a-z]{0,5}", 1..4), 1..8),
            steps in proptest::collection::vec(1_usize..7, 1..80),
        ) {
            let limits = OutboxLimits { bytes: usize::MAX, frames: u32::MAX };
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for pieces in chunks {
                expected.extend(pieces.concat().into_bytes());
                let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
                let chunk = Chunk::new(pieces, 1);
                if !chunk.is_empty() {
                    outbox.push(chunk, 0, limits).unwrap();
                }
            }
            let mut actual = Vec::new();
            for step in steps.into_iter().cycle() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = outbox.slices(&mut slices);
                let available: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = step.min(available.len());
                actual.extend_from_slice(&available[..taken]);
                outbox.advance(taken);
                if outbox.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(actual, expected);
            prop_assert_eq!(outbox.bytes(), 0);
        }
    }
}
