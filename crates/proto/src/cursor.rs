//! Where a reader of many destinations stands: a position for each, in the order it named them.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use crate::position::Position;

/// Positions in as many destinations, the n-th of the n-th that the reader asked for: as text,
/// `1f0c:41,2a:7,-`, where `-` is a destination without a position.
///
/// It is the `id:` and `Last-Event-ID` of server-sent events and the `cursor` of polls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Vec<Option<Position>>);

/// Why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// There is nothing.
    #[error("a cursor must not be empty")]
    Empty,
    /// More than [`Cursor::MAX_ENTRIES`].
    #[error("a cursor has at most {} positions", Cursor::MAX_ENTRIES)]
    TooManyEntries,
    /// One is neither a position nor `-`.
    #[error("position {number} of the cursor is neither `epoch:offset` nor `-`")]
    BadEntry {
        /// Which, counted from 1.
        number: usize,
    },
    /// It is of a request for other destinations.
    #[error("the cursor has {found} positions for {expected} destinations")]
    WrongLength {
        /// How many destinations were asked for.
        expected: usize,
        /// How many positions there are.
        found: usize,
    },
}

impl Cursor {
    /// The most destinations.
    pub const MAX_ENTRIES: usize = 128;

    /// The longest text of a cursor, in bytes.
    pub const MAX_BYTES: usize = Self::MAX_ENTRIES * (Self::MAX_ENTRY_BYTES + 1) - 1;

    /// An epoch, a colon and an offset.
    const MAX_ENTRY_BYTES: usize = 16 + 1 + 20;

    /// From positions, in the order of their destinations.
    pub fn new(positions: Vec<Option<Position>>) -> Result<Self, CursorError> {
        match positions.len() {
            0 => Err(CursorError::Empty),
            1..=Self::MAX_ENTRIES => Ok(Self(positions)),
            _ => Err(CursorError::TooManyEntries),
        }
    }

    /// Reads the cursor of a request for that many destinations.
    pub fn parse_for(text: &str, destinations: usize) -> Result<Self, CursorError> {
        let cursor: Self = text.parse()?;
        let found = cursor.0.len();
        if found == destinations {
            Ok(cursor)
        } else {
            Err(CursorError::WrongLength { expected: destinations, found })
        }
    }

    /// The positions, in the order of their destinations.
    pub fn positions(&self) -> &[Option<Position>] {
        &self.0
    }

    /// The same, to move on from.
    pub fn positions_mut(&mut self) -> &mut [Option<Position>] {
        &mut self.0
    }

    /// Appends it as text.
    pub fn write(&self, out: &mut Vec<u8>) {
        write!(out, "{self}").expect("a Vec takes all that is written");
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, position) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match position {
                Some(position) => position.fmt(f)?,
                None => f.write_str("-")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.is_empty() {
            return Err(CursorError::Empty);
        }
        let mut positions = Vec::new();
        for (at, entry) in text.split(',').enumerate() {
            if at == Self::MAX_ENTRIES {
                return Err(CursorError::TooManyEntries);
            }
            let bad = CursorError::BadEntry { number: at + 1 };
            positions.push(match entry {
                "-" => None,
                _ if entry.len() > Self::MAX_ENTRY_BYTES => return Err(bad),
                _ => Some(entry.parse().map_err(|_| bad)?),
            });
        }
        Ok(Self(positions))
    }
}
