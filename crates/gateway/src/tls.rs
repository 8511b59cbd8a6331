//! TLS of our own listeners: the certificate and its key, read once at the start.

mod session;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};

use crate::config::{Problem, ServerTls};

pub use session::Session;

/// The protocols within TLS for clients (RFC 7301), the preferred one first.
pub const HTTP: &[&[u8]] = &[HTTP2, b"http/1.1"];
/// HTTP/2 among them.
pub const HTTP2: &[u8] = b"h2";

/// How a listener whose files are the option `key` agrees on TLS, and on one of `protocols` if there
/// are any; `None` where it has no files.
pub fn server_config(
    key: &str,
    tls: &ServerTls,
    protocols: &[&[u8]],
) -> Result<Option<Arc<ServerConfig>>, Problem> {
    let ServerTls { certificate_file, private_key_file } = tls;
    let option = |name: &str| format!("{key}.{name}");
    match (certificate_file.as_os_str().is_empty(), private_key_file.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {}
        (certificate_is_missing, _) => {
            let missing =
                if certificate_is_missing { "certificate_file" } else { "private_key_file" };
            let remedy = "give the certificate and its private key, or neither";
            return Err(Problem::new(option(missing), "missing beside the other file", remedy));
        }
    }
    let unusable = |name, file: &Path, error: pem::Error| {
        let (fault, remedy) = match error {
            pem::Error::Io(error) => unreadable(file, &error),
            _ => (format!("{} holds none", file.display()), "it must be a PEM file"),
        };
        Problem::new(option(name), fault, remedy)
    };
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("certificate_file", certificate_file, error))?;
    let private_key = PrivateKeyDer::from_pem_file(private_key_file)
        .map_err(|error| unusable("private_key_file", private_key_file, error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key))
        .map_err(|error| {
            let remedy = "check that the certificate and the private key are a pair";
            Problem::new(option("certificate_file"), error.to_string(), remedy)
        })?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Some(Arc::new(config)))
}

/// Whom to trust: the authorities of the PEM file that is the option `key`, or those that browsers
/// trust.
pub fn roots(key: &str, file: Option<&Path>) -> Result<RootCertStore, Problem> {
    let Some(file) = file else {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    };
    let problem = |fault: String, remedy: &str| Problem::new(key, fault, remedy);
    let holds_none = || problem(format!("{} holds none", file.display()), "it must be a PEM file");
    let authorities = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| match error {
            pem::Error::Io(error) => {
                let (fault, remedy) = unreadable(file, &error);
                problem(fault, remedy)
            }
            _ => holds_none(),
        })?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| {
            let remedy = "give the certificate of an authority, not of a server";
            problem(format!("{}: {error}", file.display()), remedy)
        })?;
    }
    if roots.is_empty() { Err(holds_none()) } else { Ok(roots) }
}

/// Counts a connection on which TLS was not agreed on.
pub fn count_failure(result: &'static str) {
    metrics::counter!("fanlight_handshakes_total", "result" => result).increment(1);
}

fn unreadable(file: &Path, error: &io::Error) -> (String, &'static str) {
    let fault = format!("can't read {}: {error}", file.display());
    (fault, "check the path and its permissions")
}
