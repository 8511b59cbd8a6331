//! Patterns over destinations, in the grammar of Spring's `AntPathMatcher`.

use std::fmt;
use std::str::FromStr;

use crate::destination::{self, DestinationError};

/// A pattern over destinations: `?` one character, `*` any within a segment, `**` any segments,
/// `{name}` a captured part of a segment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DestinationPattern {
    text: Box<str>,
    segments: Box<[Segment]>,
    literal: bool,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// What also makes a destination wrong.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// `{` without `}`, nested, or without a name.
    #[error("pattern has a malformed {{variable}}")]
    BadVariable,
    /// More wildcards than a match should have to try.
    #[error("pattern has more than {max} wildcards", max = DestinationPattern::MAX_WILDCARDS)]
    TooManyWildcards,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    /// `**`
    Any,
    Parts(Box<[Part]>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Literal(Box<str>),
    One,
    Many,
    Variable(Box<str>),
}

/// The variables that a pattern captured, in the pattern's order.
pub type Captures<'p, 't> = Vec<(&'p str, &'t str)>;

impl DestinationPattern {
    /// Bounds the backtracking that hostile patterns could ask for.
    pub const MAX_WILDCARDS: usize = 8;

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no wildcard and no variable, so that it is one destination.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// Whether `destination` matches.
    pub fn matches(&self, destination: &str) -> bool {
        self.captures(destination).is_some()
    }

    /// The captured variables, or `None` when `destination` does not match.
    pub fn captures<'p, 't>(&'p self, destination: &'t str) -> Option<Captures<'p, 't>> {
        let mut captures = Vec::new();
        let path = destination.strip_prefix('/')?;
        match_segments(&self.segments, Some(path), &mut captures).then_some(captures)
    }
}

impl FromStr for DestinationPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        destination::check(text)?;
        let segments: Box<[Segment]> =
            text[1..].split('/').map(parse_segment).collect::<Result<_, _>>()?;
        let wildcards = segments.iter().map(Segment::wildcards).sum::<usize>();
        if wildcards > Self::MAX_WILDCARDS {
            return Err(PatternError::TooManyWildcards);
        }
        Ok(Self { text: text.into(), segments, literal: wildcards == 0 })
    }
}

impl fmt::Display for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

impl Segment {
    fn wildcards(&self) -> usize {
        match self {
            Self::Any => 1,
            Self::Parts(parts) => {
                parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count()
            }
        }
    }
}

fn parse_segment(segment: &str) -> Result<Segment, PatternError> {
    if segment == "**" {
        return Ok(Segment::Any);
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = segment.chars();
    while let Some(character) = rest.next() {
        let part = match character {
            '?' => Part::One,
            '*' => Part::Many,
            '}' => return Err(PatternError::BadVariable),
            '{' => {
                let (name, after) =
                    rest.as_str().split_once('}').ok_or(PatternError::BadVariable)?;
                if name.is_empty() || name.contains(['{', '*', '?']) {
                    return Err(PatternError::BadVariable);
                }
                rest = after.chars();
                Part::Variable(name.into())
            }
            other => {
                literal.push(other);
                continue;
            }
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(part);
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(Segment::Parts(parts.into()))
}

/// `path` is what is left, without its leading slash; `None` once every segment is used.
fn match_segments<'p, 't>(
    segments: &'p [Segment],
    path: Option<&'t str>,
    captures: &mut Captures<'p, 't>,
) -> bool {
    let Some((first, others)) = segments.split_first() else {
        return path.is_none();
    };
    match first {
        Segment::Any => {
            let mut rest = path;
            loop {
                let mark = captures.len();
                if match_segments(others, rest, captures) {
                    return true;
                }
                captures.truncate(mark);
                let Some(text) = rest else { return false };
                rest = text.split_once('/').map(|(_, after)| after);
            }
        }
        Segment::Parts(parts) => {
            let Some(text) = path else { return false };
            let (segment, rest) = match text.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (text, None),
            };
            match_parts(parts, segment, captures) && match_segments(others, rest, captures)
        }
    }
}

fn match_parts<'p, 't>(parts: &'p [Part], text: &'t str, captures: &mut Captures<'p, 't>) -> bool {
    let Some((first, others)) = parts.split_first() else {
        return text.is_empty();
    };
    match first {
        Part::Literal(literal) => {
            text.strip_prefix(&**literal).is_some_and(|rest| match_parts(others, rest, captures))
        }
        Part::One => {
            let mut characters = text.chars();
            characters.next().is_some() && match_parts(others, characters.as_str(), captures)
        }
        Part::Many | Part::Variable(_) => {
            let mark = captures.len();
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            for end in ends {
                if let Part::Variable(name) = first {
                    captures.push((name, &text[..end]));
                }
                if match_parts(others, &text[end..], captures) {
                    return true;
                }
                captures.truncate(mark);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> DestinationPattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_as_springs_ant_path_matcher_does() {
        for (text, destination, expected) in [
            ("/topic/a", "/topic/a", true),
            ("/topic/a", "/topic/ab", false),
            ("/topic/a?", "/topic/ab", true),
            ("/topic/a?", "/topic/a", false),
            ("/topic/orders.*", "/topic/orders.42", true),
            ("/topic/orders.*", "/topic/orders.", true),
            ("/topic/orders.*", "/topic/orders.42/x", false),
            ("/topic/*/b", "/topic/a/b", true),
            ("/topic/*/b", "/topic/b", false),
            ("/topic/**", "/topic/a", true),
            ("/topic/**", "/topic/a/b/c", true),
            ("/topic/**", "/queue/a", false),
            ("/topic/**/z", "/topic/a/b/z", true),
            ("/topic/**/z", "/topic/z", true),
            ("/topic/**/z", "/topic/a/b", false),
            ("/topic/{room}.{what}", "/topic/red.join", true),
            ("/user/queue/**", "/user/queue/alerts", true),
            ("/user/**", "/user/ann/queue/alerts", true),
        ] {
            assert_eq!(pattern(text).matches(destination), expected, "{text} on {destination}");
        }
    }

    #[test]
    fn variables_capture_what_they_stand_for() {
        let rooms = pattern("/topic/rooms/{room}/{kind}.*");
        assert_eq!(
            rooms.captures("/topic/rooms/red/chat.1"),
            Some(vec![("room", "red"), ("kind", "chat")])
        );
    }

    #[test]
    fn malformed_and_hostile_patterns_are_refused() {
        for text in ["/topic/{", "/topic/{}", "/topic/a}", "/topic/{a{b}}", "/other/*"] {
            assert!(text.parse::<DestinationPattern>().is_err(), "{text}");
        }
        assert_eq!(
            "/topic/*a*a*a*a*a*a*a*a*a".parse::<DestinationPattern>(),
            Err(PatternError::TooManyWildcards)
        );
    }

    proptest! {
        #[test]
        fn a_literal_pattern_matches_exactly_its_own_text(
            text in "/topic/[a-z.]{1,8}(/[a-z.]{1,8}){0,3}",
            other in "/topic/[a-z.]{1,8}(/[a-z.]{1,8}){0,3}",
        ) {
            let literal = pattern(&text);
            prop_assert!(literal.is_literal() && literal.matches(&text));
            prop_assert_eq!(literal.matches(&other), text == other);
        }

        #[test]
        fn parsing_and_matching_never_panic(text in "/topic/[a*?{}/é]{0,12}", on in "/topic/[a/é]{0,30}") {
            if let Ok(pattern) = text.parse::<DestinationPattern>() {
                let _ = pattern.matches(&on);
            }
        }
    }
}
