//! The dashboards: what is committed is what the code makes, and every link leads to a page.

use anyhow::bail;

use super::{Outcome, derived};
use crate::dashboards;
use crate::process::root;

pub(super) fn run() -> anyhow::Result<Outcome> {
    let mut files = derived::Files::new();
    for dashboard in dashboards::all() {
        let text = serde_json::to_string_pretty(&dashboard.json())? + "\n";
        check_runbooks(&text)?;
        files.insert(format!("{}.json", dashboard.name), text);
    }
    derived::check("deploy/grafana/dashboards", &files, "xtask/src/dashboards", "grafana")?;
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
