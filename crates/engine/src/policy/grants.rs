//! Grants: what a token allows beyond the policy's rules, by destinations of its own.

use std::sync::Arc;

use fanlight_proto::DestinationPattern;
use serde_json::Value;

use super::Subject;
use super::rule::{Action, Names, PolicyRule, Rule, RuleEffect};

/// What a token grants. It adds to what rules allow where no rule decides; a rule that denies wins,
/// and a destination still needs its namespace.
#[derive(Debug, Clone, Default)]
pub struct Grants(Option<Arc<Granted>>);

#[derive(Debug)]
struct Granted {
    /// As the token said it: equal claims are equal grants.
    claim: Value,
    rules: Box<[Rule]>,
}

/// Why a claim grants nothing. The text says what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadGrants(pub &'static str);

impl Grants {
    /// The longest destination or pattern, in bytes.
    pub const DESTINATION_MAX_BYTES: usize = 255;

    /// Reads a claim: an object with lists of destinations under `subscribe`, `publish`, `presence`
    /// and `history`, at most `max` of them in all.
    pub fn read(claim: &Value, max: usize) -> Result<Self, BadGrants> {
        let fields = match claim {
            Value::Null => return Ok(Self::default()),
            Value::Object(fields) => fields,
            _ => return Err(BadGrants(SHAPE)),
        };
        let mut rules = Vec::new();
        for (name, destinations) in fields {
            let action = action(name).ok_or(BadGrants(SHAPE))?;
            let Value::Array(destinations) = destinations else { return Err(BadGrants(SHAPE)) };
            if rules.len() + destinations.len() > max {
                return Err(BadGrants("within the number of grants that a token may have"));
            }
            for destination in destinations {
                let destination = destination.as_str().ok_or(BadGrants(SHAPE))?;
                rules.push(grant(action, destination)?);
            }
        }
        if rules.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(Some(Arc::new(Granted { claim: claim.clone(), rules: rules.into() }))))
    }

    /// Whether it grants nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a destination of these names is granted.
    pub(super) fn allow(&self, action: Action, subject: &Subject<'_>, names: &Names<'_>) -> bool {
        self.concerning(action, subject).any(|rule| rule.matches(subject, names))
    }

    /// Whether every destination of a pattern of these names is granted, by one grant alone.
    pub(super) fn cover(&self, action: Action, subject: &Subject<'_>, names: &Names<'_>) -> bool {
        self.concerning(action, subject).any(|rule| rule.covers(subject, names))
    }

    fn concerning<'g>(
        &'g self,
        action: Action,
        subject: &'g Subject<'_>,
    ) -> impl Iterator<Item = &'g Rule> {
        let rules = self.0.as_ref().map(|granted| &*granted.rules).unwrap_or_default();
        rules.iter().filter(move |rule| rule.concerns(action, subject))
    }
}

impl PartialEq for Grants {
    fn eq(&self, other: &Self) -> bool {
        let claim = |grants: &Self| grants.0.as_ref().map(|granted| granted.claim.clone());
        match (&self.0, &other.0) {
            (Some(one), Some(another)) if Arc::ptr_eq(one, another) => true,
            _ => claim(self) == claim(other),
        }
    }
}

impl Eq for Grants {}

fn action(name: &str) -> Option<Action> {
    Some(match name {
        "subscribe" => Action::Subscribe,
        "publish" => Action::Publish,
        "presence" => Action::Presence,
        "history" => Action::History,
        _ => return None,
    })
}

fn grant(action: Action, destination: &str) -> Result<Rule, BadGrants> {
    if destination.len() > Grants::DESTINATION_MAX_BYTES {
        return Err(BadGrants("made of destinations of at most 255 bytes"));
    }
    let pattern = destination.parse::<DestinationPattern>();
    pattern.map_err(|_| BadGrants("made of destinations or patterns, as /topic/orders.*"))?;
    check_reach(action, destination)?;
    let rule =
        PolicyRule { actions: vec![action], ..PolicyRule::new(RuleEffect::Allow, destination) };
    let certain =
        "certain of what {user} stands for: the only wildcard of its segment, with no ** before";
    Rule::new(0, &rule).map_err(|_| BadGrants(certain))
}

/// A grant must not reach whole kinds of destinations, nor what is other users' own: `/**` would
/// hold everybody's messages, and so would `/user/*/queue/x`.
fn check_reach(action: Action, destination: &str) -> Result<(), BadGrants> {
    let mut segments = destination.split('/').skip(1);
    let kind = segments.next().unwrap_or_default();
    if has_wildcard(kind) {
        return Err(BadGrants("made of destinations whose first segment is spelled out"));
    }
    if kind != "user" {
        return Ok(());
    }
    let whose = segments.next().unwrap_or_default();
    let is_own = matches!(whose, "queue" | "topic" | "{user}");
    let is_named = !has_wildcard(whose) && !whose.starts_with('~') && !whose.is_empty();
    if is_own || (is_named && action == Action::Publish) {
        return Ok(());
    }
    Err(BadGrants(
        "free of other users' destinations; only publishing to one that is named can be granted",
    ))
}

fn has_wildcard(segment: &str) -> bool {
    segment.contains(['*', '?', '{'])
}

const SHAPE: &str =
    "an object of lists of destinations under subscribe, publish, presence and history";
