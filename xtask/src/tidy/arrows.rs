//! Which crate may depend on which (design §4): data flows one way.

use cargo_metadata::{DependencyKind, Metadata};

use super::Finding;

/// A crate and the crates of this workspace it may use.
type Rule = (&'static str, &'static [&'static str]);

const RULES: [Rule; 9] = [
    ("fanlight-proto", &[]),
    ("fanlight-engine", &["fanlight-proto"]),
    ("fanlight-redis", &["fanlight-engine", "fanlight-proto"]),
    ("fanlight-client", &["fanlight-proto"]),
    (
        "fanlight",
        &[
            "fanlight-engine",
            "fanlight-redis",
            "fanlight-proto",
            // For the command line's `pub` and `sub`.
            "fanlight-client",
        ],
    ),
    // Talks to gateways as any backend does.
    ("fanlight-example-chat", &[]),
    ("fanlight-loadtest", &["fanlight-client", "fanlight-proto"]),
    ("fanlight-testkit", &["fanlight-engine", "fanlight-proto"]),
    ("xtask", &[]),
];

/// What tests of any crate may use beside what the crate itself may.
const FOR_TESTS_ONLY: &str = "fanlight-testkit";

/// A package, where it is, and the packages of the workspace it depends on.
pub(super) struct Package {
    name: String,
    manifest: String,
    uses: Vec<Use>,
}

struct Use {
    name: String,
    is_dev: bool,
}

/// The packages of the workspace and their arrows.
pub(super) fn of(metadata: &Metadata) -> Vec<Package> {
    let packages = metadata.packages.iter();
    packages
        .map(|package| Package {
            name: package.name.to_string(),
            manifest: package
                .manifest_path
                .strip_prefix(&metadata.workspace_root)
                .unwrap_or(&package.manifest_path)
                .to_string(),
            uses: package
                .dependencies
                .iter()
                .filter(|dependency| dependency.path.is_some())
                .map(|dependency| Use {
                    name: dependency.name.clone(),
                    is_dev: dependency.kind == DependencyKind::Development,
                })
                .collect(),
        })
        .collect()
}

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let name = &package.name;
    let Some((_, allowed)) = RULES.iter().find(|(rule, _)| rule == name) else {
        let message = format!("{name} is not in the table of xtask/src/tidy/arrows.rs");
        return vec![Finding::new("crate-arrows", &package.manifest, message)];
    };
    let forbidden = package.uses.iter().filter(|used| {
        let for_tests = used.is_dev && used.name == FOR_TESTS_ONLY;
        !for_tests && !allowed.contains(&used.name.as_str())
    });
    forbidden
        .map(|used| {
            let message = format!("{name} must not depend on {}", used.name);
            Finding::new("crate-arrows", &package.manifest, message).in_item(&used.name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, used: &str, is_dev: bool) -> Vec<String> {
        let package = Package {
            name: name.to_owned(),
            manifest: "Cargo.toml".to_owned(),
            uses: vec![Use { name: used.to_owned(), is_dev }],
        };
        let findings = check(&[package]).into_iter();
        findings.map(|finding| finding.message).collect()
    }

    #[test]
    fn an_arrow_against_the_flow_is_a_finding() {
        assert!(messages("fanlight-engine", "fanlight-proto", false).is_empty());
        assert_eq!(
            messages("fanlight-proto", "fanlight-engine", false),
            ["fanlight-proto must not depend on fanlight-engine"]
        );
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        assert!(messages("fanlight", "fanlight-testkit", true).is_empty());
        assert_eq!(
            messages("fanlight", "fanlight-testkit", false),
            ["fanlight must not depend on fanlight-testkit"]
        );
    }

    #[test]
    fn a_new_crate_needs_its_row() {
        let findings = messages("fanlight-kafka", "fanlight-proto", false);
        assert!(findings[0].contains("not in the table"), "{findings:?}");
    }
}
