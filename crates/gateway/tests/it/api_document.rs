//! Holds every answer of the server API that a test gets against its document.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::http::Response;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let text = std::fs::read_to_string(path).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
});

/// Panics where the document does not say that the operation may be answered like this: with this
/// status, with the fields that an answer has, or with this code of a problem.
pub fn check(method: &str, path: &str, response: &Response) {
    let path = path.split('?').next().unwrap_or_default();
    let Some(operation) = operation(method, path) else { return check_elsewhere(response) };
    let status = response.status.to_string();
    let described = &operation["responses"][&status];
    assert!(described.is_object(), "not in the document: {method} {path}: {response:?}");
    let told = response.json();
    if response.status == 200 {
        let schema = &described["content"]["application/json"]["schema"];
        if let Err(fault) = fits(schema, &told) {
            panic!("not as the document has it: {method} {path}: {fault}: {told}");
        }
        return;
    }
    let (_, code) = response.problem();
    let content = &described["content"]["application/problem+json"];
    assert!(!content["examples"][&code].is_null(), "{code} is not in the document of {path}");
    let example = &DOCUMENT["components"]["examples"][&code]["value"];
    assert_eq!(example["status"], response.status, "{code}");
    fits(&content["schema"], &told).unwrap_or_else(|fault| panic!("{fault}: {told}"));
    let may_wait = described["headers"]["Retry-After"].is_object();
    assert!(may_wait || response.header("retry-after").is_none(), "{path}: {response:?}");
}

/// The same where there is no such operation.
fn check_elsewhere(response: &Response) {
    if response.status == 200 {
        return;
    }
    let (_, code) = response.problem();
    let whole = DOCUMENT["info"]["description"].as_str().expect("it has one");
    assert!(whole.contains(&format!("`{code}`")), "{code} is not in the document's description");
    let example = &DOCUMENT["components"]["examples"][&code]["value"];
    assert_eq!(example["status"], response.status, "{code}");
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object()?;
    let is_it = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(own, given)| own == given || own.starts_with('{'))
    };
    // Those that are spelled out come first.
    let mut found: Vec<_> = paths.keys().filter(|path| is_it(&path["/api/v1".len()..])).collect();
    found.sort_by_key(|path| path.matches('{').count());
    paths[*found.first()?].get(method.to_lowercase())
}

/// Whether `value` has what `schema` says, and nothing else.
fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(schema);
    let either = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    if let Some(either) = either {
        let fits = either.iter().any(|schema| fits(schema, value).is_ok());
        return if fits { Ok(()) } else { Err(format!("{value} is none of {schema}")) };
    }
    let types: Vec<_> = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.contains(&type_of(value)) {
        return Err(format!("{value} is not of type {types:?}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().try_for_each(|value| fits(items, value))?;
    }
    let (mut known, mut required) = (Map::new(), Vec::new());
    gather(schema, &mut known, &mut required);
    let Some(fields) = value.as_object().filter(|_| !known.is_empty()) else { return Ok(()) };
    if let Some(missing) = required.iter().find(|name| !fields.contains_key(**name)) {
        return Err(format!("{missing} is missing"));
    }
    fields.iter().try_for_each(|(name, value)| {
        let schema = known.get(name).ok_or_else(|| format!("{name} is unknown"))?;
        fits(schema, value).map_err(|fault| format!("{name}: {fault}"))
    })
}

/// The fields of an object, those of its parts included.
fn gather<'s>(schema: &'s Value, known: &mut Map<String, Value>, required: &mut Vec<&'s str>) {
    let schema = resolved(schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        gather(part, known, required);
    }
    if let Some(fields) = schema["properties"].as_object() {
        known.extend(fields.iter().map(|(name, schema)| (name.clone(), schema.clone())));
    }
    required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
}

fn resolved(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(name) => DOCUMENT.pointer(name.trim_start_matches('#')).expect("it is there"),
        None => schema,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
