//! `fanlight token inspect`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use fanlight_engine::auth::Claims;
use fanlight_engine::time::Now;
use serde_json::{Value, json};

use super::super::{print, print_json};
use crate::config::{Algorithm, AuthKey, Config, ConfigError, Secret};
use crate::jwt::{Authenticator, is_capability, unverified};

/// Read a token and say what is right and wrong with it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Inspect {
    /// The token.
    token: Secret,
    /// Check it against the keys and rules of this configuration.
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    config: Option<PathBuf>,
    /// Check its signature with this shared secret, for HS*.
    #[arg(long, env = "FANLIGHT_SECRET", hide_env_values = true, allow_hyphen_values = true)]
    secret: Option<Secret>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
struct Findings {
    header: Value,
    claims: Claims,
    /// The user, where everything is right, if the token is some user's.
    user: Option<String>,
    /// Whom or what it is for, where everything is right.
    bearer: Option<String>,
    /// What is wrong.
    faults: Vec<String>,
    /// Whether there was a key to check the signature with.
    is_verified: bool,
}

pub(in crate::cli) fn run(command: &Inspect) -> anyhow::Result<()> {
    let now = super::unix_now();
    let findings = inspect(command, now)?;
    if command.json {
        print_json(&findings.as_json())?;
    } else {
        print(&findings.as_text(now.as_secs()))?;
    }
    if findings.faults.is_empty() {
        return Ok(());
    }
    bail!("the token is not valid: {}", findings.faults.join("; "))
}

fn inspect(command: &Inspect, now: Duration) -> anyhow::Result<Findings> {
    let token = command.token.reveal().trim();
    let (header, claims) = unverified(token)?;
    let config = config(command, &header)?;
    let rules = config.token_rules(&config.compiled_policy().map_err(ConfigError::from)?);
    let is_verified = !config.auth.keys.is_empty();
    let mut faults = Vec::new();
    if is_verified {
        let keys = Authenticator::new(&config.auth, rules.clone()).map_err(ConfigError::Invalid)?;
        faults.extend(keys.verify(token).err().map(|error| error.to_string()));
    }
    let now = Now { mono_ms: 0, unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) };
    let is_capability = is_capability(token)?;
    let user = if is_capability {
        rules.capability(&claims, now).map(|capability| capability.user)
    } else {
        rules.principal(&claims, now).map(|principal| Some(principal.user))
    };
    let user = match user {
        Ok(user) => Some(user.map(|user| user.to_string())).filter(|_| faults.is_empty()),
        Err(error) => {
            faults.push(error.to_string());
            None
        }
    };
    let bearer = user.as_ref().map(|user| match (user, is_capability) {
        (Some(user), false) => format!("for the user {user:?}"),
        (Some(user), true) => format!("as a capability of the user {user:?}"),
        (None, _) => "as a capability of anybody".into(),
    });
    Ok(Findings { header, claims, user: user.flatten(), bearer, faults, is_verified })
}

/// The configuration to check against: that of the file, or one with the given secret.
fn config(command: &Inspect, header: &Value) -> anyhow::Result<Config> {
    let mut config = super::auth_of(command.config.as_ref())?;
    if let Some(secret) = &command.secret {
        let named = header["alg"].as_str().and_then(|name| name.parse::<Algorithm>().ok());
        config.auth.keys = vec![AuthKey {
            id: String::new(),
            algorithm: named.filter(|named| named.is_hmac()).unwrap_or(Algorithm::Hs256),
            secret: secret.clone(),
            secret_file: None,
            public_key_pem: String::new(),
            public_key_file: None,
        }];
    }
    Ok(config)
}

impl Findings {
    /// Whether the token is valid; unknown where its signature was not checked, as anybody could
    /// have written it.
    fn verdict(&self) -> Option<bool> {
        let is_faulty = !self.faults.is_empty();
        (is_faulty || self.is_verified).then_some(!is_faulty)
    }

    fn as_json(&self) -> Value {
        json!({
            "header": self.header,
            "claims": self.claims,
            "user": self.user,
            "signature": if self.is_verified { "checked" } else { "not checked" },
            "valid": self.verdict(),
            "faults": self.faults,
        })
    }

    fn as_text(&self, now_s: u64) -> String {
        let mut text = format!("header     {}\n", self.header);
        for (name, value) in &self.claims {
            let meaning = match name.as_str() {
                "exp" | "nbf" | "iat" => value.as_f64().map(|at| as_time(at, now_s)),
                _ => None,
            };
            let meaning = meaning.map_or(String::new(), |meaning| format!("  {meaning}"));
            let _ = writeln!(text, "{name:<10} {value}{meaning}");
        }
        if !self.is_verified {
            text.push_str("signature  not checked; give --secret or --config to check it\n");
        }
        match &self.bearer {
            Some(bearer) if self.is_verified => {
                let _ = writeln!(text, "valid      {bearer}");
            }
            Some(bearer) => {
                let _ = writeln!(text, "claims     in order, {bearer}");
            }
            None => text.push_str("not valid\n"),
        }
        text
    }
}

/// `2026-11-20T12:00:00Z (in 59m 12s)`
fn as_time(at_s: f64, now_s: u64) -> String {
    // Only for showing: what is no time in this era shows as its nearest end.
    let at_s = at_s.clamp(0.0, ERA_END_S);
    let at = Duration::from_secs_f64(at_s.floor());
    let away = Duration::from_secs(at.as_secs().abs_diff(now_s));
    let away = humantime::format_duration(away);
    let when = humantime::format_rfc3339_seconds(UNIX_EPOCH + at);
    if at.as_secs() > now_s {
        format!("{when} (in {away})")
    } else {
        format!("{when} ({away} ago)")
    }
}

/// The last second of the year 9999, which is what RFC 3339 can write.
const ERA_END_S: f64 = 253_402_300_799.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_for_people() {
        for (at, shown) in [
            (3600.0, "1970-01-01T01:00:00Z (in 59m)"),
            (60.0, "1970-01-01T00:01:00Z (0s ago)"),
            (0.0, "1970-01-01T00:00:00Z (1m ago)"),
            (-5.0, "1970-01-01T00:00:00Z (1m ago)"),
        ] {
            assert_eq!(as_time(at, 60), shown);
        }
        assert!(as_time(f64::MAX, 60).starts_with("9999-12-31T23:59:59Z"));
    }
}
