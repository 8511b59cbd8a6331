//! `fanlight status --api`: the nodes of the cluster and the sessions of users, as any node's server
//! API tells them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin;
use super::status::{aligned, span};
use crate::config::Secret;
use crate::http_client::BaseUrl;
use crate::registry::api::ClusterAnswer;

/// The key of the server API.
#[derive(Debug, clap::Args)]
pub(super) struct Key {
    /// A file that holds the key of the server API; without it, the variable `FANLIGHT_API_KEY` does.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    // The value of a flag would be seen by other users of the machine.
    #[arg(long, hide = true, env = "FANLIGHT_API_KEY", hide_env_values = true)]
    api_key: Option<Secret>,
}

/// A node's server API, and the key for it.
pub(super) struct Api(BaseUrl);

impl Key {
    /// The API at `url`.
    pub(super) fn api(&self, url: &str) -> anyhow::Result<Api> {
        let base: Option<BaseUrl> = url.parse().ok().filter(BaseUrl::is_root);
        let base = base.ok_or_else(|| {
            anyhow!("{url}: not the URL of a server API; write it as http://HOST:PORT")
        })?;
        let key = match (&self.key_file, &self.api_key) {
            (Some(path), _) => std::fs::read_to_string(path)
                .with_context(|| format!("can't read {}", path.display()))?,
            (None, Some(key)) => key.reveal().to_owned(),
            (None, None) => bail!(
                "the server API needs a key: give --key-file, or set FANLIGHT_API_KEY; a node's \
                 keys are those of [[api.keys]]"
            ),
        };
        let base = base.with_bearer(key.trim());
        Ok(Api(base.ok_or_else(|| anyhow!("the key is not of visible ASCII characters"))?))
    }
}

impl Api {
    /// Asks for what is at `path` behind `/api/v1`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> anyhow::Result<T> {
        let path = format!("/api/v1{path}");
        let answer = self.0.ask(method, &path, body, patience).await;
        let answer = answer.map_err(|error| {
            anyhow!("{}{path}: {error}; does the node run, and its server API?", self.0)
        })?;
        admin::read(&self.0, &path, &answer)
    }

    /// What there is to show: the cluster, and these users.
    pub(super) async fn overview(
        &self,
        users: &[String],
        patience: Duration,
    ) -> anyhow::Result<Overview> {
        let cluster = self.ask(Method::GET, "/cluster", None, patience).await?;
        let users = if users.is_empty() {
            Value::Null
        } else {
            let asked = json!({ "users": users }).to_string().into_bytes();
            self.ask(Method::POST, "/users/status", Some(asked), patience).await?
        };
        Ok(Overview { cluster, users })
    }
}

/// The cluster, and users of it.
pub(super) struct Overview {
    cluster: Value,
    users: Value,
}

#[derive(Deserialize)]
struct Users {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    user: String,
    sessions: Vec<Session>,
}

#[derive(Deserialize)]
struct Session {
    #[serde(rename = "session")]
    id: String,
    node: String,
    since_unix_ms: u64,
    #[serde(default)]
    transport: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
}

impl Overview {
    /// As it was answered.
    pub(super) fn as_json(&self) -> Value {
        match &self.users {
            Value::Null => json!({ "cluster": self.cluster }),
            users => json!({ "cluster": self.cluster, "users": users["users"] }),
        }
    }

    /// A line for each node, then one for each session.
    pub(super) fn as_text(&self) -> anyhow::Result<String> {
        let unexpected = "not what a node says; is it of another version?";
        let cluster: ClusterAnswer =
            serde_json::from_value(self.cluster.clone()).context(unexpected)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ago = |unix_ms| span_since(now, unix_ms);
        let mut nodes =
            vec![["NODE", "ID", "ADDRESS", "SESSIONS", "UP", "LEASE"].map(String::from)];
        nodes.extend(cluster.nodes.iter().map(|node| {
            [
                admin::one_line(&node.name),
                admin::one_line(&node.id),
                admin::one_line(&node.address),
                node.sessions.to_string(),
                ago(node.started_unix_ms),
                if node.lease_left_ms > 0 {
                    format!("{} ms", node.lease_left_ms)
                } else {
                    "-".into()
                },
            ]
        }));
        let mut text = aligned(&nodes);
        if self.users.is_null() {
            return Ok(text);
        }
        let Users { users } = serde_json::from_value(self.users.clone()).context(unexpected)?;
        let head = ["USER", "SESSION", "NODE", "TRANSPORT", "PROTOCOL", "FOR"];
        let mut sessions = vec![head.map(String::from)];
        for User { user, sessions: own } in &users {
            if own.is_empty() {
                let none = || "-".to_owned();
                let offline = "offline".to_owned();
                sessions.push([admin::one_line(user), offline, none(), none(), none(), none()]);
            }
            sessions.extend(own.iter().map(|one| {
                let shown = |text: &Option<String>| admin::one_line(text.as_deref().unwrap_or("-"));
                [
                    admin::one_line(user),
                    admin::one_line(&one.id),
                    admin::one_line(&one.node),
                    shown(&one.transport),
                    shown(&one.protocol),
                    ago(one.since_unix_ms),
                ]
            }));
        }
        text.push('\n');
        text += &aligned(&sessions);
        Ok(text)
    }
}

fn span_since(now: Duration, unix_ms: u64) -> String {
    span(Duration::from_secs(now.saturating_sub(Duration::from_millis(unix_ms)).as_secs()))
}
