//! Rules about Rust code: how long a function may be, and nothing left unfinished.

use anyhow::{Context, anyhow};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::tree::File;

/// The longest function: from its signature to its closing brace.
const MAX_FUNCTION_LINES: usize = 70;

const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub(super) fn check(file: File<'_>) -> anyhow::Result<Vec<Finding>> {
    if file.extension() != Some("rs") {
        return Ok(Vec::new());
    }
    let tokens: TokenStream =
        file.text.parse().map_err(|error| anyhow!("{error}")).context(file.path.to_owned())?;
    let mut findings = unfinished(file, tokens);
    let mut budget = Budget { file, findings: Vec::new() };
    budget.visit_file(&syn::parse_file(file.text).context(file.path.to_owned())?);
    findings.append(&mut budget.findings);
    Ok(findings)
}

/// Looks at tokens rather than expressions, to see into the arguments of other macros.
fn unfinished(file: File<'_>, tokens: TokenStream) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => findings.extend(unfinished(file, group.stream())),
            TokenTree::Ident(name) if UNFINISHED.iter().any(|banned| name == banned) => {
                let is_macro =
                    matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                if is_macro {
                    findings.push(
                        Finding::new("unfinished", file.path, format!("{name}! is left"))
                            .at_line(name.span().start().line),
                    );
                }
            }
            _ => {}
        }
    }
    findings
}

struct Budget<'t> {
    file: File<'t>,
    findings: Vec<Finding>,
}

impl Budget<'_> {
    fn charge(&mut self, signature: &syn::Signature, body: Span) {
        let first = signature.span().start().line;
        let lines = body.end().line + 1 - first;
        if lines > MAX_FUNCTION_LINES {
            let name = signature.ident.to_string();
            let message = format!("{name} has {lines} lines, more than {MAX_FUNCTION_LINES}");
            self.findings.push(
                Finding::new("function-lines", self.file.path, message)
                    .at_line(first)
                    .in_item(name),
            );
        }
    }
}

impl<'ast> Visit<'ast> for Budget<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.charge(&function.sig, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.charge(&function.sig, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.charge(&function.sig, body.span());
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<Finding> {
        check(File { path: "a.rs", text }).unwrap()
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_over_the_budget_is_a_finding() {
        assert!(check_text(&function_of(70)).is_empty());
        let findings = check_text(&function_of(71));
        assert_eq!(findings[0].message, "long has 71 lines, more than 70");
        assert_eq!(findings[0].item.as_deref(), Some("long"));
    }

    #[test]
    fn methods_and_default_methods_have_the_same_budget() {
        for holder in ["impl A", "trait A"] {
            let text = format!("{holder} {{\n{}}}\n", function_of(71));
            assert_eq!(check_text(&text).len(), 1, "{holder}");
        }
    }

    #[test]
    fn doc_comments_are_not_charged() {
        let text = format!("{}{}", "/// why\n".repeat(40), function_of(70));
        assert!(check_text(&text).is_empty());
    }

    #[test]
    fn unfinished_code_is_a_finding_also_inside_other_macros() {
        let findings = check_text("fn a() {\n    assert!(todo!());\n}\n");
        assert_eq!(findings[0].message, "todo! is left");
        assert_eq!(findings[0].line, Some(2));
        assert!(check_text("fn todo() -> &'static str { \"dbg!\" }").is_empty());
    }
}
