//! Reading TOML without forgiving a misspelt key, and saying what it may have been meant to be.

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;

/// Reads all of `text`; `what` is how the error calls it.
pub fn read<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| refusal(&error, what))
}

/// The error that `error` is to the reader of the file.
pub fn refusal(error: &toml::de::Error, what: &str) -> anyhow::Error {
    let remedy = remedy(error.message());
    anyhow!("{what}: {}{remedy}", error.to_string().trim_end())
}

fn remedy(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (quoted.next(), message.starts_with("unknown field")) else {
        return String::new();
    };
    let near = quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match near {
        Some((likeness, known)) if likeness > 0.8 => format!("\n  write `{known}`, or remove it"),
        _ => "\n  remove it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only what reading it says matters")]
    struct Given {
        native: u32,
        stomp: u32,
    }

    #[test]
    fn a_misspelt_key_is_refused_with_what_it_may_have_been() {
        let error = super::read::<Given>("native = 1\nstmop = 2", "x.toml").unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with("x.toml: ") && told.contains("line 2"), "{told}");
        assert!(told.ends_with("write `stomp`, or remove it"), "{told}");
    }

    #[test]
    fn a_key_that_is_like_no_other_is_to_be_removed() {
        let error = super::read::<Given>("zzz = 2", "x.toml").unwrap_err();
        assert!(error.to_string().ends_with("remove it"), "{error}");
    }
}
