//! What passed of late: a bounded tail of a timeline, so that who joins can catch up with it.

use std::collections::VecDeque;
use std::sync::Arc;

use fanlight_proto::Position;

use super::weight;
use crate::publication::Publication;

/// Consecutive publications up to where the timeline stands.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The position before the first.
    from: Option<Position>,
    publications: VecDeque<Arc<Publication>>,
    bytes: usize,
}

impl Kept {
    /// Begins anew, behind `from`.
    pub(super) fn restart(&mut self, from: Option<Position>) {
        *self = Self { from, ..Self::default() };
    }

    /// The position before the first.
    pub(super) fn from(&self) -> Option<Position> {
        self.from
    }

    pub(super) fn push(&mut self, publication: &Arc<Publication>) {
        let Some(position) = publication.position else { return };
        if self.from.is_none() {
            self.from = Some(Position { offset: position.offset.saturating_sub(1), ..position });
        }
        self.bytes += weight(publication);
        self.publications.push_back(Arc::clone(publication));
        while self.publications.len() > KEPT_MAX || self.bytes > KEPT_MAX_BYTES {
            let Some(dropped) = self.publications.pop_front() else { return };
            self.bytes -= weight(&dropped);
            self.from = dropped.position;
        }
    }

    /// What came after `position`, if all of it is here.
    pub(super) fn after(&self, position: Position) -> Option<Vec<Arc<Publication>>> {
        let skip = match self.from {
            Some(from) if from == position => 0,
            Some(from) => {
                let at = position.offset.checked_sub(from.offset)?.checked_sub(1)?;
                let at = usize::try_from(at).ok()?;
                if self.publications.get(at)?.position != Some(position) {
                    return None;
                }
                at + 1
            }
            None => return None,
        };
        Some(self.publications.iter().skip(skip).cloned().collect())
    }
}

/// The bounds of what is kept, per destination that somebody joins.
const KEPT_MAX: usize = 1024;
const KEPT_MAX_BYTES: usize = 256 * 1024;
