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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch, offset }
    }

    #[test]
    fn positions_are_in_the_order_of_their_destinations() {
        for (text, positions) in [
            ("1f0c:41,2a:7,-", vec![Some(at(0x1f0c, 41)), Some(at(0x2a, 7)), None]),
            ("-", vec![None]),
            ("0:0", vec![Some(at(0, 0))]),
        ] {
            let cursor = Cursor::new(positions.clone()).unwrap();
            assert_eq!(cursor.to_string(), text);
            assert_eq!(text.parse(), Ok(cursor));
            assert_eq!(text.parse::<Cursor>().unwrap().positions(), positions);
        }
    }

    #[test]
    fn a_cursor_moves_on_where_it_is_told() {
        let mut cursor: Cursor = "1:1,-".parse().unwrap();
        cursor.positions_mut()[1] = Some(at(2, 9));
        let mut out = b"id: ".to_vec();
        cursor.write(&mut out);
        assert_eq!(out, b"id: 1:1,2:9");
    }

    #[test]
    fn what_is_no_cursor_says_where() {
        let long = format!("-,1:{}1", "0".repeat(36));
        for (text, error) in [
            ("", CursorError::Empty),
            (",", CursorError::BadEntry { number: 1 }),
            ("1:1,", CursorError::BadEntry { number: 2 }),
            ("--", CursorError::BadEntry { number: 1 }),
            ("-,1", CursorError::BadEntry { number: 2 }),
            ("-,-,x:1", CursorError::BadEntry { number: 3 }),
            ("1:1 ,-", CursorError::BadEntry { number: 1 }),
            ("1:1\n", CursorError::BadEntry { number: 1 }),
            (&long, CursorError::BadEntry { number: 2 }),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(error), "{text}");
        }
        let error = "1:1,".parse::<Cursor>().unwrap_err();
        assert_eq!(error.to_string(), "position 2 of the cursor is neither `epoch:offset` nor `-`");
    }

    #[test]
    fn a_cursor_is_for_as_many_destinations_as_it_has_positions() {
        assert!(Cursor::parse_for("-,1:1", 2).is_ok());
        for destinations in [1, 3] {
            let error = CursorError::WrongLength { expected: destinations, found: 2 };
            assert_eq!(Cursor::parse_for("-,1:1", destinations), Err(error));
        }
        assert_eq!(Cursor::parse_for("x", 2), Err(CursorError::BadEntry { number: 1 }));
    }

    #[test]
    fn a_cursor_is_bounded() {
        let most = vec![Some(at(u64::MAX, u64::MAX)); Cursor::MAX_ENTRIES];
        let longest = Cursor::new(most.clone()).unwrap();
        let text = longest.to_string();
        assert_eq!(text.len(), Cursor::MAX_BYTES);
        assert_eq!(text.parse(), Ok(longest));
        assert_eq!(format!("{text},-").parse::<Cursor>(), Err(CursorError::TooManyEntries));
        assert_eq!(Cursor::new([most, vec![None]].concat()), Err(CursorError::TooManyEntries));
        assert_eq!(Cursor::new(Vec::new()), Err(CursorError::Empty));
    }

    proptest! {
        #[test]
        fn every_cursor_is_read_back_equal(
            positions in vec(option::of((any::<u64>(), any::<u64>())), 1..20),
        ) {
            let positions = positions.into_iter();
            let positions = positions.map(|position| position.map(|(epoch, offset)| at(epoch, offset)));
            let cursor = Cursor::new(positions.collect()).unwrap();
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}|[0-9a-f:,-]{0,60}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
    }
}
