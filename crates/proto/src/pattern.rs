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
    /// Bounds what a match captures and compares.
    pub const MAX_WILDCARDS: usize = 8;

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no wildcard and no variable, so that it is one destination.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// What every match begins with, and what it ends with behind that. Of a pattern without
    /// wildcards, all and nothing.
    pub fn literal_ends(&self) -> (&str, &str) {
        let text = &*self.text;
        let Some(first) = text.find(['*', '?', '{']) else { return (text, "") };
        let behind_last = text.rfind(['*', '?', '}']).map_or(text.len(), |last| last + 1);
        let (mut prefix, mut suffix) = (&text[..first], &text[behind_last..]);
        // `**` may stand for no segment, and then takes a separator with it.
        if text[first..].split('/').next() == Some("**") {
            prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        }
        if text[..behind_last].rsplit('/').next() == Some("**") {
            suffix = suffix.strip_prefix('/').unwrap_or(suffix);
        }
        (prefix, suffix)
    }

    /// The names of its variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let parts = self.segments.iter().flat_map(|segment| match segment {
            Segment::Any => &[][..],
            Segment::Parts(parts) => parts,
        });
        parts.filter_map(|part| match part {
            Part::Variable(name) => Some(&**name),
            Part::Literal(_) | Part::One | Part::Many => None,
        })
    }

    /// Whether `destination` matches.
    pub fn matches(&self, destination: &str) -> bool {
        self.captures(destination).is_some()
    }

    /// The captured variables, or `None` when `destination` does not match.
    pub fn captures<'p, 't>(&'p self, destination: &'t str) -> Option<Captures<'p, 't>> {
        let mut captures = Vec::new();
        let path = destination.strip_prefix('/')?;
        match_segments(&self.segments, path, &mut captures).then_some(captures)
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

/// Matches whole segments. Only the last `**` is ever tried again: the earlier ones took as little
/// as they could, so giving them more could not help what follows. That bounds the work by the
/// lengths of pattern and path, whatever a hostile client combines.
fn match_segments<'p, 't>(
    segments: &'p [Segment],
    path: &'t str,
    captures: &mut Captures<'p, 't>,
) -> bool {
    let (mut pattern, mut rest) = (segments, Some(path));
    let mut retry = None;
    loop {
        let matched = match (pattern.split_first(), rest) {
            (None, None) => return true,
            (Some((Segment::Any, others)), _) => {
                pattern = others;
                retry = rest.map(|rest| (others, rest, captures.len()));
                true
            }
            (Some((Segment::Parts(parts), others)), Some(text)) => {
                let (segment, after) = first_segment(text);
                (pattern, rest) = (others, after);
                match_parts(parts, segment, captures)
            }
            (None, Some(_)) | (Some((Segment::Parts(_), _)), None) => false,
        };
        if !matched {
            let Some((others, text, mark)) = retry else { return false };
            captures.truncate(mark);
            (pattern, rest) = (others, first_segment(text).1);
            retry = rest.map(|rest| (others, rest, mark));
        }
    }
}

fn first_segment(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (path, None),
    }
}

/// Matches within a segment, where of `*` and variables again only the last is tried again.
fn match_parts<'p, 't>(parts: &'p [Part], text: &'t str, captures: &mut Captures<'p, 't>) -> bool {
    let (mut pattern, mut rest) = (parts, text);
    let mut retry: Option<Retry<'p, 't>> = None;
    loop {
        let after = match pattern.split_first() {
            None if rest.is_empty() => return true,
            None => None,
            Some((Part::Literal(literal), _)) => rest.strip_prefix(&**literal),
            Some((Part::One, _)) => after_one(rest),
            Some((Part::Many, others)) => {
                retry = Some(Retry { others, from: rest, taken: 0, capture: None });
                Some(rest)
            }
            Some((Part::Variable(name), others)) => {
                let capture = Some(captures.len());
                captures.push((name, &rest[..0]));
                retry = Some(Retry { others, from: rest, taken: 0, capture });
                Some(rest)
            }
        };
        if let Some(after) = after {
            (pattern, rest) = (&pattern[1..], after);
            continue;
        }
        let Some(retry) = &mut retry else { return false };
        let Some(after) = after_one(&retry.from[retry.taken..]) else { return false };
        retry.taken = retry.from.len() - after.len();
        if let Some(capture) = retry.capture {
            captures[capture].1 = &retry.from[..retry.taken];
        }
        (pattern, rest) = (retry.others, after);
    }
}

