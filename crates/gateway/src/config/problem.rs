//! What is wrong with a configuration: what, where, why, and the remedy.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that can't be read.
    #[error("can't read {what} {}", path.display())]
    Read {
        /// What the file is: "the configuration", "the secret of ...".
        what: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where in it and why.
        message: String,
    },
    /// Options that are unknown, wrong or missing.
    #[error("{}", listed(.0))]
    Invalid(Vec<Problem>),
}

/// One option that is unknown, wrong or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The option: `limits.message`, `auth.keys[0].secret`.
    pub key: String,
    /// What it was set to, unless that is secret.
    pub value: Option<String>,
    /// Where that was: a file and line, an environment variable, or a flag.
    pub place: Option<String>,
    /// What is wrong.
    pub fault: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl Problem {
    /// A problem whose value and place are not known yet.
    pub fn new(
        key: impl Into<String>,
        fault: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (key, fault, remedy) = (key.into(), fault.into(), remedy.into());
        Self { key, value: None, place: None, fault, remedy }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        write!(f, ": {}", self.fault)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
