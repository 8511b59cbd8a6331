//! One rule: whom and what it concerns, and whether a destination or all of a pattern is in it.

use std::collections::BTreeMap;

use fanlight_proto::{Destination, DestinationPattern};

use super::cover::Glob;
use super::{PolicyError, Subject};
use crate::auth::Principal;

/// One configured rule. All conditions that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// What it decides.
    pub effect: RuleEffect,
    /// What it is about; empty means every action.
    pub actions: Vec<Action>,
    /// The destinations it is about, as a pattern. `{user}` stands for the principal's own name,
    /// literally; other variables may be compared with claims.
    pub destination: String,
    /// Whether it needs a user, or the lack of one.
    pub who: Who,
    /// The user must be one of these; empty means any.
    pub users: Vec<String>,
    /// The user must have one of these roles; empty means any.
    pub roles: Vec<String>,
    /// Each of these claims must have this value, alone or in a list. A value of `{variable}` is
    /// what that variable stands for in the destination.
    pub claims: BTreeMap<String, String>,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleEffect {
    /// It is allowed.
    Allow,
    /// It is not.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Receiving.
    Subscribe,
    /// Sending.
    Publish,
    /// Seeing who is there.
    Presence,
    /// Reading what was.
    History,
}

/// Whether a rule needs a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Who {
    /// With or without.
    #[default]
    Anyone,
    /// Only with one.
    Authenticated,
    /// Only without.
    Anonymous,
}

/// The texts that name what is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'n> {
    /// The absolute one.
    pub(super) absolute: &'n str,
    /// The one without the user, where it is the subject's own.
    pub(super) own: Option<&'n str>,
}

/// A rule, ready for matching.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    effect: RuleEffect,
    actions: Box<[Action]>,
    pattern: DestinationPattern,
    /// The pattern with every variable as a wildcard.
    glob: Glob,
    who: Who,
    users: Box<[String]>,
    roles: Box<[String]>,
    /// Claims with a fixed value.
    claims: Box<[(String, String)]>,
    /// Variables that must have a certain value.
    bound: Box<[Bound]>,
}

/// A variable whose text is compared. It is the only wildcard of its segment and no `**` comes
/// before it, so what it stands for is certain.
#[derive(Debug, Clone)]
struct Bound {
    /// Which segment, from 0.
    segment: usize,
    before: String,
    after: String,
    source: Source,
    /// Whether it is the user's segment of `/user/{name}/...`, where names are percent-encoded.
    is_encoded: bool,
}

#[derive(Debug, Clone)]
enum Source {
    User,
    Claim(String),
}

impl PolicyRule {
    /// A rule without conditions, for every action.
    pub fn new(effect: RuleEffect, destination: &str) -> Self {
        Self {
            effect,
            actions: Vec::new(),
            destination: destination.to_owned(),
            who: Who::Anyone,
            users: Vec::new(),
            roles: Vec::new(),
            claims: BTreeMap::new(),
        }
    }
}

impl Rule {
    pub(super) fn new(at: usize, rule: &PolicyRule) -> Result<Self, PolicyError> {
        let text = &rule.destination;
        let pattern = text.parse().map_err(|error| PolicyError::BadRulePattern {
            rule: at,
            pattern: text.clone(),
            error,
        })?;
        let mut bound = bind(at, text, "user", &Source::User)?;
        let mut claims = Vec::new();
        for (claim, value) in &rule.claims {
            let Some(variable) = value.strip_prefix('{').and_then(|v| v.strip_suffix('}')) else {
                claims.push((claim.clone(), value.clone()));
                continue;
            };
            let occurrences = bind(at, text, variable, &Source::Claim(claim.clone()))?;
            if occurrences.is_empty() {
                let variable = variable.to_owned();
                return Err(PolicyError::UnknownVariable { rule: at, variable });
            }
            bound.extend(occurrences);
        }
        Ok(Self {
            effect: rule.effect,
            actions: rule.actions.as_slice().into(),
            pattern,
            glob: Glob::of(text),
            who: rule.who,
            users: rule.users.as_slice().into(),
            roles: rule.roles.as_slice().into(),
            claims: claims.into(),
            bound: bound.into(),
        })
    }

    pub(super) fn allows(&self) -> bool {
        self.effect == RuleEffect::Allow
    }

