//! The server API: its keys' options, and what must hold of them.

use std::collections::HashSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::sections::Pattern;
use super::values::{Secret, Size, words};

/// What backends ask of the cluster, over HTTP at `listen.api`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Api {
    /// The largest body of a request. Each message in it is bounded by `limits.message`.
    pub max_body: Size,
    /// Who may ask. Without a key there is no listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
}

/// A key of a backend.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct ApiKey {
    /// Its name, in logs, and as whose the idempotency keys of its publications count.
    pub name: String,
    /// The key itself: at least 32 random characters.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
    /// A file that holds the key; a final newline is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// What it may do. Absent or empty: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// To which destinations it may publish and subscribe users, and of which it may read and remove
    /// the history and read the presence. Those
    /// of users are named in full: "/user/*/queue/**". Absent or empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Pattern>,
    /// How many requests a second it may make to this node, in the long run. 0: no limit.
    #[serde(default)]
    pub requests_per_second: u32,
    /// How many requests it may make to this node at once, where there is a limit. 0: as many as
    /// in a second.
    #[serde(default)]
    pub request_burst: u32,
}

words! {
    /// Something that a key of the server API may do.
    Scope {
        /// Publish and broadcast.
        Publish = "publish",
        /// Read histories.
        History = "history",
        /// Remove histories.
        HistoryRemove = "history_remove",
        /// Read who is at a destination.
        Presence = "presence",
        /// Read which users are online, and their sessions.
        Users = "users",
        /// Subscribe users to destinations, and end their subscriptions.
        Subscribe = "subscribe",
        /// End sessions.
        Disconnect = "disconnect",
        /// Revoke tokens, which ends the sessions that have come by them.
        Revoke = "revoke",
        /// Read nodes and namespaces.
        Cluster = "cluster",
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { max_body: Size::kib(1024), keys: Vec::new() }
    }
}

impl ApiKey {
    /// The key itself, wherever it stands; `option` is where this table stands.
    pub fn read_secret(&self, option: &str) -> Result<Secret, Problem> {
        super::secret::read(option, "secret", &self.secret, self.secret_file.as_deref())
    }
}

/// What keeps the API from being served.
pub(super) fn problems(api: &Api, problems: &mut Vec<Problem>) {
    let (mut names, mut secrets) = (HashSet::new(), HashSet::new());
    for (at, key) in api.keys.iter().enumerate() {
        let option = format!("api.keys[{at}]");
        let name = &key.name;
        if !(1..=NAME_MAX_BYTES).contains(&name.len())
            || !name.bytes().all(|b| b.is_ascii_graphic())
        {
            let fault = "not a name of 1-64 visible ASCII characters";
            let remedy = "name the backend that has it, as in \"orders\"";
            problems.push(Problem::new(format!("{option}.name"), fault, remedy));
        }
        if !names.insert(name) {
            let fault = "the name of another key too";
            problems.push(Problem::new(
                format!("{option}.name"),
                fault,
                "give each key a name of its own",
            ));
        }
        match key.read_secret(&option) {
            Err(problem) => problems.push(problem),
            Ok(secret) if secret.reveal().len() < SECRET_MIN_BYTES => problems.push(Problem::new(
                format!("{option}.secret"),
                format!("fewer than {SECRET_MIN_BYTES} characters can be guessed"),
                "use a random one, as from `openssl rand -hex 32`",
            )),
            Ok(secret) if !secrets.insert(secret.reveal().to_owned()) => {
                let remedy = "give each backend a key of its own";
                problems.push(Problem::new(
                    format!("{option}.secret"),
                    "the secret of another key too",
                    remedy,
                ));
            }
            Ok(_) => {}
        }
    }
}

const NAME_MAX_BYTES: usize = 64;
const SECRET_MIN_BYTES: usize = 32;
