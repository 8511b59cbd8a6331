//! Breaks the modules in a few ways, to see that the checks notice.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::{Stub, copy, example, module};

/// A mistake, and whether the module's own check or that of the example must notice.
struct Mistake {
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    noticed_by: fn(&Stub, &Path) -> anyhow::Result<()>,
    /// Where that check runs, and what it then says.
    folder: &'static str,
    says: &'static str,
}

const MISTAKES: [Mistake; 6] = [
    Mistake {
        file: "modules/alb/main.tf",
        right: "idle_timeout  ",
        wrong: "idle_timeouts ",
        noticed_by: module,
        folder: "modules/alb",
        says: "Unsupported argument",
    },
    Mistake {
        file: "modules/service/main.tf",
        right: "deployment_maximum_percent         = 200",
        wrong: "deployment_maximum_percent         = 150",
        noticed_by: module,
        folder: "modules/service",
        says: "new tasks are there before old ones go",
    },
    Mistake {
        file: "modules/service/collector.yaml",
        right: "${env:REMOTE_WRITE_URL}",
        wrong: "${env:REMOTE_URL}",
        noticed_by: module,
        folder: "modules/service",
        says: "all variables of its configuration are set",
    },
    Mistake {
        file: "modules/service/collector.yaml",
        right: "authenticator: sigv4auth",
        wrong: "authenticator: sigv4auth/2",
        noticed_by: example,
        folder: "examples/complete",
        says: "check_tasks.py",
    },
    Mistake {
        file: "modules/service/containers.tf",
        right: "stopTimeout = var",
        wrong: "stopTimeOut = var",
        noticed_by: example,
        folder: "examples/complete",
        says: "check_tasks.py",
    },
    Mistake {
        file: "examples/complete/options.tf",
        right: "FANLIGHT__AUTH__AUDIENCE ",
        wrong: "FANLIGHT__AUTH__AUDIENCES",
        noticed_by: example,
        folder: "examples/complete",
        says: "the gateway refuses",
    },
];

pub(super) fn all_are_noticed(stub: &Stub) -> anyhow::Result<()> {
    println!("with mistakes, each of which must be noticed:");
    for Mistake { file, right, wrong, noticed_by, folder, says } in MISTAKES {
        let copy = copy("terraform-broken")?;
        let path = copy.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if !text.contains(right) {
            bail!("{file} has no `{right}` to break");
        }
        fs::write(&path, text.replace(right, wrong)).with_context(|| path.display().to_string())?;
        let found = noticed_by(stub, &copy.join(folder));
        let error = found.err().with_context(|| format!("{file}: nobody noticed `{wrong}`"))?;
        if !format!("{error:#}").contains(says) {
            return Err(
                error.context(format!("{file}: `{wrong}` was noticed, but not as `{says}`"))
            );
        }
        println!("noticed: `{wrong}`");
    }
    Ok(())
}
