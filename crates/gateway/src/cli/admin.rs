//! Which admin listener a command asks, and what it says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, Layers};
use crate::http_client::{Answer, AskError, BaseUrl};
use crate::listeners::reachable;

/// The listener at `url`, or else the configured one, as far as that concerns this machine.
pub(super) fn listener(url: Option<&str>, config: Option<&Path>) -> anyhow::Result<BaseUrl> {
    if let Some(url) = url {
        let base = url.parse().ok().filter(BaseUrl::is_root);
        return base.ok_or_else(|| {
            anyhow!("{url}: not the URL of an admin listener; write it as http://HOST:PORT")
        });
    }
    let layers = Layers { file: config.map(Into::into), ..Layers::default() };
    // Only where it listens matters here, so the rest is not checked.
    let admin = Config::load(&layers.with_process_env())?.config.listen.admin;
    Ok(BaseUrl::of(reachable(admin)))
}

/// Asks, and says whom if that fails.
pub(super) async fn ask(
    listener: &BaseUrl,
    method: Method,
    path: &str,
    patience: Duration,
) -> anyhow::Result<Answer> {
    listener
        .ask(method, path, None, patience)
        .await
        .map_err(|error| unheard(listener, path, &error))
}

/// What was answered with success, as JSON.
pub(super) fn read<T: DeserializeOwned>(
    listener: &BaseUrl,
    path: &str,
    answer: &Answer,
) -> anyhow::Result<T> {
    if !(200..300).contains(&answer.status) {
        bail!("{listener}{path}: {}, {}", answer.status, said(answer));
    }
    serde_json::from_slice(&answer.body).with_context(|| {
        format!("{listener}{path}: not what a node says; is it of another version?")
    })
}

/// Why nothing was heard, and what to do about it.
pub(super) fn unheard(listener: &BaseUrl, path: &str, error: &AskError) -> anyhow::Error {
    let remedy = match error {
        AskError::Connect(_) => "; is the node running, and its admin listener there?",
        _ => "",
    };
    anyhow!("{listener}{path}: {error}{remedy}")
}

/// In one line: a refusal's reason, or what else it says.
pub(super) fn said(answer: &Answer) -> String {
    let text = match serde_json::from_slice(&answer.body) {
        Ok(Refusal { code, detail }) => format!("{code}: {detail}"),
        Err(_) => String::from_utf8_lossy(&answer.body).trim().to_owned(),
    };
    one_line(&text)
}

/// Whoever answered may be anybody, and this is a terminal.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LINE_CHARS).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.replace(|c: char| c.is_control(), " ")
}

/// A problem document, as far as it is shown.
#[derive(Deserialize)]
struct Refusal {
    code: String,
    detail: String,
}

const LINE_CHARS: usize = 500;
