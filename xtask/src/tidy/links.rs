//! Links between documents: each leads to a file that is there.

use super::Finding;
use super::reach::join;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let documents = tree.files().filter(|file| file.extension() == Some("md"));
    documents.flat_map(|document| dead_links(tree, document)).collect()
}

fn dead_links(tree: &Tree, document: File<'_>) -> Vec<Finding> {
    let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let numbered = document.text.lines().enumerate();
    let links = numbered.flat_map(|(index, line)| links(line).map(move |link| (index, link)));
    links
        .filter(|(_, link)| {
            let path = link.split('#').next().unwrap_or_default();
            !path.is_empty() && !path.contains("://") && tree.text(&join(folder, path)).is_none()
        })
        .map(|(index, link)| {
            let message = format!("the link to {link} leads nowhere");
            Finding::new("dead-link", document.path, message).at_line(index + 1).in_item(link)
        })
        .collect()
}

/// The targets of a line's `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_file_that_is_not_there_is_a_finding() {
        let there = [
            ("docs/a.md", "[b](b.md#part), [up](../README.md), [web](https://a.example), [#](#x)"),
            ("docs/b.md", ""),
            ("README.md", "[a](docs/a.md)"),
        ];
        assert_eq!(check(&Tree::of(&there)), []);

        let findings = check(&Tree::of(&there[..1]));
        let items: Vec<_> = findings.iter().filter_map(|finding| finding.item.as_deref()).collect();
        assert_eq!(items, ["b.md#part", "../README.md"]);
    }
}
