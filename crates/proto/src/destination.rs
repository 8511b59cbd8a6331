//! `Destination`: the absolute path that names where messages go, the same in every protocol.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where messages go: `/topic/orders.42`, `/queue/jobs`, `/user/queue/alerts`, `/app/chat.send`.
///
/// A parsed destination holds 1-255 bytes of UTF-8 without control characters, empty segments or
/// the pattern characters `* ? { }`. A clone is a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    text: Arc<str>,
    kind: DestinationKind,
}

/// The first segment of a destination, which decides what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationKind {
    /// `/topic/...`: to every subscriber.
    Topic,
    /// `/queue/...`: to every subscriber, or to one where the namespace is a queue.
    Queue,
    /// `/app/...`: to a backend.
    App,
    /// `/user/queue/...` or `/user/topic/...`: to the session's own user.
    OwnUser,
    /// `/user/{name}/queue/...`: to that user. The name is percent-encoded in the text.
    NamedUser,
}

/// Why a text is not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Longer than [`Destination::MAX_BYTES`].
    #[error("destination is {bytes} bytes long; at most {max} are allowed", max = Destination::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not one of the four roots.
    #[error("destination must begin with /topic/, /queue/, /user/ or /app/")]
    UnknownRoot,
    /// `//` or a trailing `/`.
    #[error("destination has an empty segment")]
    EmptySegment,
    /// A control character, or one that belongs to patterns only.
    #[error("destination contains {character:?}, which is not allowed in one")]
    BadCharacter {
        /// The first such character.
        character: char,
    },
    /// `/user/...` that names neither an own nor another user's destination.
    #[error(
        "user destination must be /user/queue/..., /user/topic/... or /user/{{name}}/queue/..."
    )]
    BadUser,
}

impl Destination {
    /// The longest destination, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What its first segment says.
    pub fn kind(&self) -> DestinationKind {
        self.kind
    }

    /// The path as a shared string.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The part after the user: `/queue/alerts` of `/user/queue/alerts` and of
    /// `/user/ann/queue/alerts`; `None` when this is not a user destination.
    pub fn user_path(&self) -> Option<&str> {
        let rest = self.text.strip_prefix("/user")?;
        match self.kind {
            DestinationKind::OwnUser => Some(rest),
            DestinationKind::NamedUser => rest[1..].find('/').map(|at| &rest[1 + at..]),
            _ => None,
        }
    }

    /// The user that `/user/{name}/...` names, decoded; `None` for any other destination, also for
    /// one that is private to a session.
    pub fn user_name(&self) -> Option<String> {
        if self.kind != DestinationKind::NamedUser {
            return None;
        }
        let encoded = self.text["/user/".len()..].split('/').next()?;
        percent_decode(encoded).filter(|_| !encoded.starts_with('~'))
    }

    /// An own-user destination made absolute for `user`; any other destination as it is.
    ///
    /// Fails with [`DestinationError::TooLong`] when the user's name makes it too long.
    pub fn resolve_for(&self, user: &str) -> Result<Self, DestinationError> {
        match (self.kind, self.user_path()) {
            (DestinationKind::OwnUser, Some(path)) => Self::for_user(user, path),
            _ => Ok(self.clone()),
        }
    }

    /// `/user/{user}{path}`, with `user` percent-encoded; `path` is `/queue/...` or `/topic/...`.
    pub fn for_user(user: &str, path: &str) -> Result<Self, DestinationError> {
        let mut text = String::with_capacity("/user/".len() + user.len() + path.len());
        text.push_str("/user/");
        percent_encode(user, &mut text);
        text.push_str(path);
        text.parse()
    }

    /// `/user/~{session}{path}`: private to one session, for those without a user. No user's name
    /// begins with a bare `~`, so no user has such a destination.
    pub fn for_session(session: &str, path: &str) -> Result<Self, DestinationError> {
        format!("/user/~{session}{path}").parse()
    }

