//! What two patterns have in common: whether one covers the other, and whether they overlap.

/// A pattern as far as comparing needs it: variables are wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Box<[Segment]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    Parts(Box<[Symbol]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Is(char),
    /// `?`
    One,
    /// `*`, or a variable
    Many,
}

impl Glob {
    /// `text` is a valid pattern.
    pub(super) fn of(text: &str) -> Self {
        Self(text.trim_start_matches('/').split('/').map(Segment::of).collect())
    }

    /// Whether every destination that `other` matches is matched by this pattern. It may err
    /// towards `false`: it finds only coverings in which each wildcard of this pattern takes whole
    /// symbols of the other.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let (wide, narrow) = (&self.0, &other.0);
        table(wide.len(), narrow.len(), |i, j, holds| match (wide.get(i), narrow.get(j)) {
            (None, None) => true,
            (Some(Segment::Any), after) => holds(i + 1, j) || after.is_some() && holds(i, j + 1),
            (Some(Segment::Parts(wide)), Some(Segment::Parts(narrow))) => {
                holds(i + 1, j + 1) && covers_segment(wide, narrow)
            }
            _ => false,
        })
    }

    /// Whether some destination might be matched by both. It may err towards `true`.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (&self.0, &other.0);
        table(one.len(), two.len(), |i, j, holds| match (one.get(i), two.get(j)) {
            (None, None) => true,
            (Some(Segment::Any), after) => holds(i + 1, j) || after.is_some() && holds(i, j + 1),
            (before, Some(Segment::Any)) => holds(i, j + 1) || before.is_some() && holds(i + 1, j),
            (Some(Segment::Parts(one)), Some(Segment::Parts(two))) => {
                holds(i + 1, j + 1) && overlap_segment(one, two)
            }
            _ => false,
        })
    }
}

impl Segment {
    fn of(text: &str) -> Self {
        if text == "**" {
            return Self::Any;
        }
        let mut symbols = Vec::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            match character {
                '*' => symbols.push(Symbol::Many),
                '?' => symbols.push(Symbol::One),
                '{' => {
                    symbols.push(Symbol::Many);
                    rest = rest.as_str().split_once('}').unwrap_or_default().1.chars();
                }
                other => symbols.push(Symbol::Is(other)),
            }
        }
        Self::Parts(symbols.into())
    }
}

fn covers_segment(wide: &[Symbol], narrow: &[Symbol]) -> bool {
    use Symbol::{Is, Many, One};
    table(wide.len(), narrow.len(), |i, j, holds| match (wide.get(i), narrow.get(j)) {
        (None, None) => true,
        (Some(Many), after) => holds(i + 1, j) || after.is_some() && holds(i, j + 1),
        (Some(One), Some(One | Is(_))) => holds(i + 1, j + 1),
        (Some(Is(wide)), Some(Is(narrow))) => wide == narrow && holds(i + 1, j + 1),
        _ => false,
    })
}

fn overlap_segment(one: &[Symbol], two: &[Symbol]) -> bool {
    use Symbol::{Is, Many};
    table(one.len(), two.len(), |i, j, holds| match (one.get(i), two.get(j)) {
        (None, None) => true,
        (Some(Many), after) => holds(i + 1, j) || after.is_some() && holds(i, j + 1),
        (before, Some(Many)) => holds(i, j + 1) || before.is_some() && holds(i + 1, j),
        (Some(Is(one)), Some(Is(two))) => one == two && holds(i + 1, j + 1),
        (Some(_), Some(_)) => holds(i + 1, j + 1),
        _ => false,
    })
}

/// Whether `holds(0, 0)`, where each `holds(i, j)` follows from those with greater indices. Every
/// pair is looked at once, so hostile patterns cost no more than their lengths multiplied.
fn table(
    n: usize,
    m: usize,
    step: impl Fn(usize, usize, &dyn Fn(usize, usize) -> bool) -> bool,
) -> bool {
    let width = m + 1;
    let mut known = vec![false; (n + 1) * width];
    for i in (0..=n).rev() {
        for j in (0..=m).rev() {
            let holds = |i: usize, j: usize| i <= n && j <= m && known[i * width + j];
            let result = step(i, j, &holds);
            known[i * width + j] = result;
        }
    }
    known[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_proto::DestinationPattern;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_covers_what_it_surely_matches() {
        for (wide, narrow, expected) in [
            ("/topic/**", "/topic/**", true),
            ("/topic/**", "/topic/a/*", true),
            ("/topic/**", "/topic/{x}", true),
            ("/topic/*", "/topic/**", false),
            ("/topic/*", "/topic/a?c", true),
            ("/topic/a.*", "/topic/a.b.*", true),
            ("/topic/a.*", "/topic/*", false),
            ("/topic/a.*", "/topic/?.b", false),
            ("/topic/??", "/topic/a*", false),
            ("/topic/a?", "/topic/a?", true),
            ("/topic/**/z", "/topic/*/y/z", true),
            ("/topic/**/z", "/topic/**", false),
            ("/topic/a/b", "/topic/a", false),
        ] {
            assert_eq!(Glob::of(wide).covers(&Glob::of(narrow)), expected, "{wide} over {narrow}");
        }
    }

    #[test]
    fn patterns_overlap_where_one_destination_could_match_both() {
        for (one, two, expected) in [
            ("/topic/a*", "/topic/*b", true),
            ("/topic/a*", "/topic/b*", false),
            ("/topic/**", "/queue/**", false),
            ("/topic/**/z", "/topic/a/**", true),
            ("/topic/?", "/topic/ab", false),
            ("/topic/x/*", "/topic/*/y", true),
            ("/topic/x/*", "/topic/*", false),
        ] {
            assert_eq!(Glob::of(one).overlaps(&Glob::of(two)), expected, "{one} and {two}");
            assert_eq!(Glob::of(two).overlaps(&Glob::of(one)), expected, "{two} and {one}");
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        "/topic(/(\\*\\*|[ab?*]{1,3}|\\{v\\}[ab]?)){1,4}"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn comparing_patterns_never_contradicts_matching(
            one in pattern(), two in pattern(), destination in "/topic(/[ab]{1,3}){1,4}",
        ) {
            let parsed = |text: &str| text.parse::<DestinationPattern>().ok();
            let (Some(first), Some(second)) = (parsed(&one), parsed(&two)) else { return Ok(()) };
            let (in_first, in_second) = (first.matches(&destination), second.matches(&destination));
            let (one, two) = (Glob::of(&one), Glob::of(&two));
            prop_assert!(one.covers(&one) && one.overlaps(&one));
            if one.covers(&two) && in_second {
                prop_assert!(in_first);
            }
            if in_first && in_second {
                prop_assert!(one.overlaps(&two));
            }
        }
    }
}