/// The last wildcard, and what it took so far.
struct Retry<'p, 't> {
    others: &'p [Part],
    from: &'t str,
    taken: usize,
    /// Which capture it is, if it is a variable.
    capture: Option<usize>,
}

fn after_one(text: &str) -> Option<&str> {
    let mut characters = text.chars();
    characters.next().map(|_| characters.as_str())
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
    fn literal_ends_leave_out_what_a_double_star_may_take_with_it() {
        for (text, ends) in [
            ("/topic/a", ("/topic/a", "")),
            ("/topic/a.*", ("/topic/a.", "")),
            ("/topic/*.b", ("/topic/", ".b")),
            ("/topic/{room}/x?y", ("/topic/", "y")),
            ("/topic/**", ("/topic", "")),
            ("/topic/**/z", ("/topic", "z")),
            ("/topic/a**/z", ("/topic/a", "/z")),
        ] {
            assert_eq!(pattern(text).literal_ends(), ends, "{text}");
        }
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
    fn a_hostile_pattern_costs_no_more_than_its_length_times_the_paths() {
        let within_a_segment = format!("/topic/{}", "a".repeat(240));
        let over_segments = format!("/topic{}", "/a".repeat(120));
        // With backtracking over every wildcard either would outlast the universe.
        assert!(!pattern("/topic/*a*a*a*a*a*a*a*b").matches(&within_a_segment));
        assert!(!pattern("/topic/**/a/**/a/**/a/**/a/**/a/**/a/**/b").matches(&over_segments));
    }

    /// Tries every way, as one would without a thought for time.
    fn naive(pattern: &[&str], path: &[&str]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((&"**", others)) => (0..=path.len()).any(|n| naive(others, &path[n..])),
            Some((first, others)) => path.split_first().is_some_and(|(segment, rest)| {
                naive_segment(first.as_bytes(), segment.as_bytes()) && naive(others, rest)
            }),
        }
    }

    fn naive_segment(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', others)) => (0..=text.len()).any(|n| naive_segment(others, &text[n..])),
            Some((first, others)) => text.split_first().is_some_and(|(byte, rest)| {
                (*first == b'?' || first == byte) && naive_segment(others, rest)
            }),
        }
    }

    proptest! {
        #[test]
        fn matching_finds_what_trying_every_way_finds(
            text in "/topic(/(\\*\\*|[ab?*]{1,4})){1,5}", on in "/topic(/[ab]{1,4}){1,6}",
        ) {
            let Ok(parsed) = text.parse::<DestinationPattern>() else { return Ok(()) };
            let segments = |text| str::split(text, '/').collect::<Vec<_>>();
            prop_assert_eq!(parsed.matches(&on), naive(&segments(&text), &segments(&on)));
        }

        #[test]
        fn what_matches_has_the_literal_ends_one_behind_the_other(
            text in "/topic(/(\\*\\*|[ab?*é]{1,4}|a\\{v\\}b)){1,4}", on in "/topic(/[abé]{1,4}){0,6}",
        ) {
            let Ok(parsed) = text.parse::<DestinationPattern>() else { return Ok(()) };
            let (prefix, suffix) = parsed.literal_ends();
            prop_assert!(text.starts_with(prefix) && text.ends_with(suffix));
            if parsed.matches(&on) {
                let rest = on.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
                prop_assert!(rest.is_some(), "{} by {}: {} {}", on, text, prefix, suffix);
            }
        }

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
