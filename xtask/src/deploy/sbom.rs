//! What the gateway is made of, as `CycloneDX`, from cargo's own data; and that it is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde_json::{Value, json};

use super::{Outcome, PYTHON};
use crate::process::{root, run as run_command};
use crate::tools;

/// Makes one and has it validated by the schema of `CycloneDX`.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let folder = root().join("target/deploy");
    fs::create_dir_all(&folder)?;
    let file = folder.join("sbom.cdx.json");
    write(&mut fs::File::create(&file)?)?;
    let python = tools::python(PYTHON)?.join("python");
    run_command(Command::new(python).arg(root().join("deploy/checks/sbom.py")).arg(file))?;
    Ok(Outcome::Passed)
}

/// Writes the bill of the gateway as it is built with its default features.
pub(crate) fn write(out: &mut impl Write) -> anyhow::Result<()> {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    command.other_options(["--locked".into(), "--filter-platform".into(), PLATFORM.into()]);
    let metadata = command.exec()?;
    serde_json::to_writer_pretty(&mut *out, &bill(&metadata)?)?;
    Ok(writeln!(out)?)
}

fn bill(metadata: &Metadata) -> anyhow::Result<Value> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p)).collect();
    let gateway = metadata.packages.iter().find(|package| package.name == "fanlight");
    let gateway = gateway.context("cargo metadata has no package `fanlight`")?;
    let edges = edges(metadata)?;
    let mut used = BTreeSet::from([&gateway.id]);
    let mut open = vec![&gateway.id];
    while let Some(id) = open.pop() {
        open.extend(edges[id].iter().copied().filter(|&id| used.insert(id)));
    }
    let others = used.iter().filter(|id| **id != &gateway.id);
    let components: Vec<_> = others.map(|id| component(packages[*id], "library")).collect();
    let dependencies: Vec<_> = used
        .iter()
        .map(|id| {
            let on: BTreeSet<_> = edges[*id].iter().map(|id| reference(packages[id])).collect();
            json!({ "ref": reference(packages[*id]), "dependsOn": on })
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(gateway, "application") },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What each package is built from or with; tests are in no image.
fn edges(metadata: &Metadata) -> anyhow::Result<BTreeMap<&PackageId, Vec<&PackageId>>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata has resolved nothing")?;
    let shipped = |dependency: &&cargo_metadata::NodeDep| {
        dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
    };
    Ok(resolve
        .nodes
        .iter()
        .map(|node| (&node.id, node.deps.iter().filter(shipped).map(|dep| &dep.pkg).collect()))
        .collect())
}

fn component(package: &Package, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version.to_string(),
        "purl": reference(package),
    });
    if let Some(license) = &package.license {
        // Some crates still write a slash for "or".
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    component
}

/// A package URL, which also tells one version from another.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// What the published image is built for; arm64 has the same packages.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
