//! Code in documents is that of files which tests run: behind `<!-- file: node/a.mjs -->`, the next
//! block is that file, whole.

use super::Finding;
use super::reach::join;
use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let documents = tree.files().filter(|file| file.extension() == Some("md"));
    documents.flat_map(|file| check_document(tree, file.path, file.text)).collect()
}

fn check_document(tree: &Tree, path: &str, text: &str) -> Vec<Finding> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let lines: Vec<_> = text.lines().collect();
    let mut findings = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let included = tree.text(&join(folder, name));
        let block = block(&lines[at + 1..]);
        if included.is_none() || included.map(str::lines).map(Vec::from_iter) != block {
            let message = format!("the block behind this line is not what is in {name}");
            findings.push(Finding::new("included-code", path, message).at_line(at + 1));
        }
    }
    findings
}

/// The lines of the block that begins here.
fn block<'t>(lines: &[&'t str]) -> Option<Vec<&'t str>> {
    let (first, rest) = lines.split_first()?;
    let end = rest.iter().position(|line| *line == FENCE)?;
    first.starts_with(FENCE).then(|| rest[..end].to_vec())
}

const MARK: &str = "<!-- file: ";
const FENCE: &str = "```";

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(document: &str) -> Vec<String> {
        let tree = Tree::of(&[("docs/a.md", document), ("docs/node/a.mjs", "one();\ntwo();\n")]);
        check(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_block_that_is_its_file_is_good() {
        let document = "# A\n\n<!-- file: node/a.mjs -->\n```js\none();\ntwo();\n```\n";
        assert_eq!(findings(document), [""; 0]);
    }

    #[test]
    fn a_block_that_differs_or_is_missing_is_a_finding() {
        for block in
            ["```js\none();\n```\n", "```js\none();\ntwo();\nthree();\n```\n", "text\n", ""]
        {
            let found = findings(&format!("<!-- file: node/a.mjs -->\n{block}"));
            let expected = "docs/a.md:1: included-code: the block behind this line is not what is in node/a.mjs";
            assert_eq!(found, [expected], "{block:?}");
        }
        assert_eq!(findings("<!-- file: node/b.mjs -->\n```js\n```\n").len(), 1);
    }
}
