//! The reference, made from the types: every option's path, kind, default and meaning, as TOML,
//! as a table of environment variables, and as JSON Schema.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Config;
use super::layers::ENV_PREFIX;

/// What there is to know about one option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OptionDoc {
    /// Where it is: `listen.public`, `auth.keys[].secret`.
    pub path: String,
    /// The environment variable that sets it; `N` stands for an index from 0.
    pub env: String,
    /// What it holds: "duration", "size", "list of text", "\"memory\" or \"redis\"".
    pub kind: String,
    /// The default as TOML; none where the option must be given or is off when absent.
    pub default: Option<String>,
    /// What it means.
    pub doc: String,
    /// Whether it must be given, where the table it stands in is.
    pub is_required: bool,
    /// Whether its value is never shown.
    pub is_secret: bool,
    /// Whether it holds several values.
    pub is_list: bool,
}

/// Every option, in the order of the reference.
pub fn options() -> Vec<OptionDoc> {
    let schema = schema();
    let mut options = Vec::new();
    walk(&schema, &schema, "", &mut options);
    let defaults = default_lines();
    for option in &mut options {
        let found = defaults.iter().find(|line| line.path == option.path);
        option.default = found.map(|line| line.value.clone());
        if option.default.is_none() && option.is_list && !option.path.contains("[]") {
            option.default = Some("[]".into());
        }
    }
    // As the types have them; what no default shows comes at the end of its section.
    let rank = |path: &str| {
        let own = defaults.iter().position(|line| line.path == path);
        let section = section_of(path);
        let last = || defaults.iter().rposition(|line| line.section == section);
        let after = || last().filter(|_| !section.is_empty()).map(|at| 2 * at + 1);
        own.map(|at| 2 * at).or_else(after).unwrap_or(usize::MAX)
    };
    options.sort_by_key(|option| {
        let is_item = option.path.contains("[]");
        (rank(&option.path), table_of(&option.path), is_item, !option.is_required)
    });
    options
}

/// The JSON Schema of the configuration file.
pub fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// The reference: a TOML file of every option at its default, each with its meaning.
pub fn defaults() -> String {
    let options = options();
    let schema = schema();
    let mut text = String::from(HEAD);
    let mut section = String::new();
    for line in default_lines() {
        if line.section != section {
            if !section.is_empty() {
                close_section(&section, &options, &mut text);
            }
            section.clone_from(&line.section);
            let doc = description(&schema, &section);
            let _ = write!(text, "\n{}[{section}]\n", comment(&doc));
        }
        let doc = options.iter().find(|option| option.path == line.path);
        text.push_str(&comment(doc.map_or("", |option| &option.doc)));
        let _ = writeln!(text, "{} = {}\n", line.key, line.value);
    }
    close_section(&section, &options, &mut text);
    close_section("", &options, &mut text);
    text.push_str(EXAMPLES_HEAD);
    for line in EXAMPLES.lines() {
        text.push_str(if line.is_empty() { "#" } else { "# " });
        text.push_str(line);
        text.push('\n');
    }
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

/// `auth.keys[0].secret` as the reference has it: `auth.keys[].secret`.
pub fn without_indices(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut inside = false;
    for character in path.chars() {
        inside = (inside || character == '[') && character != ']';
        if !inside || character == '[' {
            general.push(character);
        }
    }
    general
}

/// The variable that sets the option at `path`.
pub fn env_name(path: &str) -> String {
    let path = path.replace("[]", ".N").replace('[', ".").replace(']', "");
    format!("{ENV_PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// One `key = value` of the defaults.
struct DefaultLine {
    section: String,
    key: String,
    value: String,
    path: String,
}

/// The defaults as the serializer writes them, which keeps the order of the types.
fn default_lines() -> Vec<DefaultLine> {
    let text = toml::to_string(&Config::default()).unwrap_or_default();
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let path = if section.is_empty() { key.into() } else { format!("{section}.{key}") };
            let (key, value) = (key.to_owned(), value.to_owned());
            lines.push(DefaultLine { section: section.clone(), key, value, path });
        }
    }
    lines
}

/// What a section has that the defaults don't show: options that are absent, and lists of tables.
fn close_section(section: &str, options: &[OptionDoc], text: &mut String) {
    let shown = default_lines();
    let hidden = options.iter().filter(|option| {
        let is_shown = shown.iter().any(|line| line.path == option.path);
        section_of(&option.path) == section && !option.path.contains("[]") && !is_shown
    });
    for option in hidden {
        let is_table =
            options.iter().any(|other| other.path.starts_with(&format!("{}[]", option.path)));
        let key = option.path.rsplit('.').next().unwrap_or_default();
        if !is_table {
            let _ = write!(text, "{}# {key} =\n\n", comment(&option.doc));
            continue;
        }
        let _ = writeln!(text, "{}# [[{}]]", comment(&option.doc), option.path);
        text.push_str("#\n");
        let prefix = format!("{}[].", option.path);
        for item in options.iter().filter(|item| item.path.starts_with(&prefix)) {
            let name = &item.path[prefix.len()..];
            let needed = if item.is_required { ", required" } else { "" };
            let line = format!("- {name} ({}{needed}): {}", item.kind, item.doc);
            text.push_str(&comment(&line));
        }
        text.push('\n');
    }
}

/// The list of tables that an option belongs to, so that tables stay together; a list itself
/// counts as the first of its own.
fn table_of(path: &str) -> String {
    path.split("[]").next().unwrap_or_default().to_owned()
}

fn section_of(path: &str) -> &str {
    let own = path.split("[]").next().unwrap_or_default();
    own.rsplit_once('.').map_or("", |(section, _)| section)
}

fn walk(root: &Value, node: &Value, path: &str, options: &mut Vec<OptionDoc>) {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else {
        return;
    };
    let required = node.get("required").and_then(Value::as_array);
    let required: Vec<_> = required.into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, property) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let target = resolve(root, property);
        let doc = text_of(property, "description").or_else(|| text_of(target, "description"));
        if target.get("properties").is_some() {
            walk(root, target, &path, options);
            continue;
        }
        let items = target.get("items").map(|items| resolve(root, items));
        options.push(OptionDoc {
            env: env_name(&path),
            kind: kind(root, target),
            default: None,
            doc: doc.unwrap_or_default(),
            is_required: required.contains(&key.as_str()),
            is_secret: target.get("writeOnly").is_some(),
            is_list: items.is_some(),
            path: path.clone(),
        });
        if let Some(items) = items {
            walk(root, items, &format!("{path}[]"), options);
        }
    }
}

