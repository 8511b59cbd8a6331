//! The dashboards: what is committed is what the code makes, and every link leads to a page.

use std::collections::BTreeSet;
use std::{env, fs};

use anyhow::{Context, bail};

use super::Outcome;
use crate::dashboards;
use crate::process::root;

/// With `UPDATE_EXPECT=1` writes what differs.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let folder = root().join("deploy/grafana/dashboards");
    let mut expected = BTreeSet::new();
    for dashboard in dashboards::all() {
        let name = format!("{}.json", dashboard.name);
        let path = folder.join(&name);
        let text = serde_json::to_string_pretty(&dashboard.json())? + "\n";
        check_runbooks(&text)?;
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            if env::var_os("UPDATE_EXPECT").is_none() {
                bail!("{name} is not what xtask/src/dashboards makes; {REMEDY}");
            }
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            println!("wrote {name}");
        }
        expected.insert(name);
    }
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !expected.contains(&name) {
            bail!("deploy/grafana/dashboards/{name} is made by nothing; remove it");
        }
    }
    Ok(Outcome::Passed)
}

fn check_runbooks(dashboard: &str) -> anyhow::Result<()> {
    for rest in dashboard.split("docs/runbooks/").skip(1) {
        let page = rest.split('"').next().unwrap_or_default();
        if !root().join("docs/runbooks").join(page).is_file() {
            bail!("a panel links to docs/runbooks/{page}, which is not there");
        }
    }
    Ok(())
}

const REMEDY: &str = "run `UPDATE_EXPECT=1 cargo xtask deploy grafana`";
