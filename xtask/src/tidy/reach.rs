//! No dead files: every Rust file is in some target's module tree, every asset is named somewhere.

use std::collections::BTreeSet;

use anyhow::Context;
use syn::{Expr, Item, ItemMod, Lit, Meta};

use super::Finding;
use super::tree::Tree;

/// Kinds of files that do nothing unless another file names them.
const ASSETS: [&str; 5] = ["css", "html", "js", "lua", "mjs"];

/// Kinds of files that can name an asset.
const NAMING: [&str; 7] = ["html", "js", "json", "mjs", "py", "rs", "yml"];

/// `roots` are the files at which cargo's targets begin.
pub(super) fn check_modules(tree: &Tree, roots: &[String]) -> anyhow::Result<Vec<Finding>> {
    let mut reached = BTreeSet::new();
    for root in roots {
        let (folder, _) = root.rsplit_once('/').unwrap_or(("", root));
        reach(tree, root, folder, &mut reached)?;
    }
    let dead =
        tree.files().filter(|file| file.extension() == Some("rs") && !reached.contains(file.path));
    Ok(dead
        .map(|file| {
            let message = "no target and no `mod` leads to this file";
            Finding::new("dead-file", file.path, message)
        })
        .collect())
}

pub(super) fn check_assets(tree: &Tree) -> Vec<Finding> {
    let is_of = |kinds: &[&str], extension: Option<&str>| {
        extension.is_some_and(|extension| kinds.contains(&extension))
    };
    // The names in tidy's own tests lead nowhere.
    let naming: Vec<_> = tree
        .files()
        .filter(|file| is_of(&NAMING, file.extension()) && !file.path.starts_with("xtask/"))
        .collect();
    let dead = tree.files().filter(|asset| {
        let is_named = |asset_name| {
            naming.iter().any(|file| file.path != asset.path && file.text.contains(asset_name))
        };
        is_of(&ASSETS, asset.extension()) && !is_named(asset.name())
    });
    dead.map(|asset| Finding::new("dead-file", asset.path, "no other file names this one"))
        .collect()
}

/// Follows the `mod` declarations of the file at `path`, whose children are in `folder`.
fn reach(
    tree: &Tree,
    path: &str,
    folder: &str,
    reached: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let Some(text) = tree.text(path) else {
        return Ok(());
    };
    if !reached.insert(path.to_owned()) {
        return Ok(());
    }
    let file = syn::parse_file(text).with_context(|| path.to_owned())?;
    let beside = path.rsplit_once('/').map_or("", |(beside, _)| beside);
    reach_items(tree, &file.items, Folders { beside, folder }, reached)
}

/// Where a file's modules are looked up.
#[derive(Clone, Copy)]
struct Folders<'p> {
    /// The folder the file itself is in, from which `#[path]` counts.
    beside: &'p str,
    /// The folder of its child modules.
    folder: &'p str,
}

fn reach_items(
    tree: &Tree,
    items: &[Item],
    folders: Folders<'_>,
    reached: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    for item in items {
        let Item::Mod(module) = item else { continue };
        let child_folder = join(folders.folder, &module.ident.to_string());
        if let Some((_, items)) = &module.content {
            let inside = Folders { beside: &child_folder, folder: &child_folder };
            reach_items(tree, items, inside, reached)?;
        } else if let Some(path) = path_attribute(module) {
            let path = join(folders.beside, &path);
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            reach(tree, &path, folder, reached)?;
        } else {
            for path in [format!("{child_folder}.rs"), join(&child_folder, "mod.rs")] {
                reach(tree, &path, &child_folder, reached)?;
            }
        }
    }
    Ok(())
}

/// The value of `#[path = "..."]`.
fn path_attribute(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        match &pair.value {
            Expr::Lit(value) if pair.path.is_ident("path") => match &value.lit {
                Lit::Str(path) => Some(path.value()),
                _ => None,
            },
            _ => None,
        }
    })
}

/// `name` as seen from `folder`.
pub(super) fn join(folder: &str, name: &str) -> String {
    match name.strip_prefix("../") {
        Some(rest) => join(folder.rsplit_once('/').map_or("", |(up, _)| up), rest),
        None if folder.is_empty() => name.to_owned(),
        None => format!("{folder}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)], roots: &[&str]) -> Vec<String> {
        let roots: Vec<_> = roots.iter().map(|root| (*root).to_owned()).collect();
        let findings = check_modules(&Tree::of(files), &roots).unwrap();
        findings.into_iter().map(|finding| finding.path).collect()
    }

    #[test]
    fn a_file_that_no_module_declares_is_a_finding() {
        let files = [
            ("a/src/lib.rs", "mod session;"),
            ("a/src/session.rs", ""),
            ("a/src/forgotten.rs", ""),
        ];
        assert_eq!(dead(&files, &["a/src/lib.rs"]), ["a/src/forgotten.rs"]);
    }

    #[test]
    fn modules_are_followed_in_every_layout() {
        let files = [
            ("a/src/lib.rs", "mod ws; mod stomp; mod inline { mod deep; }"),
            ("a/src/ws/mod.rs", "mod frame;"),
            ("a/src/ws/frame.rs", ""),
            ("a/src/stomp.rs", "mod header;"),
            ("a/src/stomp/header.rs", ""),
            ("a/src/inline/deep.rs", ""),
            ("a/tests/rules.rs", "#[path = \"../shared/kit.rs\"] mod kit;"),
            ("a/shared/kit.rs", ""),
        ];
        let dead = dead(&files, &["a/src/lib.rs", "a/tests/rules.rs"]);
        assert!(dead.is_empty(), "{dead:?}");
    }

    #[test]
    fn a_test_that_is_no_target_is_a_finding() {
        let files = [("a/src/lib.rs", ""), ("a/tests/common/kit.rs", "")];
        assert_eq!(dead(&files, &["a/src/lib.rs"]), ["a/tests/common/kit.rs"]);
    }

    #[test]
    fn an_asset_that_nothing_names_is_a_finding() {
        let page = ("web/index.html", "<script src=app.js>");
        let server = ("src/page.rs", "include_str!(\"../web/index.html\")");
        let script = ("web/app.js", "// app.js");
        let findings = check_assets(&Tree::of(&[page, server, script]));
        assert!(findings.is_empty(), "{findings:?}");

        let findings = check_assets(&Tree::of(&[server, script]));
        assert_eq!(findings[0].path, "web/app.js");
    }
}