fn kind(root: &Value, node: &Value) -> String {
    if let Some(words) = node.get("enum").and_then(Value::as_array) {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        return words.join(" or ");
    }
    if let Some(title) = node.get("title").and_then(Value::as_str) {
        return title.into();
    }
    let names = match node.get("type") {
        Some(Value::Array(names)) => names.iter().find_map(|n| n.as_str().filter(|n| *n != "null")),
        Some(name) => name.as_str(),
        None => None,
    };
    match names {
        Some("string") => "text".into(),
        Some("integer") => "whole number".into(),
        Some("number") => "number".into(),
        Some("boolean") => "true or false".into(),
        Some("array") => {
            let items = node.get("items").map_or(&Value::Null, |items| resolve(root, items));
            match kind(root, items).as_str() {
                "table" => "list of tables".into(),
                item => format!("list of {item}"),
            }
        }
        _ => "table".into(),
    }
}

fn resolve<'s>(root: &'s Value, node: &'s Value) -> &'s Value {
    // An option that may be absent is its type or `null`.
    let present = node.get("anyOf").and_then(|any| any.get(0)).unwrap_or(node);
    let reference = present.get("$ref").and_then(Value::as_str);
    let pointer = reference.and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(node)
}

fn description(root: &Value, section: &str) -> String {
    let mut node = root;
    let mut own = None;
    for key in section.split('.') {
        let property = node.get("properties").and_then(|all| all.get(key)).unwrap_or(&Value::Null);
        node = resolve(root, property);
        own = text_of(property, "description").or_else(|| text_of(node, "description"));
    }
    own.unwrap_or_default()
}

fn text_of(node: &Value, key: &str) -> Option<String> {
    let text = node.as_object().and_then(|node: &Map<_, _>| node.get(key))?.as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `text` as comment lines of bounded width.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + word.len() > COMMENT_COLUMNS {
            let _ = writeln!(lines, "#{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(lines, "#{line}");
    }
    lines
}

const COMMENT_COLUMNS: usize = 92;

const HEAD: &str = "\
# Every option of Fanlight with its default. Made by `fanlight config defaults`.
#
# Each option can also be set by an environment variable (`fanlight config env` lists them),
# which wins over the file; flags win over both.

";

const EXAMPLES_HEAD: &str = "
# Examples of the lists above.
#
";

/// Kept as a file of its own kind; a test parses it.
pub const EXAMPLES: &str = include_str!("examples.toml");
