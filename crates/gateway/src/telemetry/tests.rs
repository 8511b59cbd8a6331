//! The metrics as the sources, the documentation and CloudWatch have them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fanlight_engine::metric::{Kind, Metric, Section, Unit};

fn sections() -> impl Iterator<Item = &'static Section> {
    super::METRICS.iter().chain(fanlight_redis::METRICS)
}

/// `UPDATE_EXPECT=1 cargo test -p fanlight` writes them anew.
#[test]
fn the_tables_of_metrics_in_the_documentation_are_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let mut text = fs::read_to_string(&path).unwrap();
    for section in sections() {
        let (begin, end) = (format!("<!-- metrics: {} -->\n", section.name), "<!-- end -->");
        let (before, rest) = text.split_once(&begin).expect(section.name);
        let (_, after) = rest.split_once(end).unwrap();
        text = format!("{before}{begin}{}{end}{after}", table(section));
    }
    expect_test::expect_file![path].assert_eq(&text);
}

fn table(section: &Section) -> String {
    let mut table = String::from("| metric | kind | labels | what it tells |\n|---|---|---|---|\n");
    for metric in section.metrics {
        let Metric { name, help, detail, .. } = metric;
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match metric.unit() {
            Unit::Count => "",
            Unit::Seconds => ", seconds",
            Unit::Bytes => ", bytes",
            Unit::Ratio => ", 0 to 1",
        };
        let labels: Vec<_> = metric.labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let labels = labels.join(", ");
        let detail = if detail.is_empty() { String::new() } else { format!(" {detail}.") };
        let _ = writeln!(table, "| `{name}` | {kind}{unit} | {labels} | {help}{detail} |");
    }
    table
}

#[test]
fn the_sources_count_exactly_what_the_tables_list() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut counted = BTreeSet::new();
    for folder in ["gateway/src", "redis/src"] {
        names_in(&crates.join(folder), &mut counted);
    }
    let listed: BTreeSet<_> =
        sections().flat_map(|section| section.metrics).map(|metric| metric.name.into()).collect();
    let unlisted: Vec<_> = counted.difference(&listed).collect();
    let uncounted: Vec<_> = listed.difference(&counted).collect();
    assert!(unlisted.is_empty(), "not in a table: {unlisted:?}");
    assert!(uncounted.is_empty(), "in a table, but nothing counts it: {uncounted:?}");
}

/// Every `"fanlight_..."` of the sources that isn't where metrics are told of.
fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "telemetry" {
            names_in(&path, names);
        } else if path.extension().is_some_and(|kind| kind == "rs") && name != "metric_table.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let quoted = text.split('"').filter(|part| {
                part.strip_prefix("fanlight_").is_some_and(|rest| {
                    !rest.ends_with('_') && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                })
            });
            names.extend(quoted.map(str::to_owned));
        }
    }
}

#[test]
fn names_and_kinds_agree_and_no_name_is_taken_twice() {
    let mut seen = BTreeSet::new();
    for metric in sections().flat_map(|section| section.metrics) {
        let Metric { name, kind, help, .. } = *metric;
        assert!(seen.insert(name), "{name} is there twice");
        assert!(name.starts_with("fanlight_") && help.ends_with('.'), "{name}: {help}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        assert!(kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
    }
}
