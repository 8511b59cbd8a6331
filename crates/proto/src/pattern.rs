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
    /// Bounds what hostile patterns cost, together with the length of destinations.
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
        let attempt = match_segments(&self.segments, Some(path), &mut captures);
        (attempt == Attempt::Matched).then_some(captures)
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

/// How an attempt to match ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Matched,
    /// Not so. A wildcard before this may try again with more text.
    Failed,
    /// A wildcard tried all the text there is. One before it could only leave it less, so nothing
    /// else is worth a try: this keeps matching from being exponential in the wildcards.
    Exhausted,
}

/// `path` is what is left, without its leading slash; `None` once every segment is used.
fn match_segments<'p, 't>(
    segments: &'p [Segment],
    path: Option<&'t str>,
    captures: &mut Captures<'p, 't>,
) -> Attempt {
    let Some((first, others)) = segments.split_first() else {
        return if path.is_none() { Attempt::Matched } else { Attempt::Failed };
    };
    match first {
        Segment::Any => {
            let mut rest = path;
            loop {
                let mark = captures.len();
                let attempt = match_segments(others, rest, captures);
                if attempt != Attempt::Failed {
                    return attempt;
                }
                captures.truncate(mark);
                let Some(text) = rest else { return Attempt::Exhausted };
                rest = text.split_once('/').map(|(_, after)| after);
            }
        }
        Segment::Parts(parts) => {
            let Some(text) = path else { return Attempt::Failed };
            let (segment, rest) = match text.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (text, None),
            };
            match match_parts(parts, segment, captures) {
                Attempt::Matched => match_segments(others, rest, captures),
                // Another segment may match.
                Attempt::Failed | Attempt::Exhausted => Attempt::Failed,
            }
        }
    }
}

fn match_parts<'p, 't>(
    parts: &'p [Part],
    text: &'t str,
    captures: &mut Captures<'p, 't>,
) -> Attempt {
    let Some((first, others)) = parts.split_first() else {
        return if text.is_empty() { Attempt::Matched } else { Attempt::Failed };
    };
    match first {
        Part::Literal(literal) => match text.strip_prefix(&**literal) {
            Some(rest) => match_parts(others, rest, captures),
            None => Attempt::Failed,
        },
        Part::One => {
            let mut characters = text.chars();
            match characters.next() {
                Some(_) => match_parts(others, characters.as_str(), captures),
                None => Attempt::Failed,
            }
        }
        Part::Many | Part::Variable(_) => {
            let mark = captures.len();
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            for end in ends {
                if let Part::Variable(name) = first {
                    captures.push((name, &text[..end]));
                }
                let attempt = match_parts(others, &text[end..], captures);
                if attempt != Attempt::Failed {
                    return attempt;
                }
                captures.truncate(mark);
            }
            Attempt::Exhausted
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

    #[test]
    fn a_hostile_pattern_costs_no_more_than_its_length_times_the_destinations() {
        // With plain backtracking each of these takes days.
        let one_segment = format!("/topic/{}", "a".repeat(240));
        assert!(!pattern("/topic/*a*a*a*a*a*a*a*b").matches(&one_segment));
        assert!(!pattern("/topic/{a}a{b}a{c}a{d}a{e}a{f}a{g}a{h}b").matches(&one_segment));
        let many_segments = format!("/topic{}", "/a".repeat(120));
        assert!(!pattern("/topic/**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/b").matches(&many_segments));
    }

    /// The plain recursion, in which every wildcard tries everything.
    fn matches_plainly(pattern: &[char], text: &[char]) -> bool {
        let star = |rest: &[char]| (0..=text.len()).any(|at| matches_plainly(rest, &text[at..]));
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => star(rest),
            ['?', rest @ ..] => !text.is_empty() && matches_plainly(rest, &text[1..]),
            [one, rest @ ..] => text.first() == Some(one) && matches_plainly(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn giving_up_early_misses_no_match(within in "[ab*?]{1,9}", text in "[ab]{1,9}") {
            let parsed = format!("/topic/{within}").parse::<DestinationPattern>();
            prop_assume!(within != "**" && parsed.is_ok());
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = matches_plainly(&characters(&within), &characters(&text));
            prop_assert_eq!(parsed.unwrap().matches(&format!("/topic/{text}")), expected);
        }

        #[test]
        fn giving_up_early_misses_no_match_of_segments(
            within in proptest::collection::vec("\\*\\*|a|b|\\*", 1..7),
            path in proptest::collection::vec("a|b", 1..7),
        ) {
            // The same recursion, over segments: `**` is its star and `*` its question mark.
            let short = |segment: &String| match segment.as_str() { "**" => '*', "*" => '?', _ => segment.chars().next().unwrap() };
            let plain: Vec<char> = within.iter().map(short).collect();
            let text: Vec<char> = path.iter().map(short).collect();
            let parsed = pattern(&format!("/topic/{}", within.join("/")));
            let expected = matches_plainly(&plain, &text);
            prop_assert_eq!(parsed.matches(&format!("/topic/{}", path.join("/"))), expected);
        }
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
