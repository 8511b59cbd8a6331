//! Loading: merged layers become a `Config`, and what is wrong becomes a [`Problem`] that says
//! where the value came from.

use config::{Value, ValueKind};

use super::layers::Layers;
use super::problem::{ConfigError, Problem};
use super::reference::{self, OptionDoc};
use super::values::Secret;
use super::{Config, check};

/// A configuration whose every value has been read, with the places they came from. Not `Debug`:
/// the values are kept with their places, and some are secrets.
#[derive(Clone)]
pub struct Loaded {
    /// The configuration; not yet checked as a whole.
    pub config: Config,
    places: Places,
}

#[derive(Clone)]
struct Places {
    merged: Value,
    options: Vec<OptionDoc>,
}

impl Config {
    /// Reads `layers` over the built-in defaults.
    pub fn load(layers: &Layers) -> Result<Loaded, ConfigError> {
        let merged = layers.merged()?;
        let places = Places { merged: merged.clone(), options: reference::options() };
        let mut problems = Vec::new();
        let mut unknown = |path: serde_ignored::Path<'_>| {
            problems.push(places.unknown(&dotted(&path)));
        };
        let mut track = serde_path_to_error::Track::new();
        let ignored = serde_ignored::Deserializer::new(merged, &mut unknown);
        let tracked = serde_path_to_error::Deserializer::new(ignored, &mut track);
        match <Self as serde::Deserialize>::deserialize(tracked) {
            Ok(config) if problems.is_empty() => Ok(Loaded { config, places }),
            Ok(_) => Err(ConfigError::Invalid(sorted(problems))),
            Err(error) => {
                problems.push(places.wrong(&track.path(), error));
                Err(ConfigError::Invalid(sorted(problems)))
            }
        }
    }

    /// What this configuration allows, but hardly means.
    pub fn warnings(&self) -> Vec<Problem> {
        check::warnings(self)
    }
}

impl Loaded {
    /// The configuration, once it holds together as a whole.
    pub fn checked(self) -> Result<Config, ConfigError> {
        let problems = check::problems(&self.config);
        self.without(problems)
    }

    /// The same for a relay, which needs only what is said of it, of namespaces and of Redis.
    pub fn checked_for_relay(self) -> Result<Config, ConfigError> {
        let problems = check::relay_problems(&self.config);
        self.without(problems)
    }

    fn without(self, problems: Vec<Problem>) -> Result<Config, ConfigError> {
        if problems.is_empty() {
            return Ok(self.config);
        }
        let placed = problems.into_iter().map(|problem| self.places.locate(problem));
        Err(ConfigError::Invalid(placed.collect()))
    }
}

impl Places {
    /// Adds to a problem where its option was set, and to what.
    fn locate(&self, mut problem: Problem) -> Problem {
        if let Some(value) = self.value(&problem.key) {
            problem.place = place_of(value).map(Into::into);
            problem.value = self.shown(&problem.key, value);
        }
        problem
    }

    fn unknown(&self, path: &str) -> Problem {
        let mut problem = self.locate(Problem::new(path, "there is no such option", ""));
        problem.value = None;
        let by_variable =
            problem.place.as_deref().is_some_and(|p| p.starts_with(super::ENV_PREFIX));
        problem.remedy = match self.suggestion(path) {
            Some(path) if by_variable => format!("did you mean {}?", reference::env_name(&path)),
            Some(path) => format!("did you mean `{path}`?"),
            None => "remove it; `fanlight config defaults` lists every option".into(),
        };
        problem
    }

