//! Errors with what caused them, for the log.

use std::error::Error;

/// An error with what caused it: the outermost often only says that something failed.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
