//! A publication's place in a destination's history.

use std::fmt;

/// (epoch, offset): `offset` counts from 1 and is consecutive within an `epoch`.
///
/// A changed epoch means that the history it counted in is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Names one unbroken history.
    pub epoch: u64,
    /// The publication's number in that history.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{}", self.epoch, self.offset)
    }
}
