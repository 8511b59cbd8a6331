//! The name of the function that a script calls with each frame.

use std::fmt;
use std::str::FromStr;

/// A callback: letters, digits, `-`, `_` and `.`, so that it can be nothing but a name in a script.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Callback(Box<str>);

/// Why there is no callback, in the protocol's words; answered with status 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// There is none, or an empty one.
    #[error(r#""callback" parameter required"#)]
    Required,
    /// It is too long or has another character.
    #[error(r#"invalid "callback" parameter"#)]
    Invalid,
}

impl Callback {
    /// The longest callback.
    pub const MAX_BYTES: usize = 128;

    /// From the query's parameters `c` and `callback`, decoded; the first goes before the second.
    pub fn from_query(c: Option<&str>, callback: Option<&str>) -> Result<Self, CallbackError> {
        c.or(callback).ok_or(CallbackError::Required)?.parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Callback {
    type Err = CallbackError;

    fn from_str(name: &str) -> Result<Self, CallbackError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match name.len() {
            0 => Err(CallbackError::Required),
            ..=Self::MAX_BYTES if name.bytes().all(is_plain) => Ok(Self(name.into())),
            _ => Err(CallbackError::Invalid),
        }
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_a_plain_name() {
        let longest = "c".repeat(Callback::MAX_BYTES);
        for name in ["callback", "x", "_jp.a7", "a-b", &longest] {
            assert_eq!(name.parse::<Callback>().unwrap().as_str(), name);
        }
        let too_long = "c".repeat(Callback::MAX_BYTES + 1);
        for name in [" ", "*", "abc(", "a;b", "a[0]", "é", "a\n", "<", &too_long] {
            assert_eq!(name.parse::<Callback>(), Err(CallbackError::Invalid), "{name}");
        }
    }

    #[test]
    fn either_parameter_names_the_callback_and_the_short_one_first() {
        let named = |c, callback| Callback::from_query(c, callback).map(|name| name.to_string());
        assert_eq!(named(Some("a"), None).as_deref(), Ok("a"));
        assert_eq!(named(None, Some("b")).as_deref(), Ok("b"));
        assert_eq!(named(Some("a"), Some("b")).as_deref(), Ok("a"));
        assert_eq!(named(Some("("), Some("b")), Err(CallbackError::Invalid));
        for (c, callback) in [(None, None), (Some(""), None), (None, Some(""))] {
            assert_eq!(named(c, callback), Err(CallbackError::Required));
        }
    }

    #[test]
    fn the_errors_are_in_the_words_of_the_protocol() {
        assert_eq!(CallbackError::Required.to_string(), "\"callback\" parameter required");
        assert_eq!(CallbackError::Invalid.to_string(), "invalid \"callback\" parameter");
    }
}
