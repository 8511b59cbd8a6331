//! Accounts of services, which prove themselves by STOMP's `login` and `passcode`: their options,
//! and what must hold of them.

use std::collections::HashSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::values::Secret;

/// A service that connects by STOMP's `login` and `passcode`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Account {
    /// The login: the name of the user that policy rules see.
    pub login: String,
    /// The passcode: at least 16 random characters.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub passcode: Secret,
    /// A file that holds the passcode; a final newline is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passcode_file: Option<PathBuf>,
    /// The roles that policy rules see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

impl Account {
    /// The passcode, wherever it stands; `option` is where this account stands.
    pub fn read_passcode(&self, option: &str) -> Result<Secret, Problem> {
        super::secret::read(option, "passcode", &self.passcode, self.passcode_file.as_deref())
    }
}

/// What keeps accounts from being used.
pub(super) fn problems(accounts: &[Account], problems: &mut Vec<Problem>) {
    let mut logins = HashSet::new();
    for (at, account) in accounts.iter().enumerate() {
        let option = format!("auth.accounts[{at}]");
        let login = &account.login;
        if !(1..=LOGIN_MAX_BYTES).contains(&login.len()) || login.contains(char::is_control) {
            let fault = "not a name of 1-128 bytes without control characters";
            let remedy = "choose one that no token names, as in \"backend\"";
            problems.push(Problem::new(format!("{option}.login"), fault, remedy));
        }
        if !logins.insert(login) {
            let remedy = "give each account a login of its own";
            let fault = "the login of another account too";
            problems.push(Problem::new(format!("{option}.login"), fault, remedy));
        }
        problems.extend(account.read_passcode(&option).err());
    }
}

/// Accounts that could be guessed.
pub(super) fn warnings(accounts: &[Account]) -> impl Iterator<Item = Problem> {
    accounts.iter().enumerate().filter_map(|(at, account)| {
        let option = format!("auth.accounts[{at}]");
        let passcode = account.read_passcode(&option).ok()?;
        (passcode.reveal().len() < PASSCODE_MIN_BYTES).then(|| {
            let name = if account.passcode_file.is_some() { "passcode_file" } else { "passcode" };
            Problem::new(
                format!("{option}.{name}"),
                format!("a passcode of fewer than {PASSCODE_MIN_BYTES} characters can be guessed"),
                "use a random one, as from `openssl rand -hex 16`",
            )
        })
    })
}

/// As a token's user.
const LOGIN_MAX_BYTES: usize = 128;
const PASSCODE_MIN_BYTES: usize = 16;
