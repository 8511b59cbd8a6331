//! Folders whose files are made of others: what is committed is what would be made now.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, bail};

use crate::process::root;

/// Files by name.
pub(super) type Files = BTreeMap<String, String>;

/// Compares `folder` (from the repository's root) with what `deploy NAME` makes of `source`; with
/// `UPDATE_EXPECT=1` writes what differs. A file that nothing makes is an error.
pub(super) fn check(folder: &str, files: &Files, source: &str, name: &str) -> anyhow::Result<()> {
    let path = root().join(folder);
    for (file, text) in files {
        if fs::read_to_string(path.join(file)).ok().as_ref() == Some(text) {
            continue;
        }
        if env::var_os("UPDATE_EXPECT").is_none() {
            bail!(
                "{folder}/{file} is not what {source} makes; run `UPDATE_EXPECT=1 cargo xtask deploy {name}`"
            );
        }
        write(&path, file, text)?;
        println!("wrote {folder}/{file}");
    }
    for entry in fs::read_dir(&path).with_context(|| folder.to_owned())? {
        let found = entry?.file_name().to_string_lossy().into_owned();
        if !files.contains_key(&found) {
            bail!("{folder}/{found} is made by nothing; remove it");
        }
    }
    Ok(())
}

fn write(folder: &Path, file: &str, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join(file), text).with_context(|| file.to_owned())
}
