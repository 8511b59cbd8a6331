//! `fanlight token mint`.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use fanlight_engine::auth::Claims;
use fanlight_engine::policy::Grants;
use serde_json::{Value, json};

use super::super::print_json;
use crate::config::{Algorithm, Auth, AuthKey, Secret, Span};
use crate::jwt::{SigningKey, mint, mint_capability};

/// Make a signed token, to try things out or for a script.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Mint {
    /// The shared secret, for HS*. Better given by the variable, which other users can't see.
    #[arg(
        long,
        env = "FANLIGHT_SECRET",
        hide_env_values = true,
        conflicts_with = "key_file",
        // As one made at random may begin.
        allow_hyphen_values = true
    )]
    secret: Option<Secret>,
    /// The private key as a PEM file, for all other algorithms.
    #[arg(long, value_name = "FILE", requires = "algorithm")]
    key_file: Option<PathBuf>,
    /// The algorithm, HS256 unless given.
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// The key's id, put into the token as `kid`.
    #[arg(long)]
    kid: Option<String>,
    /// Take secret, issuer, audience and the names of claims from this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The user. A capability without one is anybody's.
    #[arg(long, required_unless_present = "capability")]
    user: Option<String>,
    /// Make a capability: it grants something to whoever gives it with a request, and is no token
    /// to connect with.
    #[arg(long, requires = "grants")]
    capability: bool,
    /// A destination or pattern that the token grants beyond the policy; the action is subscribe,
    /// publish, presence or history; may be repeated.
    #[arg(long = "grant", id = "grants", value_name = "ACTION:DESTINATION")]
    grants: Vec<String>,
    /// A role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A further claim; the value is JSON, or text; may be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// How long it is good.
    #[arg(long, default_value = "1h")]
    expires: Span,
    /// Print token and claims as JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(command: &Mint) -> anyhow::Result<()> {
    let auth = super::auth_of(command.config.as_ref())?.auth;
    let claims = claims(command, &auth, super::unix_now().as_secs())?;
    let key = signing_key(command, &auth)?;
    let token =
        if command.capability { mint_capability(&key, &claims)? } else { mint(&key, &claims)? };
    if command.json {
        return print_json(&json!({ "token": token, "claims": claims }));
    }
    println!("{token}");
    Ok(())
}

fn signing_key(command: &Mint, auth: &Auth) -> anyhow::Result<SigningKey> {
    let id = command.kid.clone();
    if let (Some(path), Some(algorithm)) = (&command.key_file, command.algorithm) {
        let pem = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        return Ok(SigningKey::from_pem(algorithm, &pem)?.with_id(id.unwrap_or_default()));
    }
    if let Some(secret) = &command.secret {
        let algorithm = command.algorithm.unwrap_or(Algorithm::Hs256);
        return Ok(SigningKey::from_secret(algorithm, secret)?.with_id(id.unwrap_or_default()));
    }
    let wanted =
        |key: &&AuthKey| key.algorithm.is_hmac() && id.as_ref().is_none_or(|id| *id == key.id);
    let key = auth.keys.iter().find(wanted).ok_or_else(|| {
        anyhow!(
            "no key to sign with; give --secret, --key-file with --algorithm, or --config with a \
             configuration that has a shared secret"
        )
    })?;
    let secret = match &key.secret_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("can't read {}", path.display()))?;
            Secret::new(text.trim_end_matches(['\r', '\n']))
        }
        None => key.secret.clone(),
    };
    Ok(SigningKey::from_secret(key.algorithm, &secret)?.with_id(key.id.clone()))
}

fn claims(command: &Mint, auth: &Auth, now_s: u64) -> anyhow::Result<Claims> {
    let mut claims = Claims::new();
    if let Some(user) = &command.user {
        claims.insert(auth.user_claim.clone(), json!(user));
    }
    if !command.roles.is_empty() {
        claims.insert(auth.roles_claim.clone(), json!(command.roles));
    }
    if !auth.issuer.is_empty() {
        claims.insert("iss".into(), json!(auth.issuer));
    }
    if !auth.audience.is_empty() {
        claims.insert("aud".into(), json!(auth.audience));
    }
    claims.insert("iat".into(), json!(now_s));
    claims.insert("exp".into(), json!(now_s.saturating_add(command.expires.0.as_secs())));
    if !command.grants.is_empty() {
        claims.insert(auth.grants_claim.clone(), granted(&command.grants, auth.grants as usize)?);
    }
    for claim in &command.claims {
        let Some((name, value)) = claim.split_once('=') else {
            bail!("--claim {claim:?} is not NAME=VALUE");
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        claims.insert(name.into(), value);
    }
    Ok(claims)
}

/// The claim for these grants, which a gateway must be able to read.
fn granted(grants: &[String], max: usize) -> anyhow::Result<Value> {
    let mut claim = Claims::new();
    for grant in grants {
        let Some((action, destination)) = grant.split_once(':') else {
            bail!("--grant {grant:?} is not ACTION:DESTINATION");
        };
        let list = claim.entry(action).or_insert_with(|| json!([]));
        list.as_array_mut().context("a list")?.push(json!(destination));
    }
    let claim = Value::Object(claim);
    match Grants::read(&claim, max) {
        Ok(_) => Ok(claim),
        Err(bad) => bail!("--grant: the grants are not {bad}"),
    }
}
