//! The manifests of `k8s/`, by schemas and against what the gateway has; `k8s/tests` says how.

use std::process::Command;

use super::{Outcome, PYTHON, built_gateway};
use crate::process::{find_program, root, run as run_command};
use crate::tools;

pub(super) fn run() -> anyhow::Result<Outcome> {
    if find_program("kubectl").is_none() {
        let what = "kubectl is missing; kubernetes.io/docs/tasks/tools says how to get it";
        return Ok(Outcome::Skipped(what.into()));
    }
    let gateway = built_gateway()?;
    let python = tools::python(PYTHON)?.join("python");
    // The schemas of KEDA and of Prometheus' operator.
    tools::npm("k8s/tests")?;
    let script = root().join("k8s/tests/validate.py");
    run_command(Command::new(python).arg(script).arg(gateway))?;
    Ok(Outcome::Passed)
}
