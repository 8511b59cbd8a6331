//! Keys: from configuration to what checks a signature, refusing those that could not be safe.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use jsonwebtoken::DecodingKey;

use crate::config::{Algorithm, AuthKey, Problem};

/// A key that tokens may be signed with, for one algorithm only.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    /// Empty where none is configured.
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({:?}, {})", self.id, self.algorithm)
    }
}

impl Algorithm {
    /// Whether it uses a shared secret.
    pub fn is_hmac(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    /// Whether its keys are of RSA.
    pub(super) fn is_rsa(self) -> bool {
        use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        matches!(self, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
    }

    /// The shortest secret that is as strong as the algorithm (RFC 7518 §3.2).
    pub(super) fn secret_min_bytes(self) -> usize {
        match self {
            Self::Hs384 => 48,
            Self::Hs512 => 64,
            _ => 32,
        }
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::HS256,
            Algorithm::Hs384 => Self::HS384,
            Algorithm::Hs512 => Self::HS512,
            Algorithm::Rs256 => Self::RS256,
            Algorithm::Rs384 => Self::RS384,
            Algorithm::Rs512 => Self::RS512,
            Algorithm::Ps256 => Self::PS256,
            Algorithm::Ps384 => Self::PS384,
            Algorithm::Ps512 => Self::PS512,
            Algorithm::Es256 => Self::ES256,
            Algorithm::Es384 => Self::ES384,
            Algorithm::EdDsa => Self::EdDSA,
        }
    }
}

/// Reads every key, or tells everything that is wrong with them.
pub(super) fn read_all(keys: &[AuthKey]) -> Result<Vec<VerifyingKey>, Vec<Problem>> {
    let mut ids = HashSet::new();
    let mut read = Vec::with_capacity(keys.len());
    let mut problems = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if !key.id.is_empty() && !ids.insert(&key.id) {
            problems.push(Problem::new(
                format!("auth.keys[{index}].id"),
                "the id of another key too",
                "give each key an id of its own",
            ));
        }
        match read_one(key) {
            Ok(key) => read.push(key),
            Err(Fault { option, what, remedy }) => {
                let path = match option {
                    "" => format!("auth.keys[{index}]"),
                    option => format!("auth.keys[{index}].{option}"),
                };
                problems.push(Problem::new(path, what, remedy));
            }
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// What is wrong with one key.
struct Fault {
    option: &'static str,
    what: String,
    remedy: String,
}

fn fault(option: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Fault {
    Fault { option, what: what.into(), remedy: remedy.into() }
}

fn read_one(key: &AuthKey) -> Result<VerifyingKey, Fault> {
    let (option, material) = material(key)?;
    let decoding = if key.algorithm.is_hmac() {
        check_secret(&material, key.algorithm).map_err(|what| {
            let bytes = key.algorithm.secret_min_bytes();
            fault(
                option,
                what,
                format!("use {bytes} random bytes or more, as from `openssl rand -hex {bytes}`"),
            )
        })?;
        DecodingKey::from_secret(&material)
    } else {
        public_key(&material, key.algorithm).map_err(|what| {
            fault(option, what, "give the public key as PEM (-----BEGIN PUBLIC KEY-----)")
        })?
    };
    Ok(VerifyingKey { id: key.id.clone(), algorithm: key.algorithm, decoding })
}

/// The key's bytes and the option they came from.
fn material(key: &AuthKey) -> Result<(&'static str, Vec<u8>), Fault> {
    let given = [
        ("secret", !key.secret.is_empty()),
        ("secret_file", key.secret_file.is_some()),
        ("public_key_pem", !key.public_key_pem.is_empty()),
        ("public_key_file", key.public_key_file.is_some()),
    ];
    let wanted = if key.algorithm.is_hmac() { "secret" } else { "public_key" };
    let remedy = match wanted {
        "secret" => format!("{} needs exactly one of secret and secret_file", key.algorithm),
        _ => format!("{} needs exactly one of public_key_pem and public_key_file", key.algorithm),
    };
    let mut set = given.into_iter().filter(|(_, set)| *set).map(|(option, _)| option);
    let option = match (set.next(), set.next()) {
        (Some(option), None) if option.starts_with(wanted) => option,
        (Some(option), None) => return Err(fault(option, "does not fit the algorithm", remedy)),
        (Some(_), Some(option)) => return Err(fault(option, "a second key in one entry", remedy)),
        (None, _) => return Err(fault("", "no key in it", remedy)),
    };
    let bytes = match (option, &key.secret_file, &key.public_key_file) {
        ("secret_file", Some(path), _) => trimmed(read(option, path)?),
        ("public_key_file", _, Some(path)) => read(option, path)?,
        ("public_key_pem", ..) => key.public_key_pem.clone().into_bytes(),
        _ => key.secret.reveal().as_bytes().to_vec(),
    };
    Ok((option, bytes))
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|error| {
        let what = format!("can't read {}: {error}", path.display());
        fault(option, what, "check the path and its permissions")
    })
}

/// Without the newline that editors and `echo` put at a file's end.
fn trimmed(mut secret: Vec<u8>) -> Vec<u8> {
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    secret
}

/// What is wrong with a secret for `algorithm`, if anything.
pub(super) fn check_secret(secret: &[u8], algorithm: Algorithm) -> Result<(), String> {
    if secret.starts_with(b"-----BEGIN") {
        return Err("a PEM file is no secret: its public part is known to others".into());
    }
    if secret.len() < algorithm.secret_min_bytes() {
        return Err(format!("a secret of {} bytes is too short for {algorithm}", secret.len()));
    }
    Ok(())
}

fn public_key(pem: &[u8], algorithm: Algorithm) -> Result<DecodingKey, String> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("PRIVATE KEY") {
        return Err("a private key, which has no business here".into());
    }
    let wrong = |_| format!("not a public key for {algorithm}");
    let (key, fits): (_, fn(Algorithm, usize) -> bool) = match algorithm {
        Algorithm::EdDsa => (DecodingKey::from_ed_pem(pem).map_err(wrong)?, |_, _| true),
        Algorithm::Es256 | Algorithm::Es384 => {
            (DecodingKey::from_ec_pem(pem).map_err(wrong)?, is_on_curve)
        }
        _ => (DecodingKey::from_rsa_pem(pem).map_err(wrong)?, is_long_enough),
    };
    let bytes = key.try_get_as_bytes().map_err(wrong)?.len();
    match fits(algorithm, bytes) {
        true => Ok(key),
        false if matches!(algorithm, Algorithm::Es256 | Algorithm::Es384) => {
            Err(format!("a key on another curve than that of {algorithm}"))
        }
        false => Err("an RSA key of fewer than 2048 bits".into()),
    }
}

/// An uncompressed point of P-256 has 65 bytes, of P-384 97.
fn is_on_curve(algorithm: Algorithm, point_bytes: usize) -> bool {
    point_bytes == if algorithm == Algorithm::Es384 { 97 } else { 65 }
}

/// The DER of a key holds its modulus, 256 bytes for 2048 bits, and little else.
fn is_long_enough(_: Algorithm, der_bytes: usize) -> bool {
    der_bytes >= 256
}