    /// What a subscriber is shown: `/user/queue/alerts` for `/user/ann/queue/alerts`, else the
    /// path itself.
    pub fn shown(&self) -> std::borrow::Cow<'_, str> {
        match (self.kind, self.user_path()) {
            (DestinationKind::NamedUser, Some(path)) => format!("/user{path}").into(),
            _ => self.as_str().into(),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let kind = check(text)?;
        if let Some(character) = text.chars().find(|c| matches!(c, '*' | '?' | '{' | '}')) {
            return Err(DestinationError::BadCharacter { character });
        }
        Ok(Self { text: text.into(), kind })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

/// The checks that destinations and patterns share.
pub(crate) fn check(text: &str) -> Result<DestinationKind, DestinationError> {
    if text.len() > Destination::MAX_BYTES {
        return Err(DestinationError::TooLong { bytes: text.len() });
    }
    if let Some(character) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        return Err(DestinationError::BadCharacter { character });
    }
    let rest = text.strip_prefix('/').ok_or(DestinationError::UnknownRoot)?;
    let (root, rest) = rest.split_once('/').ok_or(DestinationError::UnknownRoot)?;
    let kind = match root {
        "topic" => DestinationKind::Topic,
        "queue" => DestinationKind::Queue,
        "app" => DestinationKind::App,
        "user" => user_kind(rest)?,
        _ => return Err(DestinationError::UnknownRoot),
    };
    if rest.split('/').any(str::is_empty) {
        return Err(DestinationError::EmptySegment);
    }
    Ok(kind)
}

fn user_kind(rest: &str) -> Result<DestinationKind, DestinationError> {
    let is_root = |segment: &str| matches!(segment, "queue" | "topic" | "**");
    let mut segments = rest.split('/');
    let first = segments.next().unwrap_or_default();
    let second = segments.next();
    let third = segments.next();
    if is_root(first) && (second.is_some() || first == "**") {
        return Ok(DestinationKind::OwnUser);
    }
    let named = second.is_some_and(is_root) && (third.is_some() || second == Some("**"));
    if named && percent_decode(first).is_some() {
        return Ok(DestinationKind::NamedUser);
    }
    Err(DestinationError::BadUser)
}

/// Encodes what could be mistaken for a path, a pattern, an own destination (`queue`, `topic`) or
/// an anonymous session (`~`).
fn percent_encode(user: &str, out: &mut String) {
    use fmt::Write;
    let reserved_word = matches!(user, "queue" | "topic" | "**");
    for (at, character) in user.char_indices() {
        let plain = !matches!(character, '/' | '%' | '*' | '?' | '{' | '}')
            && !character.is_control()
            && !character.is_whitespace()
            && !(at == 0 && (reserved_word || character == '~'));
        if plain {
            out.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

fn percent_decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_four_roots_and_both_user_forms_parse() {
        for (text, kind) in [
            ("/topic/orders.42", DestinationKind::Topic),
            ("/queue/jobs", DestinationKind::Queue),
            ("/app/chat.send", DestinationKind::App),
            ("/user/queue/alerts", DestinationKind::OwnUser),
            ("/user/ann/queue/alerts", DestinationKind::NamedUser),
            ("/user/a%2Fb/topic/x", DestinationKind::NamedUser),
        ] {
            assert_eq!(text.parse::<Destination>().map(|d| d.kind()), Ok(kind), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_destination_says_why() {
        use DestinationError as E;
        for (text, error) in [
            ("topic/a", E::UnknownRoot),
            ("/topic", E::UnknownRoot),
            ("/exchange/a", E::UnknownRoot),
            ("/topic/", E::EmptySegment),
            ("/topic/a//b", E::EmptySegment),
            ("/topic/a\nb", E::BadCharacter { character: '\n' }),
            ("/topic/a b", E::BadCharacter { character: ' ' }),
            ("/topic/*", E::BadCharacter { character: '*' }),
            ("/user/ann", E::BadUser),
            ("/user/ann/other/x", E::BadUser),
            ("/user/ann/queue", E::BadUser),
            ("/user/%zz/queue/x", E::BadUser),
        ] {
            assert_eq!(text.parse::<Destination>(), Err(error), "{text}");
        }
        let long = format!("/topic/{}", "a".repeat(300));
        assert_eq!(long.parse::<Destination>(), Err(E::TooLong { bytes: 307 }));
    }

    #[test]
    fn a_user_destination_is_resolved_for_its_user_and_shown_without_the_name() {
        let own: Destination = "/user/queue/alerts".parse().unwrap();
        let resolved = own.resolve_for("ann").unwrap();
        assert_eq!(resolved.as_str(), "/user/ann/queue/alerts");
        assert_eq!(resolved.user_name().as_deref(), Some("ann"));
        assert_eq!(resolved.shown(), "/user/queue/alerts");
    }

    #[test]
    fn no_user_has_the_destination_of_a_session() {
        let session = Destination::for_session("7", "/queue/x").unwrap();
        assert_eq!(session.user_name(), None);
        assert_ne!(Destination::for_user("~7", "/queue/x"), Ok(session));
    }

    proptest! {
        #[test]
        fn no_user_name_escapes_its_own_segment(user in "\\PC{1,40}") {
            let resolved = Destination::for_user(&user, "/queue/x").unwrap();
            prop_assert_eq!(resolved.kind(), DestinationKind::NamedUser);
            prop_assert_eq!(resolved.user_name(), Some(user));
            prop_assert_eq!(resolved.user_path(), Some("/queue/x"));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,300}|/user/[^ ]{0,20}") {
            let _ = text.parse::<Destination>().map(|d| (d.user_name(), d.shown().into_owned()));
        }
    }
}