    /// The option that `path` was probably meant to be: a sibling of a similar name, or one of the
    /// same name elsewhere.
    fn suggestion(&self, path: &str) -> Option<String> {
        let general = reference::without_indices(path);
        let (section, name) = general.rsplit_once('.').unwrap_or(("", &general));
        let mut names = Vec::new();
        for option in &self.options {
            let rest = match section {
                "" => Some(option.path.as_str()),
                _ => option.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
            };
            names.extend(rest.and_then(|rest| rest.split(['.', '[']).next()));
        }
        let similar = |candidate: &&str| strsim::normalized_damerau_levenshtein(candidate, name);
        let best = names.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)));
        if let Some(best) = best.filter(|best| similar(best) >= SIMILAR_ENOUGH) {
            let parent = path.strip_suffix(name).unwrap_or_default();
            return Some(format!("{parent}{best}"));
        }
        let elsewhere = |option: &&OptionDoc| option.path.rsplit('.').next() == Some(name);
        self.options.iter().find(elsewhere).map(|option| option.path.clone())
    }

    fn wrong(&self, path: &serde_path_to_error::Path, error: config::ConfigError) -> Problem {
        let path = tracked(path);
        let option = self.options.iter().find(|o| o.path == reference::without_indices(&path));
        if let Some(field) = missing_field(&error) {
            let mut problem = self.locate(Problem::new(
                path,
                format!("`{field}` is missing"),
                format!("add `{field}`; `fanlight config defaults` tells what it is"),
            ));
            problem.value = None;
            return problem;
        }
        let fault = fault_of(error);
        if let Some((fault, remedy)) = fault.split_once("; ") {
            return self.locate(Problem::new(path, fault, remedy));
        }
        let remedy = option.map_or_else(String::new, |option| match &option.default {
            Some(default) => format!("expected is {}; the default is {default}", option.kind),
            None => format!("expected is {}", option.kind),
        });
        self.locate(Problem::new(path, fault, remedy))
    }

    fn value(&self, path: &str) -> Option<&Value> {
        let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
        steps.filter(|step| !step.is_empty()).try_fold(&self.merged, |value, step| {
            match &value.kind {
                ValueKind::Table(table) => table.get(step),
                ValueKind::Array(items) => items.get(step.parse::<usize>().ok()?),
                _ => None,
            }
        })
    }

    fn shown(&self, path: &str, value: &Value) -> Option<String> {
        let general = reference::without_indices(path);
        if self.options.iter().any(|option| option.is_secret && option.path == general) {
            return Some(Secret::HIDDEN.into());
        }
        match &value.kind {
            ValueKind::String(text) => Some(format!("{text:?}")),
            ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => None,
            scalar => Some(scalar.to_string()),
        }
    }
}

/// In one order for the same mistakes, whatever order the tables had.
fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| a.key.cmp(&b.key));
    problems
}

/// The place of a value, or of the first thing in it that has one.
fn place_of(value: &Value) -> Option<&str> {
    value.origin().or_else(|| match &value.kind {
        ValueKind::Table(table) => table.values().find_map(place_of),
        ValueKind::Array(items) => items.iter().find_map(place_of),
        _ => None,
    })
}

/// The field that a table lacks, without the path that the error has before it.
fn missing_field(error: &config::ConfigError) -> Option<String> {
    match error {
        config::ConfigError::At { error, .. } => missing_field(error),
        config::ConfigError::NotFound(path) => path.rsplit([']', '.']).next().map(Into::into),
        _ => None,
    }
}

fn fault_of(error: config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => fault_of(*error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            // Its type can't be named outside the crate; the text of a string may be a secret.
            let unexpected = unexpected.to_string();
            let found = match unexpected.split(' ').next() {
                Some("map") => "a table",
                Some("sequence") => "a list",
                Some("string") => "text",
                _ => &unexpected,
            };
            format!("{found}, where {expected} belongs")
        }
        other => other.to_string(),
    }
}

fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => joined(dotted(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

fn tracked(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |before, segment| match segment {
        Segment::Seq { index } => format!("{before}[{index}]"),
        Segment::Map { key } => joined(before, key),
        Segment::Enum { .. } | Segment::Unknown => before,
    })
}

fn joined(before: String, key: &str) -> String {
    if before.is_empty() { key.into() } else { before + "." + key }
}

/// Below this a suggestion would be a guess.
const SIMILAR_ENOUGH: f64 = 0.55;
