//! What is said, and the names of who says it where: checked once, where they come in.

use serde::{Deserialize, Serialize};

/// Somebody's name: 1 to 32 letters, digits, `.`, `_` or `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// A room's: 1 to 32 lower-case letters of ASCII, digits or `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room(String);

/// What somebody sends.
#[derive(Debug, Deserialize)]
pub struct Draft {
    /// The author's own: the same where it is sent again.
    pub id: String,
    /// 1 to 2000 characters.
    pub text: String,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Room(Room),
    To(Name),
}

/// A message that is kept.
#[derive(Debug, Serialize)]
pub struct Message {
    /// Counts up over all messages.
    pub seq: u64,
    pub id: String,
    pub author: String,
    pub room: Option<String>,
    pub recipient: Option<String>,
    pub text: String,
    /// Milliseconds since 1970.
    pub at: i64,
}

impl Name {
    pub fn parse(text: &str) -> Option<Self> {
        let good = |c: char| c.is_alphanumeric() || "._-".contains(c);
        let count = text.chars().count();
        (1..=32).contains(&count).then_some(())?;
        text.chars().all(good).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Room {
    pub fn parse(text: &str) -> Option<Self> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let is_room = (1..=32).contains(&text.len()) && text.bytes().all(good);
        is_room.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Draft {
    /// Why it can't be taken, if so.
    pub fn fault(&self) -> Option<&'static str> {
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if self.id.is_empty() || self.id.len() > 36 || !self.id.bytes().all(good) {
            return Some("`id` has 1 to 36 letters, digits or `-`");
        }
        let count = self.text.chars().count();
        (self.text.trim().is_empty() || count > 2000).then_some("`text` has 1 to 2000 characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rooms_are_what_may_stand_in_a_destination() {
        for name in ["ann", "Jürgen", "a.b_c-1", &"x".repeat(32)] {
            assert!(Name::parse(name).is_some(), "{name:?}");
        }
        for name in ["", "a/b", "a b", "*", "{x}", "<b>", &"x".repeat(33)] {
            assert!(Name::parse(name).is_none(), "{name:?}");
        }
        for room in ["lobby", "room-1"] {
            assert!(Room::parse(room).is_some(), "{room:?}");
        }
        for room in ["", "Lobby", "a.b", "ü", "a/b", &"x".repeat(33)] {
            assert!(Room::parse(room).is_none(), "{room:?}");
        }
    }
}
