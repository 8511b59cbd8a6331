//! `cargo xtask tidy`: the rules of the tree that no compiler checks.

mod allow;
mod arrows;
mod code;
mod includes;
mod links;
mod manifests;
mod reach;
mod text;
mod tree;

use std::fmt;

use anyhow::{Context, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::process::root;
pub(crate) use tree::Tree;

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// The rule's name, as the allow-list spells it.
    rule: &'static str,
    path: String,
    line: Option<usize>,
    /// What inside the file: a function's name, for instance.
    item: Option<String>,
    message: String,
}

impl Finding {
    fn new(rule: &'static str, path: &str, message: impl Into<String>) -> Self {
        Self { rule, path: path.to_owned(), line: None, item: None, message: message.into() }
    }

    fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    fn in_item(mut self, item: impl Into<String>) -> Self {
        self.item = Some(item.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: {}", self.rule, self.message)
    }
}

/// Checks every rule over the whole tree.
pub(crate) fn run() -> anyhow::Result<()> {
    let tree = Tree::read(root())?;
    let metadata =
        MetadataCommand::new().current_dir(root()).no_deps().exec().context("cargo metadata")?;
    let allowed = allow::parse(tree.text(allow::PATH).unwrap_or_default())?;
    let findings = allow::apply(&allowed, check(&tree, &metadata)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    let count = tree.files().count();
    println!("tidy: {count} files, {} exceptions", allowed.len());
    Ok(())
}

fn check(tree: &Tree, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let mut findings = arrows::check(&arrows::of(metadata));
    findings.extend(manifests::check(tree)?);
    findings.extend(reach::check_modules(tree, &target_roots(metadata)?)?);
    findings.extend(reach::check_assets(tree));
    findings.extend(links::check(tree));
    findings.extend(includes::check(tree));
    for file in tree.files() {
        findings.extend(text::check(file));
        findings.extend(code::check(file)?);
    }
    Ok(findings)
}

/// Where each target's module tree begins, relative to the root.
fn target_roots(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let targets = metadata.packages.iter().flat_map(|package| &package.targets);
    targets
        .map(|target| {
            let path = target.src_path.strip_prefix(&metadata.workspace_root);
            Ok(path.context("a target outside the repository")?.to_string())
        })
        .collect()
}
