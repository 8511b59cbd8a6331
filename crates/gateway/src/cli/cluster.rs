//! `fanlight status --api`: the nodes of the cluster and the sessions of users, as any node's server
//! API tells them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use futures_util::future::try_join_all;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::admin;
use super::status::{aligned, span};
use crate::config::Secret;
use crate::http_client::{Answer, BaseUrl};
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
    /// Whether a file was named for it.
    pub(super) fn is_from_file(&self) -> bool {
        self.key_file.is_some()
    }

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
        let (path, answer) = self.answer(method, path, body, patience).await?;
        admin::read(&self.0, &path, &answer)
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> anyhow::Result<(String, Answer)> {
        let path = format!("/api/v1{path}");
        let answer = self.0.ask(method, &path, body, patience).await;
        let answer = answer.map_err(|error| {
            anyhow!("{}{path}: {error}; does the node run, and its server API?", self.0)
        })?;
        Ok((path, answer))
    }

    /// A session, or only its id where it is not there.
    async fn session(&self, id: Uuid, patience: Duration) -> anyhow::Result<Value> {
        let path = format!("/sessions/{}", id.simple());
        let (path, answer) = self.answer(Method::GET, &path, None, patience).await?;
        let is_gone = answer.status == 404 && admin::said(&answer).starts_with("no_session");
        if is_gone {
            return Ok(json!({ "session": id.simple().to_string() }));
        }
        admin::read(&self.0, &path, &answer)
    }

    /// The cluster, or null where the key may not ask for it.
    async fn cluster(&self, patience: Duration) -> anyhow::Result<Value> {
        let (path, answer) = self.answer(Method::GET, "/cluster", None, patience).await?;
        if answer.status == 403 && admin::said(&answer).starts_with("forbidden: ") {
            return Ok(Value::Null);
        }
        admin::read(&self.0, &path, &answer)
    }

    /// What there is to show: the cluster, these users, and these sessions.
    pub(super) async fn overview(
        &self,
        users: &[String],
        sessions: &[Uuid],
        patience: Duration,
    ) -> anyhow::Result<Overview> {
        let cluster = if users.is_empty() && sessions.is_empty() {
            self.ask(Method::GET, "/cluster", None, patience).await?
        } else {
            // Who is asked for needs other scopes.
            self.cluster(patience).await?
        };
        let asked = sessions.iter().map(|id| self.session(*id, patience));
        let sessions = try_join_all(asked).await?;
        let users = if users.is_empty() {
            Value::Null
        } else {
            let asked = json!({ "users": users }).to_string().into_bytes();
            self.ask(Method::POST, "/users/status", Some(asked), patience).await?
        };
        Ok(Overview { cluster, users, sessions })
    }
}

/// The cluster, and users and sessions of it.
pub(super) struct Overview {
    cluster: Value,
    users: Value,
    sessions: Vec<Value>,
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
    /// Whose it is, where it was asked for by its id; so is the address.
    user: Option<String>,
    node: Option<String>,
    /// Absent where it is not there.
    since_unix_ms: Option<u64>,
    transport: Option<String>,
    protocol: Option<String>,
    address: Option<String>,
}

impl Overview {
    /// As it was answered.
    pub(super) fn as_json(&self) -> Value {
        let mut all = json!({ "cluster": self.cluster });
        if !self.users.is_null() {
            all["users"] = self.users["users"].clone();
        }
        if !self.sessions.is_empty() {
            all["sessions"] = self.sessions.clone().into();
        }
        all
    }

    /// A line for each node, then one for each session.
    pub(super) fn as_text(&self) -> anyhow::Result<String> {
        let cluster: Option<ClusterAnswer> =
            serde_json::from_value(self.cluster.clone()).context(UNEXPECTED)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut text = match cluster {
            Some(cluster) => aligned(&lines_of(&cluster, now)),
            None => {
                "nodes are not shown: this key does not have the scope \"cluster\"\n".to_owned()
            }
        };
        let users: Option<Users> =
            serde_json::from_value(self.users.clone()).context(UNEXPECTED)?;
        let users = users.map_or_else(Vec::new, |Users { users }| users);
        let sessions = self.sessions.iter().map(|one| serde_json::from_value(one.clone()));
        let sessions: Vec<Session> = sessions.collect::<Result<_, _>>().context(UNEXPECTED)?;
        if !users.is_empty() || !sessions.is_empty() {
            text.push('\n');
            text += &aligned(&rows(&users, &sessions, now));
        }
        Ok(text)
    }
}

/// A line for each node.
fn lines_of(cluster: &ClusterAnswer, now: Duration) -> Vec<[String; NODES_HEAD.len()]> {
    let mut lines = vec![NODES_HEAD.map(String::from)];
    lines.extend(cluster.nodes.iter().map(|node| {
        let lease = node.lease_left_ms;
        [
            admin::one_line(&node.name),
            admin::one_line(&node.id),
            admin::one_line(&node.address),
            node.sessions.to_string(),
            span_since(now, node.started_unix_ms),
            if lease > 0 { format!("{lease} ms") } else { "-".into() },
        ]
    }));
    lines
}

/// A line for each session, and for who has none.
fn rows(users: &[User], sessions: &[Session], now: Duration) -> Vec<[String; HEAD.len()]> {
    let mut rows = vec![HEAD.map(String::from)];
    for User { user, sessions: own } in users {
        if own.is_empty() {
            rows.push(row(Some(user), "offline", None, now));
        }
        rows.extend(own.iter().map(|one| row(Some(user), &one.id, Some(one), now)));
    }
    rows.extend(sessions.iter().map(|one| {
        let there = one.since_unix_ms.is_some().then_some(one);
        row(one.user.as_deref(), &one.id, there, now)
    }));
    rows
}

fn row(
    user: Option<&str>,
    session: &str,
    there: Option<&Session>,
    now: Duration,
) -> [String; HEAD.len()] {
    let shown = |text: Option<&str>| admin::one_line(text.unwrap_or("-"));
    let since = there.and_then(|there| there.since_unix_ms);
    [
        shown(user),
        shown(Some(session)),
        shown(there.and_then(|there| there.node.as_deref())),
        shown(there.and_then(|there| there.transport.as_deref())),
        shown(there.and_then(|there| there.protocol.as_deref())),
        shown(there.and_then(|there| there.address.as_deref())),
        since.map_or_else(|| "-".to_owned(), |since| span_since(now, since)),
    ]
}

fn span_since(now: Duration, unix_ms: u64) -> String {
    span(Duration::from_secs(now.saturating_sub(Duration::from_millis(unix_ms)).as_secs()))
}

const UNEXPECTED: &str = "not what a node says; is it of another version?";
const NODES_HEAD: [&str; 6] = ["NODE", "ID", "ADDRESS", "SESSIONS", "UP", "LEASE"];
const HEAD: [&str; 7] = ["USER", "SESSION", "NODE", "TRANSPORT", "PROTOCOL", "ADDRESS", "FOR"];
