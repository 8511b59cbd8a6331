//! A frame's headers: one text for all of them, so that a frame costs two allocations.

use std::fmt;

use super::Version;
use super::escape::{UndefinedEscape, unescape};

/// The headers of a frame, unescaped and in order. Of a repeated header only the first is kept
/// ("Repeated Header Entries").
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Name, value, name, value, ... without anything between.
    text: String,
    /// Where each name and its value end in `text`.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of the header `name`. Names are case-sensitive.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == name).then_some(value))
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let name = &self.text[start..name_end];
            start = value_end;
            (name, &self.text[name_end..value_end])
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a header, unless there is one of this name.
    pub fn push(&mut self, name: &str, value: &str) {
        if self.get(name).is_none() {
            self.text.push_str(name);
            let name_end = self.text.len();
            self.text.push_str(value);
            self.ends.push((name_end, self.text.len()));
        }
    }

    /// Adds a header as it stands on the wire, unless there is one of this name.
    pub(super) fn push_escaped(
        &mut self,
        name: &str,
        value: &str,
        version: Version,
    ) -> Result<(), UndefinedEscape> {
        let start = self.text.len();
        unescape(name, version, &mut self.text)?;
        let name_end = self.text.len();
        unescape(value, version, &mut self.text)?;
        if self.get(&self.text[start..name_end]).is_some() {
            self.text.truncate(start);
        } else {
            self.ends.push((name_end, self.text.len()));
        }
        Ok(())
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.push(name.as_ref(), value.as_ref());
        }
        headers
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_header_wins() {
        let headers: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!((headers.len(), headers.is_empty()), (2, false));
    }

    #[test]
    fn names_are_case_sensitive_and_not_mixed_up_with_values() {
        let headers: Headers = [("ab", "c"), ("x", "ab")].into_iter().collect();
        for (name, expected) in [("ab", Some("c")), ("AB", None), ("a", None), ("c", None)] {
            assert_eq!(headers.get(name), expected, "{name}");
        }
    }
}
