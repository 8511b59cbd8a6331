//! What fails among the Rust tests: read from cargo's output while it is shown, so that it can be
//! named once more at the end, where a reader of a long log looks, and tried once more.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::mem;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::process::shown;

/// How a run of `cargo test` has ended.
pub(crate) struct Outcome {
    /// Whether cargo itself ended well: it doesn't where it can't compile, or a test fails.
    pub(crate) passed: bool,
    /// The names of the tests that failed.
    pub(crate) failed: BTreeSet<String>,
    /// Whether something failed and no test is to blame: a binary that crashed or wasn't built.
    pub(crate) otherwise: bool,
}

/// How long the output may go on when cargo has ended: a process that a test left behind holds it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a `cargo test`, shows what it prints, and reads from it what fails.
pub(crate) fn watch(command: &mut Command) -> anyhow::Result<Outcome> {
    let title = shown(command);
    println!("$ {title}");
    // One pipe for both: in two, which binary a list of failures belongs to would be lost.
    let (output, input) = io::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("could not start `{title}`"))?;
    // The command holds the pipe's other end, which would keep it open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = Arc::new(Mutex::new(Reader::default()));
    let (end, ended) = mpsc::sync_channel::<()>(1);
    let read = Arc::clone(&reader);
    thread::spawn(move || {
        let _end = end;
        show(output, &read)
    });
    let passed = child.wait()?.success();
    // An error either way: its end is dropped, or didn't come.
    if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        eprintln!("a test has left a process behind, which holds its output");
    }
    let Reader { failed, otherwise, .. } = mem::take(&mut *reader.lock().expect("not poisoned"));
    let otherwise = otherwise || (!passed && failed.is_empty());
    Ok(Outcome { passed, failed, otherwise })
}

fn show(output: PipeReader, reader: &Mutex<Reader>) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        io::stdout().write_all(&line)?;
        reader.lock().expect("not poisoned").line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

/// Reads what libtest and cargo say of failures.
#[derive(Default)]
struct Reader {
    /// What the last list that began with `failures:` names so far, in the binary that runs.
    listed: Vec<String>,
    failed: BTreeSet<String>,
    otherwise: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if line == "failures:" {
            // It comes twice: before what failed tests have printed, and before their names.
            self.listed.clear();
        } else if let Some(name) = line.strip_prefix("    ") {
            self.listed.push(name.to_owned());
        } else if line.starts_with("test result: FAILED") {
            self.failed.extend(self.listed.drain(..));
        } else if line.contains("could not compile") || line.contains("process didn't exit") {
            // Cargo says the latter of each binary that fails; libtest's own way out is 101.
            self.otherwise |= !line.contains("exit status: 101");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;

    fn read(output: &str) -> Reader {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        reader
    }

    #[test]
    fn names_are_those_of_the_list_and_nothing_that_tests_have_printed() {
        let reader = read(
            "running 2 tests\n\
             test drain::moves ... FAILED\n\
             test drain::paces ... ok\n\
             \n\
             failures:\n\
             \n\
             ---- drain::moves stdout ----\n\
             \x20   left: 1\n\
             \n\
             failures:\n\
             \x20   drain::moves\n\
             \n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
             error: test failed, to rerun pass `-p fanlight --test it`\n\
             Caused by:\n\
             \x20 process didn't exit successfully: `it` (exit status: 101)\n",
        );
        assert_eq!(reader.failed.into_iter().collect::<Vec<_>>(), ["drain::moves"]);
        assert!(!reader.otherwise, "a test is to blame");
    }

    #[test]
    fn what_crashes_or_is_not_built_is_not_a_failed_test() {
        for line in [
            "  process didn't exit successfully: `it` (signal: 11, SIGSEGV: invalid memory)",
            "error: could not compile `fanlight` (lib test) due to 1 previous error",
        ] {
            let reader = read(line);
            assert!(reader.otherwise && reader.failed.is_empty(), "{line}");
        }
    }
}
