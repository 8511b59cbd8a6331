//! Where values come from: the development preset, a file, the environment and flags, each over
//! the one before, with the place of every value kept for error messages.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Map, Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, Problem};
use super::reference::{self, OptionDoc};

/// The first part of every environment variable that sets an option.
pub const ENV_PREFIX: &str = "FANLIGHT__";

/// Where values come from, over the built-in defaults; later ones win. Not `Debug`, as any of them
/// may be a secret.
#[derive(Clone, Default)]
pub struct Layers {
    /// Whether the development preset applies.
    pub dev: bool,
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENV_PREFIX`] are ignored.
    pub env: Vec<(OsString, OsString)>,
    /// What was set on the command line.
    pub flags: Vec<Flag>,
}

/// An option that was set on the command line.
#[derive(Clone)]
pub struct Flag {
    /// As written there: `--listen`.
    pub name: &'static str,
    /// The option's path.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

impl Layers {
    /// Takes the variables of this process.
    #[must_use]
    pub fn with_process_env(mut self) -> Self {
        self.env = std::env::vars_os().collect();
        self
    }

    /// All layers, merged.
    pub(super) fn merged(&self) -> Result<Value, ConfigError> {
        let mut layers = Vec::new();
        if self.dev {
            layers.push(dev_preset()?);
        }
        if let Some(path) = &self.file {
            layers.push(read_file(path)?);
        }
        layers.push(read_env(&self.env)?);
        layers.push(self.flags.iter().map(Flag::layered).collect());
        let mut builder = config::Config::builder();
        for layer in layers {
            builder = builder.add_source(Layer(layer));
        }
        let merged = builder.build().map_err(|error| {
            Problem::new("configuration", error.to_string(), "check the names of the options set")
        })?;
        Ok(merged.cache)
    }
}

impl Flag {
    fn layered(&self) -> (String, Value) {
        let value = ValueKind::String(self.value.clone());
        (self.key.into(), Value::new(Some(&self.name.into()), value))
    }
}

/// Values by path, each with its place as origin.
#[derive(Clone)]
struct Layer(Map<String, Value>);

/// Demanded of a source; shows nothing, as any value may be a secret.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layer of {} values", self.0.len())
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// The preset of `--dev`, with secrets that are new each time.
fn dev_preset() -> Result<Map<String, Value>, ConfigError> {
    let mut preset = parse(DEV_TOML, Path::new("the --dev preset"))?;
    let secret = super::domain::random_secret();
    preset.insert("auth.keys[0].algorithm".into(), dev_value("HS256"));
    preset.insert("auth.keys[0].secret".into(), dev_value(secret.reveal()));
    let api_key = super::domain::random_secret();
    preset.insert("api.keys[0].name".into(), dev_value("dev"));
    preset.insert("api.keys[0].secret".into(), dev_value(api_key.reveal()));
    Ok(preset)
}

fn dev_value(text: &str) -> Value {
    Value::new(Some(&"the --dev preset".into()), text)
}

fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        what: "the configuration".into(),
        path: path.into(),
        source,
    })?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.into(),
        message: error.to_string().trim_end().into(),
    })?;
    let place = |at: usize| {
        let line = text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1;
        format!("{}:{line}", path.display())
    };
    Ok(table_value(table.get_ref(), &place))
}

fn table_value(table: &DeTable<'_>, place: &dyn Fn(usize) -> String) -> Map<String, Value> {
    let entries = table.iter().map(|(key, value)| {
        let origin = place(key.span().start);
        (key.get_ref().to_string(), toml_value(value.get_ref(), &origin, place))
    });
    entries.collect()
}

fn toml_value(value: &DeValue<'_>, origin: &String, place: &dyn Fn(usize) -> String) -> Value {
    let kind = match value {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| ValueKind::String(number.to_string()), ValueKind::I64),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| ValueKind::String(number.to_string()), ValueKind::Float),
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(
            items
                .iter()
                .map(|item| toml_value(item.get_ref(), &place(item.span().start), place))
                .collect(),
        ),
        DeValue::Table(table) => ValueKind::Table(table_value(table, place)),
    };
    Value::new(Some(origin), kind)
}

fn read_env(env: &[(OsString, OsString)]) -> Result<Map<String, Value>, ConfigError> {
    let options = reference::options();
    let mut layer = Map::new();
    for (name, value) in env {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let Some(text) = value.to_str() else {
            let mut problem = Problem::new(
                option_path(rest),
                "the value is not UTF-8",
                "set it to text, or use a configuration file",
            );
            problem.place = Some(name.into());
            return Err(problem.into());
        };
        let path = option_path(rest);
        let value = env_value(&options, &path, name, text)?;
        layer.insert(path, value);
    }
    Ok(layer)
}

/// `AUTH__KEYS__0__SECRET` is `auth.keys[0].secret`.
fn option_path(rest: &str) -> String {
    let mut path = String::new();
    for part in rest.split("__") {
        if !path.is_empty() && part.parse::<usize>().is_ok() {
            path.extend(["[", part, "]"]);
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&part.to_ascii_lowercase());
    }
    path
}

/// Lists may be written with commas between, or as in TOML.
fn env_value(
    options: &[OptionDoc],
    path: &str,
    name: &str,
    text: &str,
) -> Result<Value, ConfigError> {
    let origin = name.to_owned();
    let general = reference::without_indices(path);
    let is_list = options.iter().any(|option| option.path == general && option.is_list);
    if !is_list {
        return Ok(Value::new(Some(&origin), text));
    }
    if text.trim_start().starts_with('[') {
        let parsed = DeValue::parse(text).map_err(|error| ConfigError::Syntax {
            path: name.into(),
            message: error.to_string().trim_end().into(),
        })?;
        return Ok(toml_value(parsed.get_ref(), &origin, &|_| origin.clone()));
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let items = items.map(|item| Value::new(Some(&origin), item)).collect();
    Ok(Value::new(Some(&origin), ValueKind::Array(items)))
}

const DEV_TOML: &str = include_str!("dev.toml");
