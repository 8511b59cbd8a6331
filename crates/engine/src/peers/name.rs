//! What a session is claimed by: a text that is safe in keys, whatever a client has sent.

use std::borrow::Borrow;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A kind and the parts of a name: `sockjs/echo/abc%2Fdef`. All bytes of a part but letters, digits,
/// `-`, `_` and `.` are escaped, so that different parts never make the same name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimName(Arc<str>);

/// A name would be too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of the session has more than {} bytes when escaped", ClaimName::MAX_BYTES)]
pub struct NameTooLong;

impl ClaimName {
    /// The most that a name may have, its escapes included.
    pub const MAX_BYTES: usize = 512;

    /// The name of something of this kind.
    pub fn new(kind: &'static str, parts: &[&str]) -> Result<Self, NameTooLong> {
        let mut text = String::new();
        for (at, part) in std::iter::once(kind).chain(parts.iter().copied()).enumerate() {
            if at > 0 {
                text.push('/');
            }
            // Before it is escaped, so that what is hostile costs nothing.
            if text.len() + part.len() > Self::MAX_BYTES {
                return Err(NameTooLong);
            }
            escape(part, &mut text);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(NameTooLong);
        }
        Ok(Self(text.into()))
    }

    /// From the text of a name, as another node has sent it.
    pub fn from_escaped(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        while let [first, others @ ..] = rest {
            rest = match (first, others) {
                (b'%', [high, low, others @ ..]) if is_hex(*high) && is_hex(*low) => others,
                (b'/', others) => others,
                (byte, others) if is_plain(*byte) => others,
                _ => return None,
            };
        }
        (text.len() <= Self::MAX_BYTES).then(|| Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets maps keyed by names be asked with a plain text.
impl Borrow<str> for ClaimName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

fn escape(part: &str, out: &mut String) {
    for byte in part.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        let name = |parts: &[&str]| ClaimName::new("sockjs", parts).map(|name| name.0.to_string());
        assert_eq!(name(&["echo", "Ab-_.9"]).as_deref(), Ok("sockjs/echo/Ab-_.9"));
        assert_eq!(name(&["a/b", "{}\n%ä"]).as_deref(), Ok("sockjs/a%2Fb/%7B%7D%0A%25%C3%A4"));
        assert_eq!(name(&["", ""]).as_deref(), Ok("sockjs//"));
        assert_eq!(name(&["x", &"x".repeat(ClaimName::MAX_BYTES)]), Err(NameTooLong));
        assert_eq!(name(&[&"/".repeat(ClaimName::MAX_BYTES / 3)]), Err(NameTooLong));
        assert!(name(&[&"x".repeat(ClaimName::MAX_BYTES - 7)]).is_ok());
    }

    fn unescaped(part: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut rest = part.as_bytes();
        while let [first, others @ ..] = rest {
            if *first == b'%' {
                let digits = std::str::from_utf8(others.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &others[2..];
            } else {
                bytes.push(*first);
                rest = others;
            }
        }
        String::from_utf8(bytes).ok()
    }

    proptest! {
        #[test]
        fn different_parts_make_different_names(
            one in prop::collection::vec("[/%a{}]{0,4}|\\PC{0,4}", 0..4),
            other in prop::collection::vec("[/%a{}]{0,4}|\\PC{0,4}", 0..4),
        ) {
            let name = |parts: &[String]| {
                let parts: Vec<_> = parts.iter().map(String::as_str).collect();
                ClaimName::new("kind", &parts).unwrap()
            };
            prop_assert_eq!(one == other, name(&one) == name(&other));
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.%/".contains(&byte);
            prop_assert!(name(&one).as_str().bytes().all(is_safe));
            prop_assert_eq!(ClaimName::from_escaped(name(&one).as_str()), Some(name(&one)));
        }

        #[test]
        fn a_text_that_is_no_name_is_refused(text in "[/%a0A{} ]{0,8}|\\PC{0,8}") {
            let parts: Option<Vec<_>> = text.split('/').map(unescaped).collect();
            let canonical = parts.map(|parts| {
                let parts: Vec<_> = parts.iter().map(String::as_str).collect();
                ClaimName::new("x", &parts).unwrap().as_str()[2..].to_owned()
            });
            if canonical.as_deref() == Some(&text) {
                prop_assert!(ClaimName::from_escaped(&text).is_some());
            }
            if text.contains(['{', '}', ' ']) || text.ends_with('%') || !text.is_ascii() {
                prop_assert_eq!(ClaimName::from_escaped(&text), None);
            }
        }
    }
}
