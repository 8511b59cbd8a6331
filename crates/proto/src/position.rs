//! A publication's place in a destination's history.

use std::fmt;
use std::str::FromStr;

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

/// A text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is `epoch:offset`: up to 16 hexadecimal digits, and a whole number")]
pub struct PositionError;

impl Position {
    /// From an epoch in hexadecimal digits, as it is written everywhere, and an offset.
    pub fn from_parts(epoch: &str, offset: u64) -> Result<Self, PositionError> {
        let is_hex =
            (1..=16).contains(&epoch.len()) && epoch.bytes().all(|b| b.is_ascii_hexdigit());
        let epoch = u64::from_str_radix(epoch, 16).ok().filter(|_| is_hex);
        Ok(Self { epoch: epoch.ok_or(PositionError)?, offset })
    }

    /// The epoch in hexadecimal digits.
    pub fn epoch_text(&self) -> String {
        format!("{:x}", self.epoch)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, offset) = text.split_once(':').ok_or(PositionError)?;
        let is_number = !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_digit());
        let offset = offset.parse().ok().filter(|_| is_number);
        Self::from_parts(epoch, offset.ok_or(PositionError)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "x:1",
            "+1:1",
            "1:+1",
            "1:-1",
            "1:1:1",
            " 1:1",
            "11111111111111111:1",
            "1:99999999999999999999",
        ] {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_position_is_read_as_it_was_written(epoch in any::<u64>(), offset in any::<u64>()) {
            let position = Position { epoch, offset };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            prop_assert_eq!(Position::from_parts(&position.epoch_text(), offset), Ok(position));
        }
    }
}
