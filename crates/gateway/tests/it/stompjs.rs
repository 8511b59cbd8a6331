//! The real `@stomp/stompjs` under Node, driven by lines of JSON.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// The folder of the JavaScript drivers; `cargo xtask test` installs their packages.
pub fn js_folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/js");
    assert!(
        folder.join("node_modules").exists(),
        "the packages of tests/js are missing: run `cargo xtask test`"
    );
    folder
}

/// A driver of `tests/js` in a Node process: commands go in and events come out, as lines of JSON.
pub struct Driver {
    _child: Child,
    /// Until there is to be no more.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// Events that a wait for another kind has passed over.
    passed: VecDeque<Value>,
}

impl Driver {
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("node")
            .arg(js_folder().join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is needed: run `cargo xtask test`");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, input, output, passed: VecDeque::new() }
    }

    /// Gives a command to it.
    pub async fn command(&mut self, command: &Value) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// Tells it that no command follows.
    pub fn end(&mut self) {
        self.input = None;
    }

    /// The next event of this kind; others are kept for later waits.
    pub async fn event(&mut self, kind: &str) -> Value {
        if let Some(at) = self.passed.iter().position(|event| event["event"] == kind) {
            return self.passed.remove(at).unwrap();
        }
        loop {
            let line = timeout(PATIENCE, self.output.next_line()).await;
            let line = line
                .unwrap_or_else(|_| panic!("no {kind} came in time; there were {:?}", self.passed));
            let line = line.unwrap().unwrap_or_else(|| panic!("the client ended; no {kind} came"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == kind {
                return event;
            }
            self.passed.push_back(event);
        }
    }
}

/// One `@stomp/stompjs` client in a Node process.
pub struct StompJs(Driver);

impl StompJs {
    /// A client for the gateway at `url`, connected with `token`.
    pub async fn connect(url: &str, token: &str, more: Value) -> Self {
        let mut client = Self(Driver::start("stomp_client.mjs", &[url]));
        let mut command = json!({
            "op": "connect",
            "headers": { "Authorization": format!("Bearer {token}") },
        });
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.command(&command).await;
        client.event("connected").await;
        client
    }

    /// Gives a command to the driver.
    pub async fn command(&mut self, command: &Value) {
        self.0.command(command).await;
    }

    /// Subscribes, and waits for the receipt.
    pub async fn subscribe(&mut self, destination: &str) {
        let id = format!("sub-{destination}");
        self.command(&json!({ "op": "subscribe", "destination": destination, "receipt": id }))
            .await;
        self.receipt(&id).await;
    }

    /// Publishes with a receipt, without waiting for it.
    pub async fn publish(&mut self, destination: &str, body: &str, receipt: &str) {
        let headers = json!({ "content-type": "application/json" });
        self.command(&json!({
            "op": "publish", "destination": destination, "body": body, "headers": headers,
            "receipt": receipt,
        }))
        .await;
    }

    /// Waits for the receipt with this id.
    pub async fn receipt(&mut self, id: &str) {
        let receipt = self.event("receipt").await;
        assert_eq!(receipt["id"], id);
    }

    /// The next event of this kind; others are kept for later waits.
    pub async fn event(&mut self, kind: &str) -> Value {
        self.0.event(kind).await
    }

    /// Whether an event of this kind has been passed over.
    pub fn has_passed(&self, kind: &str) -> bool {
        self.0.passed.iter().any(|event| event["event"] == kind)
    }
}
