//! One thing that may run out, and how many nodes or Redis processes it takes not to.

use serde::Serialize;

/// What one bound comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bound {
    /// What may run out.
    pub what: &'static str,
    /// How many of them it alone would take.
    pub needs: u32,
    /// The share of what may be used that is used, with as many as are planned: 1 is all.
    pub used: f64,
}

/// A bound yet to be reckoned: its name, and what share is used with so many.
pub type Rule<'r> = (&'static str, Box<dyn Fn(u32) -> f64 + 'r>);

/// What can't be had with any number of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no number of {of} is enough for this: {what}; {remedy}")]
pub struct NeverEnough {
    /// What there would be more of in vain.
    pub of: &'static str,
    /// What runs out.
    pub what: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

/// The smallest multiple of `step` with which no rule uses more than all it may, and what each
/// rule comes to there. More of them must never use more.
pub fn enough(
    rules: &[Rule<'_>],
    step: u32,
    at_least: u32,
) -> Result<(u32, Vec<Bound>), &'static str> {
    let mut count = at_least.next_multiple_of(step);
    let mut needs = Vec::new();
    for (what, used) in rules {
        let needed = smallest(used, step).ok_or(*what)?;
        needs.push(needed);
        count = count.max(needed);
    }
    let bounds = rules.iter().zip(needs).map(|((what, used), needs)| Bound {
        what,
        needs,
        used: used(count),
    });
    Ok((count, bounds.collect()))
}

fn smallest(used: &dyn Fn(u32) -> f64, step: u32) -> Option<u32> {
    let fits = |steps: u32| used(steps * step) <= 1.0;
    let mut high = 1;
    while !fits(high) {
        high *= 2;
        if high * step > COUNT_MAX {
            return None;
        }
    }
    // What fits lies in `low + 1..=high`.
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high * step)
}

/// More than anybody has.
const COUNT_MAX: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_number_is_the_one_that_the_tightest_rule_needs() {
        let rules: Vec<Rule> = vec![
            ("memory", Box::new(|count| 7.0 / f64::from(count))),
            ("cpu", Box::new(|count| 10.5 / f64::from(count))),
        ];
        let (count, bounds) = enough(&rules, 3, 1).unwrap();
        assert_eq!(count, 12);
        assert_eq!(bounds[0], Bound { what: "memory", needs: 9, used: 7.0 / 12.0 });
        assert_eq!(bounds[1].needs, 12);
    }

    #[test]
    fn what_no_number_helps_is_told() {
        let rules: Vec<Rule> = vec![("hot", Box::new(|_| 1.1))];
        assert_eq!(enough(&rules, 1, 1), Err("hot"));
    }
}
