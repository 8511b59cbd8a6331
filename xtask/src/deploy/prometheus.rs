//! Recording rules, objectives and alerts, read and run by promtool; each alert has a page, a test
//! in which it fires, and one in which it stays silent.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::Outcome;
use crate::process::{root, run as run_command};

/// The whole check.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let folder = root().join("deploy/prometheus");
    let (rules, tests) = (files(&folder, "rules")?, files(&folder, "tests")?);
    check_coverage(&read(&folder, &rules)?, &read(&folder, &tests)?)?;
    let promtool = |arguments: &[&str], files: &[String]| {
        run_command(Command::new("promtool").args(arguments).args(files).current_dir(&folder))
    };
    promtool(&["check", "config"], &["prometheus.yml".to_owned()])?;
    promtool(&["check", "rules"], &rules)?;
    promtool(&["test", "rules"], &tests)?;
    Ok(Outcome::Passed)
}

/// The shipped files of rules, for those who hand them on: name without ending, and text.
pub(super) fn rules() -> anyhow::Result<Vec<(String, String)>> {
    let folder = root().join("deploy/prometheus");
    let mut rules = Vec::new();
    for file in files(&folder, "rules")? {
        let path = folder.join(&file);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        rules.push((stem, fs::read_to_string(&path).with_context(|| file.clone())?));
    }
    Ok(rules)
}

fn files(folder: &Path, below: &str) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder.join(below)).with_context(|| below.to_owned())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.into_iter().map(|name| format!("{below}/{name}")).collect())
}

fn read(folder: &Path, files: &[String]) -> anyhow::Result<String> {
    let texts = files.iter().map(|file| fs::read_to_string(folder.join(file)));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
}

fn check_coverage(rules: &str, tests: &str) -> anyhow::Result<()> {
    let alerts: BTreeSet<_> = values(rules, "alert").collect();
    let mut pages = BTreeSet::new();
    for entry in fs::read_dir(root().join("docs/runbooks"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        pages.insert(name.trim_end_matches(".md").to_owned());
    }
    let mut faults = Vec::new();
    for &alert in &alerts {
        if !pages.contains(alert) {
            faults.push(format!("docs/runbooks/{alert}.md is missing"));
        }
        let cases = outcomes(tests, alert);
        if !cases.contains(&true) {
            faults.push(format!("{alert} fires in no test"));
        }
        if !cases.contains(&false) {
            faults.push(format!("{alert} stays silent in no test"));
        }
    }
    let without = pages.iter().filter(|page| !alerts.contains(page.as_str()));
    faults.extend(without.map(|page| format!("docs/runbooks/{page}.md is of no alert")));
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok(())
}

/// Of each test of `alert`, whether it is to fire.
fn outcomes(tests: &str, alert: &str) -> Vec<bool> {
    let lines: Vec<_> = tests.lines().collect();
    let named = lines.windows(2).filter(|pair| value(pair[0], "alertname") == Some(alert));
    named.map(|pair| value(pair[1], "exp_alerts") != Some("[]")).collect()
}

/// The values of a key, of YAML that has each on a line of its own.
fn values<'t>(text: &'t str, key: &str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| value(line, key))
}

fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let line = line.trim_start().trim_start_matches("- ");
    Some(line.strip_prefix(key)?.strip_prefix(':')?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_an_alert_is_to_fire_is_read_from_the_tests() {
        let tests = "  - eval_time: 1m\n    alertname: A\n    exp_alerts: []\n\
                     - alertname: A\n  exp_alerts:\n  - exp_labels:\n  alertname: B\n  exp_alerts: []";
        assert_eq!(outcomes(tests, "A"), [false, true]);
        assert_eq!(outcomes(tests, "B"), [false]);
        assert!(outcomes(tests, "C").is_empty());
    }
}
