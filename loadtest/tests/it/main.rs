//! The load tester as a program: against the null server, which does wrong on demand, and against a
//! real gateway.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rollout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// Small, and short; limits that a busy machine does not meet.
const SCENARIO: &str = r#"
about = "A small load"
[connections]
count = 50
rooms = 5
rate = 500
settle = "100ms"
[load]
rate = 100
for = "2s"
publishers = 2
[limits]
schedule_lag = "60s"
client_cpu = 100.0
settle = "30s"
connections_per_process = 25
[report]
columns = ["deliver_p50_ms", "cpu_us_per_delivery", "lost"]
plot = "deliver_p50_ms"
"#;

struct Run {
    output: Output,
    folder: TempDir,
}

impl Run {
    fn of(scenario: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("small.toml");
        fs::write(&file, scenario).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_fanlight-loadtest"))
            .arg("run")
            .arg(file)
            .args(["--rounds", "1", "--out"])
            .arg(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        Self { output, folder }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn passed(&self) {
        assert!(self.output.status.success(), "{}", self.said());
    }

    #[track_caller]
    fn failed_with(&self, why: &str) {
        assert!(!self.output.status.success(), "it passed");
        let said = self.said();
        assert!(said.contains(why), "{said}");
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn figure(&self, name: &str) -> f64 {
        let figures: serde_json::Value = serde_json::from_str(&self.file("figures.json")).unwrap();
        figures["small"][0]["outcomes"][0]["figures"][name].as_f64().unwrap()
    }
}

/// The gateway that was built beside the tester; on its own, this package's tests have to build it.
fn gateway() -> &'static Path {
    static GATEWAY: OnceLock<PathBuf> = OnceLock::new();
    GATEWAY.get_or_init(|| {
        let tester = Path::new(env!("CARGO_BIN_EXE_fanlight-loadtest"));
        let gateway = tester.with_file_name("fanlight");
        if !gateway.exists() {
            let built = Command::new(env!("CARGO"))
                .args(["build", "--locked", "--package", "fanlight", "--bin", "fanlight"])
                .status()
                .unwrap();
            assert!(built.success());
        }
        gateway
    })
}

#[test]
fn two_client_processes_are_one_load_whose_figures_are_merged() {
    let run = Run::of(SCENARIO, &["--target", "null"]);
    run.passed();
    // 200 publications in 5 rooms of 10.
    assert_eq!(run.figure("deliveries_per_second").to_bits(), 1000f64.to_bits());
    let report = run.file("report.md");
    assert!(report.contains("| null | 50 | 128 |"), "{report}");
    assert!(run.file("small.svg").starts_with("<svg"));
    let log = run.file("small-null-50x128-1.hlog");
    for tag in ["deliver", "publish", "lag"] {
        assert!(log.contains(&format!("Tag={tag},")), "{log}");
    }
}

#[test]
fn a_message_that_is_lost_repeated_or_swapped_fails_the_run() {
    for (fault, why) in [
        ("drop:20", "1 deliveries were lost"),
        ("duplicate:20", "1 deliveries came twice"),
        ("reorder:20", "1 deliveries came out of order"),
    ] {
        let scenario = SCENARIO.replace("settle = \"30s\"", "settle = \"1s\"");
        Run::of(&scenario, &["--target", "null", "--null-fault", fault]).failed_with(why);
    }
}

#[test]
fn a_run_in_which_the_tester_was_the_bottleneck_is_not_valid() {
    let scenario = SCENARIO.replace("client_cpu = 100.0", "client_cpu = 0.000001");
    Run::of(&scenario, &["--target", "null"]).failed_with("INVALID");
    let scenario = SCENARIO.replace("schedule_lag = \"60s\"", "schedule_lag = \"0s\"");
    Run::of(&scenario, &["--target", "null"]).failed_with("publications left late");
}

#[test]
fn the_gateway_delivers_everything_by_each_of_its_protocols() {
    let gateway = gateway().to_str().unwrap();
    let targets = "fanlight,fanlight:stomp,fanlight:sockjs,fanlight:events";
    let run = Run::of(SCENARIO, &["--target", targets, "--gateway", gateway]);
    run.passed();
    assert!(run.figure("cpu_us_per_delivery") > 0.0);
    assert!(run.file("report.md").contains("| fanlight:events | 50 | 128 |"));
}

#[test]
fn who_is_cut_off_and_recovers_misses_nothing() {
    let scenario = SCENARIO
        .replace("[connections]", "anew = \"connections\"\n[nodes]\nhistory = 1000\n[connections]")
        .replace("[limits]", "[storm]\nkind = \"cut\"\nat = \"500ms\"\nbackoff = \"1s\"\n[limits]");
    let run = Run::of(&scenario, &["--gateway", gateway().to_str().unwrap()]);
    run.passed();
    assert!(run.figure("recover_all_s") > 0.0);
    assert_eq!(run.figure("lost").to_bits(), 0f64.to_bits());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let run = Run::of(SCENARIO, &["--target", "centrifugo@127.0.0.1:1"]);
    run.failed_with("attempts to connect failed");
}