    pub(super) fn claim_names(&self) -> impl Iterator<Item = &str> {
        let bound = self.bound.iter().filter_map(|bound| match &bound.source {
            Source::Claim(claim) => Some(claim.as_str()),
            Source::User => None,
        });
        self.claims.iter().map(|(claim, _)| claim.as_str()).chain(bound)
    }

    /// Whether the conditions hold that do not depend on the destination.
    pub(super) fn concerns(&self, action: Action, subject: &Subject<'_>) -> bool {
        if !self.actions.is_empty() && !self.actions.contains(&action) {
            return false;
        }
        let Some(principal) = subject.principal else {
            let unconditional =
                self.users.is_empty() && self.roles.is_empty() && self.claims.is_empty();
            return self.who != Who::Authenticated && unconditional;
        };
        self.who != Who::Anonymous
            && (self.users.is_empty() || self.users.iter().any(|user| **user == *principal.user))
            && (self.roles.is_empty() || self.roles.iter().any(|role| principal.has_role(role)))
            && self.claims.iter().all(|(claim, value)| principal.has_claim(claim, value))
    }

    /// Whether a destination of these names is in the rule.
    pub(super) fn matches(&self, subject: &Subject<'_>, names: &Names<'_>) -> bool {
        self.names(names).any(|name| self.pattern.matches(name) && self.is_bound(subject, name))
    }

    /// Whether every destination of a pattern of these names is in the rule. What a bound variable
    /// stands for must be spelled out in the pattern.
    pub(super) fn covers(&self, subject: &Subject<'_>, names: &Names<'_>) -> bool {
        self.names(names)
            .any(|name| self.is_bound(subject, name) && self.glob.covers(&Glob::of(name)))
    }

    /// Whether some destination of a pattern might be in the rule.
    pub(super) fn overlaps(&self, glob: &Glob) -> bool {
        self.glob.overlaps(glob)
    }

    /// The names by which the rule knows a destination.
    fn names<'n>(&self, names: &Names<'n>) -> impl Iterator<Item = &'n str> {
        // `/user/**` to the letter would allow every user's destinations.
        let only_own = self.allows() && self.pattern.as_str().starts_with("/user/**");
        let absolute = (!only_own).then_some(names.absolute);
        [absolute, names.own].into_iter().flatten()
    }

    fn is_bound(&self, subject: &Subject<'_>, name: &str) -> bool {
        self.bound.iter().all(|bound| bound.holds(subject.principal, name))
    }
}

impl Bound {
    fn holds(&self, principal: Option<&Principal>, name: &str) -> bool {
        let (Some(principal), Some(value)) = (principal, self.value(name)) else {
            return false;
        };
        let decoded = if self.is_encoded { decode(value) } else { Some(value.to_owned()) };
        decoded.is_some_and(|value| match &self.source {
            Source::User => *principal.user == *value,
            Source::Claim(claim) => principal.has_claim(claim, &value),
        })
    }

    /// What the variable stands for in a destination, or in a pattern that leaves no choice.
    fn value<'n>(&self, name: &'n str) -> Option<&'n str> {
        let text = name.split('/').nth(self.segment + 1)?;
        let value = text.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (!value.is_empty() && !value.contains(['*', '?', '{'])).then_some(value)
    }
}

/// Where `variable` occurs in a pattern, if each place is certain.
fn bind(at: usize, text: &str, variable: &str, source: &Source) -> Result<Vec<Bound>, PolicyError> {
    let written = format!("{{{variable}}}");
    let mut after_any = false;
    let mut bound = Vec::new();
    for (segment, part) in text.split('/').skip(1).enumerate() {
        if let Some((before, after)) = part.split_once(&written) {
            if after_any || before.contains(['*', '?', '{']) || after.contains(['*', '?', '{']) {
                let variable = variable.to_owned();
                return Err(PolicyError::AmbiguousVariable { rule: at, variable });
            }
            bound.push(Bound {
                segment,
                before: before.to_owned(),
                after: after.to_owned(),
                source: source.clone(),
                is_encoded: segment == 1 && text.starts_with("/user/"),
            });
        }
        after_any |= part == "**";
    }
    Ok(bound)
}

/// A user's name out of its segment.
fn decode(segment: &str) -> Option<String> {
    format!("/user/{segment}/queue/x").parse::<Destination>().ok()?.user_name()
}
