//! The applications of `examples/`, and the code of `docs/backends`, against real gateways: driven
//! by Node and Chromium (`tests/js/examples.mjs`, `tests/js/backends.mjs`). Here because the chat is
//! what has to be built for it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking where something is missing")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

const CHAT: &str = env!("CARGO_BIN_EXE_fanlight-example-chat");

#[test]
fn each_example_works_as_people_use_it_also_while_a_node_is_killed() {
    let screenshots = root().join("artifacts");
    let screenshots = screenshots.to_str().unwrap();
    node("examples.mjs", &["--chat", CHAT, "--screenshots", screenshots]);
}

#[test]
fn the_backends_of_the_documents_work_with_a_gateway_in_every_language() {
    node("backends.mjs", &[]);
}

/// Runs a driver; it fails by itself at the first rule that does not hold. One at a time: on a
/// machine where nothing was built yet, both would have Go build its standard library.
fn node(driver: &str, arguments: &[&str]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new("node");
    command.arg(root().join("tests/js").join(driver)).arg("--gateway").arg(gateway());
    let output = command.args(arguments).output().expect("node is needed: run `cargo xtask test`");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}{errors}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The gateway that was built beside the chat; on its own, this package's tests have to build it.
fn gateway() -> &'static Path {
    static GATEWAY: OnceLock<PathBuf> = OnceLock::new();
    GATEWAY.get_or_init(|| {
        let gateway = Path::new(CHAT).with_file_name("fanlight");
        if !gateway.exists() {
            let build = ["build", "--locked", "--package", "fanlight", "--bin", "fanlight"];
            assert!(Command::new(env!("CARGO")).args(build).status().unwrap().success());
        }
        gateway
    })
}
