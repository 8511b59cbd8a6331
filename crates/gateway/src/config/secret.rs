//! Secrets that stand in the configuration itself, or in a file of their own.

use std::path::Path;

use super::problem::Problem;
use super::values::Secret;

/// The secret called `name` of what stands at `option`: its own text, or the content of a file.
pub(super) fn read(
    option: &str,
    name: &str,
    text: &Secret,
    file: Option<&Path>,
) -> Result<Secret, Problem> {
    let remedy = format!("give exactly one of {name} and {name}_file");
    let secret = match file {
        Some(_) if !text.is_empty() => {
            let (key, fault) = (format!("{option}.{name}_file"), format!("a second {name}"));
            return Err(Problem::new(key, fault, remedy));
        }
        None => text.clone(),
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                let fault = format!("can't read {}: {error}", file.display());
                let remedy = "check the path and its permissions";
                Problem::new(format!("{option}.{name}_file"), fault, remedy)
            })?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Secret::new(line.strip_suffix('\r').unwrap_or(line))
        }
    };
    if secret.is_empty() {
        return Err(Problem::new(format!("{option}.{name}"), "empty", remedy));
    }
    Ok(secret)
}
