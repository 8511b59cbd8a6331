//! The manifests of `k8s/`, by schemas and against what the gateway has; `k8s/tests` says how.

use std::process::Command;

use super::{Outcome, PYTHON, built_gateway, derived, prometheus};
use crate::process::{find_program, root, run as run_command};
use crate::tools;

pub(super) fn run() -> anyhow::Result<Outcome> {
    derived::check(RULES, &rules()?, "deploy/prometheus/rules", "kubernetes")?;
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

/// The rules of Prometheus as its operator takes them, an object for each file.
fn rules() -> anyhow::Result<derived::Files> {
    let rules = prometheus::rules()?;
    let listed: String = rules.iter().flat_map(|(name, _)| ["  - ", name, ".yaml\n"]).collect();
    let kustomization = format!(
        "{MADE}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{listed}"
    );
    let objects = rules
        .iter()
        .map(|(name, text)| (format!("{name}.yaml"), MADE.to_owned() + &rule_object(name, text)));
    Ok(objects.chain([("kustomization.yaml".to_owned(), kustomization)]).collect())
}

fn rule_object(name: &str, rules: &str) -> String {
    let indent = |line: &str| if line.is_empty() { "" } else { "  " };
    let spec: String = rules.lines().flat_map(|line| [indent(line), line, "\n"]).collect();
    format!(
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  \
         name: fanlight-{name}\n  labels:\n    app.kubernetes.io/name: fanlight\nspec:\n{spec}"
    )
}

const RULES: &str = "k8s/overlays/production/rules";
const MADE: &str =
    "# Made of deploy/prometheus/rules by `UPDATE_EXPECT=1 cargo xtask deploy kubernetes`.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_rules_becomes_the_spec_of_an_object() {
        let object = rule_object("slo", "# Why.\n\ngroups:\n  - name: a\n");
        assert!(object.contains("\n  name: fanlight-slo\n"));
        assert!(object.ends_with("\nspec:\n  # Why.\n\n  groups:\n    - name: a\n"), "{object}");
    }
}
