//! The allow-list: exceptions to the rules, each with its reason, none of them stale.

use anyhow::Context;
use serde::Deserialize;

use super::Finding;

/// Where the allow-list is.
pub(super) const PATH: &str = "xtask/tidy-allow.toml";

/// One exception.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allowed {
    rule: String,
    path: String,
    /// The function or other thing inside the file; absent where the rule is about the file.
    item: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowList {
    #[serde(default)]
    allow: Vec<Allowed>,
}

pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Allowed>> {
    let list: AllowList = toml::from_str(text).context(PATH)?;
    Ok(list.allow)
}

/// Removes what is allowed; adds a finding for each exception that is unexplained or unused.
pub(super) fn apply(allowed: &[Allowed], findings: Vec<Finding>) -> Vec<Finding> {
    let mut complaints = Vec::new();
    for exception in allowed {
        let Allowed { rule, path, .. } = exception;
        if exception.reason.trim().is_empty() {
            complaints.push(complain(exception, format!("{rule} for {path}: no reason")));
        }
        if !findings.iter().any(|finding| exception.covers(finding)) {
            let message = format!("{rule} for {path} allows nothing: remove it");
            complaints.push(complain(exception, message));
        }
    }
    let mut left = findings;
    left.retain(|finding| !allowed.iter().any(|exception| exception.covers(finding)));
    left.append(&mut complaints);
    left
}

impl Allowed {
    fn covers(&self, finding: &Finding) -> bool {
        self.rule == finding.rule && self.path == finding.path && self.item == finding.item
    }
}

fn complain(exception: &Allowed, message: String) -> Finding {
    let finding = Finding::new("allow-list", PATH, message);
    match &exception.item {
        Some(item) => finding.in_item(item),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = r#"
        [[allow]]
        rule = "function-lines"
        path = "a.rs"
        item = "table"
        reason = "one row per rule"
    "#;

    fn finding(item: &str) -> Finding {
        Finding::new("function-lines", "a.rs", "too long").in_item(item)
    }

    #[test]
    fn an_exception_covers_only_its_own_item() {
        let left = apply(&parse(LONG).unwrap(), vec![finding("table"), finding("other")]);
        assert_eq!(left, [finding("other")]);
    }

    #[test]
    fn an_exception_that_allows_nothing_is_a_finding() {
        let left = apply(&parse(LONG).unwrap(), vec![]);
        assert_eq!(left[0].message, "function-lines for a.rs allows nothing: remove it");
    }

    #[test]
    fn an_exception_without_a_reason_is_a_finding() {
        let unexplained = LONG.replace("one row per rule", " ");
        let left = apply(&parse(&unexplained).unwrap(), vec![finding("table")]);
        assert_eq!(left[0].message, "function-lines for a.rs: no reason");
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        assert!(parse(&LONG.replace("reason", "raeson")).is_err());
    }
}
