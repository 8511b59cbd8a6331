//! The program, as processes that end with the test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

/// How a command ended.
pub(crate) struct Ended(Output);

/// A node in development mode.
pub(crate) struct Node {
    child: Child,
    url: String,
    /// Kept open, as a node whose output nobody takes would end.
    _stdout: BufReader<ChildStdout>,
}

/// `fanlight sub`, while it runs.
pub(crate) struct Subscriber {
    child: Child,
    /// What it said until it was live.
    pub(crate) notes: String,
}

/// Runs `fanlight` with these arguments.
pub(crate) fn run(args: &[&str]) -> Ended {
    run_with(args, &[])
}

/// Runs `fanlight` with these arguments and variables, and no others of its own.
pub(crate) fn run_with(args: &[&str], env: &[(&str, &str)]) -> Ended {
    Ended(command().args(args).envs(env.iter().copied()).output().unwrap())
}

impl Ended {
    /// What it printed; it must have succeeded.
    pub(crate) fn succeeded(&self) -> String {
        assert!(self.0.status.success(), "{}", self.errors());
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// What it complained of; it must have failed, in order.
    pub(crate) fn failed(&self) -> String {
        assert_eq!(self.0.status.code(), Some(1), "{}", self.errors());
        self.errors()
    }

    /// What it complained of; its arguments must have been refused.
    pub(crate) fn refused(&self) -> String {
        assert_eq!(self.0.status.code(), Some(2), "{}", self.errors());
        self.errors()
    }

    /// What it printed, however it ended.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    fn errors(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    /// Starts one that listens there.
    pub(crate) fn start_on(address: &str) -> Self {
        let args = ["serve", "--dev", "--workers", "1"];
        let listen = ["--listen", address, "--admin", "127.0.0.1:0", "--api", "127.0.0.1:0"];
        Self::start_with(&[&args[..], &listen].concat())
    }

    /// Starts one with this configuration, not in development mode.
    pub(crate) fn start_configured(config: &str) -> Self {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        // It is read before the node says where it listens.
        Self::start_with(&["serve", "--config", file.path().to_str().unwrap()])
    }

    fn start_with(args: &[&str]) -> Self {
        let mut command = command();
        let command = command.args(args).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let url = stdout.by_ref().lines().find_map(|line| {
            line.unwrap()
                .split_whitespace()
                .find(|word| word.starts_with("ws://"))
                .map(String::from)
        });
        Self { child, url: url.expect("the node announces its URL"), _stdout: stdout }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Asks it to end as a supervisor does, and waits until it has. Gives its address.
    pub(crate) fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        self.url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned()
    }

    /// Starts a subscriber and waits until it is live.
    pub(crate) fn subscribe(&self, args: &[&str]) -> Subscriber {
        let mut command = command();
        let command = command.args(["sub", &self.url]).args(args).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stderr.as_mut().unwrap());
        let mut notes = String::new();
        while !notes.contains("note: subscribed to") {
            let bytes = reader.read_line(&mut notes).unwrap();
            assert!(bytes > 0, "it has ended: {notes}");
        }
        Subscriber { child, notes }
    }
}

impl Subscriber {
    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, but not for ever.
    pub(crate) fn ended(mut self) -> Ended {
        for _ in 0..200 {
            if self.child.try_wait().unwrap().is_some() {
                return Ended(self.child.wait_with_output().unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        panic!("the subscriber has not ended: {:?}", self.child.wait_with_output());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    let own = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("FANLIGHT")));
    for (name, _) in own {
        command.env_remove(name);
    }
    command
}
