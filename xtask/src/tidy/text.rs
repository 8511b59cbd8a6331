//! Rules about any file's text: its first line, its length, its kind, and no machine's traces.

use super::Finding;
use super::tree::File;

/// The longest file of code.
const MAX_FILE_LINES: usize = 700;

/// Kinds of files in which people write code.
const CODE: [&str; 11] = ["rs", "js", "mjs", "ts", "css", "go", "html", "java", "lua", "py", "sql"];

/// Every other kind of file that has a place here.
const OTHER_KINDS: [&str; 15] = [
    "cfg",
    "conf",
    "hcl",
    "json",
    "md",
    "mod",
    "pem",
    "properties",
    "svg",
    "tf",
    "toml",
    "txt",
    "xml",
    "yaml",
    "yml",
];

/// Files that are known by their whole name.
const NAMES: [&str; 9] = [
    ".dockerignore",
    ".gitignore",
    ".npmrc",
    "Cargo.lock",
    "Dockerfile",
    "Dockerfile.scratch",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "run",
];

/// Where people's and build machines' own files are; no path of ours begins so.
const MACHINE_FOLDERS: [&str; 5] = ["/work/", "/home/", "/root/", "/Users/", "/tmp/wt"];

pub(super) fn check(file: File<'_>) -> Vec<Finding> {
    let rules = [kind, first_line, file_lines, machine_paths, lock_file_hosts];
    rules.iter().filter_map(|rule| rule(file)).collect()
}

fn kind(file: File<'_>) -> Option<Finding> {
    let has_place = NAMES.contains(&file.name())
        || file
            .extension()
            .is_some_and(|extension| CODE.contains(&extension) || OTHER_KINDS.contains(&extension));
    (!has_place).then(|| {
        let message = "no file of this kind has a place here (see xtask/src/tidy/text.rs)";
        Finding::new("file-kind", file.path, message)
    })
}

fn first_line(file: File<'_>) -> Option<Finding> {
    if file.extension() != Some("rs") {
        return None;
    }
    let says_its_job = file
        .text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//! "))
        .is_some_and(|job| !job.trim().is_empty());
    (!says_its_job).then(|| {
        let message = "the first line must be `//! ` and what the file is for";
        Finding::new("first-line", file.path, message).at_line(1)
    })
}

fn file_lines(file: File<'_>) -> Option<Finding> {
    let lines = file.text.lines().count();
    let is_code = file.extension().is_some_and(|extension| CODE.contains(&extension));
    (is_code && lines > MAX_FILE_LINES).then(|| {
        let message = format!("{lines} lines, more than {MAX_FILE_LINES}");
        Finding::new("file-lines", file.path, message)
    })
}

fn machine_paths(file: File<'_>) -> Option<Finding> {
    // This file and its tests must name what they forbid.
    if file.path == "xtask/src/tidy/text.rs" {
        return None;
    }
    let (index, line) = file
        .text
        .lines()
        .enumerate()
        .find(|(_, line)| MACHINE_FOLDERS.iter().any(|folder| is_path_in(line, folder)))?;
    let message = format!("names a path of one machine: {}", line.trim());
    Some(Finding::new("machine-path", file.path, message).at_line(index + 1))
}

/// Whether the line has the folder at the start of a path, not somewhere inside one.
fn is_path_in(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-}~*".contains(c)))
    })
}

fn lock_file_hosts(file: File<'_>) -> Option<Finding> {
    if file.name() != "package-lock.json" {
        return None;
    }
    let (index, _) = file
        .text
        .lines()
        .enumerate()
        .find(|(_, line)| line.contains("\"resolved\"") || line.contains("://registry"))?;
    let message = "names a registry's host; .npmrc has omit-lockfile-registry-resolved";
    Some(Finding::new("lock-file-host", file.path, message).at_line(index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let findings = check(File { path, text });
        findings.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_rust_file_says_its_job_in_its_first_line() {
        assert!(rules("a.rs", "//! Does one thing.\n").is_empty());
        for text in ["", "//!\n", "use std::fmt;\n", "\n//! Late.\n"] {
            assert_eq!(rules("a.rs", text), ["first-line"], "{text:?}");
        }
    }

    #[test]
    fn a_file_of_code_over_the_budget_is_a_finding() {
        assert!(rules("a.js", &"x\n".repeat(700)).is_empty());
        assert_eq!(rules("a.js", &"x\n".repeat(701)), ["file-lines"]);
        assert!(rules("docs/a.md", &"x\n".repeat(701)).is_empty());
    }

    #[test]
    fn a_file_of_unknown_kind_is_a_finding() {
        assert!(rules("deploy/Dockerfile", "").is_empty());
        for path in ["notes.docx", "a.rs.orig", "core", "docs/.swp"] {
            assert_eq!(rules(path, ""), ["file-kind"], "{path}");
        }
    }

    #[test]
    fn a_path_of_one_machine_is_a_finding() {
        assert_eq!(rules("a.md", "see /home/ann/fanlight"), ["machine-path"]);
        assert_eq!(rules("a.md", "`/work/x`"), ["machine-path"]);
        assert!(rules("a.md", "/topic/work/a and https://a.example/work/").is_empty());
    }

    #[test]
    fn a_registry_host_in_the_lock_file_is_a_finding() {
        let text = "\"resolved\": \"https://registry.example/ws.tgz\"";
        assert_eq!(rules("tests/js/package-lock.json", text), ["lock-file-host"]);
        assert!(rules("tests/js/package.json", text).is_empty());
    }
}
