//! What a scenario file may say, and what is refused.

use super::*;

const LEAST: &str = r#"
about = "x"
[connections]
count = 100
[report]
columns = ["lost"]
plot = "lost"
"#;

fn refused(text: &str) -> String {
    format!("{:#}", Scenario::parse("x", text).unwrap_err())
}

#[test]
fn every_scenario_of_ours_can_be_read_also_in_its_quick_size() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let scenario = Scenario::read(&entry.unwrap().path()).unwrap();
        let quick = scenario.clone().quick();
        quick.check().unwrap();
        assert!(quick.connections.count <= 400, "{}", quick.name);
        assert!(quick.variants().len() <= 4, "{}", quick.name);
        count += 1;
    }
    assert!(count >= 10, "only {count} scenarios");
}

#[test]
fn an_unknown_key_is_refused_with_those_that_are_known() {
    let error = refused(&LEAST.replace("count = 100", "count = 100\nrom = 1"));
    assert!(error.contains("unknown field `rom`") && error.contains("`rooms`"), "{error}");
    assert!(error.contains("docs/load-testing.md"), "{error}");
}

#[test]
fn an_unknown_figure_is_refused_with_those_that_are_known() {
    let error = refused(&LEAST.replace("plot = \"lost\"", "plot = \"speed\""));
    assert!(error.contains("cpu_us_per_delivery"), "{error}");
}

#[test]
fn what_does_not_hold_together_is_refused_by_name() {
    let with = |more: &str| format!("{}{LEAST}{more}", "");
    for (text, key) in [
        (with("[load]\nfor = \"1s\""), "load: give either"),
        (with("[load]\nrate = 1\ndeliveries = 1\nfor = \"1s\""), "load: give either"),
        (with("[load]\nrate = 1\nbytes = 40\nfor = \"1s\""), "load.bytes"),
        (with("[nodes]\ncount = 2"), "nodes.count"),
        (with("[storm]\nkind = \"cut\"\nat = \"1s\"\nbackoff = \"1s\""), "storm: needs [load]"),
        (with("[vary]\nbytes = [128]"), "vary.bytes"),
        (LEAST.replace("count = 100", "count = 5\nslow = 5"), "connections.slow"),
        (LEAST.replace("count = 100", "count = 5\nsettle = \"5\""), "not a duration"),
    ] {
        let error = refused(&text);
        assert!(error.contains(key), "{key}: {error}");
    }
}

#[test]
fn deliveries_per_second_are_shared_by_fewer_publications_where_more_get_each() {
    let text = format!("{LEAST}[load]\ndeliveries = 1000\nfor = \"1s\"");
    let scenario = Scenario::parse("x", &text).unwrap();
    let rate = |connections| scenario.publish_rate(Variant { connections, bytes: 128 });
    assert_eq!([10, 100].map(rate).map(f64::to_bits), [100.0, 10.0].map(f64::to_bits));
}

#[test]
fn all_combinations_of_what_is_varied_are_made() {
    let text = format!(
        "{LEAST}[load]\nrate = 1\nfor = \"1s\"\n[vary]\nconnections = [1, 2]\nbytes = [128, \"1KiB\"]"
    );
    let variants = Scenario::parse("x", &text).unwrap().variants();
    let variants: Vec<_> = variants.iter().map(|it| (it.connections, it.bytes)).collect();
    assert_eq!(variants, [(1, 128), (1, 1024), (2, 128), (2, 1024)]);
}
