//! The repository's files, as the rules see them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

/// One file: its path from the root, with `/`, and its text.
#[derive(Clone, Copy)]
pub(crate) struct File<'t> {
    pub(crate) path: &'t str,
    pub(crate) text: &'t str,
}

impl<'t> File<'t> {
    pub(super) fn name(&self) -> &'t str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// What follows the last dot of the name; a name with none, or a leading one only, has none.
    pub(crate) fn extension(&self) -> Option<&'t str> {
        let (stem, extension) = self.name().rsplit_once('.')?;
        (!stem.is_empty()).then_some(extension)
    }
}

/// All files, except what is built, installed or saved by running things.
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        read_folder(root, "", &mut files)?;
        Ok(Self { files })
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = File<'_>> {
        self.files.iter().map(|(path, text)| File { path, text })
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let files =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { files }
    }
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            read_folder(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let bytes = fs::read(entry.path()).with_context(|| path.clone())?;
            files.insert(path, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(())
}

/// What `.gitignore` keeps out too, and git's own folder (a file in a linked worktree).
const SKIPPED: [&str; 8] = [
    ".git",
    ".terraform",
    "target",
    "artifacts",
    "node_modules",
    "__fuzz__",
    "__pycache__",
    "proptest-regressions",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_file_has_a_name_but_no_extension() {
        let extension = |path| File { path, text: "" }.extension();
        assert_eq!(extension(".gitignore"), None);
        assert_eq!(extension("deploy/Dockerfile"), None);
        assert_eq!(extension("crates/a/src/lib.rs"), Some("rs"));
    }
}
