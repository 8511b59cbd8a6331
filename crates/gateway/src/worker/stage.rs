//! What goes out at the end of a tick: each connection's chunks, linked in one arena.

use fanlight_engine::hub::SessionKey;
use fanlight_engine::outbox::Chunk;

use super::slot::Slot;

/// So many chunks are some hundred KiB.
const LARGE: usize = 16 * 1024;

/// Chunks that wait for the end of the tick, so that each connection gets one `send` for all of
/// them. It lives as long as the worker and costs a connection nothing while it is empty.
#[derive(Default)]
pub(super) struct Stage {
    nodes: Vec<Node>,
    /// The connections that have something here, in the order of their first chunk.
    dirty: Vec<(SessionKey, u64)>,
}

struct Node {
    chunk: Chunk,
    next: Option<u32>,
}

impl Stage {
    /// Puts `chunk` behind what `slot` has here already.
    pub(super) fn push(&mut self, key: SessionKey, slot: &mut Slot, chunk: Chunk) {
        let at = self.nodes.len() as u32;
        self.nodes.push(Node { chunk, next: None });
        if let Some((_, last)) = &mut slot.staged {
            self.nodes[*last as usize].next = Some(at);
            *last = at;
        } else {
            self.dirty.push((key, slot.serial));
            slot.staged = Some((at, at));
        }
    }

    /// Takes the connections that have something here.
    pub(super) fn take_dirty(&mut self) -> Vec<(SessionKey, u64)> {
        std::mem::take(&mut self.dirty)
    }

    /// Takes `slot`'s chunks into `chunks`, in order.
    pub(super) fn take(&mut self, slot: &mut Slot, chunks: &mut Vec<Chunk>) {
        chunks.clear();
        let mut next = slot.staged.take().map(|(first, _)| first);
        while let Some(at) = next {
            let node = &self.nodes[at as usize];
            chunks.push(node.chunk.clone());
            next = node.next;
        }
    }

    /// Ends the tick; gives `dirty` back for the next one.
    pub(super) fn clear(&mut self, mut dirty: Vec<(SessionKey, u64)>) {
        self.nodes.clear();
        self.nodes.shrink_to(LARGE);
        dirty.clear();
        dirty.shrink_to(LARGE);
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Whether it should be sent before more is added, so that it stays of a bounded size.
    pub(super) fn is_large(&self) -> bool {
        self.nodes.len() >= LARGE
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }
}
