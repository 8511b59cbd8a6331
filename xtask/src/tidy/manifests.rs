//! Rules about manifests: every crate takes the workspace's lints, and no ban is lost.

use anyhow::Context;
use toml::{Table, Value};

use super::Finding;
use super::tree::Tree;

const ROOT_CLIPPY: &str = "clippy.toml";

pub(super) fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let root_clippy = parse(ROOT_CLIPPY, tree.text(ROOT_CLIPPY).unwrap_or_default())?;
    for file in tree.files() {
        match file.name() {
            "Cargo.toml" => findings.extend(lints(file.path, &parse(file.path, file.text)?)),
            "clippy.toml" => {
                let local = parse(file.path, file.text)?;
                findings.extend(lost_bans(file.path, &root_clippy, &local));
            }
            _ => {}
        }
    }
    Ok(findings)
}

fn parse(path: &str, text: &str) -> anyhow::Result<Table> {
    text.parse().with_context(|| path.to_owned())
}

fn lints(path: &str, manifest: &Table) -> Option<Finding> {
    let is_package = manifest.contains_key("package");
    let inherits = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(Value::as_bool)
        .unwrap_or(false);
    (is_package && !inherits).then(|| {
        let message = "every crate needs `[lints] workspace = true`";
        Finding::new("workspace-lints", path, message)
    })
}

/// The nearest `clippy.toml` wins without merging, so a crate's own must repeat the root's.
fn lost_bans(path: &str, root: &Table, local: &Table) -> Vec<Finding> {
    let lost = root.iter().flat_map(|(key, value)| {
        let entries = match value {
            Value::Array(entries) => entries.as_slice(),
            single => std::slice::from_ref(single),
        };
        let has = |entry: &Value| match local.get(key) {
            Some(Value::Array(entries)) => entries.contains(entry),
            Some(single) => single == entry,
            None => false,
        };
        entries.iter().filter(move |entry| !has(entry)).map(move |entry| (key, entry))
    });
    lost.map(|(key, entry)| {
        let message = format!("{key} lacks {entry}, which the root's clippy.toml has");
        Finding::new("clippy-bans", path, message)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANS: &str = r#"
        allow-unwrap-in-tests = true
        disallowed-methods = [{ path = "tokio::spawn", reason = "owned" }]
    "#;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&Tree::of(files)).unwrap().into_iter();
        findings.map(|finding| finding.message).collect()
    }

    #[test]
    fn a_crate_without_the_workspace_lints_is_a_finding() {
        let good = "[package]\nname = 'a'\n[lints]\nworkspace = true";
        assert!(messages(&[("crates/a/Cargo.toml", good)]).is_empty());
        assert!(messages(&[("Cargo.toml", "[workspace]")]).is_empty());
        for bad in ["[package]\nname = 'a'", "[package]\nname = 'a'\n[lints]\nworkspace = false"] {
            assert_eq!(messages(&[("crates/a/Cargo.toml", bad)]).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_ban_of_the_root_that_a_crate_forgets_is_a_finding() {
        let more = BANS.replace("[{", "[{ path = \"std::time::Instant::now\" }, {");
        assert!(messages(&[("clippy.toml", BANS), ("crates/a/clippy.toml", &more)]).is_empty());

        let fewer = "allow-unwrap-in-tests = true";
        let findings = messages(&[("clippy.toml", BANS), ("crates/a/clippy.toml", fewer)]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("tokio::spawn"), "{findings:?}");

        let other = BANS.replace("tests = true", "tests = false");
        let findings = messages(&[("clippy.toml", BANS), ("crates/a/clippy.toml", &other)]);
        assert!(findings[0].contains("allow-unwrap-in-tests"), "{findings:?}");
    }
}
